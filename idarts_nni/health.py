r"""How settled a search is: figures of the alphas, each of which can be worked out by hand.

The probabilities of a cell are given as one row for each node 1..N; the row of node ``i`` has ``i * K`` numbers, source
by source: all operations of source 0, then all of source 1, and so on (:func:`idarts_nni.derive.node_distributions`).
Under the relaxation ``node`` a row is one distribution, under ``edge`` it is one for each source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .architecture import Architecture
from .operations import NO_OPERATIONS

IDENTITY = "identity"

Rows = Sequence[Sequence[float]]
"""One row of probabilities for each node."""


def node_entropies(probabilities: Rows, num_operations: int, relaxation: str = "node") -> list[float]:
    r"""Return for each node how undecided it is: 1 while all its edges weigh the same, 0 when one has all the weight.

    .. math:: -\sum_e p_e \ln p_e \; / \; \ln(\text{number of edges})

    Divided by its largest value, so that nodes with few and with many edges, and both relaxations, can be compared.
    Under ``edge`` it is the mean over the distributions of the node's sources.

    Parameters
    ----------
    probabilities
        As in the head of this module.
    num_operations
        K.
    relaxation
        ``node`` or ``edge``.
    """
    return [
        _mean([normalised_entropy(part) for part in _parts(row, num_operations, relaxation)]) for row in probabilities
    ]


def normalised_entropy(distribution: Sequence[float]) -> float:
    """Return the entropy of one distribution over its largest possible value; 0 where there is nothing to decide."""
    if len(distribution) < 2:
        return 0.0
    nats = -math.fsum(value * math.log(value) for value in distribution if value > 0.0)
    return max(0.0, nats / math.log(len(distribution)))  # no -0.0


def node_margins(probabilities: Rows, operations: Sequence[str], architecture: Architecture) -> list[float]:
    """Return for each node by how much its least probable kept edge leads the most probable edge left out.

    With one kept edge: the best minus the second best. Edges that compute nothing (zeroize) do not count. Where a rule
    other than the probability had its say (DARTS's distinct sources for n > 1, ``profile: authors-code``), the edge
    left out may weigh more, and the margin is negative. Where no edge is left out it is the least kept probability.

    Parameters
    ----------
    probabilities
        As in the head of this module.
    operations
        Names of the K operations.
    architecture
        The cell that is derived from these probabilities.
    """
    margins = []
    for row, edges in zip(probabilities, architecture.nodes, strict=True):
        kept = {edge.source * len(operations) + operations.index(edge.operation) for edge in edges}
        left_out = [
            value
            for place, value in enumerate(row)
            if place not in kept and operations[place % len(operations)] not in NO_OPERATIONS
        ]
        margins.append(min(row[place] for place in kept) - max(left_out, default=0.0))
    return margins


def changed_edges(before: Architecture, after: Architecture) -> int:
    """Return how many edges of a cell the cell before it did not have."""
    return sum(
        (edge.source, edge.operation) not in {(other.source, other.operation) for other in others}
        for edges, others in zip(after.nodes, before.nodes, strict=True)
        for edge in edges
    )


def operation_share(
    probabilities: Rows, operations: Sequence[str], names: Sequence[str], relaxation: str = "node"
) -> float:
    """Return how much of all probability lies on some operations, from 0 to 1: the mean over the nodes.

    Under ``edge`` a node's share is the mean over its sources.

    Parameters
    ----------
    probabilities, relaxation
        As in :func:`node_entropies`.
    operations
        Names of the K operations.
    names
        Those whose share is asked for.
    """
    shares = []
    for row in probabilities:
        total = math.fsum(value for place, value in enumerate(row) if operations[place % len(operations)] in names)
        shares.append(total / len(_parts(row, len(operations), relaxation)))
    return _mean(shares)


def health_figures(
    probabilities: Rows,
    operations: Sequence[str],
    relaxation: str,
    architecture: Architecture,
    before: Architecture,
) -> dict[str, float]:
    """Return all figures of an epoch under the names that reports and records use.

    Parameters
    ----------
    probabilities, operations, relaxation
        As in :func:`operation_share`.
    architecture
        The cell of this epoch.
    before
        The cell one epoch earlier.

    Returns
    -------
    ``entropy`` and ``margin`` (means over the nodes), ``entropy 1`` .. ``entropy N``, ``margin 1`` .. ``margin N``,
    ``changed edges``, ``identity share``, ``zeroize share``.
    """
    entropies = node_entropies(probabilities, len(operations), relaxation)
    margins = node_margins(probabilities, operations, architecture)
    return {
        "entropy": _mean(entropies),
        "margin": _mean(margins),
        **{f"entropy {node}": value for node, value in enumerate(entropies, start=1)},
        **{f"margin {node}": value for node, value in enumerate(margins, start=1)},
        "changed edges": float(changed_edges(before, architecture)),
        "identity share": operation_share(probabilities, operations, (IDENTITY,), relaxation),
        "zeroize share": operation_share(probabilities, operations, NO_OPERATIONS, relaxation),
    }


def _parts(row: Sequence[float], num_operations: int, relaxation: str) -> list[Sequence[float]]:
    """Return the distributions of a node: its whole row, or one for each source."""
    if relaxation == "node":
        return [row]
    return [row[start : start + num_operations] for start in range(0, len(row), num_operations)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
