"""Drawing one cell with matplotlib, from left to right or from top to bottom."""

from __future__ import annotations

import hashlib
import math
import re

from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Course

from .graphs import Graph
from .layout import PlacedEdge, Point, lay_out

Dashes = str | tuple[float, tuple[float, ...]]

STYLES: dict[str, tuple[str, Dashes]] = {
    # The colours differ in lightness as well (Okabe and Ito's set, for any colour vision), and each has its own dashes.
    "tanh": ("#0072b2", "solid"),
    "relu": ("#d55e00", (0.0, (6.0, 1.6))),
    "sigmoid": ("#009e73", (0.0, (1.2, 1.2))),
    "identity": ("#555555", (0.0, (6.0, 1.5, 1.2, 1.5))),
    "gelu": ("#cc79a7", (0.0, (3.0, 1.2))),
    "silu": ("#e69f00", (0.0, (3.0, 1.2, 1.2, 1.2))),
}
IMAGE_STYLES: dict[str, tuple[str, Dashes]] = {
    # Operations of NNI's spaces for images: a kind of operation is a colour, its size the dashes.
    "skip_connect": ("#555555", (0.0, (6.0, 1.5, 1.2, 1.5))),
    "max_pool_3x3": ("#cc79a7", "solid"),
    "avg_pool_3x3": ("#cc79a7", (0.0, (3.0, 1.2))),
    "sep_conv_3x3": ("#0072b2", "solid"),
    "sep_conv_5x5": ("#0072b2", (0.0, (6.0, 1.6))),
    "sep_conv_7x7": ("#0072b2", (0.0, (1.2, 1.2))),
    "dil_conv_3x3": ("#d55e00", "solid"),
    "dil_conv_5x5": ("#d55e00", (0.0, (6.0, 1.6))),
}
_OTHER_COLORS = ("#6a3d9a", "#8c510a", "#01665e", "#b2182b", "#4d4d9f")
INK = "#222222"
_RADIUS = 0.36
_MARGIN = 0.35


def style_of(operation: str) -> tuple[str, Dashes]:
    """Return colour and dashes of an operation; one that is not known here has the same ones in every picture."""
    known = STYLES.get(operation) or IMAGE_STYLES.get(operation)
    if known:
        return known
    return _OTHER_COLORS[hashlib.sha256(operation.encode()).digest()[0] % len(_OTHER_COLORS)], "solid"


def line_width(weight: float | None) -> float:
    """Return the width of an edge in points: it grows with the edge's weight, if the edge shares it with others."""
    return 2.0 if weight is None or weight == 1.0 else 0.8 + 3.2 * weight


class Sketch:
    """One cell, placed and ready to be drawn.

    Parameters
    ----------
    graph
        The cell.
    upright
        From top to bottom, for a narrow page, and not from left to right.
    """

    def __init__(self, graph: Graph, *, upright: bool = False) -> None:
        self._graph = graph
        self._upright = upright
        self._layout = lay_out(graph, upright=upright)
        nodes = self._layout.states[graph.num_inputs :]
        heights = [y for _, y in nodes]
        # Where an edge has its word, across the picture, and how much room the word takes there.
        for edge in self._layout.edges:
            room = edge.word_width / 2 - _RADIUS if upright else 0.0
            heights += [y for _, y in edge.course]
            heights += [edge.word_at[1] - room, edge.word_at[1] + room]
        self._left = min(x for x, _ in nodes) - _RADIUS - _MARGIN
        self._right = max(x for x, _ in nodes) + _RADIUS + _MARGIN
        self._bottom, self._top = min(heights) - _RADIUS - _MARGIN, max(heights) + _RADIUS + _MARGIN
        self._lead = 1.5 if upright else 2.4
        corners = self._extent()
        self.box = (
            min(x for x, _ in corners), max(x for x, _ in corners),
            min(y for _, y in corners), max(y for _, y in corners),
        )  # fmt: skip
        """Left, right, bottom and top of everything, in units of the layout."""

    def _extent(self) -> list[Point]:
        inputs = [self._terminal_place(index) for index in range(len(self._graph.inputs))]
        low = min([self._bottom, *(y for _, y in inputs)])
        high = max([self._top, *(y for _, y in inputs)])
        room = 0.85 if self._upright else 0.6
        middle = (self._bottom + self._top) / 2
        long = max(map(_half_terminal, (*self._graph.inputs, self._graph.output)))
        along_low = min(x for x, _ in inputs) - (0.5 if self._upright else long + 0.3)
        along_high = self._right + (1.5 if self._upright else 1.5 + long)
        if self._upright:
            # Below the box a line stands beside the arrow.
            low, high = min(low - room, middle - 1.0), max(high + room, middle + 3.4)
        else:
            low, high = min(low - room, self._bottom - 0.75), high + room
        return [self._place((along_low, low)), self._place((along_high, high))]

    def _place(self, point: Point) -> Point:
        """Turn a place of the layout into one on paper."""
        return (point[1], -point[0]) if self._upright else point

    def draw(self, axes: Axes) -> None:
        """Draw the cell; the axes have the limits of :attr:`box` and equal scales."""
        self._draw_frame(axes)
        edges = self._layout.edges
        leaving = _ports([(edge.edge.source, edge.course[1][1]) for edge in edges])
        arriving = _ports([(edge.node, edge.word_at[1]) for edge in edges])
        for edge, departure, arrival in zip(edges, leaving, arriving, strict=True):
            self._draw_edge(axes, edge, departure, arrival)
        for state, place in enumerate(self._layout.states):
            _draw_state(axes, state, self._place(place), is_input=state < self._graph.num_inputs)

    def _terminal_place(self, index: int) -> Point:
        graph, states = self._graph, self._layout.states
        if graph.num_inputs == len(graph.inputs):
            return states[index][0] - self._lead, states[index][1]
        x, y = states[0]
        spread = 0.75 * (len(graph.inputs) - 1 - 2 * index)
        return x - self._lead, y + (-spread if self._upright else spread)

    def _draw_frame(self, axes: Axes) -> None:
        """Draw what every cell has: the inputs, the box whose nodes make the output, and the output."""
        one, other = self._place((self._left, self._bottom)), self._place((self._right, self._top))
        corner = min(one[0], other[0]), min(one[1], other[1])
        axes.add_patch(
            FancyBboxPatch(
                corner,
                abs(other[0] - one[0]),
                abs(other[1] - one[1]),
                boxstyle="round,pad=0,rounding_size=0.35",
                facecolor="#f4f4f4",
                edgecolor="#9a9a9a",
                linewidth=1.0,
                zorder=0,
            )
        )
        last = self._graph.num_inputs + len(self._graph.nodes) - 1
        middle = (self._bottom + self._top) / 2
        x, side = (self._place((0.0, middle))[0] + 0.3, "left") if self._upright else (self._right, "right")
        axes.text(
            x, corner[1] - 0.12, self._graph.joined.format(last=last), size=9.5, color="#444444", ha=side, va="top",
            zorder=1,
        )  # fmt: skip
        for index, label in enumerate(self._graph.inputs):
            x, y = self._terminal_place(index)
            state = self._layout.states[index if self._graph.num_inputs == len(self._graph.inputs) else 0]
            half = 0.42 if self._upright else _half_terminal(label)
            self._draw_arrow(axes, [(x + half, y), (state[0] - _RADIUS, state[1])], INK, "solid", 1.4)
            _draw_terminal(axes, label, self._place((x, y)))
        half = 0.42 if self._upright else _half_terminal(self._graph.output)
        end = self._right + (1.1 if self._upright else 1.08 + half)
        self._draw_arrow(axes, [(self._right, middle), (end - half, middle)], INK, "solid", 2.2)
        _draw_terminal(axes, self._graph.output, self._place((end, middle)))

    def _draw_edge(self, axes: Axes, placed: PlacedEdge, departure: float, arrival: float) -> None:
        color, dashes = style_of(placed.edge.operation)
        width = line_width(placed.edge.weight)
        half = 0.2 if self._upright else placed.word_width / 2
        (x, y), (target_x, target_y) = placed.word_at, placed.course[-1]
        source_x, source_y = placed.course[0]
        start = (source_x + _RADIUS * math.cos(departure), source_y + _RADIUS * math.sin(departure))
        end = (target_x - _RADIUS * math.cos(arrival), target_y + _RADIUS * math.sin(arrival))
        self._draw_arrow(axes, [start, *placed.course[1:-2], (x - half, y)], color, dashes, width, head=False)
        self._draw_arrow(axes, [(x + half, y), end], color, "solid", width)
        draw_word(axes, placed.word, self._place((x, y)), placed.word_width, color)

    def _draw_arrow(
        self, axes: Axes, points: list[Point], color: str, dashes: Dashes, width: float, *, head: bool = True
    ) -> None:
        """Draw a line that leaves and reaches every point in the direction of the picture."""
        vertices, codes = [points[0]], [Course.MOVETO]
        for (x, y), (to_x, to_y) in zip(points, points[1:], strict=False):
            bend = (to_x - x) / 2
            vertices += [(x + bend, y), (to_x - bend, to_y), (to_x, to_y)]
            codes += [Course.CURVE4] * 3
        draw_course(axes, Course([self._place(point) for point in vertices], codes), color, dashes, width, head=head)


def draw_course(axes: Axes, course: Course, color: str, dashes: Dashes, width: float, *, head: bool = True) -> None:
    """Draw a line, with an arrow's head that grows with its width."""
    style = f"-|>,head_length={0.28 + 0.05 * width:.2f},head_width={0.13 + 0.03 * width:.2f}" if head else "-"
    axes.add_patch(
        FancyArrowPatch(
            path=course,
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


def draw_word(axes: Axes, word: str, place: Point, width: float, color: str, *, is_filled: bool = False) -> None:
    """Write an operation into a box of its colour; a filled one stands out."""
    face, ink = (color, "white") if is_filled else ("white", color)
    x, y = place
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.2),
            width,
            0.4,
            boxstyle="round,pad=0,rounding_size=0.2",
            facecolor=face,
            edgecolor=color,
            linewidth=1.6,
            zorder=4,
        )
    )
    axes.text(
        x, y, word, size=9.5, weight="bold", color=ink, ha="center", va="center_baseline", zorder=5, parse_math=False
    )


def _half_terminal(label: str) -> float:
    """Return half the width of the box round the name of an input or of the output."""
    return 0.42 + 0.09 * max(0, len(re.sub(r"[${}_]", "", label)) - 4)


def _draw_terminal(axes: Axes, label: str, place: Point) -> None:
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": INK, "linewidth": 1.2}
    size = 12 if len(label) < 10 else 10
    axes.text(*place, label, size=size, color=INK, ha="center", va="center", bbox=box, zorder=4)


def _draw_state(axes: Axes, state: int, place: Point, *, is_input: bool) -> None:
    face, ink = ("#333333", "white") if is_input else ("white", INK)
    axes.add_patch(Circle(place, _RADIUS, facecolor=face, edgecolor=INK, linewidth=1.4, zorder=4))
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
