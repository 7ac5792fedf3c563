"""From a cell to a picture: PNG and SVG through matplotlib, and DOT as text.

No display, no Graphviz and no font beside matplotlib's own is needed. The same cell gives the same bytes.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from .architecture import Architecture
from .files import write_atomically
from .graphs import Graph, graphs_of
from .layout import edge_word
from .model_architecture import ModelArchitecture
from .sketch import INK, Sketch, line_width, style_of

FORMATS = {".png": "png", ".svg": "svg", ".dot": "dot", ".gv": "dot"}
"""File ending -> format."""

_INCHES_PER_UNIT = 0.5
_DPI = 160
_TITLE_HEIGHT, _NAME_HEIGHT = 1.3, 0.6


def draw_architecture(
    architecture: Architecture | ModelArchitecture, path: str | os.PathLike[str], title: str = ""
) -> Path:
    """Draw a cell, or the cells of any other model, into a file; the ending of its name chooses the format.

    From left to right: the input and the last hidden state make state 0; an arrow is an edge, with its operation as a
    word, a colour and a pattern of dashes, and its weight (where the cell has weights) as its width; the box holds the
    nodes whose mean is the new hidden state. A cell for images has the outputs of the two cells before it as states
    0 and 1, and its nodes are concatenated.

    Parameters
    ----------
    architecture
        The cell; at most 400 edges for PNG and SVG.
    path
        A file name that ends in ``.png``, ``.svg``, ``.dot`` or ``.gv``. Its folder is made if it does not exist.
    title
        A line above the picture; the cell's fingerprint stands there when it is empty.

    Returns
    -------
    The path that was written.

    Raises
    ------
    ValueError
        If the ending is none of these, the cell has too many edges for a picture, or the choices form no cell.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: cannot draw into a {path.suffix or 'nameless'} file; endings: {', '.join(FORMATS)}.")
    title = title or f"cell {architecture.fingerprint}"
    content = to_dot(architecture, title) if kind == "dot" else render(architecture, kind, title)
    write_atomically(path, content)
    return path


def render(
    architecture: Architecture | ModelArchitecture, kind: str, title: str = "", *, upright: bool = False
) -> bytes:
    """Return a picture as the bytes of a PNG or an SVG file.

    Parameters
    ----------
    architecture, title
        As for :func:`draw_architecture`; without a title none is written.
    kind
        ``png`` or ``svg``.
    upright
        From top to bottom, for a narrow page.
    """
    graphs = _known_graphs(architecture)
    sketches = [Sketch(graph, upright=upright) for graph in graphs]
    head = _TITLE_HEIGHT if title else 0.2
    extra = [_NAME_HEIGHT if graph.name else 0.0 for graph in graphs]
    boxes = [sketch.box for sketch in sketches]
    width = max(right - left for left, right, _, _ in boxes)
    heights = [top - bottom + room for (_, _, bottom, top), room in zip(boxes, extra, strict=True)]
    total = sum(heights) + head
    figure = Figure(figsize=(width * _INCHES_PER_UNIT, total * _INCHES_PER_UNIT))
    lower = total - head
    for graph, sketch, height in zip(graphs, sketches, heights, strict=True):
        lower -= height
        left, _, bottom, _ = sketch.box
        axes = figure.add_axes((0.0, lower / total, 1.0, height / total))
        axes.set_xlim(left, left + width)
        axes.set_ylim(bottom, bottom + height)
        axes.axis("off")
        sketch.draw(axes)
        if graph.name:
            place = (left + 0.4, bottom + height - 0.15)
            axes.text(*place, graph.name, size=11, weight="bold", color=INK, va="top", parse_math=False)
    if title:
        x, y = 0.4 / width, 1 - 0.25 / total
        figure.text(x, y, title, size=13, weight="bold", color=INK, va="top", parse_math=False)
        figure.text(x, y - 0.62 / total, _census(graphs), size=9.5, color=INK, va="top", parse_math=False)
    return save_figure(figure, kind, title)


def save_figure(figure: Figure, kind: str, title: str = "") -> bytes:
    """Return a figure as the bytes of a file, the same for the same figure on every machine."""
    buffer = io.BytesIO()
    # Date: None and a fixed salt keep time and chance out of the file; as paths, text looks the same on every machine.
    with matplotlib.rc_context({"svg.hashsalt": "idarts", "svg.fonttype": "path"}):
        metadata = {"Title": title, "Date": None} if kind == "svg" else {"Title": title}
        figure.savefig(buffer, format=kind, dpi=_DPI, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def to_dot(architecture: Architecture | ModelArchitecture, title: str = "") -> str:
    """Return the cell, or the cells of a model, in Graphviz's DOT language."""
    graphs = _known_graphs(architecture)
    lines = [
        "digraph cell {",
        f"  graph [rankdir=LR, label={_quoted(title)}, labelloc=t, fontname=Helvetica];",
        "  node [shape=circle, fontname=Helvetica]; edge [fontname=Helvetica, fontsize=11];",
    ]
    for index, graph in enumerate(graphs):
        lines += _dot_lines(graph, f"c{index}_" if len(graphs) > 1 else "")
    return "\n".join([*lines, "}", ""])


def _dot_lines(graph: Graph, prefix: str) -> list[str]:
    lines = []
    for index, name in enumerate(graph.inputs):
        label = name.replace("$", "").replace("_t", "(t)").replace("_{t-1}", "(t-1)")
        state = index if graph.num_inputs == len(graph.inputs) else 0
        lines.append(f"  {prefix}in{index} [label={_quoted(label)}, shape=box]; {prefix}in{index} -> {prefix}s{state};")
    lines += [f'  {prefix}s{state} [label="{state}"];' for state in range(graph.num_inputs + len(graph.nodes))]
    output = graph.output.replace("$", "").replace("_t", "(t)")
    last = graph.num_inputs + len(graph.nodes) - 1
    joined = graph.joined.format(last=last) + (f" ({graph.name})" if graph.name else "")
    lines.append(f"  {prefix}join [label={_quoted(joined)}, shape=box, style=rounded];")
    lines.append(f"  {prefix}out [label={_quoted(output)}, shape=box]; {prefix}join -> {prefix}out;")
    for node, edges in enumerate(graph.nodes, start=graph.num_inputs):
        for edge in edges:
            color, _ = style_of(edge.operation)
            lines.append(
                f"  {prefix}s{edge.source} -> {prefix}s{node} [label={_quoted(edge_word(edge, len(edges)))}, "
                f'color="{color}", fontcolor="{color}", penwidth={line_width(edge.weight):.2f}];'
            )
        lines.append(f"  {prefix}s{node} -> {prefix}join [style=dotted, color=gray60, arrowhead=none];")
    return lines


def _known_graphs(architecture: Architecture | ModelArchitecture) -> tuple[Graph, ...]:
    graphs = graphs_of(architecture)
    if not graphs:
        raise ValueError(
            "The choices of this model form no cell that could be drawn: pictures are made of recurrent cells, of "
            "NNI's Cell, and of Node. idarts show prints the choices."
        )
    return graphs


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'


def _census(graphs: Sequence[Graph]) -> str:
    counts = Counter(edge.operation.rpartition(".")[2] for graph in graphs for edges in graph.nodes for edge in edges)
    nodes = sum(len(graph.nodes) for graph in graphs)
    return f"{nodes} node{'s' * (nodes > 1)}; edges: " + ", ".join(
        f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
