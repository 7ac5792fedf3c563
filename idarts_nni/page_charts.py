"""The pictures of the page: which there are, what they show, and what stands below them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from .architecture import Architecture
from .charts import Line, convergence_chart, heat_map, line_chart, spread_chart
from .draw import render
from .experiment import unpack
from .graphs import graphs_of
from .groups import Group, budget_of, search_epoch
from .layout import MAX_EDGES
from .model_architecture import ModelArchitecture, read_architecture
from .parameters import is_number
from .report import Record, stand_ins

_STAGE_NAMES = {"search": "Searches", "select": "Short retrainings", "retrain": "Retrained cells"}
_HEALTH = {
    "entropy": "Entropy",
    "margin": "Margin",
    "changed edges": "Edges of the cell that changed since the epoch before",
    "identity share": "Probability of identity",
    "zeroize share": "Probability of zeroize",
    "eigenvalue": "Largest eigenvalue of the validation loss's Hessian by the alphas",
}
"""Figures of a search's history -> what they are."""
_SVG = "data:image/svg+xml;base64,"


@dataclass(frozen=True)
class Image:
    """An SVG that is part of the page."""

    data: str
    """As an address that holds it whole."""
    width: int
    """In pixels, at its natural size."""
    height: int

    @classmethod
    def from_svg(cls, svg: bytes) -> Image:
        """Wrap an SVG as matplotlib writes it, with its size in points."""
        size = re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', svg)
        width, height = (round(float(number)) for number in size.groups()) if size else (0, 0)
        return cls(_SVG + base64.b64encode(svg).decode("ascii"), width, height)

    @property
    def svg(self) -> bytes:
        """The SVG, for a file of its own."""
        return base64.b64decode(self.data.removeprefix(_SVG))


@dataclass(frozen=True)
class Chart:
    """A chart with its caption."""

    image: Image
    caption: str
    alt: str


def metric_name(records: Iterable[Record]) -> str:
    """Return the name of the records' metric."""
    return next((str(record["metric"]) for record in records if record.get("metric")), "metric")


def spread_charts(groups: Sequence[Group], metric: str) -> list[Chart]:
    """Show every run of every group, for validation and test; the groups have one budget."""
    charts = []
    for name in ("validation", "test"):
        rows = [(group.method, _label(group, groups), group.values(name)) for group in groups if group.values(name)]
        if sum(len(values) for *_, values in rows) > 1:
            caption = f"{name.capitalize()} {metric} of every run; the bar is the mean.{_at(groups[0].scale)}"
            charts.append(Chart(Image.from_svg(spread_chart(rows, x=f"{name} {metric}")), caption, caption))
    return charts


def convergence_charts(groups: Sequence[Group], records: Sequence[Record]) -> list[Chart]:
    """Show what cells are worth by the epoch of the search that they were taken at."""
    charts = []
    snapshots = [group for group in groups if group.search_epoch is not None and group.values("validation")]
    for (task, scale, n, _), same in groupby(
        sorted(snapshots, key=lambda group: (group.task, group.scale, group.n, group.budget)),
        key=lambda group: (group.task, group.scale, group.n, group.budget),
    ):
        curves: dict[str, list[tuple[int, list[float]]]] = {}
        snapshot = next(same)
        alike = [group for group in groups if (group.task, group.scale, group.n, group.budget) == (
            task, scale, n, snapshot.budget) and group.values("validation")]  # fmt: skip
        for group in alike:
            epoch = group.search_epoch or _search_length(group, records)
            points = curves.setdefault(group.method, [])
            # The end of a search may be one of the epochs at which cells were taken.
            if epoch and (group.search_epoch or epoch not in {other.search_epoch for other in alike
                          if other.method == group.method}):  # fmt: skip
                points.append((epoch, group.values("validation")))
        curves = {method: sorted(points) for method, points in curves.items() if points}
        metric = metric_name(record for record in records if record["task"] == task)
        runs = sum(len(values) for points in curves.values() for _, values in points)
        caption = f"{task}, n = {n}: validation {metric} of {runs} retrained cells.{_at(scale)}"
        charts.append(Chart(Image.from_svg(convergence_chart(curves, y=f"validation {metric}")), caption, caption))
    return charts


def _is_named(record: Record) -> bool:
    """Tell whether a record is of an experiment, and not of trials outside NNI."""
    return record["experiment"] not in (None, "", "-")


def _search_length(group: Group, records: Sequence[Record]) -> int | None:
    """Return after how many epochs the searches of a group's method have ended."""
    ids = {record["experiment"] for record in group.runs}
    lengths = [record["epochs"] for record in records if record["stage"] == "search" and record["experiment"] in ids
               and record["method"] == group.method and is_number(record["epochs"])]  # fmt: skip
    return int(max(lengths)) if lengths else None


def learning_charts(records: Sequence[Record]) -> list[Chart]:
    """Show the validation metric after every epoch, by task, stage, scale and budget."""
    charts = []
    for (task, scale, stage, _), own in _by_stage(records).items():
        lines = _told_apart([(record, line) for record in own if (line := _curve(record, "default"))])
        if lines:
            metric = metric_name(own)
            names = list(dict.fromkeys(str(record["experiment"]) for record in own if _is_named(record)))
            among = f" ({', '.join(names)})" if names else ""
            caption = f"{_STAGE_NAMES.get(stage, stage)} on {task}{among}: validation {metric} by epoch.{_at(scale)}"
            wide = metric == "perplexity"
            image = Image.from_svg(line_chart(lines, x="epoch", y=f"validation {metric}", may_be_logarithmic=wide))
            charts.append(Chart(image, caption, caption))
    return charts


def health_charts(records: Sequence[Record]) -> list[Chart]:
    """Show entropy, margin, changed edges and what else the searches have reported, one chart each."""
    charts = []
    for (task, scale, stage, _), own in _by_stage(records).items():
        for name, words in _HEALTH.items() if stage == "search" else ():
            lines = [line for record in own if (line := _curve(record, name))]
            # A space without identity, or without zeroize, has no share of it to show.
            if lines and (not name.endswith("share") or any(value for line in lines for _, value in line.points)):
                caption = f"{words}, by epoch of the search on {task}.{_at(scale)}"
                charts.append(Chart(Image.from_svg(line_chart(lines, x="epoch", y=name, height=2.5)), caption, caption))
    return charts


def search_maps(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Show the alphas of every search over its epochs, a map for each node; the first search of a method is open."""
    found, seen = [], set()
    for record in records:
        trajectory = record.get("trajectory")
        steps = [step for step in trajectory if _is_step(step)] if isinstance(trajectory, list) else []
        if not steps:
            continue
        found.append(
            {
                "name": f"{record['key']} ({record['experiment']})" if _is_named(record) else str(record["key"]),
                "text": "The darker, the larger; a frame marks the edges that the cell of that epoch keeps. Each node "
                "has its own scale, from the smallest to the largest alpha that it ever had.",
                "maps": [_node_map(steps, node, record) for node in range(1, len(steps[0]["probabilities"]) + 1)],
                "open": record["method"] not in seen,
            }
        )
        seen.add(record["method"])
    return found


def cell_pictures(records: Sequence[Record]) -> tuple[list[dict[str, Any]], str]:
    """Show every retrained cell, or, before there is one, every cell that a search has found; and the heading."""
    retrained = [record for record in records if record["stage"] == "retrain" and _cell(record)]
    heading = "Kept cells" if retrained else "Cells found so far"
    by_cell: dict[tuple[str, str], list[Record]] = {}
    for record in retrained or [record for record in records if _cell(record)]:
        cell = _cell(record)
        by_cell.setdefault((str(record["method"]), cell.fingerprint if cell else ""), []).append(record)
    return [_cell_figure(*key, runs, records) for key, runs in by_cell.items()], heading


def _cell_figure(method: str, fingerprint: str, runs: Sequence[Record], records: Sequence[Record]) -> dict[str, Any]:
    cell = _cell(runs[0])
    assert cell is not None
    facts = []
    if runs[0]["n"] not in (None, "-", ""):
        facts.append(f"n = {runs[0]['n']}, joined by {runs[0]['combine']}")
    taken = sorted({epoch for record in runs if (epoch := search_epoch(record))})
    if taken:
        facts.append(f"taken at epoch {', '.join(map(str, taken))} of a search")
    finders = [one["key"] for one in records if one["stage"] == "search" and one["method"] == method
               and (found := _cell(one)) is not None and found.fingerprint == fingerprint]  # fmt: skip
    if finders:
        facts.append(f"found by {', '.join(finders)}")
    values = [float(record["validation"]) for record in runs if is_number(record["validation"])]
    if values and runs[0]["stage"] == "retrain":
        runs_word = "run" if len(values) == 1 else "runs"
        facts.append(f"validation {metric_name(runs)} {sum(values) / len(values):,.2f} over {len(values)} {runs_word}")
    graphs = graphs_of(cell)
    drawable = bool(graphs) and all(sum(map(len, graph.nodes)) <= MAX_EDGES for graph in graphs)
    text = str(cell) if isinstance(cell, Architecture) else cell.to_json()
    return {
        "name": f"{method} {fingerprint}",
        "text": "; ".join(facts),
        "alt": text,
        "wide": Image.from_svg(render(cell, "svg")) if drawable else None,
        "tall": Image.from_svg(render(cell, "svg", upright=True)) if drawable else None,
    }


def _cell(record: Record) -> Architecture | ModelArchitecture | None:
    data = unpack(record.get("architecture"))
    return read_architecture(data, origin=f"record of {record['key']}") if isinstance(data, dict) and data else None


def _by_stage(records: Sequence[Record]) -> dict[tuple[str, str, str, str], list[Record]]:
    """Sort the records by task, scale, stage and budget; cells taken during a search are left out."""
    found: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        if any(search_epoch(one) is None for one in stand_ins(record)):
            place = str(record["task"] or "unknown task"), str(record.get("scale") or ""), str(record["stage"])
            # What has not ended has not said its settings; those of its experiment are nearest.
            alike = [one for one in records if one["experiment"] == record["experiment"]
                     and one["stage"] == record["stage"] and budget_of(one)]  # fmt: skip
            budget = budget_of(record) or (budget_of(alike[0]) if alike else str(record["experiment"]))
            found.setdefault((*place, budget), []).append(record)
    return found


def _curve(record: Record, name: str) -> Line | None:
    history = record.get("history")
    points = tuple(
        (float(entry.get("epoch", place)), float(entry[name]))
        for place, entry in enumerate(history if isinstance(history, list) else [], start=1)
        if isinstance(entry, Mapping) and is_number(entry.get(name)) and is_number(entry.get("epoch", place))
    )
    return Line(str(record["method"]), str(record["method"]), points) if points else None


def _told_apart(pairs: Sequence[tuple[Record, Line]]) -> list[Line]:
    """Name what differs where a method has cells of several n or ways of joining."""
    kinds: dict[str, dict[tuple[str, str], None]] = {}
    for record, line in pairs:
        kinds.setdefault(line.method, {})[str(record["n"]), str(record["combine"])] = None
    return [
        line if len(kinds[line.method]) == 1 else replace(line, label=_kind(record, kinds[line.method]))
        for record, line in pairs
    ]


def _kind(record: Record, kinds: Iterable[tuple[str, str]]) -> str:
    n = f"{record['method']} n={record['n']}"
    return n if len({combine for _, combine in kinds}) == 1 else f"{n} {record['combine']}"


def _is_step(step: Any) -> bool:
    rows = step.get("probabilities") if isinstance(step, dict) else None
    return isinstance(rows, list) and bool(rows) and is_number(step.get("epoch"))


def _node_map(steps: Sequence[Mapping[str, Any]], node: int, record: Record) -> Chart:
    columns = [[float(value) for value in step["probabilities"][node - 1]] for step in steps]
    names = _operations(record, len(columns[0]) // node)
    labels = [f"{source} {name.rpartition('.')[2]}" for source in range(node) for name in names]
    kept = [_kept_places(step.get("architecture"), node, names) for step in steps]
    values = [value for column in columns for value in column]
    scale = min(values), max(values)
    image = heat_map(columns, [int(step["epoch"]) for step in steps], labels, kept, scale=scale)
    caption = f"Node {node}: source and operation of each edge. White is {scale[0]:.3f}, black {scale[1]:.3f}."
    return Chart(image=Image.from_svg(image), caption=caption, alt=f"{record['key']}: {caption}")


def _operations(record: Record, count: int) -> list[str]:
    space = record.get("space")
    names = space.get("operations") if isinstance(space, Mapping) else None
    is_known = isinstance(names, list) and len(names) == count
    return [str(name) for name in names] if is_known and names else [f"operation {k}" for k in range(1, count + 1)]


def _kept_places(data: Any, node: int, names: Sequence[str]) -> list[int]:
    if not isinstance(data, Mapping) or "nodes" not in data:
        return []
    edges = Architecture.from_dict(data, origin="trajectory").nodes[node - 1]
    return [edge.source * len(names) + names.index(edge.operation) for edge in edges if edge.operation in names]


def _label(group: Group, groups: Sequence[Group]) -> str:
    alike = [other for other in groups if other.method == group.method]
    n = f" n={group.n}" if group.n not in ("", "-") else ""
    differs = len({other.combine for other in alike}) > 1
    return f"{group.method}{n}{f' {group.combine}' if differs else ''}"


def _at(scale: str) -> str:
    return f" Scale: {scale}." if scale else ""
