"""Selection by perturbation: keep the edges without which the search network does worst, not those that weigh most."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from .architecture import Architecture, Edge
from .derive import cell_probabilities
from .mutator import MixedRecurrentCell, weighed
from .operations import ZEROIZE

_logger = logging.getLogger(__name__)

SELECTIONS = ("probability", "perturbation")


def select_by_perturbation(cells: Sequence[MixedRecurrentCell], loss: Callable[[], float]) -> Architecture:
    """Derive a cell by taking each edge away in turn and looking at the loss.

    Node by node, from the first: each edge's weight is set to 0 alone, and the ``n`` edges whose absence gives the
    highest loss are kept; the node then has these edges alone, sharing its weight as before, while the next is looked
    at. Ties break by lower source, then by earlier operation. The search network is not trained in between, which the
    source does.

    Parameters
    ----------
    cells
        The cells of one label in the search network.
    loss
        Validation loss of the search network as it is at the moment; called once for each edge.

    Returns
    -------
    The cell; every edge carries its alpha, renormalised to sum 1 over the edges that its node keeps.

    References
    ----------
    Wang, Cheng, Chen, Tang, Hsieh, "Rethinking Architecture Selection in Differentiable NAS", ICLR 2021.
    """
    cell = cells[0]
    space = cell.space
    weights = cell_probabilities(cell.logits.detach().to("cpu", torch.float64), cell.relaxation)
    nodes = []
    for node in range(1, space.num_nodes + 1):
        rows = slice(space.first_pair(node), space.first_pair(node) + node)
        harms = []
        for source in range(node):
            for column, name in enumerate(space.operations):
                if name != ZEROIZE:
                    without = weights.clone()
                    without[rows][source, column] = 0.0
                    with weighed(cells, without):
                        harms.append((-loss(), source, column))
        kept = [(source, column) for _, source, column in sorted(harms)[: space.kept_edges(node)]]
        _logger.info(
            "node %d keeps %s", node, ", ".join(f"{space.operations[column]} {source}" for source, column in kept)
        )
        alphas = [float(weights[rows][place]) for place in kept]
        total = sum(alphas)
        mass = float(weights[rows].sum())
        weights[rows] = 0.0
        for place, alpha in zip(kept, alphas, strict=True):
            weights[rows][place] = mass * alpha / total
        nodes.append(
            tuple(
                Edge(source, space.operations[column], round(alpha / total, 6))
                for (source, column), alpha in zip(kept, alphas, strict=True)
            )
        )
    return Architecture(tuple(nodes))
