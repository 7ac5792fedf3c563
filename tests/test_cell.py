from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from idarts_nni.architecture import Architecture, Edge
from idarts_nni.cell import edge_shares, unroll_fixed, unroll_mixed
from idarts_nni.space import CellSpace
from tests import reference

OPERATIONS = ("zeroize", "tanh", "relu", "sigmoid", "identity", "gelu", "silu")
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def tensors(space: CellSpace, masked: bool = True) -> tuple[list[Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    parts = 2 if space.gate == "highway" else 1
    shapes = [(4, 3, 5), (3, 6), (11, 12), (space.num_nodes, 6, parts * 6)]
    drawn = [0.4 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    masks = {}
    if masked:
        for name, width in (("input_mask", 5), ("hidden_mask", 6)):
            masks[name] = (torch.rand(3, width, generator=generator) < 0.75).double() / 0.75
    return drawn, masks


def probabilities(space: CellSpace) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(space.num_pairs, len(space.operations), generator=generator, dtype=torch.float64) / 4


@pytest.mark.parametrize("masked", [False, True], ids=["bare", "masked"])
@pytest.mark.parametrize("normalise", [False, True], ids=["raw", "normalised"])
@pytest.mark.parametrize("gate", ["highway", "none"])
@pytest.mark.parametrize("transform", ["target", "source"])
def test_mixed_cell_equals_the_sum_of_its_edges_written_out(
    transform: str, gate: str, normalise: bool, masked: bool
) -> None:
    space = CellSpace(4, OPERATIONS, transform=transform, gate=gate)
    drawn, masks = tensors(space, masked)
    norm = nn.BatchNorm1d(6, affine=False).double() if normalise else None
    actual = unroll_mixed(*drawn, probabilities(space), space, **masks, norm=norm)
    edges = reference.mixed_edges(probabilities(space), space)
    expected = reference.unroll(*drawn, edges, space, **masks, normalise=normalise)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("combine", ["sum", "mean", "weighted"])
@pytest.mark.parametrize("transform", ["target", "source"])
@pytest.mark.parametrize("count", [1, 2, "all"])
def test_fixed_cell_equals_the_sum_of_its_edges_written_out(combine: str, transform: str, count: int | str) -> None:
    space = CellSpace(4, OPERATIONS, count, transform, combine=combine)
    nodes = Architecture.random(space, 3).nodes
    architecture = Architecture(
        tuple(tuple(Edge(e.source, e.operation, 0.1 + 0.1 * (k % 3)) for k, e in enumerate(edges)) for edges in nodes)
    )
    drawn, masks = tensors(space)
    actual = unroll_fixed(*drawn, architecture, space, **masks)
    expected = reference.unroll(*drawn, reference.fixed_edges(architecture, space), space, **masks)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("transform", ["target", "source"])
def test_one_hot_mixed_cell_equals_the_fixed_cell(transform: str) -> None:
    space = CellSpace(5, OPERATIONS, transform=transform)
    architecture = Architecture.random(space, 4)
    one_hot = torch.zeros(space.num_pairs, len(OPERATIONS), dtype=torch.float64)
    for node, (edge,) in enumerate(architecture.nodes, start=1):
        one_hot[space.first_pair(node) + edge.source, OPERATIONS.index(edge.operation)] = 1.0
    drawn, masks = tensors(space)
    torch.testing.assert_close(
        unroll_mixed(*drawn, one_hot, space, **masks), unroll_fixed(*drawn, architecture, space, **masks), **EXACT
    )


def test_a_cell_of_zeroize_edges_alone_gives_zero() -> None:
    space = CellSpace(3, OPERATIONS)
    only = torch.zeros(space.num_pairs, len(OPERATIONS), dtype=torch.float64)
    only[:, 0] = 1.0
    drawn, masks = tensors(space)
    assert not unroll_mixed(*drawn, only, space, **masks).any()


def test_state_zero_carries_the_hidden_state_where_the_gate_is_shut() -> None:
    space = CellSpace(1, ("identity",), gate="none")
    hidden = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    shut = torch.zeros(3, 4, dtype=torch.float64)
    shut[0, :2] = -1e3  # the input's share of the gate
    output = unroll_fixed(
        torch.ones(1, 1, 1, dtype=torch.float64),
        hidden,
        shut,
        torch.eye(2, dtype=torch.float64)[None],
        Architecture(((Edge(0, "identity"),),)),
        space,
    )
    torch.testing.assert_close(output[0], hidden)


def test_weighted_shares_sum_to_one_and_ask_for_weights() -> None:
    space = CellSpace(1, ("tanh", "relu"), 2, combine="weighted")
    cell = Architecture(((Edge(0, "tanh", 0.6), Edge(0, "relu", 0.2)),))
    assert edge_shares(cell, space) == [pytest.approx([0.25, 0.75])]
    with pytest.raises(ValueError, match="combine: mean"):
        edge_shares(Architecture(((Edge(0, "tanh"), Edge(0, "relu")),)), space)
