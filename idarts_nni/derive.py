r"""From logits to probabilities (the relaxation), and from logits to a cell (the discretisation).

Logits of a whole cell have shape ``(P, K)``: one row for each of the ``P = N (N + 1) / 2`` (source, target) pairs, in
the order (0,1), (0,2), (1,2), (0,3), ..., so that the rows of a node are consecutive; one column for each operation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .architecture import Architecture, Edge
from .operations import ZEROIZE
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
        return logits.softmax(-1) if softmax is None else softmax(logits)
    if softmax is None:
        return torch.cat([node_probabilities(rows) for rows in split_nodes(logits)])
    return torch.cat([softmax(rows.flatten()).view_as(rows) for rows in split_nodes(logits)])


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
    _check_relaxation(relaxation)
    expected = (space.num_pairs, len(space.operations))
    if tuple(logits.shape) != expected:
        raise ValueError(f"Logits of shape {tuple(logits.shape)} do not fit the space, which needs {expected}.")
    # Double precision on the CPU: the same numbers, and so the same ties, whatever device the search ran on.
    logits = logits.detach().to("cpu", torch.float64)
    if not bool(logits.isfinite().all()):
        raise ValueError("Some logits are not finite: the search diverged, and no cell can be derived from it.")
    nodes = []
    for node, rows in enumerate(split_nodes(logits), start=1):
        # The logarithm keeps apart what a softmax would round to the same number.
        scores = rows.flatten().log_softmax(0).view_as(rows) if relaxation == "node" else rows.log_softmax(-1)
        ranked = _rank_edges(scores, node, space, distinct_sources=relaxation == "edge")
        nodes.append(_weighted_edges(ranked[: space.kept_edges(node)], scores, space))
    return Architecture(tuple(nodes))


def _rank_edges(scores: Tensor, node: int, space: CellSpace, *, distinct_sources: bool) -> list[tuple[int, int]]:
    """Return the (source, column) of all non-zeroize edges of a node, best first."""
    values = scores.tolist()
    columns = [column for column, name in enumerate(space.operations) if name != ZEROIZE]
    pass_over = space.profile == "authors-code" and node > 1
    edges = [(source, column) for source in range(node) for column in columns]
    edges.sort(key=lambda edge: (pass_over and edge[0] == 0, -values[edge[0]][edge[1]], edge))
    if not distinct_sources:
        return edges
    best = {edge[0]: edge for edge in reversed(edges)}  # the last one written is the best of its source
    return [edge for edge in edges if best[edge[0]] == edge] + [edge for edge in edges if best[edge[0]] != edge]


def _weighted_edges(kept: list[tuple[int, int]], scores: Tensor, space: CellSpace) -> tuple[Edge, ...]:
    weights = torch.stack([scores[source, column] for source, column in kept]).softmax(0).tolist()
    return tuple(
        Edge(source, space.operations[column], round(weight, 6))
        for (source, column), weight in zip(kept, weights, strict=True)
    )


def _check_relaxation(relaxation: str) -> None:
    if relaxation not in RELAXATIONS:
        raise ValueError(f"relaxation: found {relaxation!r}; allowed: {', '.join(RELAXATIONS)}.")
