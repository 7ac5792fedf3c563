"""From a cell to a picture: PNG and SVG through matplotlib, and DOT as text.

No display, no Graphviz and no font beside matplotlib's own is needed. The same cell gives the same bytes.
"""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Course

from .architecture import Architecture
from .files import write_atomically
from .layout import Layout, PlacedEdge, Point, edge_word, lay_out

FORMATS = {".png": "png", ".svg": "svg", ".dot": "dot", ".gv": "dot"}
"""File ending -> format."""

_STYLES: dict[str, tuple[str, str | tuple[float, tuple[float, ...]]]] = {
    # The colours differ in lightness as well (Okabe and Ito's set, for any colour vision), and each has its own dashes.
    "tanh": ("#0072b2", "solid"),
    "relu": ("#d55e00", (0.0, (6.0, 1.6))),
    "sigmoid": ("#009e73", (0.0, (1.2, 1.2))),
    "identity": ("#555555", (0.0, (6.0, 1.5, 1.2, 1.5))),
    "gelu": ("#cc79a7", (0.0, (3.0, 1.2))),
    "silu": ("#e69f00", (0.0, (3.0, 1.2, 1.2, 1.2))),
}
_OTHER_STYLE: tuple[str, str] = ("#6a3d9a", "solid")
_INK = "#222222"
_INCHES_PER_UNIT = 0.5
_RADIUS = 0.36
_MARGIN = 0.35


def draw_architecture(architecture: Architecture, path: str | os.PathLike[str], title: str = "") -> Path:
    """Draw a cell into a file; the ending of its name chooses the format.

    From left to right: the input and the last hidden state make state 0; an arrow is an edge, with its operation as a
    word, a colour and a pattern of dashes, and its weight (where the cell has weights) as its width; the box holds the
    nodes whose mean is the new hidden state.

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
        If the ending is none of these, or the cell has too many edges for a picture.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: cannot draw into a {path.suffix or 'nameless'} file; endings: {', '.join(FORMATS)}.")
    title = title or f"cell {architecture.fingerprint}"
    kind = FORMATS[path.suffix.lower()]
    content = to_dot(architecture, title) if kind == "dot" else _render(architecture, kind, title)
    write_atomically(path, content)
    return path


def to_dot(architecture: Architecture, title: str = "") -> str:
    """Return the cell in Graphviz's DOT language."""
    lines = [
        "digraph cell {",
        f"  graph [rankdir=LR, label={_quoted(title)}, labelloc=t, fontname=Helvetica];",
        "  node [shape=circle, fontname=Helvetica]; edge [fontname=Helvetica, fontsize=11];",
        '  x [label="x(t)", shape=box]; h [label="h(t-1)", shape=box]; out [label="h(t)", shape=box];',
        '  s0 [label="0"]; mean [shape=box, style=rounded];',
        "  x -> s0; h -> s0; mean -> out;",
    ]
    for node, edges in enumerate(architecture.nodes, start=1):
        lines.append(f'  s{node} [label="{node}"];')
        for edge in edges:
            color = _STYLES.get(edge.operation, _OTHER_STYLE)[0]
            lines.append(
                f"  s{edge.source} -> s{node} [label={_quoted(edge_word(edge, len(edges)))}, "
                f'color="{color}", fontcolor="{color}", penwidth={_line_width(edge.weight):.2f}];'
            )
        lines.append(f"  s{node} -> mean [style=dotted, color=gray60, arrowhead=none];")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'


def _render(architecture: Architecture, kind: str, title: str) -> bytes:
    layout = lay_out(architecture)
    left, right, bottom, top = _box(layout)
    x_min, x_max, y_min, y_max = -2.7, right + 2.1, bottom - 0.75, top + 1.45
    y_min, y_max = min(y_min, layout.states[0][1] - 1.5), max(y_max, layout.states[0][1] + 2.0)
    figure = Figure(figsize=((x_max - x_min) * _INCHES_PER_UNIT, (y_max - y_min) * _INCHES_PER_UNIT))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(x_min, x_max)
    axes.set_ylim(y_min, y_max)
    axes.axis("off")
    _draw_frame(axes, layout, (left, right, bottom, top), architecture.num_nodes)
    leaving = _ports([(edge.edge.source, edge.course[1][1]) for edge in layout.edges])
    arriving = _ports([(edge.node, edge.word_at[1]) for edge in layout.edges])
    for edge, departure, arrival in zip(layout.edges, leaving, arriving, strict=True):
        _draw_edge(axes, edge, departure, arrival)
    for state, place in enumerate(layout.states):
        _draw_state(axes, state, place)
    axes.text(x_min + 0.4, y_max - 0.3, title, size=13, weight="bold", color=_INK, va="top", parse_math=False)
    axes.text(x_min + 0.4, y_max - 0.92, _census(architecture), size=9.5, color=_INK, va="top", parse_math=False)
    buffer = io.BytesIO()
    # Date: None and a fixed salt keep time and chance out of the file; as paths, text looks the same on every machine.
    with matplotlib.rc_context({"svg.hashsalt": "idarts", "svg.fonttype": "path"}):
        metadata = {"Title": title, "Date": None} if kind == "svg" else {"Title": title}
        figure.savefig(buffer, format=kind, dpi=160, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def _box(layout: Layout) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of the box round nodes 1..N and the edges between them."""
    nodes = layout.states[1:]
    left = min(x for x, _ in nodes) - _RADIUS - _MARGIN
    right = max(x for x, _ in nodes) + _RADIUS + _MARGIN
    heights = [y for x, y in nodes] + [y for edge in layout.edges for _, y in edge.course]
    return left, right, min(heights) - _RADIUS - _MARGIN, max(heights) + _RADIUS + _MARGIN


def _draw_frame(axes: Axes, layout: Layout, box: tuple[float, float, float, float], num_nodes: int) -> None:
    """Draw what every cell has: the two inputs, the box whose mean is taken, and the output."""
    left, right, bottom, top = box
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            right - left,
            top - bottom,
            boxstyle="round,pad=0,rounding_size=0.35",
            facecolor="#f4f4f4",
            edgecolor="#9a9a9a",
            linewidth=1.0,
            zorder=0,
        )
    )
    nodes = "node 1" if num_nodes == 1 else f"nodes 1 to {num_nodes}"
    axes.text(right, bottom - 0.12, f"mean of {nodes}", size=9.5, color="#444444", ha="right", va="top", zorder=1)
    x, y = layout.states[0]
    for label, height in (("$x_t$", y + 0.75), ("$h_{t-1}$", y - 0.75)):
        _draw_terminal(axes, label, (x - 2.4, height))
        _draw_arrow(axes, [(x - 1.75, height), (x - _RADIUS, y)], _INK, "solid", 1.4)
    middle = (bottom + top) / 2
    _draw_terminal(axes, "$h_t$", (right + 1.5, middle))
    _draw_arrow(axes, [(right, middle), (right + 1.08, middle)], _INK, "solid", 2.2)


def _draw_terminal(axes: Axes, label: str, place: Point) -> None:
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": _INK, "linewidth": 1.2}
    axes.text(*place, label, size=12, color=_INK, ha="center", va="center", bbox=box, zorder=4)


def _draw_state(axes: Axes, state: int, place: Point) -> None:
    face, ink = ("#333333", "white") if state == 0 else ("white", _INK)
    axes.add_patch(Circle(place, _RADIUS, facecolor=face, edgecolor=_INK, linewidth=1.4, zorder=4))
    axes.text(*place, str(state), size=12, weight="bold", color=ink, ha="center", va="center_baseline", zorder=5)


def _ports(ends: list[tuple[int, float]]) -> list[float]:
    """Spread the ends of edges over the side of a state, in the order of their heights.

    ``ends`` holds the state and the height that each edge comes from or goes to; the answer is in radians upwards.
    """
    angles = [0.0] * len(ends)
    for state in {state for state, _ in ends}:
        own = sorted((height, index) for index, (other, height) in enumerate(ends) if other == state)
        spread = min(1.0, 0.5 * (len(own) - 1))
        for rank, (_, index) in enumerate(own):
            angles[index] = spread * (2 * rank / (len(own) - 1) - 1) if len(own) > 1 else 0.0
    return angles


def _draw_edge(axes: Axes, placed: PlacedEdge, departure: float, arrival: float) -> None:
    color, dashes = _STYLES.get(placed.edge.operation, _OTHER_STYLE)
    width = _line_width(placed.edge.weight)
    half = placed.word_width / 2
    (x, y), (target_x, target_y) = placed.word_at, placed.course[-1]
    source_x, source_y = placed.course[0]
    start = (source_x + _RADIUS * math.cos(departure), source_y + _RADIUS * math.sin(departure))
    end = (target_x - _RADIUS * math.cos(arrival), target_y + _RADIUS * math.sin(arrival))
    before = [start, *placed.course[1:-2], (x - half, y)]
    _draw_arrow(axes, before, color, dashes, width, head=False)
    _draw_arrow(axes, [(x + half, y), end], color, "solid", width)
    axes.add_patch(
        FancyBboxPatch(
            (x - half, y - 0.2),
            placed.word_width,
            0.4,
            boxstyle="round,pad=0,rounding_size=0.2",
            facecolor="white",
            edgecolor=color,
            linewidth=1.6,
            zorder=4,
        )
    )
    axes.text(
        x, y, placed.word, size=9.5, weight="bold", color=color, ha="center", va="center_baseline", zorder=5,
        parse_math=False,
    )  # fmt: skip


def _draw_arrow(
    axes: Axes,
    points: list[Point],
    color: str,
    dashes: str | tuple[float, tuple[float, ...]],
    width: float,
    *,
    head: bool = True,
) -> None:
    """Draw a line that leaves and reaches every point horizontally."""
    vertices, codes = [points[0]], [Course.MOVETO]
    for (x, y), (to_x, to_y) in zip(points, points[1:], strict=False):
        bend = (to_x - x) / 2
        vertices += [(x + bend, y), (to_x - bend, to_y), (to_x, to_y)]
        codes += [Course.CURVE4] * 3
    style = f"-|>,head_length={0.28 + 0.05 * width:.2f},head_width={0.13 + 0.03 * width:.2f}" if head else "-"
    axes.add_patch(
        FancyArrowPatch(
            path=Course(vertices, codes),
            arrowstyle=style,
            mutation_scale=14,
            color=color,
            linestyle=dashes,
            linewidth=width,
            capstyle="butt",
            joinstyle="miter",
            shrinkA=0,
            shrinkB=0,
            zorder=3,
        )
    )


def _line_width(weight: float | None) -> float:
    return 2.0 if weight is None else 0.8 + 3.2 * weight


def _census(architecture: Architecture) -> str:
    counts = Counter(edge.operation.rpartition(".")[2] for edges in architecture.nodes for edge in edges)
    nodes = architecture.num_nodes
    return f"{nodes} node{'s' * (nodes > 1)}; edges: " + ", ".join(
        f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
