"""The cells of a search, epoch by epoch, as a moving picture (GIF).

All states stand in one line and every possible edge has its own arc, so that between two pictures nothing moves but
the edges that changed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.path import Path as Course
from PIL import Image

from .architecture import Architecture, Edge
from .files import write_atomically
from .sketch import INK, draw_course, draw_word, line_width, style_of

_STEP = 0.86
"""Between the tops of the arcs of two spans; half of it between two operations on one pair of states. So no two words
have one height, but those of arcs of one span, which stand a pitch apart."""
_RADIUS = 0.34
_INCHES_PER_UNIT = 0.42
_DPI = 100
_LAST_SECONDS = 3.0


def animate_cells(
    frames: Sequence[tuple[int, Architecture]], path: str | os.PathLike[str], title: str = "", seconds: float = 0.7
) -> Path:
    """Write a GIF with one picture for each epoch; an edge that is new in its epoch stands out by its filled word.

    Parameters
    ----------
    frames
        Number of the epoch and the cell of that epoch; all with the same number of nodes.
    path
        A file name that ends in ``.gif``.
    title
        What stands before the number of the epoch.
    seconds
        How long each picture stays; the last one stays 3 seconds.

    Raises
    ------
    ValueError
        If there is no frame, the cells have different numbers of nodes, or the ending is another.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path}: an animation is written into a file that ends in .gif.")
    if not frames or len({cell.num_nodes for _, cell in frames}) != 1:
        raise ValueError("An animation needs at least one cell, and all of its cells the same number of nodes.")
    plan = _Plan.of([cell for _, cell in frames])
    pictures = []
    for index, (epoch, cell) in enumerate(frames):
        before = frames[index - 1][1] if index else cell
        words = f"{title + ', ' if title else ''}epoch {epoch} of {frames[-1][0]}"
        pictures.append(_picture(cell, before, plan, words))
    # One palette for all: the colours must not flicker.
    strip = Image.new("RGB", (pictures[0].width, pictures[0].height * len(pictures)), "white")
    for index, picture in enumerate(pictures):
        strip.paste(picture, (0, index * picture.height))
    colors = strip.quantize(128).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([255 if part > 247 else part for part in colors])  # paper is white, not nearly so
    images = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    times = [round(1000 * seconds)] * (len(images) - 1) + [round(1000 * _LAST_SECONDS)]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False)
    write_atomically(path, buffer.getvalue())
    return path


@dataclass(frozen=True)
class _Plan:
    """What stays the same in all pictures."""

    places: Mapping[str, int]
    """Operation -> its place among the arcs of a pair of states: even ones above the line of states, odd ones below."""
    pitch: float
    """Between two states: as wide as the longest word."""
    reach: float
    """From the line of states to the edge of the picture."""

    @classmethod
    def of(cls, cells: Sequence[Architecture]) -> _Plan:
        edges = [(node, edge) for cell in cells for node, own in enumerate(cell.nodes, start=1) for edge in own]
        names = sorted({edge.operation for _, edge in edges})
        places = {name: place for place, name in enumerate(names)}
        pitch = 0.1 + max(_word_width(name) for name in names)
        tops = [_top(node, edge, places[edge.operation]) for node, edge in edges]
        return cls(places, max(1.6, pitch), max(map(abs, tops)) + 0.4)


def _top(node: int, edge: Edge, place: int) -> float:
    """Return the height of an arc's middle, below the line of states if negative."""
    height = (node - edge.source) * _STEP + 0.1 + (place // 2) * _STEP / 2
    return height if place % 2 == 0 else -height


def _word(operation: str) -> str:
    return operation.rpartition(".")[2]


def _word_width(operation: str) -> float:
    return 0.35 + 0.185 * len(_word(operation))


def _picture(cell: Architecture, before: Architecture, plan: _Plan, words: str) -> Image.Image:
    pitch, reach = plan.pitch, plan.reach
    width, height = (cell.num_nodes + 0.9) * pitch, 2 * reach + 1.0
    figure = Figure(figsize=(width * _INCHES_PER_UNIT, height * _INCHES_PER_UNIT), dpi=_DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(-0.45 * pitch, width - 0.45 * pitch)
    axes.set_ylim(-reach, reach + 1.0)
    axes.axis("off")
    for node, edges in enumerate(cell.nodes, start=1):
        known = {(edge.source, edge.operation) for edge in before.nodes[node - 1]}
        for edge in edges:
            _draw_edge(axes, node, edge, plan, (edge.source, edge.operation) not in known)
    for state in range(cell.num_nodes + 1):
        face, ink = ("#333333", "white") if state == 0 else ("white", INK)
        axes.add_patch(Circle((state * pitch, 0), _RADIUS, facecolor=face, edgecolor=INK, linewidth=1.3, zorder=6))
        axes.text(state * pitch, 0, str(state), size=11, weight="bold", color=ink, ha="center",
                  va="center_baseline", zorder=7)  # fmt: skip
    axes.text(-0.4 * pitch, reach + 0.85, words, size=12, weight="bold", color=INK, va="top", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return Image.open(buffer).convert("RGB")


def _draw_edge(axes: Axes, node: int, edge: Edge, plan: _Plan, is_new: bool) -> None:
    color, dashes = style_of(edge.operation)
    place = plan.places[edge.operation]
    top, side = _top(node, edge, place), 1 if place % 2 == 0 else -1
    left, right = edge.source * plan.pitch, node * plan.pitch
    start, end = (left + 0.12, side * (_RADIUS - 0.03)), (right - 0.12, side * (_RADIUS + 0.03))
    # The middle of this curve is at three quarters of the height of its two control points.
    height = (top - start[1] / 4) / 0.75
    bend = 0.12 * (right - left)
    course = Course(
        [start, (left + bend, height), (right - bend, height), end],
        [Course.MOVETO, Course.CURVE4, Course.CURVE4, Course.CURVE4],
    )
    draw_course(axes, course, color, dashes, line_width(edge.weight))
    place_of_word = (left + right) / 2, top
    draw_word(axes, _word(edge.operation), place_of_word, _word_width(edge.operation), color, is_filled=is_new)
