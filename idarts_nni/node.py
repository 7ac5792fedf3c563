"""A node for a graph of your own: some of its candidate edges are to be chosen. Any tensors, any operations."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nni.nas.nn.pytorch import MutableModule
from nni.nas.nn.pytorch.base import recursive_freeze
from torch import Tensor, nn

from .choices import EdgeChoice
from .modules import edge_choice
from .operations import NO_OPERATIONS

Candidate = nn.Module | Callable[[int], nn.Module] | None
"""An operation: a module, of which each edge gets a copy, or a function from a source's number to a module."""

COMBINE = ("sum", "mean")


class FixedNode(nn.Module):
    """A derived node: it reads some sources, each through its operation, and joins the results.

    Parameters
    ----------
    sources
        Number of the source of each edge, from 0.
    edges
        What each edge applies.
    combine
        ``sum`` or ``mean`` over the edges.
    """

    def __init__(self, sources: Sequence[int], edges: Sequence[nn.Module], combine: str = "sum") -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.edges = nn.ModuleList(edges)
        self.combine = combine

    def forward(self, states: Sequence[Any]) -> Any:
        """Return the node's state, given those of all its sources."""
        values = [edge(states[source]) for source, edge in zip(self.sources, self.edges, strict=True)]
        return _join(values, self.combine)

    def extra_repr(self) -> str:
        """Describe the node in one line of a printed model."""
        return f"sources={list(self.sources)}, combine={self.combine!r}"


class Node(MutableModule):
    """A node with candidate (source, operation) edges, of which ``num_edges`` are to be chosen.

    Use it in place of NNI's ``Cell`` where the graph is your own: each node names its sources, states may have any
    shape, and an operation may depend on its source. Its choice is an ordinary NNI mutable, whose values are spelt
    like ``"conv 0"`` (operation ``conv`` applied to source 0). It freezes to a :class:`FixedNode` that keeps the
    weights. All edges of a node must give the same shape.

    Parameters
    ----------
    operations
        Name -> module, of which each edge gets a copy, or a function from the number of a source to a module. A name
        ``zeroize`` or ``none`` stands for the edge that is not there (its value is not looked at): it takes its share
        of the softmax in a search and is never chosen.
    num_sources
        Number of states that the node may read.
    num_edges
        Edges kept; all where there are fewer.
    combine
        ``sum`` or ``mean`` over the kept edges.
    label
        Names the choice; nodes of one label get the same edges. Made up if not given.

    Raises
    ------
    ValueError
        If an argument is impossible; the message says what would work.
    """

    def __init__(
        self,
        operations: Mapping[str, Candidate],
        num_sources: int,
        num_edges: int = 1,
        *,
        combine: str = "sum",
        label: str | None = None,
    ) -> None:
        super().__init__()
        self.choice = self.add_mutable(_node_choice(operations, num_sources, num_edges, combine, label))
        self.operations = tuple(operations)
        self.num_sources = num_sources
        self.num_edges = num_edges
        self.combine = combine
        self.edges = nn.ModuleList(_build_edges(operations, num_sources))

    @classmethod
    def create_fixed_module(
        cls,
        sample: dict[str, Any],
        operations: Mapping[str, Candidate],
        num_sources: int,
        num_edges: int = 1,
        *,
        combine: str = "sum",
        label: str | None = None,
    ) -> FixedNode:
        """Build the frozen node at once; NNI calls this where a sample is already chosen."""
        choice = _node_choice(operations, num_sources, num_edges, combine, label)
        # All edges are made, in the same order, though few are used: labels that operations make up are counted.
        edges = _build_edges(operations, num_sources)
        chosen = [_read_choice(word) for word in choice.freeze(sample)]
        active = active_operations(tuple(operations))
        kept = [edges[source * len(active) + active.index(name)] for source, name in chosen]
        return FixedNode([source for source, _ in chosen], kept, combine)

    @property
    def label(self) -> str:
        """Name of the choice."""
        return str(self.choice.label)

    def edge(self, source: int, operation: str) -> nn.Module:
        """Return what one edge applies."""
        active = active_operations(self.operations)
        return self.edges[source * len(active) + active.index(operation)]

    def freeze(self, sample: dict[str, Any]) -> FixedNode:
        """Return the node that a sample describes, with a copy of this node's weights."""
        self.validate(sample)
        chosen = [_read_choice(word) for word in self.choice.freeze(sample)]
        kept = [frozen_copy(self.edge(source, name), sample) for source, name in chosen]
        return FixedNode([source for source, _ in chosen], kept, self.combine)

    def forward(self, states: Sequence[Any]) -> Any:
        """Run the choice's default, as NNI's own choices do outside a search, so that shapes can be tried out."""
        self.check_states(states)
        chosen = [_read_choice(word) for word in self.choice.default()]
        return _join([self.edge(source, name)(states[source]) for source, name in chosen], self.combine)

    def check_states(self, states: Sequence[Any]) -> None:
        """Check that there is one state for each source.

        Raises
        ------
        ValueError
            If there are fewer or more.
        """
        if len(states) != self.num_sources:
            raise ValueError(f"Node {self.label!r} has {self.num_sources} source(s); found {len(states)} state(s).")


def active_operations(operations: Sequence[str]) -> tuple[str, ...]:
    """Return the operations that compute something."""
    return tuple(name for name in operations if name not in NO_OPERATIONS)


def frozen_copy(module: Any, sample: dict[str, Any]) -> Any:
    """Return a copy of a module in which every nested choice is taken as in the sample."""
    frozen = recursive_freeze(module, sample)[0] if isinstance(module, nn.Module) else module
    return copy.deepcopy(frozen)


def _node_choice(
    operations: Mapping[str, Candidate], num_sources: int, num_edges: int, combine: str, label: str | None
) -> EdgeChoice:
    active = active_operations(tuple(operations))
    if not active:
        raise ValueError(f"operations: found {list(operations)}; at least one must compute something.")
    for name, value in (("num_sources", num_sources), ("num_edges", num_edges)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}: found {value!r}; expected a whole number from 1.")
    if combine not in COMBINE:
        raise ValueError(f"combine: found {combine!r}; allowed: {', '.join(COMBINE)}.")
    values = [edge_choice(source, name) for source in range(num_sources) for name in active]
    return EdgeChoice(values, n_chosen=min(num_edges, len(values)), label=label)


def _build_edges(operations: Mapping[str, Candidate], num_sources: int) -> list[nn.Module]:
    """Make the module of every edge, source by source; the order in which :meth:`Node.edge` counts."""
    active = active_operations(tuple(operations))
    return [_build_edge(name, operations[name], source) for source in range(num_sources) for name in active]


def _build_edge(name: str, candidate: Candidate, source: int) -> nn.Module:
    if isinstance(candidate, nn.Module):
        return copy.deepcopy(candidate)
    built = candidate(source) if callable(candidate) else candidate
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"Operation {name!r} of source {source}: found {built!r} of type {type(built).__name__}; expected a "
            f"module, or a function from the number of the source to a module."
        )
    return built


def _read_choice(word: str) -> tuple[int, str]:
    operation, _, source = word.rpartition(" ")
    return int(source), operation


def _join(values: Sequence[Tensor], combine: str) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values) if combine == "mean" and len(values) > 1 else total
