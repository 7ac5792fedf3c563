import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from idarts_nni.architecture import Architecture
from idarts_nni.derive import cell_probabilities, derive_architecture, node_probabilities, split_nodes
from idarts_nni.space import CellSpace

from .generators import spaces

PAPER = CellSpace(8, ("zeroize", "tanh", "relu", "sigmoid", "identity"))
SMALL = CellSpace(3, ("zeroize", "tanh", "relu"))


def logits_of(space: CellSpace, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(space.num_pairs, len(space.operations), generator=generator, dtype=torch.float64)


def edges_of(cell: Architecture) -> list[set[tuple[int, str]]]:
    return [{(edge.source, edge.operation) for edge in edges} for edges in cell.nodes]


def test_uniform_logits_leave_0_8_of_a_node_to_the_edges_that_compute():
    for rows in split_nodes(cell_probabilities(torch.zeros(36, 5))):
        torch.testing.assert_close(rows[:, 1:].sum(), torch.tensor(0.8))


@given(spaces(), st.integers(0, 1000))
def test_node_softmax_sums_to_one_per_node_and_ignores_a_constant(space, seed):
    logits = logits_of(space, seed)
    probabilities = cell_probabilities(logits)
    parts = split_nodes(probabilities)
    assert [len(rows) for rows in parts] == list(range(1, space.num_nodes + 1))
    shifted = torch.cat([rows + 7.0 * (node + 1) for node, rows in enumerate(split_nodes(logits))])
    for rows in parts:
        assert math.isclose(float(rows.sum()), 1.0, abs_tol=1e-9)
    torch.testing.assert_close(cell_probabilities(shifted), probabilities)


def test_edge_softmax_sums_to_one_per_pair():
    torch.testing.assert_close(cell_probabilities(logits_of(PAPER, 1), "edge").sum(-1), torch.ones(36).double())


def test_node_softmax_is_equation_4_written_out():
    rows = [[0.5, -1.0], [2.0, 0.0]]
    total = sum(math.exp(value) for row in rows for value in row)
    expected = torch.tensor([[math.exp(value) / total for value in row] for row in rows])
    torch.testing.assert_close(node_probabilities(torch.tensor(rows)), expected)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_derived_cell_is_the_best_of_all_cells_of_a_small_space(kept):
    space = CellSpace(3, ("zeroize", "tanh", "relu"), edges_per_node=kept)
    for seed in range(20):
        logits = logits_of(space, seed)
        derived = edges_of(derive_architecture(logits, space))
        for node, rows in enumerate(split_nodes(logits), start=1):
            choices = [(source, name) for source in range(node) for name in ("tanh", "relu")]
            score = {edge: float(rows[edge[0], space.operations.index(edge[1])]) for edge in choices}
            best = max(itertools.combinations(choices, min(kept, len(choices))), key=lambda c: sum(map(score.get, c)))
            assert derived[node - 1] == set(best)


def test_two_edges_of_a_node_may_join_the_same_pair():
    space = CellSpace(2, ("tanh", "relu"), edges_per_node=2)
    cell = derive_architecture(torch.tensor([[0.0, 0.0], [3.0, 2.0], [0.0, 0.0]]), space)
    assert edges_of(cell)[1] == {(0, "tanh"), (0, "relu")}


def test_all_edges_are_kept_with_all():
    space = CellSpace(3, ("zeroize", "tanh", "relu"), edges_per_node="all")
    assert [len(edges) for edges in derive_architecture(logits_of(space, 1), space).nodes] == [2, 4, 6]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("relaxation", ["node", "edge"])
def test_ties_go_to_the_lower_source_and_then_to_the_earlier_operation(dtype, relaxation):
    cell = derive_architecture(torch.zeros(36, 5, dtype=dtype), PAPER, relaxation)
    assert edges_of(cell) == [{(0, "tanh")}] * 8
    two = CellSpace(3, ("relu", "tanh"), edges_per_node=2)
    # DARTS's rule takes distinct sources first, and node 1 has but one.
    later = {(0, "relu"), (0, "tanh")} if relaxation == "node" else {(0, "relu"), (1, "relu")}
    expected = [{(0, "relu"), (0, "tanh")}, later, later]
    assert edges_of(derive_architecture(torch.zeros(6, 2, dtype=dtype), two, relaxation)) == expected


@given(spaces(max_nodes=4), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_permuting_the_operations_permutes_nothing_but_their_order(space, seed, random):
    logits = logits_of(space, seed)
    order = random.sample(range(len(space.operations)), len(space.operations))
    permuted = CellSpace(**{**space.to_dict(), "operations": [space.operations[column] for column in order]})
    for relaxation in ("node", "edge"):
        expected = edges_of(derive_architecture(logits, space, relaxation))
        assert edges_of(derive_architecture(logits[:, order], permuted, relaxation)) == expected


@given(spaces(), st.integers(0, 1000), st.sampled_from(["node", "edge"]))
def test_derived_cell_fits_its_space_and_its_weights_sum_to_one(space, seed, relaxation):
    cell = derive_architecture(logits_of(space, seed), space, relaxation)
    cell.check_fits(space)
    for edges in cell.nodes:
        assert math.isclose(sum(edge.weight for edge in edges), 1.0, abs_tol=1e-5 * len(edges))


def test_published_cells_are_derived_from_logits_that_favour_them():
    cells = (
        "sigmoid 0, relu 1, relu 1, identity 1, tanh 2, sigmoid 5, tanh 3, relu 5",
        "identity 0, relu 1, identity 2, tanh 3, relu 3, relu 5, identity 2, relu 6",
    )
    for cell in cells:
        written = [(name, int(source)) for name, source in (edge.split() for edge in cell.split(", "))]
        logits = 1e-3 * logits_of(PAPER, 5)
        for node, (operation, source) in enumerate(written, start=1):
            logits[PAPER.first_pair(node) + source, PAPER.operations.index(operation)] = 1.0
        for relaxation in ("node", "edge"):
            derived = derive_architecture(logits, PAPER, relaxation)
            assert [(edges[0].operation, edges[0].source) for edges in derived.nodes] == written


def test_node_and_edge_rules_differ_where_softmaxes_of_pairs_cannot_be_compared():
    # Pair (0, 2) has one clear winner within the pair; pair (1, 2) has the larger logits.
    space = CellSpace(2, ("zeroize", "tanh", "relu"))
    logits = torch.tensor([[0.0, 1.0, 0.0], [-9.0, 1.0, -9.0], [4.0, 5.0, 4.9]])
    assert edges_of(derive_architecture(logits, space, "node"))[1] == {(1, "tanh")}
    assert edges_of(derive_architecture(logits, space, "edge"))[1] == {(0, "tanh")}


def test_authors_rule_passes_over_state_0_after_the_first_node():
    space = CellSpace(3, ("zeroize", "tanh", "relu"), profile="authors-code")
    logits = torch.zeros(6, 3)
    logits[[0, 1, 3], 2] = 5.0
    assert edges_of(derive_architecture(logits, space)) == [{(0, "relu")}, {(1, "tanh")}, {(1, "tanh")}]


def test_zeroize_is_never_kept():
    logits = torch.zeros(6, 3)
    logits[:, 0] = 100.0
    cell = derive_architecture(logits, SMALL)
    assert edges_of(cell) == [{(0, "tanh")}] * 3


@pytest.mark.parametrize("logits, words", [
    (torch.zeros(5, 3), "shape"), (torch.zeros(6, 2), "shape"), (torch.full((6, 3), float("nan")), "not finite"),
    (torch.full((6, 3), float("inf")), "not finite"),
])  # fmt: skip
def test_impossible_logits_are_an_error(logits, words):
    with pytest.raises(ValueError, match=words):
        derive_architecture(logits, SMALL)


def test_unknown_relaxation_is_an_error_that_names_the_allowed():
    with pytest.raises(ValueError, match="'cell'; allowed: node, edge"):
        cell_probabilities(torch.zeros(6, 3), "cell")
    with pytest.raises(ValueError, match="'cell'; allowed: node, edge"):
        derive_architecture(torch.zeros(6, 3), SMALL, "cell")
