r"""From logits to probabilities (the relaxation), and from logits to a cell (the discretisation).

Logits of a whole cell have shape ``(P, K)``: one row for each of the ``P = N (N + 1) / 2`` (source, target) pairs, in
the order (0,1), (0,2), (1,2), (0,3), ..., so that the rows of a node are consecutive; one column for each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from .architecture import Architecture, Edge
from .operations import NO_OPERATIONS
from .ranking import RankedEdge, rank_edges
from .space import CellSpace

RELAXATIONS = ("node", "edge")
"""``node``: one softmax over all edges that enter a node (I-DARTS). ``edge``: one for each pair of nodes (DARTS)."""


def node_probabilities(logits: Tensor) -> Tensor:
    r"""Share one softmax among all edges and operations that enter a node (Eq. 4).

    .. math:: \alpha_{j,k} = \exp(a_{j,k}) / \sum_{j',k'} \exp(a_{j',k'})

    Zeroize edges are part of the sum, so the edges that compute something may weigh less than 1 together.

    Parameters
    ----------
    logits
        Logits of one node, shape ``(sources, K)``.

    Returns
    -------
    Probabilities of the same shape; all entries together sum to one.

    References
    ----------
    Jiang et al., "Improved Differentiable Architecture Search for Language Modeling and Named Entity Recognition",
    EMNLP-IJCNLP 2019.
    """
    return logits.flatten().softmax(0).view_as(logits)


def relax_node(logits: Tensor, relaxation: str = "node", softmax: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Relax one node; arguments as in :func:`cell_probabilities`, logits and result of shape ``(sources, K)``."""
    _check_relaxation(relaxation)
    if relaxation == "edge":
        return logits.softmax(-1) if softmax is None else softmax(logits)
    return node_probabilities(logits) if softmax is None else softmax(logits.flatten()).view_as(logits)


def cell_probabilities(
    logits: Tensor, relaxation: str = "node", softmax: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Relax a whole cell.

    Parameters
    ----------
    logits
        Shape ``(P, K)``, rows as in the head of this module.
    relaxation
        ``node`` for I-DARTS's softmax, ``edge`` for DARTS's, which gives each pair of nodes a softmax of its own.
    softmax
        Stands in for the softmax over the last axis, for example a sampled one (Gumbel).

    Returns
    -------
    Probabilities of shape ``(P, K)``.

    Raises
    ------
    ValueError
        If ``relaxation`` is neither.
    """
    _check_relaxation(relaxation)
    if relaxation == "edge":
        return relax_node(logits, relaxation, softmax)  # each row by itself: the nodes make no difference
    return torch.cat([relax_node(rows, relaxation, softmax) for rows in split_nodes(logits)])


def split_nodes(pairs: Tensor) -> tuple[Tensor, ...]:
    """Split ``(P, ...)`` into the rows of node 1 (one row), node 2 (two rows), and so on."""
    sizes: list[int] = []
    while sum(sizes) < len(pairs):
        sizes.append(len(sizes) + 1)
    return torch.split(pairs, sizes)


def derive_architecture(logits: Tensor, space: CellSpace, relaxation: str = "node") -> Architecture:
    """Discretise a cell.

    ``node`` keeps the top-n non-zeroize edges of each node by alpha; two of them may join the same pair of nodes with
    different operations. ``edge`` is DARTS's rule: sources ranked by their best operation, distinct sources first.
    Ties break by lower source, then by earlier operation, on every device. ``profile: authors-code`` follows the
    authors' public fragment, which passes over state 0 at every node but the first; it exists for n=1 only, and for
    larger n state 0 is used there when no other edge is left.

    Parameters
    ----------
    logits
        Shape ``(P, K)``, rows as in the head of this module.
    space
        Names the operations (columns), the edges kept and the profile.
    relaxation
        The one that the logits were trained with.

    Returns
    -------
    The cell; every edge carries its alpha, renormalised to sum 1 over the edges that its node keeps.

    Raises
    ------
    ValueError
        If the shape of the logits is not that of the space, a logit is not finite, or ``relaxation`` is unknown.
    """
    ranked = rank_cell(logits, space, relaxation)
    return Architecture(
        tuple(
            weighted_edges(edges[: space.kept_edges(node)], space.operations)
            for node, edges in enumerate(ranked, start=1)
        )
    )


def rank_cell(logits: Tensor, space: CellSpace, relaxation: str = "node") -> list[list[RankedEdge]]:
    """Return for each node all non-zeroize edges, in the order in which the derivation takes them.

    Raises
    ------
    ValueError
        As :func:`derive_architecture`.
    """
    expected = (space.num_pairs, len(space.operations))
    if tuple(logits.shape) != expected:
        raise ValueError(f"Logits of shape {tuple(logits.shape)} do not fit the space, which needs {expected}.")
    passed_over = (0,) if space.profile == "authors-code" else ()
    return [
        rank_node(rows, space.operations, relaxation, passed_over if node > 1 else ())
        for node, rows in enumerate(split_nodes(logits), start=1)
    ]


def rank_node(
    logits: Tensor, operations: Sequence[str], relaxation: str = "node", passed_over: Collection[int] = ()
) -> list[RankedEdge]:
    """Return all edges of one node that compute something, in the order in which the derivation takes them.

    Parameters
    ----------
    logits
        Shape ``(sources, K)``.
    operations
        Names of the columns; those of :data:`idarts_nni.operations.NO_OPERATIONS` are never taken.
    relaxation
        The one that the logits were trained with.
    passed_over
        Sources that are taken only when no other is left.

    Raises
    ------
    ValueError
        If a logit is not finite, or ``relaxation`` is unknown.
    """
    _check_relaxation(relaxation)
    # Double precision on the CPU: the same numbers, and so the same ties, whatever device the search ran on.
    logits = logits.detach().to("cpu", torch.float64)
    if not bool(logits.isfinite().all()):
        raise ValueError("Some logits are not finite: the search diverged, and no cell can be derived from it.")
    # The logarithm keeps apart what a softmax would round to the same number.
    scores = logits.flatten().log_softmax(0).view_as(logits) if relaxation == "node" else logits.log_softmax(-1)
    values: list[list[float]] = scores.tolist()
    columns = [column for column, name in enumerate(operations) if name not in NO_OPERATIONS]
    edges = rank_edges(values, columns, distinct_sources=relaxation == "edge", passed_over=passed_over)
    return [(source, column, values[source][column]) for source, column in edges]


def node_distributions(logits: Tensor, relaxation: str = "node") -> list[list[float]]:
    """Return the probabilities that the derivation compares, as plain numbers.

    Parameters
    ----------
    logits
        Shape ``(P, K)``, rows as in the head of this module.
    relaxation
        ``node`` or ``edge``.

    Returns
    -------
    One row for each node; that of node ``i`` has ``i * K`` numbers, source by source.
    """
    logits = logits.detach().to("cpu", torch.float64)  # as in rank_node
    return [rows.flatten().tolist() for rows in split_nodes(cell_probabilities(logits, relaxation))]


def weighted_edges(kept: Sequence[RankedEdge], operations: Sequence[str]) -> tuple[Edge, ...]:
    """Return kept edges with their probabilities, renormalised to sum 1."""
    weights = torch.tensor([score for _, _, score in kept], dtype=torch.float64).softmax(0).tolist()
    return tuple(
        Edge(source, operations[column], round(weight, 6))
        for (source, column, _), weight in zip(kept, weights, strict=True)
    )


def _check_relaxation(relaxation: str) -> None:
    if relaxation not in RELAXATIONS:
        raise ValueError(f"relaxation: found {relaxation!r}; allowed: {', '.join(RELAXATIONS)}.")
