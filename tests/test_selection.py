"""Selection by perturbation, on a loss that is known."""

import torch

from idarts_nni.architecture import Architecture
from idarts_nni.modules import RecurrentCell
from idarts_nni.mutator import MixedRecurrentCell, architecture_weights, weighed
from idarts_nni.selection import select_by_perturbation
from idarts_nni.space import CellSpace


def mixed(space):
    torch.manual_seed(0)
    cell = RecurrentCell(space, 2, 3, label="cell")
    return MixedRecurrentCell.mutate(cell, "cell", {}, {"relaxation": "node"})


def test_the_edges_whose_absence_hurts_most_are_kept_whatever_they_weigh():
    space = CellSpace(2, ("zeroize", "tanh", "relu"), edges_per_node=2)
    cell = mixed(space)
    with torch.no_grad():
        cell.logits[:, 1] = 3.0  # by probability every node would keep its tanh edges
    needs = torch.tensor([[9.0, 1.0, 2.0], [9.0, 1.0, 5.0], [9.0, 2.0, 3.0]])  # how much each edge is missed
    seen, before = [], cell.probabilities()

    def loss():
        weights = cell.probabilities()
        seen.append(weights.clone())
        return float((needs * (weights == 0.0)).sum())

    found = select_by_perturbation([cell], loss)
    assert str(found) == "1: relu 0 + tanh 0; 2: relu 0 + relu 1"
    assert len(seen) == 2 + 4, "one look at each edge that computes something"
    assert torch.equal(cell.probabilities(), before), "the cell is as before"
    # While node 2 is looked at, node 1 has its kept edges alone.
    assert seen[2][0, 0] == 0.0
    assert all(sum(edge.weight for edge in edges) == 1.0 for edges in found.nodes)


def test_ties_go_to_the_lower_source_and_the_earlier_operation():
    space = CellSpace(3, ("zeroize", "tanh", "relu"))
    found = select_by_perturbation([mixed(space)], lambda: 1.0)
    assert str(found) == "1: tanh 0; 2: tanh 0; 3: tanh 0"


def test_a_fixed_node_is_seen_by_all_cells_of_a_label():
    space = CellSpace(1, ("zeroize", "tanh", "relu"))
    memo = {}
    cells = [
        MixedRecurrentCell.mutate(RecurrentCell(space, 2, 3, label="cell"), "cell", memo, {"relaxation": "node"})
        for _ in range(2)
    ]
    same = []
    select_by_perturbation(cells, lambda: same.append(torch.equal(*(c.probabilities() for c in cells))) or 0.0)
    assert same == [True, True]


def test_one_hot_weights_make_the_search_network_compute_the_derived_cell():
    for combine in ("sum", "mean", "weighted"):
        space = CellSpace(3, ("zeroize", "tanh", "relu"), edges_per_node=2, combine=combine)
        cell = mixed(space)
        derived = cell.derive()
        cell.norm = None  # a derived cell has none
        inputs = torch.randn(4, 5, 2)
        with weighed([cell], architecture_weights(derived, space)):
            torch.testing.assert_close(cell(inputs)[0], cell.fix(derived)(inputs)[0])


def test_the_weights_of_a_cell_stand_at_its_edges():
    space = CellSpace(2, ("zeroize", "tanh", "relu"), edges_per_node=2, combine="mean")
    cell = Architecture.from_dict({"nodes": [
        [{"source": 0, "operation": "tanh"}, {"source": 0, "operation": "relu"}],
        [{"source": 0, "operation": "relu"}, {"source": 1, "operation": "tanh"}],
    ]})  # fmt: skip
    assert architecture_weights(cell, space).tolist() == [[0, 0.5, 0.5], [0, 0, 0.5], [0, 0.5, 0]]
