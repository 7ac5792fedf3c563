"""NNI's own cell under the node-level softmax: weights, export, and everything else that NNI's cell promises."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nni.mutable import label_scope
from nni.nas.hub.pytorch import nasnet
from nni.nas.nn.pytorch import Cell, LayerChoice, ModelSpace, MutableLinear, Repeat
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell
from nni.nas.space import model_context
from nni.nas.strategy import DARTS, GumbelDARTS
from torch import nn

from idarts_nni import IDARTS, MixedCell
from tests.one_shot import search, set_logits

WIDTH = 4
NAMES = ("linear", "tanh", "zero")


class Times(nn.Module):
    """Multiply by a number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, states):
        return states * self.factor


class Space(ModelSpace):
    """One cell; its arguments are those of NNI's."""

    def __init__(self, candidates, *args, **kwargs):
        super().__init__()
        self.arguments = (candidates, args, kwargs)
        self.cell = Cell(candidates, *args, **{"label": "cell", **kwargs})

    def forward(self, *inputs):
        return self.cell(*inputs)


def factories(names=NAMES):
    made = {"linear": lambda: nn.Linear(WIDTH, WIDTH), "tanh": nn.Tanh, "zero": lambda: Times(0.0)}
    return {name: (lambda node, place, source, name=name: made[name]()) for name in names}


def mixed(*args, strategy=None, **kwargs):
    model = (strategy or IDARTS()).mutate_model(Space(*args, **kwargs))
    assert type(model.cell) is MixedCell
    return model


def draw_logits(cell, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logits in cell.logits:
            logits.copy_(torch.randn(logits.shape, generator=generator))


def exported_pairs(sample, node, count):
    return [(sample[f"cell/input_{node}_{k}"][0], sample[f"cell/op_{node}_{k}"]) for k in range(count)]


# -- the softmax


def test_all_pairs_of_a_node_share_one_softmax():
    cell = mixed(factories(), 3, 2, 2).cell
    draw_logits(cell)
    assert [tuple(weights.shape) for weights in cell.probabilities()] == [(2, 3), (3, 3), (4, 3)]
    for weights in cell.probabilities():
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
        assert not torch.allclose(weights.sum(-1), torch.ones(len(weights)))


def test_adding_a_constant_to_a_node_s_logits_changes_nothing():
    model = mixed(factories(), 2, 2, 2)
    draw_logits(model.cell)
    inputs = [torch.randn(3, WIDTH), torch.randn(3, WIDTH)]
    before, exported = model(inputs), model.cell.export({})
    with torch.no_grad():
        for logits in model.cell.logits:
            logits += 5.0
    torch.testing.assert_close(model(inputs), before)
    assert model.cell.export({}) == exported


def test_a_node_is_the_weighted_sum_over_its_pairs():
    model = mixed({"twice": Times(2.0), "minus": Times(-1.0)}, 2, 1, 1)
    draw_logits(model.cell)
    inputs = torch.randn(3, WIDTH)
    first, second = model.cell.probabilities()
    one = inputs * (2 * first[0, 0] - first[0, 1])
    two = inputs * (2 * second[0, 0] - second[0, 1]) + one * (2 * second[1, 0] - second[1, 1])
    torch.testing.assert_close(model(inputs), torch.cat([one, two], 1))


def test_gumbel_noise_falls_on_all_pairs_of_a_node_at_once():
    model = GumbelDARTS(mutation_hooks=[MixedCell.mutate]).mutate_model(Space(factories(), 1, 1, 2))
    assert type(model.cell) is MixedCell
    (first,), (second,) = model.cell.probabilities(), model.cell.probabilities()
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.sum(), torch.tensor(1.0))


# -- the export


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), kept=st.integers(1, 3), rounding=st.booleans())
def test_export_is_the_top_n_found_by_trying_all_sets(seed, kept, rounding):
    cell = mixed(factories(), 2, kept, 2).cell
    draw_logits(cell, seed)
    if rounding:  # many ties
        with torch.no_grad():
            for logits in cell.logits:
                logits.round_()
    sample = cell.export({})
    for node, logits in zip((2, 3), cell.logits, strict=True):
        values = {(source, column): float(logits[source, column]) for source in range(node) for column in range(3)}
        # combinations() goes through sets by lower source, then earlier operation, so max() breaks ties that way.
        best = max(itertools.combinations(values, kept), key=lambda pairs: sum(values[pair] for pair in pairs))
        assert exported_pairs(sample, node, kept) == [(source, NAMES[column]) for source, column in best]


def test_two_operations_on_one_input_are_kept_where_they_are_best_and_nni_s_rule_would_not():
    values = [[3.0, 2.0, 0.0], [1.0, 0.0, 0.0]]
    cell = mixed(factories(), 1, 2, 2).cell
    set_logits(cell.logits[0], values)
    assert exported_pairs(cell.export({}), 2, 2) == [(0, "linear"), (0, "tanh")]
    baseline = IDARTS(relaxation="edge").mutate_model(Space(factories(), 1, 2, 2)).cell
    assert type(baseline) is DifferentiableMixedCell
    for source, row in enumerate(values):
        set_logits(baseline._arch_alpha[f"cell/2_{source}"], [*row, 0.0])
    assert {pair[0] for pair in exported_pairs(baseline.export({}), 2, 2)} == {0, 1}


@pytest.mark.parametrize("name", ["none", "zeroize"])
def test_the_edge_that_is_not_there_takes_its_share_and_is_never_exported(name):
    candidates = {name: Times(0.0), "linear": nn.Linear(WIDTH, WIDTH), "tanh": nn.Tanh()}
    model = mixed(candidates, 1, 2, 2)
    set_logits(model.cell.logits[0], [[9.0, 1.0, 0.0], [9.0, 0.5, 2.0]])
    assert exported_pairs(model.cell.export({}), 2, 2) == [(0, "linear"), (1, "tanh")]
    (weights,) = model.cell.probabilities()
    assert weights[:, 0].sum() > 0.99
    inputs = [torch.randn(3, WIDTH), torch.randn(3, WIDTH)]
    edges = model.cell.ops[0]
    expected = sum(weights[j, k] * edges[j][op](inputs[j]) for j in (0, 1) for k, op in ((1, "linear"), (2, "tanh")))
    torch.testing.assert_close(model(inputs), expected)


def test_where_there_are_fewer_pairs_than_operators_they_repeat():
    model = mixed({"tanh": nn.Tanh()}, 1, 3, 1)
    assert exported_pairs(model.cell.export({}), 2 - 1, 3) == [(0, "tanh")] * 3
    inputs = torch.randn(2, WIDTH)
    torch.testing.assert_close(model.freeze(model.cell.export({}))(inputs), 3 * inputs.tanh())


def test_export_tells_nothing_that_is_known_already():
    cell = mixed(factories(), 2, 1, 2).cell
    sample = cell.export({})
    assert cell.export(sample) == {} and cell.resample({}) == {}
    probabilities = cell.export_probs({})
    assert list(probabilities) == ["cell/node_2", "cell/node_3"] and cell.export_probs(probabilities) == {}
    assert list(probabilities["cell/node_2"])[:4] == ["linear 0", "tanh 0", "zero 0", "linear 1"]


def test_the_choices_are_those_of_nni_s_cell():
    assert mixed(factories(), 2, 2, 2).simplify().keys() == Space(factories(), 2, 2, 2).simplify().keys()


# -- what NNI's cell promises


@pytest.mark.parametrize("merge_op", ["all", "loose_end"])
@pytest.mark.parametrize("candidates", [
    [nn.Linear(WIDTH, WIDTH), nn.Tanh()],
    {"linear": nn.Linear(WIDTH, WIDTH), "tanh": nn.Tanh()},
    [lambda node, place, source: nn.Linear(WIDTH, WIDTH), lambda node, place, source: nn.Tanh()],
    factories(),
], ids=["modules", "named modules", "factories", "named factories"])  # fmt: skip
def test_every_way_to_give_candidates_is_searched_and_frozen_with_its_weights(candidates, merge_op):
    model = mixed(candidates, 3, 2, 2, merge_op)
    inputs = [torch.randn(3, WIDTH), torch.randn(3, WIDTH)]
    assert model(inputs).shape == (3, 3 * WIDTH), "in the search network all nodes are joined"
    draw_logits(model.cell, 1)
    sample = model.cell.export({})
    frozen = model.freeze(sample)
    assert type(frozen.cell) is Cell and not frozen.simplify()
    states = list(inputs)
    for node in (2, 3, 4):
        pairs = exported_pairs(sample, node, 2)
        states.append(sum(model.cell.ops[node - 2][source][name](states[source]) for source, name in pairs))
    used = {source for node in (2, 3, 4) for source, _ in exported_pairs(sample, node, 2)}
    joined = [node for node in (2, 3, 4) if merge_op == "all" or node not in used]
    torch.testing.assert_close(frozen(inputs), torch.cat([states[node] for node in joined], 1))
    with model_context(sample):
        assert Space(candidates, 3, 2, 2, merge_op)(inputs).shape == frozen(inputs).shape


def test_the_frozen_cell_shares_no_weight_with_the_search_network():
    model = mixed(factories(), 1, 1, 1)
    frozen = model.freeze({"cell/op_1_0": "linear", "cell/input_1_0": [0]})
    assert frozen.cell.ops[0][0].weight is not model.cell.ops[0][0]["linear"].weight
    torch.testing.assert_close(frozen.cell.ops[0][0].weight, model.cell.ops[0][0]["linear"].weight)


def test_a_factory_that_looks_at_the_input_makes_each_operation_for_its_input():
    sizes = {0: 3, 1: 5, 2: WIDTH}

    def make(node, place, source):
        return nn.Linear(sizes[0 if source is None else source], WIDTH)

    model = mixed([make, make], 2, 1, 2)
    assert [edge["0"].in_features for edge in model.cell.ops[1]] == [3, 5, WIDTH]
    inputs = [torch.randn(2, 3), torch.randn(2, 5)]
    assert model(inputs).shape == (2, 2 * WIDTH)
    assert model.freeze(model.cell.export({}))(inputs).shape == (2, 2 * WIDTH)


def test_preprocessor_postprocessor_and_concatenation_axis_are_kept():
    class Before(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (
                nn.Linear(3, WIDTH),
                LayerChoice([nn.Linear(5, WIDTH), nn.Linear(5, WIDTH)], label="b"),
            )

        def forward(self, states):
            return [self.first(states[0]), self.second(states[1])]

    class After(nn.Module):
        def forward(self, cell, inputs):
            return [inputs[-1], cell]

    class Whole(ModelSpace):
        def __init__(self):
            super().__init__()
            self.cell = Cell(
                factories(), 2, 1, 2, preprocessor=Before(), postprocessor=After(), concat_dim=0, label="cell"
            )

        def forward(self, inputs):
            return self.cell(inputs)

    model = IDARTS().mutate_model(Whole())
    inputs = [torch.randn(2, 3), torch.randn(2, 5)]
    previous, joined = model(inputs)
    assert previous is inputs[1] and joined.shape == (4, WIDTH)
    sample = {**model.cell.export({}), "b": 1}
    previous, joined = model.freeze(sample)(inputs)
    assert previous is inputs[1] and joined.shape == (4, WIDTH)
    torch.testing.assert_close(
        model.freeze(sample).cell.preprocessor.second.weight, model.cell.preprocessor.second[1].weight
    )


def test_inputs_may_be_a_list_or_several_and_their_number_is_checked():
    model = mixed(factories(), 1, 1, 2)
    inputs = [torch.randn(2, WIDTH), torch.randn(2, WIDTH)]
    torch.testing.assert_close(model(inputs), model(*inputs))
    with pytest.raises(AssertionError, match="num_predecessors"):
        model(inputs[0])


def test_cells_of_one_label_share_their_logits_and_not_their_weights():
    class Two(ModelSpace):
        def __init__(self):
            super().__init__()
            self.one = Cell(factories(), 2, 1, 1, label="cell")
            self.two = Cell(factories(), 2, 1, 1, label="cell")

        def forward(self, inputs):
            return self.one(inputs) + self.two(inputs)

    strategy = IDARTS()
    model = strategy.mutate_model(Two())
    assert all(a is b for a, b in zip(model.one.logits, model.two.logits, strict=True))
    assert model.one.ops[0][0]["linear"].weight is not model.two.ops[0][0]["linear"].weight
    frozen = model.freeze(model.one.export({}))
    assert [type(op[0]) for op in frozen.one.ops] == [type(op[0]) for op in frozen.two.ops]


def test_cells_of_one_label_with_other_candidates_are_refused_by_name():
    class Two(ModelSpace):
        def __init__(self):
            super().__init__()
            self.one = Cell(factories(("linear", "tanh")), 1, 1, 1, label="cell")
            self.two = Cell({"tanh": nn.Tanh(), "linear": nn.Linear(WIDTH, WIDTH)}, 1, 1, 1, label="cell")

    with pytest.raises(ValueError, match="same label cell/op_1_0 but are different"):
        IDARTS().mutate_model(Two())


def test_operations_may_hold_choices_of_their_own_and_labels_may_be_nested():
    class Nested(ModelSpace):
        def __init__(self):
            super().__init__()
            with label_scope("outer"):
                inner = LayerChoice({"wide": nn.Linear(WIDTH, WIDTH), "same": nn.Identity()}, label="inner")
                self.cell = Cell({"tanh": nn.Tanh(), "linear": inner}, 2, 1, 1, label="cell")

        def forward(self, inputs):
            return self.cell(inputs)

    experiment = search(Nested(), IDARTS(), WIDTH)
    (sample,) = experiment.export_top_models(formatter="dict")
    assert set(sample) == {f"outer/cell/{kind}_{node}_0" for kind in ("op", "input") for node in (1, 2)} | {
        "outer/inner"
    }
    sample |= {"outer/cell/op_1_0": "linear", "outer/inner": "wide"}
    with model_context(sample):
        assert type(Nested().cell.ops[0][0]) is nn.Linear
    assert type(experiment.strategy.supernet.freeze(sample).cell.ops[0][0]) is nn.Linear


def test_a_subclass_of_cell_is_refused_by_name_and_reason():
    class Own(Cell):
        pass

    class Model(ModelSpace):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(Own(factories(), 1, 1, 1, label="cell"))

    with pytest.raises(TypeError, match=r"body\.0 \(Own\) cannot be searched: .*mutation_hooks"):
        IDARTS().mutate_model(Model())


def test_candidates_that_all_compute_nothing_are_refused():
    with pytest.raises(ValueError, match=r"cell \(Cell\) cannot be searched: op_candidates: found \['none'\]"):
        mixed({"none": Times(0.0)}, 1, 1, 1)


def test_under_the_edge_relaxation_cells_are_left_to_nni():
    edge = IDARTS(relaxation="edge").mutate_model(Space(factories(), 2, 1, 2))
    stock = DARTS().mutate_model(Space(factories(), 2, 1, 2))
    assert type(edge.cell) is type(stock.cell) is DifferentiableMixedCell


# -- the k best


def test_the_k_best_models_are_those_found_by_trying_all():
    strategy = IDARTS()
    experiment = search(Space(factories(("linear", "tanh")), 2, 1, 1), strategy, WIDTH)
    cell = strategy.supernet.cell
    draw_logits(cell, 3)
    scores = [logits.flatten().log_softmax(0).view_as(logits) for logits in cell.logits]
    every = {}
    for first, second in itertools.product(range(2), itertools.product(range(2), range(2))):
        score = float(scores[0][0, first] + scores[1][second])
        every[(0, first, *second)] = score
    best = sorted(every, key=every.get, reverse=True)
    found = experiment.export_top_models(top_k=20, formatter="dict")
    names = ("linear", "tanh")
    assert [
        (s["cell/input_1_0"][0], names.index(s["cell/op_1_0"]), s["cell/input_2_0"][0], names.index(s["cell/op_2_0"]))
        for s in found
    ] == best
    assert found[0] == cell.export({})


# -- NNI's hub


@pytest.mark.parametrize("name, cells", [("DARTS", 3), pytest.param("DARTS", (3, 6), marks=pytest.mark.slow)] + [
    pytest.param(name, 3, marks=pytest.mark.slow) for name in ("NASNet", "ENAS", "AmoebaNet", "PNAS")
])  # fmt: skip
def test_a_space_of_the_hub_is_searched_and_retrained(name, cells):
    def make():
        return getattr(nasnet, name)(width=2, num_cells=cells, dataset="cifar")

    strategy = IDARTS()
    experiment = search(make(), strategy, 3, 8, 8)
    mixed_cells = [module for module in strategy.supernet.modules() if isinstance(module, MixedCell)]
    assert len(mixed_cells) == (3 if cells == 3 else 6)
    assert len({id(cell.logits[0]) for cell in mixed_cells}) == 2, "normal and reduction cells"
    assert not [module for module in strategy.supernet.modules() if isinstance(module, DifferentiableMixedCell)]
    samples = experiment.export_top_models(top_k=2, formatter="dict")
    assert samples[0] != samples[1]
    for sample in samples:
        with model_context(sample):
            model = make()
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_a_repeat_of_cells_with_a_choice_of_widths_inside_is_searched():
    import nni

    class Model(ModelSpace):
        def __init__(self):
            super().__init__()
            hidden = nni.choice("hidden", [2, 6])
            block = nn.Sequential(MutableLinear(WIDTH, hidden), nn.Tanh(), MutableLinear(hidden, WIDTH))
            self.blocks = Repeat(
                lambda index: Cell({"block": block, "tanh": nn.Tanh()}, 1, 1, 1, label="cell"), (1, 3), label="depth"
            )

        def forward(self, inputs):
            return self.blocks(inputs)

    experiment = search(Model(), IDARTS(), WIDTH)
    samples = experiment.export_top_models(top_k=12, formatter="dict")
    assert len({str(sorted(sample.items(), key=str)) for sample in samples}) == 12, "2 pairs, 2 widths, 3 depths"
    for sample in samples:
        with model_context(sample):
            assert Model()(torch.randn(2, WIDTH)).shape == (2, WIDTH)
