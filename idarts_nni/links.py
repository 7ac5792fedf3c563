r"""What a fused unroll computes, laid out once: which product feeds which states, through which operations.

One step of a cell is a chain of *stages*. Stage 0 stands for :math:`h_{t-1}`, stage ``j + 1`` for state ``j`` (0..N).
Each stage is multiplied once, by the matrices of all its *slots* side by side; each *link* carries one slot of that
product, through its operations, to a later stage:

.. math:: s_i = \sum_j A_{ij} (1 - c_{ij}) s_j + c_{ij} \sum_k a_{ijk} f_k(u_{ij}), \qquad A_{ij} = \sum_k a_{ijk}.

State 0 fits the same form: it reads :math:`h_{t-1}` through ``tanh`` with coefficient 1. With ``transform: target`` a
slot belongs to one link; with ``transform: source`` all links of a stage share one slot. The coefficients
:math:`a_{ijk}` are a tensor of shape ``(links, operations)``, learnt (mixed cell) or constant (derived cell).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .architecture import Architecture, edge_shares
from .space import CellSpace

STATE_OPERATION = "tanh"
"""What state 0 applies to its product."""


@dataclass(frozen=True)
class Link:
    """One (source, target) pair of stages."""

    target: int
    """Stage that the value is added to."""
    row: int
    """Row of the coefficients."""
    columns: tuple[int, ...]
    """Operations in use: columns of the coefficients."""


@dataclass(frozen=True)
class Stage:
    """One state of a step and all that reads it."""

    links: tuple[Link, ...]
    matrices: tuple[int, ...]
    """Rows of ``node_weights`` that the state is multiplied with, one for each slot; none for stage 0: it has W_0."""
    gated: bool
    """Whether a slot holds the gate's argument in front of the operation's."""

    @property
    def slots(self) -> int:
        """Slots of the product: as many as matrices, or 1 for stage 0."""
        return len(self.matrices) or 1

    @property
    def shared(self) -> bool:
        """Whether several links read one slot."""
        return self.slots < len(self.links)


@dataclass(frozen=True)
class Links:
    """All stages of a step; stage ``N + 1`` is the last node."""

    stages: tuple[Stage, ...]
    operations: tuple[str, ...]
    """Names of the coefficients' columns; ``tanh`` (for state 0) is always among them."""

    @property
    def num_nodes(self) -> int:
        """N: stages without :math:`h_{t-1}` and state 0."""
        return len(self.stages) - 2

    def width(self, stage: int, hidden_size: int) -> int:
        """Return the columns of a stage's product."""
        found = self.stages[stage]
        return found.slots * hidden_size * (2 if found.gated else 1) if found.links else 0


@lru_cache(maxsize=64)
def mixed_links(space: CellSpace) -> Links:
    """Lay out the cell in which every pair of states is linked by every operation."""
    operations = tuple(dict.fromkeys([STATE_OPERATION, *space.active_operations]))
    columns = tuple(operations.index(name) for name in space.active_operations)
    pairs = {
        (source, node): Link(node + 1, 1 + space.first_pair(node) + source, columns)
        for node in range(1, space.num_nodes + 1)
        for source in range(node)
    }
    return _links(pairs, operations, space, space.num_nodes)


@lru_cache(maxsize=64)
def fixed_links(architecture: Architecture, space: CellSpace) -> Links:
    """Lay out a derived cell: pairs without an edge are left out, edges of one pair share its product."""
    names = sorted({edge.operation for edges in architecture.nodes for edge in edges})
    operations = tuple(dict.fromkeys([STATE_OPERATION, *names]))
    pairs: dict[tuple[int, int], Link] = {}
    for node, edges in enumerate(architecture.nodes, start=1):
        for source in sorted({edge.source for edge in edges}):
            columns = tuple(operations.index(edge.operation) for edge in edges if edge.source == source)
            pairs[source, node] = Link(node + 1, 1 + len(pairs), columns)
    return _links(pairs, operations, space, architecture.num_nodes)


def mixed_coefficients(links: Links, probabilities: Tensor, space: CellSpace) -> Tensor:
    """Return the coefficients of a mixed cell, shape ``(1 + P, operations)``, differentiable in the probabilities."""
    zero = probabilities.new_zeros(len(probabilities))
    body = [probabilities[:, space.operations.index(n)] if n in space.operations else zero for n in links.operations]
    return torch.cat([_state_row(links, probabilities.dtype, probabilities.device), torch.stack(body, dim=1)])


def fixed_coefficients(links: Links, architecture: Architecture, space: CellSpace, like: Tensor) -> Tensor:
    """Return the coefficients of a derived cell, in the type and on the device of ``like``; not to be changed."""
    return _fixed_coefficients(links, architecture, space, like.dtype, like.device)


@lru_cache(maxsize=64)  # made once: bringing numbers to a device waits for it
@torch.inference_mode(False)  # an evaluation may come first, and its tensors could not be trained with
def _fixed_coefficients(
    links: Links, architecture: Architecture, space: CellSpace, dtype: torch.dtype, device: torch.device
) -> Tensor:
    rows: list[list[float]] = []
    for edges, shares in zip(architecture.nodes, edge_shares(architecture, space), strict=True):
        for source in sorted({edge.source for edge in edges}):
            row = [0.0] * len(links.operations)
            for edge, share in zip(edges, shares, strict=True):
                if edge.source == source:
                    row[links.operations.index(edge.operation)] = share
            rows.append(row)
    return torch.cat([_state_row(links, dtype, device), torch.tensor(rows, dtype=dtype, device=device)])


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _state_row(links: Links, dtype: torch.dtype, device: torch.device) -> Tensor:
    row = [[float(name == STATE_OPERATION) for name in links.operations]]
    return torch.tensor(row, dtype=dtype, device=device)


def _links(pairs: dict[tuple[int, int], Link], operations: tuple[str, ...], space: CellSpace, num_nodes: int) -> Links:
    stages = [Stage((Link(1, 0, (operations.index(STATE_OPERATION),)),), (), gated=True)]
    for source in range(num_nodes + 1):
        targets = sorted(node for found, node in pairs if found == source)
        links = tuple(pairs[source, node] for node in targets)
        stages.append(Stage(links, _matrices(source, targets, space), space.gate == "highway"))
    return Links(tuple(stages), operations)


def _matrices(source: int, targets: Sequence[int], space: CellSpace) -> tuple[int, ...]:
    if not targets:
        return ()
    return tuple(node - 1 for node in targets) if space.transform == "target" else (source,)
