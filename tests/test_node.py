"""The general node: what it offers to NNI, what it computes in each of its forms, and what it refuses."""

import itertools

import pytest
import torch
from nni.mutable import CategoricalMultiple
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import model_context
from nni.nas.strategy import DARTS, GumbelDARTS
from torch import nn

from idarts_nni import IDARTS, FixedNode, MixedNode, Node
from tests.one_shot import search, set_logits

OPERATIONS = {"zeroize": None, "linear": lambda source: nn.Linear(source + 2, 3), "wide": lambda source: Wide(source)}


class Wide(nn.Module):
    def __init__(self, source):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(source + 1)))

    def forward(self, states):
        return self.scale * states.sum(-1, keepdim=True).expand(*states.shape[:-1], 3)


class Space(ModelSpace):
    """Two sources of different widths."""

    def __init__(self, operations=OPERATIONS, num_edges=2, hooks=False, **kwargs):
        super().__init__()
        self.node = Node(operations, 2, num_edges, **{"label": "node", **kwargs})
        self.hooks = [MixedNode.mutate] if hooks else []

    def extra_oneshot_hooks(self, strategy):
        return self.hooks

    def forward(self, inputs):
        return self.node([inputs[..., :2], inputs])


def mixed(strategy=None, **kwargs):
    model = (strategy or IDARTS()).mutate_model(Space(**kwargs))
    assert type(model.node) is MixedNode
    return model


def test_a_node_is_one_ordinary_choice_among_its_edges_zeroize_left_out():
    (choice,) = Space().simplify().values()
    assert isinstance(choice, CategoricalMultiple) and choice.n_chosen == 2
    assert choice.values == ["linear 0", "wide 0", "linear 1", "wide 1"]


def test_it_keeps_all_edges_where_fewer_are_there():
    (choice,) = Space(num_edges=9).simplify().values()
    assert choice.n_chosen == 4


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_it_freezes_to_a_plain_module_with_its_weights(combine):
    model, inputs = Space(combine=combine), torch.randn(5, 4, 3)
    frozen = model.freeze({"node": ["linear 0", "wide 1"]})
    assert type(frozen.node) is FixedNode
    expected = model.node.edge(0, "linear")(inputs[..., :2]) + model.node.edge(1, "wide")(inputs)
    torch.testing.assert_close(frozen(inputs), expected / 2 if combine == "mean" else expected)
    assert frozen.node.edges[0].weight is not model.node.edge(0, "linear").weight


def test_a_model_context_builds_the_frozen_node_at_once():
    with model_context({"node": ["wide 0", "linear 1"]}):
        model = Space()
    assert type(model.node) is FixedNode and model.node.sources == (0, 1)
    assert [type(edge) for edge in model.node.edges] == [Wide, nn.Linear]


def test_outside_a_search_it_runs_its_default_edges():
    model, inputs = Space(num_edges=1), torch.randn(2, 3)
    torch.testing.assert_close(model(inputs), model.node.edge(0, "linear")(inputs[..., :2]))


def test_all_edges_share_one_softmax_and_the_state_is_their_weighted_sum():
    model, inputs = mixed(), torch.randn(4, 3)
    set_logits(model.node.logits, [[1.0, -1.0, 0.5], [0.0, 2.0, -0.5]])
    weights = model.node.probabilities()
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    states = [inputs[..., :2], inputs]
    expected = sum(
        weights[source, column] * model.node.edge(source, name)(states[source])
        for source in (0, 1)
        for column, name in ((1, "linear"), (2, "wide"))
    )
    torch.testing.assert_close(model(inputs), expected)


def test_the_mixed_node_takes_over_the_weights():
    model = Space()
    weight = model.node.edge(0, "linear").weight
    IDARTS().mutate_model(model)
    assert model.node.edge(0, "linear").weight is weight


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_export_is_the_top_n_found_by_trying_all_sets(count):
    node = mixed(num_edges=count).node
    for seed in range(20):
        values = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)).mul(2).round()
        set_logits(node.logits, values.tolist())
        edges = {(s, c): float(values[s, c]) for s in (0, 1) for c in (1, 2)}
        best = max(itertools.combinations(edges, count), key=lambda chosen: sum(edges[edge] for edge in chosen))
        assert node.export({}) == {"node": [f"{('zeroize', 'linear', 'wide')[c]} {s}" for s, c in best]}
    assert node.export(node.export({})) == {}


def test_the_edge_relaxation_keeps_darts_s_rule_of_distinct_sources():
    values = [[0.0, 3.0, 2.0], [0.0, 1.0, 0.0]]
    for relaxation, expected in (("node", ["linear 0", "wide 0"]), ("edge", ["linear 0", "linear 1"])):
        node = mixed(IDARTS(relaxation=relaxation)).node
        set_logits(node.logits, values)
        assert node.export({}) == {"node": expected}
    torch.testing.assert_close(node.probabilities().sum(-1), torch.ones(2))


def test_nni_s_own_strategies_search_it_with_their_softmax():
    torch.testing.assert_close(mixed(DARTS(), hooks=True).node.probabilities().sum(-1), torch.ones(2))
    gumbel = mixed(GumbelDARTS(), hooks=True).node
    assert not torch.equal(gumbel.probabilities(), gumbel.probabilities())


def test_search_export_freeze_and_the_k_best():
    strategy = IDARTS()
    experiment = search(Space(), strategy, 3)
    samples = experiment.export_top_models(top_k=10, formatter="dict")
    assert len(samples) == 6, "all pairs among four edges"
    assert len({tuple(sample["node"]) for sample in samples}) == 6
    assert samples[0] == strategy.supernet.node.export({})
    frozen = strategy.supernet.freeze(samples[0])
    assert type(frozen.node) is FixedNode


def test_probabilities_are_listed_with_zeroize():
    probabilities = mixed().node.export_probs({})["node"]
    assert list(probabilities) == ["zeroize 0", "linear 0", "wide 0", "zeroize 1", "linear 1", "wide 1"]
    assert sum(probabilities.values()) == pytest.approx(1.0)


def test_choices_inside_an_operation_are_searched_and_frozen_too():
    class Nested(ModelSpace):
        def __init__(self):
            super().__init__()
            inner = LayerChoice({"wide": nn.Linear(3, 3), "same": nn.Identity()}, label="inner")
            self.node = Node({"inner": inner, "tanh": nn.Tanh()}, 2, label="node")

        def forward(self, inputs):
            return self.node([inputs, inputs])

    strategy = IDARTS()
    experiment = search(Nested(), strategy, 3)
    (sample,) = experiment.export_top_models(formatter="dict")
    assert set(sample) == {"node", "inner"}
    chosen = {"node": ["inner 1"], "inner": "wide"}
    assert type(strategy.supernet.freeze(chosen).node.edges[0]) is nn.Linear
    with model_context(chosen):
        assert type(Nested().node.edges[0]) is nn.Linear


def test_a_given_module_is_copied_for_every_edge_and_nodes_of_one_label_share_logits():
    class Two(ModelSpace):
        def __init__(self):
            super().__init__()
            linear = nn.Linear(3, 3)
            self.one = Node({"linear": linear}, 2, label="node")
            self.two = Node({"linear": linear}, 2, label="node")

    model = IDARTS().mutate_model(Two())
    weights = {id(node.edge(source, "linear").weight) for node in (model.one, model.two) for source in (0, 1)}
    assert len(weights) == 4 and model.one.logits is model.two.logits


def test_nodes_of_one_label_that_differ_are_refused_by_name():
    class Two(ModelSpace):
        def __init__(self):
            super().__init__()
            self.one = Node({"tanh": nn.Tanh()}, 2, label="node")
            self.two = Node({"tanh": nn.Tanh(), "zeroize": None}, 2, label="node")

    with pytest.raises(ValueError, match=r"two \(Node\) cannot be searched: label 'node' is shared, but not the edges"):
        IDARTS().mutate_model(Two())


@pytest.mark.parametrize("arguments, message", [
    (({}, 1), "at least one must compute something"),
    (({"none": None}, 1), r"found \['none'\]"),
    (({"tanh": nn.Tanh()}, 0), "num_sources: found 0"),
    (({"tanh": nn.Tanh()}, 1, 0), "num_edges: found 0"),
    (({"tanh": None}, 1), "Operation 'tanh' of source 0: found None"),
    (({"tanh": torch.tanh}, 1), "Operation 'tanh' of source 0|tanh"),
])  # fmt: skip
def test_impossible_arguments_are_refused(arguments, message):
    class Model(ModelSpace):
        def __init__(self):
            super().__init__()
            self.node = Node(*arguments, label="node")

    with pytest.raises((ValueError, TypeError), match=message):
        Model()


def test_a_wrong_number_of_states_or_joining_is_refused():
    with pytest.raises(ValueError, match="combine: found 'product'; allowed: sum, mean"):
        Space(combine="product")
    for node in (Space().node, mixed().node):
        with pytest.raises(ValueError, match=r"Node 'node' has 2 source\(s\); found 1 state"):
            node([torch.randn(1, 2)])
