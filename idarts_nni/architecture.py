"""What a search yields: the edges that each node of a cell keeps."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from .files import parse_yaml, read_yaml, write_atomically
from .operations import ZEROIZE, is_operation_name
from .space import MAX_NODES, CellSpace

_KEYS = ("nodes", "name", "source")
_EDGE_KEYS = ("source", "operation", "weight")


@dataclass(frozen=True, order=True)
class Edge:
    """One incoming edge of a node: which state it reads, what it applies, and its share in a weighted node."""

    source: int
    operation: str
    weight: float | None = None
    """Learnt alpha, renormalised over the node's kept edges; only ``combine: weighted`` uses it."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; the weight only where there is one."""
        plain = {"source": self.source, "operation": self.operation}
        return plain if self.weight is None else {**plain, "weight": self.weight}


@dataclass(frozen=True)
class Architecture:
    """A cell: for each node 1..N the edges that enter it.

    :attr:`fingerprint` looks at the edges alone, so that one cell found twice has one fingerprint, whatever it weighed.

    Raises
    ------
    ValueError
        If an edge reads a state that does not come before its node, is repeated, or names no operation.
    """

    nodes: tuple[tuple[Edge, ...], ...]
    """Edges of node 1, node 2, ..., each sorted by (source, operation)."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.nodes) <= MAX_NODES:
            raise ValueError(f"A cell has 1 to {MAX_NODES} nodes; found {len(self.nodes)}.")
        for node, edges in enumerate(self.nodes, start=1):
            if not edges:
                raise ValueError(f"Node {node} has no edge; every node needs at least one.")
            for edge in edges:
                _check_edge(node, edge)
            if len({(edge.source, edge.operation) for edge in edges}) != len(edges):
                raise ValueError(f"Node {node} has the same edge twice: {[edge.to_dict() for edge in edges]}.")
        object.__setattr__(self, "nodes", tuple(tuple(sorted(edges, key=_edge_order)) for edges in self.nodes))

    @property
    def num_nodes(self) -> int:
        """Number of nodes, state 0 not counted."""
        return len(self.nodes)

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell cells apart in tables and on NNI's page."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:8]

    def check_fits(self, space: CellSpace) -> None:
        """Check that the cell belongs to a space.

        Raises
        ------
        ValueError
            With the first reason why it does not: node count, operation, or number of edges.
        """
        if self.num_nodes != space.num_nodes:
            raise ValueError(f"The cell has {self.num_nodes} nodes, its search space {space.num_nodes}.")
        for node, edges in enumerate(self.nodes, start=1):
            for edge in edges:
                if edge.operation not in space.active_operations:
                    raise ValueError(
                        f"Operation {edge.operation!r} of node {node} is not in this search space; "
                        f"its operations: {', '.join(space.active_operations)}."
                    )
            if len(edges) != space.kept_edges(node):
                raise ValueError(
                    f"Node {node} keeps {len(edges)} edge(s); with edges_per_node: {space.edges_per_node} "
                    f"this search space keeps {space.kept_edges(node)} there."
                )

    def with_equal_weights(self) -> Architecture:
        """Give every edge an equal share: what ``combine: weighted`` means for a cell that no search has weighed."""
        return Architecture(
            tuple(
                tuple(Edge(edge.source, edge.operation, round(1 / len(edges), 6)) for edge in edges)
                for edges in self.nodes
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that :meth:`from_dict` reads back."""
        return {"nodes": [[edge.to_dict() for edge in edges] for edges in self.nodes]}

    def to_json(self) -> str:
        """Return one line of JSON, always the same for equal cells."""
        return json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True)

    def to_yaml(self, path: str | os.PathLike[str], *, name: str = "", source: str = "") -> None:
        """Write a file that :meth:`from_yaml` reads; ``name`` and ``source`` tell people what it is."""
        head = {key: value for key, value in (("name", name), ("source", source)) if value}
        write_atomically(path, yaml.safe_dump({**head, **self.to_dict()}, sort_keys=False, default_flow_style=None))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], origin: str = "architecture") -> Architecture:
        """Check and build a cell from plain data; ``origin`` (a file name) leads every error message."""
        for key in data:
            if key not in _KEYS:
                raise ValueError(f"{origin}: unknown key {key!r}; allowed: {', '.join(_KEYS)}.")
        nodes = data.get("nodes")
        if not isinstance(nodes, (list, tuple)):
            raise ValueError(f"{origin}: nodes: found {nodes!r}; expected a list with the edges of each node.")
        try:
            return cls(tuple(_node_from_data(node, edges) for node, edges in enumerate(nodes, start=1)))
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from None

    @classmethod
    def from_json(cls, text: str, origin: str = "architecture") -> Architecture:
        """Read a cell from JSON text."""
        return cls.from_dict(parse_yaml(text, origin), origin)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Architecture:
        """Read a cell from a YAML or JSON file."""
        return cls.from_dict(read_yaml(path), origin=str(path))

    @classmethod
    def random(cls, space: CellSpace, seed: int) -> Architecture:
        """Draw a cell uniformly from a space: the baseline that every search has to beat."""
        generator = random.Random(seed)
        nodes = []
        for node in range(1, space.num_nodes + 1):
            edges = [Edge(source, name) for source in range(node) for name in space.active_operations]
            nodes.append(tuple(generator.sample(edges, space.kept_edges(node))))
        return cls(tuple(nodes))

    def __str__(self) -> str:
        return "; ".join(
            f"{node}: " + " + ".join(f"{edge.operation} {edge.source}" for edge in edges)
            for node, edges in enumerate(self.nodes, start=1)
        )


def edge_shares(architecture: Architecture, space: CellSpace) -> list[list[float]]:
    """Return the factor of each kept edge, node by node, under the space's ``combine``.

    Raises
    ------
    ValueError
        If ``combine`` is ``weighted`` and an edge has no weight.
    """
    if space.combine == "sum":
        return [[1.0] * len(edges) for edges in architecture.nodes]
    if space.combine == "mean":
        return [[1.0 / len(edges)] * len(edges) for edges in architecture.nodes]
    shares = []
    for node, edges in enumerate(architecture.nodes, start=1):
        weights = [edge.weight for edge in edges if edge.weight is not None]
        if len(weights) != len(edges) or sum(weights) <= 0.0:
            raise ValueError(
                f"combine: weighted needs the learnt weight of every edge, and node {node} lacks some. "
                f"Use a cell that a search derived, or combine: mean."
            )
        shares.append([weight / sum(weights) for weight in weights])
    return shares


def _edge_order(edge: Edge) -> tuple[int, str]:
    return edge.source, edge.operation


def _check_edge(node: int, edge: Edge) -> None:
    if isinstance(edge.source, bool) or not isinstance(edge.source, int) or not 0 <= edge.source < node:
        raise ValueError(f"Node {node} reads state {edge.source!r}; it can read states 0 to {node - 1}.")
    if edge.operation == ZEROIZE or not is_operation_name(edge.operation):
        raise ValueError(f"Node {node}: {edge.operation!r} is not an operation that an edge of a cell can apply.")
    if edge.weight is not None and not (_is_number(edge.weight) and 0.0 <= edge.weight <= 1.0):
        raise ValueError(f"Node {node}: weight {edge.weight!r}; expected a number from 0 to 1.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _node_from_data(node: int, edges: object) -> tuple[Edge, ...]:
    if not isinstance(edges, (list, tuple)):
        raise ValueError(f"Node {node}: found {edges!r}; expected a list of edges.")
    for edge in edges:
        if not isinstance(edge, Mapping) or not {"source", "operation"} <= set(edge) <= set(_EDGE_KEYS):
            raise ValueError(f"Node {node}: found edge {edge!r}; expected the keys {', '.join(_EDGE_KEYS)}.")
    return tuple(Edge(**edge) for edge in edges)
