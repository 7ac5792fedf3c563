"""The mutation hooks: how a mutable module becomes a part of the search network."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from nni.nas.nn.pytorch import MutableModule
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn

from .architecture import Architecture, edge_shares
from .derive import cell_probabilities, derive_architecture, rank_cell, split_nodes
from .kernels import unroll_mixed
from .modules import FixedRecurrentCell, RecurrentCell, architecture_to_sample, edge_choice, sample_to_architecture
from .operations import ZEROIZE
from .ranking import Alternative, RankedEdge, kept_sets
from .space import CellSpace

LOGIT_SCALE = 1e-3
"""Logits start at this times a standard normal draw."""


class MixedRecurrentCell(RecurrentCell, BaseSuperNetModule):
    """The recurrent cell of the search network: every edge is present, weighed by its probability.

    Made from a :class:`~idarts_nni.modules.RecurrentCell` by the hook :meth:`mutate`; it takes over its weights. Cells
    with one label share one set of logits.

    Parameters
    ----------
    cell
        The mutable cell that it replaces.
    logits
        Architecture parameters, shape ``(P, K)``, rows as in :mod:`idarts_nni.derive`.
    relaxation
        ``node`` (I-DARTS) or ``edge`` (DARTS).
    softmax
        What the strategy uses as its softmax over the last axis; None for the ordinary one.
    """

    def __init__(
        self,
        cell: RecurrentCell,
        logits: nn.Parameter,
        relaxation: str = "node",
        softmax: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            cell.space,
            cell.input_size,
            cell.hidden_size,
            input_dropout=cell.input_dropout,
            hidden_dropout=cell.hidden_dropout,
            label=cell.label,
            backend=cell.backend,
        )
        self.input_weight, self.node_weights = cell.input_weight, cell.node_weights
        self.logits = logits
        self.relaxation = relaxation
        # Statistics of the batch at hand, in evaluation as well: running ones would be shared by all nodes and steps,
        # whose scales differ, and 9 x T uneven normalisations in a row let states grow without bound.
        self.norm = nn.BatchNorm1d(cell.hidden_size, affine=False, track_running_stats=False)
        self._softmax = softmax
        self._set_weights: Tensor | None = None

    @classmethod
    def mutate(
        cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
    ) -> "MixedRecurrentCell | None":
        """Replace a recurrent cell; any other module is left to the hooks that follow.

        NNI's own differentiable strategies may use this hook too: they bring a softmax and get DARTS's relaxation.
        """
        if type(module) is not RecurrentCell:  # exactly: a mixed cell must not be mixed again
            return None
        key = f"{module.label}/logits"
        if key not in memo:
            shape = (module.space.num_pairs, len(module.space.operations))
            memo[key] = nn.Parameter(torch.randn(shape) * LOGIT_SCALE)
        softmax = mutate_kwargs.get("softmax")
        return cls(
            module,
            memo[key],
            mutate_kwargs.get("relaxation", "edge"),
            # The ordinary softmax has a faster form that needs no module.
            None if type(softmax) is nn.Softmax else softmax,
        )

    def probabilities(self) -> Tensor:
        """Return the weight of every edge, shape ``(P, K)``."""
        if self._set_weights is not None:
            return self._set_weights
        return cell_probabilities(self.logits, self.relaxation, self._softmax)

    def derive(self) -> Architecture:
        """Discretise the cell by the rule of its relaxation; every edge carries its renormalised alpha."""
        return derive_architecture(self.logits, self.space, self.relaxation)

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what the architecture step trains."""
        yield self.logits

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Do nothing: every edge takes part in every step."""
        return {}

    def decisions(self) -> list[Iterator[Alternative]]:
        """Return one decision for each node: its sets of edges, best first."""
        ranked = rank_cell(self.logits, self.space, self.relaxation)
        return [self._node_decision(node, edges) for node, edges in enumerate(ranked, start=1)]

    def _node_decision(self, node: int, ranked: list[RankedEdge]) -> Iterator[Alternative]:
        label = self.choices[node - 1].label
        for score, kept in kept_sets(ranked, self.space.kept_edges(node)):
            edges = sorted((source, self.space.operations[column]) for source, column in kept)
            yield Alternative(score, {label: [edge_choice(*edge) for edge in edges]})

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the derived cell as an NNI sample."""
        sample = architecture_to_sample(self.derive(), self.label)
        return {} if all(label in memo for label in sample) else sample

    def export_probs(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return label -> {edge: probability}; zeroize edges are listed, since they take their share."""
        rows = split_nodes(cell_probabilities(self.logits.detach(), self.relaxation))
        return {
            choice.label: {
                edge_choice(source, name): float(row[column])
                for source, row in enumerate(node.cpu())
                for column, name in enumerate(self.space.operations)
            }
            for choice, node in zip(self.choices, rows, strict=True)
            if choice.label not in memo
        }

    def freeze(self, sample: dict[str, Any]) -> FixedRecurrentCell:
        """Return the cell that a sample describes, with this cell's weights.

        The edges of the cell that the search itself derives keep their learnt alphas (``combine: weighted`` uses
        them); in any other cell the alphas are renormalised over the sample's edges.
        """
        MutableModule.validate(self, sample)
        architecture = sample_to_architecture(sample, self.label, self.space.num_nodes)
        return self.fix(self._weigh(architecture))

    def _weigh(self, architecture: Architecture) -> Architecture:
        with torch.no_grad():
            rows = split_nodes(cell_probabilities(self.logits, self.relaxation))
        column = {name: index for index, name in enumerate(self.space.operations) if name != ZEROIZE}
        nodes = []
        for edges, row in zip(architecture.nodes, rows, strict=True):
            alphas = [float(row[edge.source, column[edge.operation]]) for edge in edges]
            total = sum(alphas)
            nodes.append(
                tuple(
                    replace(edge, weight=round(alpha / total, 6) if total else None)
                    for edge, alpha in zip(edges, alphas, strict=True)
                )
            )
        return Architecture(tuple(nodes))

    def _unroll(self, inputs: Tensor, hidden: Tensor, input_mask: Tensor | None, hidden_mask: Tensor | None) -> Tensor:
        return unroll_mixed(
            inputs,
            hidden,
            self.input_weight,
            self.node_weights,
            self.probabilities(),
            self.space,
            input_mask=input_mask,
            hidden_mask=hidden_mask,
            norm=self.norm,
            backend=self.backend,
        )


@contextmanager
def weighed(cells: Sequence[MixedRecurrentCell], weights: Tensor) -> Iterator[None]:
    """Let cells weigh their edges by ``weights`` ``(P, K)`` in place of their logits, for a while.

    With one edge of weight 1 for each node this is the derived cell inside the search network: its weights, its
    normalisation by the batch at hand.
    """
    for cell in cells:
        cell._set_weights = weights.to(cell.logits)
    try:
        yield
    finally:
        for cell in cells:
            cell._set_weights = None


def architecture_weights(architecture: Architecture, space: CellSpace) -> Tensor:
    """Return the edges' weights ``(P, K)`` that make a mixed cell compute a derived one, fp64.

    Kept edges weigh what ``combine`` gives them (1 each under ``sum``), all others 0.

    Raises
    ------
    ValueError
        If ``combine`` is ``weighted`` and an edge has no weight.
    """
    weights = torch.zeros(space.num_pairs, len(space.operations), dtype=torch.float64)
    shares = edge_shares(architecture, space)
    for node, (edges, factors) in enumerate(zip(architecture.nodes, shares, strict=True), start=1):
        for edge, share in zip(edges, factors, strict=True):
            weights[space.first_pair(node) + edge.source, space.operations.index(edge.operation)] = share
    return weights
