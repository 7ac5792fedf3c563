"""Figures of the alphas, each on alphas for which it is worked out by hand."""

import math

import pytest
import torch

from idarts_nni.architecture import Architecture, Edge
from idarts_nni.derive import derive_architecture, node_distributions
from idarts_nni.health import changed_edges, health_figures, node_entropies, node_margins, operation_share
from idarts_nni.space import CellSpace

OPERATIONS = ("zeroize", "tanh", "identity")
SPACE = CellSpace(2, OPERATIONS)


def logits_of(*rows):
    """Return logits ``(P, K)`` whose softmax is given by weights."""
    return torch.tensor(rows, dtype=torch.float64).log()


def cell(*nodes):
    return Architecture(tuple(tuple(Edge(source, name) for source, name in edges) for edges in nodes))


def test_rows_are_source_by_source_and_sum_to_one_for_each_softmax():
    logits = logits_of((1, 2, 5), (1, 1, 2), (2, 3, 1))
    assert node_distributions(logits) == [
        pytest.approx([0.125, 0.25, 0.625]),
        pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.1]),
    ]
    assert node_distributions(logits, "edge") == [
        pytest.approx([0.125, 0.25, 0.625]),
        pytest.approx([0.25, 0.25, 0.5, 1 / 3, 0.5, 1 / 6]),
    ]


def test_the_entropy_of_uniform_alphas_is_one_and_of_decided_ones_zero():
    uniform = [[1 / 3] * 3, [1 / 6] * 6]
    assert node_entropies(uniform, 3) == pytest.approx([1.0, 1.0])
    assert node_entropies([[1 / 3] * 3, [1 / 3] * 6], 3, "edge") == pytest.approx([1.0, 1.0])
    assert node_entropies([[0.0, 1.0, 0.0], [0.0] * 5 + [1.0]], 3) == [0.0, 0.0]


def test_the_entropy_of_known_alphas():
    # Two of three edges at one half each: ln 2 nats of at most ln 3.
    assert node_entropies([[0.5, 0.5, 0.0]], 3) == pytest.approx([math.log(2) / math.log(3)])
    # A quarter on each of four of six edges.
    assert node_entropies([[0.25, 0.25, 0.25, 0.25, 0.0, 0.0]], 3) == pytest.approx([math.log(4) / math.log(6)])
    # With one softmax for each source: one decided, one half undecided; their mean.
    edge_local = [[0.0, 1.0, 0.0, 0.5, 0.5, 0.0]]
    assert node_entropies(edge_local, 3, "edge") == pytest.approx([0.5 * math.log(2) / math.log(3)])


def test_one_operation_leaves_nothing_to_decide_between_the_operations_of_a_source():
    assert node_entropies([[1.0, 1.0]], 1, "edge") == [0.0]
    assert node_entropies([[0.5, 0.5]], 1, "node") == pytest.approx([1.0])


def test_the_margin_is_between_the_last_kept_edge_and_the_first_left_out():
    row = [0.3, 0.25, 0.1, 0.05, 0.2, 0.1]  # zeroize, tanh, identity of state 0, then of state 1
    assert node_margins([row], OPERATIONS, cell([(0, "tanh")])) == pytest.approx([0.05]), "zeroize does not count"


@pytest.mark.parametrize(("n", "margin"), [(1, 0.05), (2, 0.1), (3, 0.0), ("all", 0.1)])
def test_the_margin_follows_the_number_of_kept_edges(n, margin):
    space = CellSpace(2, OPERATIONS, edges_per_node=n)
    logits = logits_of((1, 1, 1), (0.3, 0.25, 0.1), (0.05, 0.2, 0.1))
    rows = node_distributions(logits)
    assert node_margins(rows, OPERATIONS, derive_architecture(logits, space))[1] == pytest.approx(margin)


def test_the_margin_is_negative_where_a_rule_kept_a_less_probable_edge():
    space = CellSpace(2, OPERATIONS, edges_per_node=2)
    logits = logits_of((1, 1, 1), (0.1, 0.5, 0.4), (0.8, 0.15, 0.05))
    derived = derive_architecture(logits, space, "edge")
    assert [edge.source for edge in derived.nodes[1]] == [0, 1], "DARTS takes distinct sources first"
    rows = node_distributions(logits, "edge")
    assert node_margins(rows, OPERATIONS, derived)[1] == pytest.approx(0.15 - 0.4)


def test_changed_edges_are_those_that_the_cell_before_did_not_have():
    before = cell([(0, "tanh")], [(0, "tanh"), (1, "identity")])
    assert changed_edges(before, before) == 0
    assert changed_edges(before, cell([(0, "tanh")], [(0, "identity"), (1, "identity")])) == 1
    assert changed_edges(before, cell([(0, "identity")], [(1, "tanh"), (0, "identity")])) == 3
    weighed = Architecture(((Edge(0, "tanh", 1.0),), (Edge(0, "tanh", 0.4), Edge(1, "identity", 0.6))))
    assert changed_edges(before, weighed) == 0, "an edge with another weight is the same edge"


def test_shares_are_means_over_the_nodes_and_under_edge_over_the_sources():
    rows = [[0.2, 0.3, 0.5], [0.1, 0.1, 0.2, 0.3, 0.2, 0.1]]
    assert operation_share(rows, OPERATIONS, ("identity",)) == pytest.approx((0.5 + 0.3) / 2)
    assert operation_share(rows, OPERATIONS, ("zeroize", "none")) == pytest.approx((0.2 + 0.4) / 2)
    assert operation_share(rows, OPERATIONS, ("relu",)) == 0.0
    by_edge = [[0.2, 0.3, 0.5], [0.2, 0.2, 0.6, 0.7, 0.1, 0.2]]
    assert operation_share(by_edge, OPERATIONS, ("identity",), "edge") == pytest.approx((0.5 + 0.4) / 2)


def test_the_figures_of_an_epoch_have_their_names_and_values():
    rows = [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0, 0.75, 0.25]]
    now, before = cell([(0, "tanh")], [(1, "tanh")]), cell([(0, "tanh")], [(0, "tanh")])
    figures = health_figures(rows, OPERATIONS, "node", now, before)
    first = math.log(2) / math.log(3)
    second = (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(6)
    expected = {
        "entropy": (first + second) / 2, "margin": (0.5 + 0.5) / 2, "entropy 1": first, "entropy 2": second,
        "margin 1": 0.5, "margin 2": 0.5, "changed edges": 1.0, "identity share": 0.125, "zeroize share": 0.25,
    }  # fmt: skip
    assert figures == pytest.approx(expected)
    assert list(figures) == list(expected)


def test_all_figures_stay_in_their_bounds_for_random_logits():
    for seed in range(20):
        torch.manual_seed(seed)
        logits = torch.randn(SPACE.num_pairs, 3) * 5.0
        for relaxation in ("node", "edge"):
            rows, derived = node_distributions(logits, relaxation), derive_architecture(logits, SPACE, relaxation)
            figures = health_figures(rows, OPERATIONS, relaxation, derived, derived)
            assert figures.pop("changed edges") == 0.0
            assert all(0.0 <= value <= 1.0 + 1e-12 for value in figures.values())
