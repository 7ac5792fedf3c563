"""What a picture shows of an architecture: one graph for each cell in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .architecture import Architecture, Edge
from .model_architecture import ModelArchitecture
from .operations import NO_OPERATIONS

_OPERATION = re.compile(r"(?P<cell>.+)/op_(?P<node>\d+)_(?P<place>\d+)", re.ASCII)
_JOINED = re.compile(r"(?P<operation>\S+) (?P<source>\d+)", re.ASCII)


@dataclass(frozen=True)
class Graph:
    """States that are joined by edges: first the inputs, then the nodes."""

    nodes: tuple[tuple[Edge, ...], ...]
    """The edges that enter each node."""
    num_inputs: int = 1
    inputs: tuple[str, ...] = ("$x_t$", "$h_{t-1}$")
    """What stands before state 0, or before each input where there are several."""
    output: str = "$h_t$"
    joined: str = "mean of nodes 1 to {last}"
    """How the output is made of the nodes."""
    name: str = ""


def graphs_of(architecture: Architecture | ModelArchitecture) -> tuple[Graph, ...]:
    """Return the graphs in an architecture; none where its choices form no graph that is known here.

    A recurrent cell is one graph. Among the choices of any other model, NNI's ``Cell`` (two inputs, the outputs of the
    two cells before it; the nodes are concatenated) and this package's ``Node`` are.
    """
    if isinstance(architecture, Architecture):
        joined = "mean of node 1" if architecture.num_nodes == 1 else "mean of nodes 1 to {last}"
        return (Graph(architecture.nodes, joined=joined),)
    cells: dict[str, dict[int, list[Edge]]] = {}
    graphs = []
    for label, choice in architecture.choices.items():
        if found := _OPERATION.fullmatch(label):
            edge = _cell_edge(found, choice, architecture.choices)
            if edge is not None:
                cells.setdefault(found["cell"], {}).setdefault(int(found["node"]), []).append(edge)
        elif edges := _node_edges(choice):
            count = 1 + max(edge.source for edge in edges)
            names = tuple(f"input {index}" for index in range(count))
            graphs.append(Graph((edges,), count, names, "output", "these edges, joined", label))
    for name, nodes in cells.items():
        first = min(nodes)
        whole = sorted(nodes) == list(range(first, first + len(nodes)))
        if whole and all(edge.source < node for node, edges in nodes.items() for edge in edges):
            edges_of = tuple(tuple(nodes[node]) for node in sorted(nodes))
            inputs = tuple(f"cell $k-{first - index}$" for index in range(first))
            graphs.append(Graph(edges_of, first, inputs, "cell $k$", f"nodes {first} to {{last}}, concatenated", name))
    return tuple(graphs)


def _cell_edge(found: re.Match[str], choice: Any, choices: Mapping[str, Any]) -> Edge | None:
    source = choices.get(f"{found['cell']}/input_{found['node']}_{found['place']}")
    if isinstance(source, list) and len(source) == 1 and isinstance(source[0], int) and isinstance(choice, str):
        return Edge(source[0], choice)
    return None


def _node_edges(choice: Any) -> tuple[Edge, ...]:
    """Read the choice of a ``Node``: texts such as ``linear 0``."""
    if not isinstance(choice, list) or not choice or not all(isinstance(part, str) for part in choice):
        return ()
    matches = [_JOINED.fullmatch(part) for part in choice]
    return tuple(
        Edge(int(found["source"]), found["operation"])
        for found in matches
        if found is not None and found["operation"] not in NO_OPERATIONS
    )
