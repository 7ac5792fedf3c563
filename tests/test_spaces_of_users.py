"""Spaces that look like a user's: each is searched, exported, read back, frozen and retrained."""

import ast
import subprocess
import sys
from pathlib import Path

import nni
import pytest
import torch
from nni.mutable import label_scope
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace, MutableLinear, Repeat
from nni.nas.space import model_context
from torch import nn

from idarts_nni import (
    IDARTS,
    Architecture,
    CellSpace,
    FixedRecurrentCell,
    ModelArchitecture,
    Node,
    RecurrentCell,
    read_architecture,
)
from tests.one_shot import evaluator, search

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 4


def linear(source):
    return nn.Linear(WIDTH, WIDTH)


def swish(states):
    """An elementwise operation of a user's, named in a space by its import path."""
    return states * torch.sigmoid(states)


class Base(ModelSpace):
    shape: tuple[int, ...] = (WIDTH,)


class OwnGraph(Base):
    """Three nodes wired by hand; the last reads the input, both other nodes and their difference."""

    def __init__(self):
        super().__init__()
        operations = {"zeroize": None, "linear": linear, "tanh": nn.Tanh()}
        self.one = Node(operations, 1, label="one")
        self.two = Node(operations, 2, 2, label="two", combine="mean")
        self.three = Node(operations, 4, 3, label="three")

    def forward(self, inputs):
        one = self.one([inputs])
        two = self.two([inputs, one])
        return self.three([inputs, one, two, one - two])


class NestedLabels(Base):
    """The same names in two scopes, and a choice inside an operation."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList()
        for scope in ("left", "right"):
            with label_scope(scope):
                inner = LayerChoice({"one": nn.Linear(WIDTH, WIDTH), "two": nn.Identity()}, label="inner")
                self.parts.append(Node({"inner": inner, "tanh": nn.Tanh()}, 2, label="node"))

    def forward(self, inputs):
        return self.parts[1]([inputs, self.parts[0]([inputs, -inputs])])


class MadeUpLabels(Base, label_prefix="made"):
    """No label given anywhere."""

    def __init__(self):
        super().__init__()
        self.node = Node({"linear": linear, "choice": lambda source: LayerChoice([nn.Tanh(), nn.ReLU()])}, 2)
        self.cell = Cell([nn.Linear(WIDTH, WIDTH), nn.Tanh()], 2, 1, 1)

    def forward(self, inputs):
        return self.cell(self.node([inputs, -inputs]))


class SharedCells(Base):
    """Two cells that share an architecture, between layers of their own."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList(
            Cell({"linear": nn.Linear(WIDTH, WIDTH), "tanh": nn.Tanh()}, 2, 2, 2, label="shared") for _ in range(2)
        )
        self.between = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, inputs):
        return self.cells[1]([inputs, self.between(self.cells[0]([inputs, -inputs]))])


class OneOfEverything(Base):
    """One source, one operation, one edge: nothing is left to decide, and nothing breaks."""

    def __init__(self):
        super().__init__()
        self.node = Node({"linear": linear}, 1, label="node")
        self.cell = Cell({"tanh": nn.Tanh()}, 1, 1, 1, label="cell")

    def forward(self, inputs):
        return self.cell(self.node([inputs]))


class FortyEdges(Base):
    """Ten sources, four operations."""

    def __init__(self):
        super().__init__()
        operations = {"linear": linear, "tanh": nn.Tanh(), "relu": nn.ReLU(), "same": nn.Identity()}
        self.node = Node(operations, 10, 4, label="node")

    def forward(self, inputs):
        return self.node([inputs * (index + 1) for index in range(10)])


class Pictures(Base):
    """States with channels and pixels, of two sizes that meet in one node."""

    shape = (2, 8, 8)

    def __init__(self):
        super().__init__()

        def convolution(source):
            return nn.Conv2d(2, 3, 3, stride=2 - source, padding=1)

        self.halve = nn.Conv2d(2, 2, 2, stride=2)
        self.node = Node({"conv": convolution, "none": None}, 2, 2, label="node")

    def forward(self, inputs):
        return self.node([inputs, self.halve(inputs)])


class EverythingOfNNI(Base):
    """A layer choice, an input choice, a repeat and a width beside a node."""

    def __init__(self):
        super().__init__()
        width = nni.choice("width", [2, WIDTH])
        self.wide = nn.Sequential(MutableLinear(WIDTH, width), MutableLinear(width, WIDTH))
        self.layer = LayerChoice({"tanh": nn.Tanh(), "relu": nn.ReLU()}, label="layer")
        self.inputs = InputChoice(3, n_chosen=2, label="inputs")
        self.depth = Repeat(lambda index: nn.Linear(WIDTH, WIDTH), (1, 2), label="depth")
        self.node = Node({"linear": linear, "tanh": nn.Tanh()}, 2, label="node")

    def forward(self, inputs):
        states = [inputs, self.wide(inputs), self.layer(inputs)]
        return self.node([self.depth(self.inputs(states)), inputs])


class OwnOperation(Base):
    """A recurrent cell with an operation that is named by its import path."""

    shape = (3, WIDTH)

    def __init__(self):
        super().__init__()
        space = CellSpace(2, ("zeroize", "tanh", "tests.test_spaces_of_users.swish"), edges_per_node=2, combine="mean")
        self.cell = RecurrentCell(space, WIDTH, 5, label="cell")

    def forward(self, sequences):
        return self.cell(sequences.transpose(0, 1))[1]


SPACES = [
    OwnGraph, NestedLabels, MadeUpLabels, SharedCells, OneOfEverything, FortyEdges, Pictures, EverythingOfNNI,
    OwnOperation,
]  # fmt: skip


@pytest.mark.parametrize("space", SPACES)
def test_a_space_is_searched_exported_read_back_frozen_and_retrained(space):
    strategy = IDARTS(arc_learning_rate=0.1)
    experiment = search(space(), strategy, *space.shape)
    (sample,) = experiment.export_top_models(formatter="dict")
    written = ModelArchitecture(sample).to_json()
    read = read_architecture(ModelArchitecture.from_json(written).to_dict())
    assert read.sample(space().simplify()) == sample and read.to_json() == written
    with model_context(sample):
        fresh = space()
    inputs = torch.randn(4, *space.shape)
    # NNI's layers with a choice of widths keep the width of the search network in its own freeze.
    frozen = strategy.supernet.freeze(sample)
    assert not list(fresh.simplify()) and fresh(inputs).shape == frozen(inputs).shape
    evaluator(*space.shape).evaluate(fresh)


@pytest.mark.parametrize("space", [OwnGraph, SharedCells, EverythingOfNNI])
def test_the_frozen_model_has_the_weights_of_the_search_network(space):
    strategy = IDARTS()
    experiment = search(space(), strategy, *space.shape)
    (sample,) = experiment.export_top_models(formatter="dict")
    frozen = strategy.supernet.freeze(sample)
    searched = [parameter for parameter in strategy.supernet.parameters() if parameter.dim() == 2]
    kept = [parameter for parameter in frozen.parameters() if parameter.dim() == 2 and len(parameter) == WIDTH]
    assert kept
    for parameter in kept:
        assert any(parameter.shape == other.shape and torch.equal(parameter, other) for other in searched) or (
            space is EverythingOfNNI  # a slice of a wider layer
        )


@pytest.mark.parametrize("space", [OwnGraph, NestedLabels, FortyEdges, EverythingOfNNI])
def test_the_next_best_models_differ_and_score_less(space):
    strategy = IDARTS(arc_learning_rate=0.1)
    experiment = search(space(), strategy, *space.shape)
    samples = experiment.export_top_models(top_k=5, formatter="dict")
    assert len({ModelArchitecture(sample).fingerprint for sample in samples}) == 5
    scores = [alternative.score for alternative, _ in zip(strategy.ranked_samples(), range(5), strict=False)]
    assert scores == sorted(scores, reverse=True)
    assert samples[0] == strategy.oneshot_module.export()


@pytest.mark.parametrize("operation", ["idarts_nni.normalised.norm_tanh", "tests.test_spaces_of_users.swish"])
def test_operations_of_users_compute_what_their_function_does(operation):
    space = CellSpace(1, (operation,), gate="none")
    cell = FixedRecurrentCell(Architecture.random(space, 1), space, 2, 3)
    weight = cell.node_weights[0]
    inputs = torch.randn(1, 4, 2)
    product = torch.cat([inputs[0], torch.zeros(4, 3)], 1) @ cell.input_weight
    gate, update = product.chunk(2, 1)
    module, _, name = operation.rpartition(".")
    function = getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name)
    expected = function((torch.sigmoid(gate) * torch.tanh(update)) @ weight)
    torch.testing.assert_close(cell(inputs)[1], expected)


# -- what cannot be searched


def refusal(build, error=TypeError):
    class Model(ModelSpace):
        def __init__(self):
            super().__init__()
            build(self)

    with pytest.raises(error) as caught:
        IDARTS().mutate_model(Model())
    return str(caught.value)


def test_a_choice_on_the_model_itself_is_refused_by_name_and_reason():
    message = refusal(lambda model: model.add_mutable(nni.choice("size", [1, 2])))
    assert message.startswith("Model cannot be searched: its choices size are registered on the model space itself")


def test_a_continuous_choice_is_refused_by_name_and_reason():
    def build(model):
        model.body = nn.Sequential(nni.nas.nn.pytorch.MutableDropout(nni.uniform("rate", 0.0, 1.0)))

    assert refusal(build).startswith("body.0 (MutableDropout) cannot be searched: its choice 'rate' is Numerical")


def test_a_joining_that_cannot_be_weighed_is_refused_by_name_and_reason():
    def build(model):
        model.body = nn.Sequential(InputChoice(2, n_chosen=1, reduction="concat", label="inputs"))

    assert refusal(build, ValueError).startswith(
        "body.0 (InputChoice) cannot be searched: Only input choice of sum/mean"
    )


def test_a_module_of_unknown_choices_is_refused_by_name_and_reason():
    class Own(nni.nas.nn.pytorch.MutableModule):
        def __init__(self):
            super().__init__()
            self.add_mutable(nni.choice("own", [1, 2]))

    def build(model):
        model.body = nn.Sequential(Own())

    assert "body.0 (Own) cannot be searched" in refusal(build)


# -- the example


def test_the_example_of_the_readme_runs_as_written():
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Your own space\n")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    assert "Node(" in code and len(code.splitlines()) < 30
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, timeout=300, check=True)
    found = ast.literal_eval(next(line for line in done.stdout.splitlines() if line.startswith("[{")))
    assert len(found) == 3 and all(len(sample["join"]) == 2 for sample in found)
