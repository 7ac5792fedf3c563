r"""How much a derived cell may multiply its state from one step to the next.

With the highway gate an edge of openness ``c`` (0 closed, 1 open) carries ``(1 - c)`` of its source on to its node, and
a node joins what its edges carry. The gain of node ``i``, and that of a whole step, are

.. math:: g_0 = 1 - c, \qquad g_i = \sum_{e} \mathrm{share}_e \, (1 - c) \, g_{source(e)}, \qquad
    g = \frac{1}{N} \sum_i g_i

With one edge for each node, or shares that sum to 1, no gates can make ``g`` larger than 1. Under ``combine: sum`` with
two edges or more they can: a state that is carried along grows by ``g`` in every step, ``g**T`` in a sequence. Gates at
the start of training are half open; it is their closing, as they learn to remember, that lets the state grow.
Without a gate (``gate: none``) nothing is carried but in state 0, and the gain says nothing.
"""

from __future__ import annotations

from .architecture import Architecture, edge_shares
from .space import CellSpace

LARGEST_SAFE_GAIN = 1.0
"""A state that is multiplied by more than this in each step grows without bound."""
HALF_OPEN = 0.5
"""Gates before training: the sigmoid of arguments near 0."""
_ROUNDING = 1e-5  # learnt weights are written with six digits


def node_gains(architecture: Architecture, space: CellSpace, openness: float = 0.0) -> list[float]:
    """Return the gain of state 0 and of nodes 1..N when all gates are open by ``openness`` (0 to 1).

    Raises
    ------
    ValueError
        If ``combine`` is ``weighted`` and an edge has no weight.
    """
    carried = 1.0 - openness if space.gate == "highway" else 0.0
    gains = [1.0 - openness]
    for edges, shares in zip(architecture.nodes, edge_shares(architecture, space), strict=True):
        gains.append(sum(share * carried * gains[edge.source] for edge, share in zip(edges, shares, strict=True)))
    return gains


def step_gain(architecture: Architecture, space: CellSpace, openness: float = 0.0) -> float:
    """Return the gain of one step, from the last hidden state to the next; arguments as in :func:`node_gains`."""
    gains = node_gains(architecture, space, openness)[1:]
    return sum(gains) / len(gains)


def safe_openness(architecture: Architecture, space: CellSpace) -> float:
    """Return how far the gates have to be open for the gain to be at most 1; 0 if they may be closed."""
    low, high = 0.0, 1.0
    if step_gain(architecture, space) <= LARGEST_SAFE_GAIN + _ROUNDING:
        return 0.0
    for _ in range(40):  # the gain falls as the gates open
        middle = (low + high) / 2.0
        low, high = (middle, high) if step_gain(architecture, space, middle) > LARGEST_SAFE_GAIN else (low, middle)
    return high


def gain_warning(architecture: Architecture, space: CellSpace) -> str:
    """Return what to say before such a cell is trained; empty if its state cannot grow by being carried."""
    gain = step_gain(architecture, space)
    if gain <= LARGEST_SAFE_GAIN + _ROUNDING:
        return ""
    return (
        f"With combine: {space.combine} the state of this cell can grow {gain:.3g}-fold in each step when its gates "
        f"close, and does grow once they are less than {safe_openness(architecture, space):.0%} open: training is "
        f"likely to diverge. Use combine: mean or combine: weighted in the search space."
    )
