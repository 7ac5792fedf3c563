"""NNI's own cell and the general node in the search network: one softmax over all edges that enter a node."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from nni.nas.nn.pytorch import Cell
from nni.nas.nn.pytorch.cell import preprocess_cell_inputs
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.sampling import PathSamplingCell
from nni.nas.space import model_context
from torch import Tensor, nn

from .derive import rank_node, relax_node
from .modules import edge_choice, node_label
from .mutator import LOGIT_SCALE
from .node import Node, active_operations, frozen_copy
from .operations import NO_OPERATIONS
from .ranking import Alternative, best_sample, kept_sets


class MixedNode(Node, BaseSuperNetModule):
    """A node of the search network: every edge is present, weighed by its probability.

    Made from a :class:`~idarts_nni.node.Node` by the hook :meth:`mutate`; it takes over its edges. Nodes with one label
    share one set of logits.

    Parameters
    ----------
    node
        The mutable node that it replaces.
    logits
        Architecture parameters, shape ``(sources, K)``.
    relaxation
        ``node`` (I-DARTS) or ``edge`` (DARTS: one softmax for each source).
    softmax
        What the strategy uses as its softmax over the last axis; None for the ordinary one.
    """

    def __init__(
        self,
        node: Node,
        logits: nn.Parameter,
        relaxation: str = "node",
        softmax: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        BaseSuperNetModule.__init__(self)  # not Node's, which would make every edge anew
        self.choice = self.add_mutable(node.choice)
        self.operations = node.operations
        self.num_sources = node.num_sources
        self.num_edges = node.num_edges
        self.combine = node.combine
        self.edges = node.edges
        self.logits = logits
        self.relaxation = relaxation
        self._softmax = softmax

    @classmethod
    def mutate(
        cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
    ) -> "MixedNode | None":
        """Replace a node; any other module is left to the hooks that follow.

        NNI's own differentiable strategies may use this hook too: they bring a softmax and get DARTS's relaxation.
        """
        if type(module) is not Node:  # exactly: a mixed node must not be mixed again
            return None
        logits = _shared_logits(memo, module.label, module.num_sources, module.operations)
        return cls(module, logits, mutate_kwargs.get("relaxation", "edge"), _special_softmax(mutate_kwargs))

    def probabilities(self) -> Tensor:
        """Return the weight of every edge, shape ``(sources, K)``."""
        return relax_node(self.logits, self.relaxation, self._softmax)

    def forward(self, states: Any) -> Any:
        """Return the weighted sum over all edges."""
        self.check_states(states)
        weights = self.probabilities()
        return _weighted_sum(
            (weights[source, column], self.edge(source, name)(states[source]))
            for source in range(self.num_sources)
            for column, name in enumerate(self.operations)
            if name not in NO_OPERATIONS
        )

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what the architecture step trains."""
        yield self.logits

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Do nothing: every edge takes part in every step."""
        return {}

    def decisions(self) -> list[Iterator[Alternative]]:
        """Return the node's one decision: its sets of edges, best first."""
        ranked = rank_node(self.logits, self.operations, self.relaxation)
        return [
            (
                Alternative(
                    score, {self.label: [edge_choice(source, self.operations[column]) for source, column in kept]}
                )
                for score, kept in kept_sets(ranked, self.choice.n_chosen)
            )
        ]

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the top-n edges as an NNI sample."""
        return {} if self.label in memo else best_sample(self.decisions())

    def export_probs(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return label -> {edge: probability}; zeroize edges are listed, since they take their share."""
        if self.label in memo:
            return {}
        return {self.label: _named(relax_node(self.logits.detach(), self.relaxation), self.operations)}


class MixedCell(PathSamplingCell):
    """NNI's ``Cell`` in the search network, with one softmax over all (input, operation) pairs of a node.

    Made from a ``Cell`` by the hook :meth:`mutate`. As in NNI's own form of the cell, each pair has an operation of its
    own, made by the factory for that input where there is one (and for the first operator of the node: an operation
    cannot depend on ``op_index`` here), and ``merge_op: loose_end`` is relaxed as ``all``; a derived cell joins its
    loose ends only. Unlike there, there is no hidden pair that stands for "nothing", and several operations on one
    input may be kept. A candidate named ``none`` or ``zeroize`` takes its share of the softmax, contributes nothing,
    and is never exported. Cells with one label share their logits.

    Parameters
    ----------
    cell
        The cell that it replaces.
    memo, mutate_kwargs
        Those of NNI's mutation hooks.

    Raises
    ------
    ValueError
        If no candidate computes something, or cells of one label have different nodes or candidates.
    """

    def __init__(self, cell: Cell, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> None:
        factory = cell.op_candidates_factory
        # Without a factory every edge gets a copy of the candidates, as every operator of NNI's cell does.
        candidates = cell.ops[0][0].candidates if factory is None else factory
        super().__init__(
            candidates, cell.num_nodes, cell.num_ops_per_node, cell.num_predecessors, cell.preprocessor,
            cell.postprocessor, cell.concat_dim, memo, mutate_kwargs, cell.label,
        )  # fmt: skip
        if not active_operations(self.op_names):
            raise ValueError(f"op_candidates: found {self.op_names}; at least one must compute something.")
        self.merge_op = cell.merge_op
        self._softmax = _special_softmax(mutate_kwargs)
        self.logits = nn.ParameterList(
            _shared_logits(memo, f"{self.label}/{node_label(node)}", node, self.op_names)
            for node in self.output_node_indices
        )

    @classmethod
    def mutate(
        cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
    ) -> "MixedCell | None":
        """Replace a cell; any other module, and every cell under ``relaxation: edge``, is left to NNI's own hooks.

        Raises
        ------
        TypeError
            For a subclass of ``Cell``, which may compute something else.
        """
        if not isinstance(module, Cell) or mutate_kwargs.get("relaxation", "node") != "node":
            return None
        if type(module) is not Cell:
            raise TypeError(
                f"it is a {type(module).__name__}, and what a subclass of Cell computes is not known. Use Cell itself, "
                f"or bring its search form as a hook: IDARTS(mutation_hooks=[...])."
            )
        return cls(module, memo, mutate_kwargs)

    def probabilities(self) -> list[Tensor]:
        """Return for each node the weights of its pairs, shape ``(inputs, K)``."""
        return [relax_node(logits, "node", self._softmax) for logits in self.logits]

    def forward(self, *inputs: Any) -> Any:
        """Return what the cell's postprocessor makes of the nodes, each a weighted sum over all its pairs."""
        processed = preprocess_cell_inputs(self.num_predecessors, *inputs)
        states = list(self.preprocessor(processed))
        for weights, edges in zip(self.probabilities(), self.ops, strict=True):
            states.append(
                _weighted_sum(
                    (weights[source, column], operation(states[source]))
                    for source, operations in enumerate(edges)
                    for column, (name, operation) in enumerate(operations.items())
                    if name not in NO_OPERATIONS
                )
            )
        return self.postprocessor(torch.cat(states[self.num_predecessors :], self.concat_dim), processed)

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what the architecture step trains."""
        yield from self.logits

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Do nothing: every pair takes part in every step."""
        return {}

    def decisions(self) -> list[Iterator[Alternative]]:
        """Return one decision for each node: its sets of pairs, best first."""
        return [
            self._node_decision(node, logits)
            for node, logits in zip(self.output_node_indices, self.logits, strict=True)
        ]

    def _node_decision(self, node: int, logits: Tensor) -> Iterator[Alternative]:
        for score, kept in kept_sets(rank_node(logits, self.op_names), self.num_ops_per_node):
            sample: dict[str, Any] = {}
            for place in range(self.num_ops_per_node):
                # Where there are fewer pairs than operators NNI repeats them, and so must we: its cell has the labels.
                source, column = kept[place % len(kept)]
                sample[f"{self.label}/op_{node}_{place}"] = self.op_names[column]
                sample[f"{self.label}/input_{node}_{place}"] = [source]
            yield Alternative(score, sample)

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the top pairs of each node as an NNI sample, by input and then by the order of the candidates."""
        sample = best_sample(self.decisions())
        return {} if all(label in memo for label in sample) else sample

    def export_probs(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return ``<label>/node_<i>`` -> {pair: probability}; predecessors count, so the first node may be 2."""
        return {
            label: _named(relax_node(logits.detach()), self.op_names)
            for node, logits in zip(self.output_node_indices, self.logits, strict=True)
            if (label := f"{self.label}/{node_label(node)}") not in memo
        }

    def freeze(self, sample: dict[str, Any]) -> Cell:
        """Return NNI's cell as the sample describes it, with a copy of this cell's weights."""
        self.validate(sample)
        preprocessor, postprocessor = (frozen_copy(part, sample) for part in (self.preprocessor, self.postprocessor))
        # Placeholders: where a sample is chosen NNI cannot copy a candidate that holds a choice of its own.
        names = {name: nn.Identity() for name in self.op_names}
        with model_context(sample):
            frozen = Cell(
                names, self.num_nodes, self.num_ops_per_node, self.num_predecessors, self.merge_op, preprocessor,
                postprocessor, self.concat_dim, label=self.label,
            )  # fmt: skip
        for node, edges, operators in zip(self.output_node_indices, self.ops, frozen.ops, strict=True):
            for place in range(self.num_ops_per_node):
                (source,) = sample[f"{self.label}/input_{node}_{place}"]
                chosen = edges[source][sample[f"{self.label}/op_{node}_{place}"]]
                operators[place] = frozen_copy(chosen, sample)
        return frozen


def _shared_logits(memo: dict[str, Any], label: str, sources: int, operations: Any) -> nn.Parameter:
    """Return the logits of a label, made when it is first met."""
    key = f"{label}/logits"
    if key not in memo:
        logits = nn.Parameter(torch.randn(sources, len(operations)) * LOGIT_SCALE)
        memo[key] = (logits, tuple(operations))
    logits, known = memo[key]
    if known != tuple(operations) or len(logits) != sources:
        raise ValueError(
            f"label {label!r} is shared, but not the edges: {len(logits)} source(s) with {', '.join(known)} here, "
            f"{sources} with {', '.join(operations)} there. Give them different labels."
        )
    return logits


def _special_softmax(mutate_kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor] | None:
    softmax = mutate_kwargs.get("softmax")
    return None if type(softmax) is nn.Softmax else softmax


def _weighted_sum(weighted: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    total = None
    for weight, value in weighted:
        total = weight * value if total is None else total + weight * value
    assert total is not None  # every node has an operation that computes something
    return total


def _named(probabilities: Tensor, operations: Any) -> dict[str, float]:
    return {
        edge_choice(source, name): row[column]
        for source, row in enumerate(probabilities.cpu().tolist())
        for column, name in enumerate(operations)
    }
