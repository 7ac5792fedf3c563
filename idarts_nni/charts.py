"""Charts of an experiment as SVG: learning curves, alphas over time, the spread of results, convergence.

Methods differ in colour, dashes and marker, so that a chart can be read in greyscale and by any eye.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from .draw import save_figure
from .sketch import Dashes

_WIDTH = 4.7
"""Inches; at 72 points an inch a chart fits a phone at its natural size."""
_METHODS: dict[str, tuple[str, Dashes, str]] = {
    "idarts": ("#0072b2", "solid", "o"),
    "darts": ("#d55e00", (0.0, (5.0, 2.0)), "s"),
    "random": ("#009e73", (0.0, (1.2, 1.4)), "^"),
    "lstm": ("#555555", (0.0, (6.0, 1.6, 1.2, 1.6)), "D"),
    "cnn": ("#555555", (0.0, (6.0, 1.6, 1.2, 1.6)), "D"),
}
_OTHERS = ("#6a3d9a", "#8c510a", "#b2182b")
_VARIANTS: tuple[tuple[str, Dashes, str], ...] = (
    ("#cc79a7", (0.0, (5.0, 2.0)), "s"),
    ("#8c510a", (0.0, (1.2, 1.4)), "^"),
    ("#6a3d9a", (0.0, (6.0, 1.6, 1.2, 1.6)), "D"),
)
"""Further kinds of one method."""
_LEGEND_KEY, _LEGEND_LETTER = 54.0, 5.6
"""Points that a legend's line with its gaps, and a letter, take at most."""
_MARKED = 30
"""With more points than this, markers would hide the line."""
_INK, _PALE = "#333333", "#dddddd"


@dataclass(frozen=True)
class Line:
    """One curve."""

    method: str
    label: str
    """Name of its kind in the legend: the method, and what else tells kinds of one method apart."""
    points: tuple[tuple[float, float], ...]


def method_style(method: str) -> tuple[str, Dashes, str]:
    """Return colour, dashes and marker of a method."""
    if method in _METHODS:
        return _METHODS[method]
    return _OTHERS[hashlib.sha256(method.encode()).digest()[0] % len(_OTHERS)], (0.0, (2.0, 1.0)), "v"


def line_chart(
    lines: Sequence[Line], *, x: str, y: str, height: float = 3.0, may_be_logarithmic: bool = False
) -> bytes:
    """Draw curves; those with one label look the same, the first label of a method like the method.

    With ``may_be_logarithmic`` the scale is so where the largest value is more than five times the smallest.
    """
    figure, axes = _axes(x, y, height)
    styles = _styles(lines)
    for line in lines:
        color, dashes, marker = styles[line.label]
        marker = marker if len(line.points) <= _MARKED else ""
        xs, ys = zip(*line.points, strict=True)
        axes.plot(xs, ys, color=color, linestyle=dashes, linewidth=1.5, alpha=0.9, marker=marker, markersize=4)
    values = [value for line in lines for _, value in line.points]
    _scale(axes, values if may_be_logarithmic else ())
    if axes.get_yscale() == "linear" and all(value == round(value) for value in values):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _legend(figure, styles)
    return save_figure(figure, "svg")


def _styles(lines: Sequence[Line]) -> dict[str, tuple[str, Dashes, str]]:
    styles: dict[str, tuple[str, Dashes, str]] = {}
    seen: dict[str, int] = {}
    for line in lines:
        if line.label not in styles:
            place = seen[line.method] = seen.get(line.method, -1) + 1
            styles[line.label] = method_style(line.method) if place == 0 else _VARIANTS[(place - 1) % len(_VARIANTS)]
    return styles


def spread_chart(rows: Sequence[tuple[str, str, Sequence[float]]], *, x: str) -> bytes:
    """Draw every run as a mark and their mean as a bar, one row for each method.

    Parameters
    ----------
    rows
        Method, label and values.
    x
        Name of the metric.
    """
    figure, axes = _axes(x, "", 0.75 + 0.42 * len(rows))
    for place, (method, _, values) in enumerate(rows):
        color, _, marker = method_style(method)
        axes.plot(values, [place] * len(values), marker, color=color, markersize=7, alpha=0.75, markeredgewidth=0)
        axes.plot([sum(values) / len(values)] * 2, [place - 0.28, place + 0.28], color=_INK, linewidth=2)
    axes.set_yticks(range(len(rows)), [_plain(label) for _, label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.grid(axis="y", visible=False)
    return save_figure(figure, "svg")


def convergence_chart(groups: Mapping[str, Sequence[tuple[int, Sequence[float]]]], *, y: str) -> bytes:
    """Draw what the cells of a search are worth by the epoch they were taken at (Figure 2b of the paper).

    Parameters
    ----------
    groups
        Method -> epochs of the search, each with the metric of every retrained run.
    y
        Name of the metric.
    """
    figure, axes = _axes("epoch of the search", y, 3.2)
    for place, (method, points) in enumerate(groups.items()):
        color, dashes, marker = method_style(method)
        epochs = [epoch for epoch, _ in points]
        means = [sum(values) / len(values) for _, values in points]
        axes.plot(epochs, means, color=color, linestyle=dashes, marker=marker, markersize=6, linewidth=1.8)
        for epoch, values in points:
            # Runs stand a little beside their epoch, each method to its own side.
            shift = 0.012 * max(epochs) * (1 if place % 2 else -1)
            axes.plot([epoch + shift] * len(values), values, marker, color=color, markersize=3.5, alpha=0.5)
    _scale(axes, ())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _legend(figure, {method: method_style(method) for method in groups})
    return save_figure(figure, "svg")


def heat_map(
    columns: Sequence[Sequence[float]],
    epochs: Sequence[int],
    labels: Sequence[str],
    kept: Sequence[Sequence[int]],
    *,
    scale: tuple[float, float],
) -> bytes:
    """Draw the alphas of one node over the epochs of a search: the darker, the larger.

    Parameters
    ----------
    columns
        For each epoch the probabilities of all edges.
    epochs
        The numbers of these epochs.
    labels
        What each edge is called, in the same order.
    kept
        For each epoch the places of the edges that would have been kept then; they are framed.
    scale
        The probabilities that are white and black.
    """
    rows, count = len(labels), len(epochs)
    height = 0.19 * rows + 0.75
    figure = Figure(figsize=(_WIDTH, height), layout=None)
    axes = figure.add_axes((1.25 / _WIDTH, 0.5 / height, 1 - 1.4 / _WIDTH, 0.19 * rows / height))
    axes.imshow(
        np.asarray(columns, dtype=float).T,
        cmap="Greys",
        vmin=scale[0],
        vmax=scale[1],
        aspect="auto",
        interpolation="nearest",
    )
    for place, edges in enumerate(kept):
        for edge in edges:
            # White on both sides: in greyscale the frame alone would be lost on a cell of its own darkness.
            frame = Rectangle((place - 0.5, edge - 0.5), 1, 1, fill=False, edgecolor="#d55e00", linewidth=1.6, zorder=3)
            frame.set_path_effects([withStroke(linewidth=3.4, foreground="white")])
            axes.add_patch(frame)
    axes.set_yticks(range(rows), [_plain(label) for label in labels])
    ticks = sorted({round(value) for value in np.linspace(0, count - 1, min(count, 8))})
    axes.set_xticks(ticks, [str(epochs[tick]) for tick in ticks])
    axes.set_xlabel("epoch of the search", fontsize=9, color=_INK)
    axes.tick_params(length=0, labelsize=8.5, colors=_INK)
    for spine in axes.spines.values():
        spine.set_color(_PALE)
    return save_figure(figure, "svg")


def _axes(x: str, y: str, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(_plain(x), fontsize=9.5, color=_INK)
    axes.set_ylabel(_plain(y), fontsize=9.5, color=_INK)
    axes.tick_params(labelsize=9, colors=_INK, length=3)
    axes.grid(color=_PALE, linewidth=0.7)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color("#888888")
    return figure, axes


def _scale(axes: Axes, values: Sequence[float]) -> None:
    smallest, largest = min(values, default=0.0), max(values, default=0.0)
    if smallest > 0 and largest > 5 * smallest:
        axes.set_yscale("log")
        decades = math.log10(largest / smallest)
        steps = (1, 2, 5) if decades < 2.5 else (1,)
        low, high = math.floor(math.log10(smallest)) - 1, math.ceil(math.log10(largest)) + 1
        ticks = [step * 10.0**power for power in range(low, high) for step in steps]
        axes.set_yticks([tick for tick in ticks if smallest * 0.8 <= tick <= largest * 1.2])
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, styles: Mapping[str, tuple[str, Dashes, str]]) -> None:
    handles = []
    for label, (color, dashes, marker) in styles.items():
        handles.append(
            Line2D(
                [],
                [],
                color=color,
                linestyle=dashes,  # type: ignore[arg-type] # matplotlib takes any text here
                marker=marker,
                markersize=5,
                linewidth=1.5,
            )
        )
        handles[-1].set_label(_plain(label))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=_legend_columns(list(styles)), frameon=False, fontsize=9,
        handlelength=3.4, borderpad=0.1,
    )  # fmt: skip


def _legend_columns(labels: Sequence[str]) -> int:
    """Return how many columns of a legend fit side by side; matplotlib fills them one after the other."""
    for columns in range(min(4, len(labels)), 1, -1):
        longest = [max(map(len, column)) for column in np.array_split(np.array(labels, dtype=object), columns)]
        if sum(_LEGEND_KEY + _LEGEND_LETTER * length for length in longest) < 72 * _WIDTH:
            return columns
    return 1


def _plain(text: str) -> str:
    """Keep matplotlib from reading a name as a formula, or as one to leave out."""
    return text.replace("$", r"\$").lstrip("_")
