"""One HTML page about some experiments, complete in itself: it needs no network and runs no script.

What is on it is text that anyone may have written (names, reasons), so the template escapes all of it, pictures are
images that cannot run anything, and the page forbids itself every script and every address outside.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from .gather import Source, all_records, experiment_settings
from .groups import Group, group_runs, search_epoch
from .page_charts import (
    Chart,
    cell_pictures,
    convergence_charts,
    health_charts,
    learning_charts,
    metric_name,
    search_maps,
    spread_charts,
)
from .parameters import STAGES
from .published import CORPORA, LOWER_IS_BETTER, Published, published_rows
from .report import NOTHING, Record

_UNKNOWN = "unknown task"
_UNFINISHED = {"busy": "unfinished", "todo": "not run yet"}


@dataclass(frozen=True)
class Column:
    """Head of a table's column."""

    name: str
    number: bool = False
    main: bool = False
    """The column that names the row."""
    score: bool = False
    """Comes first on a narrow page."""
    wide: bool = False
    """Takes a line of its own on a narrow page."""


@dataclass(frozen=True)
class Body:
    """Rows of a table that belong together.

    In a row that is shorter than the table's head the last cell takes the columns that are left.
    """

    rows: Sequence[Sequence[str]]
    heading: str = ""
    published: bool = False


@dataclass(frozen=True)
class Table:
    """A table as the template shows it."""

    columns: Sequence[Column]
    bodies: Sequence[Body]
    stacked: bool = True
    """Whether a row becomes a card on a narrow page."""


@dataclass(frozen=True)
class Part:
    """The results of one task."""

    anchor: str
    heading: str
    text: str
    table: Table
    runs: Table
    charts: Sequence[Chart] = field(default_factory=tuple)


def render_page(sources: Sequence[Source], made: str) -> str:
    """Return the page.

    Parameters
    ----------
    sources
        What was found by :func:`idarts_nni.gather.gather`.
    made
        When the page is made, as text.
    """
    records = all_records(sources)
    groups = group_runs(records)
    results = _parts(sources, records, groups)
    cells, heading = cell_pictures(records)
    content: dict[str, Any] = {
        "title": _title(sources, records),
        "subtitle": f"Made {made} from what NNI and the trials have recorded.",
        "sources": [{"name": one.name, "title": one.title, "facts": _facts(one)} for one in sources],
        "results": results,
        "convergence": convergence_charts(groups, records),
        "curves": learning_charts(records),
        "health": health_charts(records),
        "searches": search_maps(records),
        "cells": cells,
        "cells_heading": heading,
        "failures": _failures(records),
        "unfinished": _unfinished(records),
        "problems": [f"{one.name}: {one.problem}" for one in sources if one.problem],
        "settings": _settings(sources, records),
    }
    names = {"convergence": "Convergence", "curves": "Learning curves", "searches": "Searches", "cells": "Cells"}
    shown = [{"anchor": key, "name": name} for key, name in names.items() if content[key]]
    content["sections"] = [
        *({"anchor": part.anchor, "name": part.heading} for part in results),
        *shown,
        {"anchor": "failures", "name": "Failures"},
        {"anchor": "settings", "name": "Settings"},
    ]
    template = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["breakable"] = _breakable
    return environment.from_string(template).render(content)


def _breakable(text: str) -> Markup:
    """Let a long name break between its words."""
    return Markup(re.sub(r"([_./])(?=\w)", r"\1<wbr>", str(escape(text))))


def _title(sources: Sequence[Source], records: Sequence[Record]) -> str:
    if len(sources) == 1:
        return sources[0].title or f"{', '.join(_tasks(records))}: {sources[0].name}"
    return f"{len(sources)} experiments on {', '.join(_tasks(records))}"


def _facts(source: Source) -> str:
    if not source.records:
        return "its rows repeat what stands in another source"
    good = sum("failure" not in record for record in source.records)
    dates = sorted({str(record["date"])[:10] for record in source.records if record.get("date")})
    is_settled = all(str(record.get("state")) not in _UNFINISHED for record in source.records)
    # NNI's manager is stopped when all is done, and only that is what NNI's list says afterwards.
    state = "ended" if source.state == "STOPPED" and is_settled else source.state.lower()
    facts = [state] if state else []
    facts.append(f"{good} of {len(source.records)} known tasks have a result")
    if dates:
        facts.append(dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}")
    return "; ".join(facts)


def _tasks(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(map(_task, records)))


def _task(record: Record) -> str:
    return str(record["task"] or _UNKNOWN)


def _parts(sources: Sequence[Source], records: Sequence[Record], groups: Sequence[Group]) -> list[Part]:
    """Return one part for each task and budget: what stands in one table may be compared."""
    final = [group for group in groups if group.search_epoch is None]
    parts: list[Part] = []
    for task in _tasks(records):
        own = [group for group in final if (group.task or _UNKNOWN) == task]
        budgets = list(dict.fromkeys((group.scale, group.budget) for group in own))
        for budget in budgets or [("", "")]:
            same = [group for group in own if (group.scale, group.budget) == budget]
            ids = {str(record["experiment"]) for group in same for record in group.runs}
            mine = [record for record in records if _task(record) == task and (record["experiment"] in ids or not ids)]
            titles = [one.title or one.name for one in sources if ids & {str(r["experiment"]) for r in one.records}]
            names = f" ({', '.join(dict.fromkeys(titles))})" if len(budgets) > 1 else ""
            parts.append(_part(task, names, mine, same, len(parts) + 1))
    return parts


def _part(task: str, names: str, records: Sequence[Record], groups: Sequence[Group], number: int) -> Part:
    metric = metric_name(records)
    corpora = list(dict.fromkeys(str(record["corpus"]) for record in records if record.get("corpus")))
    text = "Mean ± sample standard deviation over runs."
    if not groups:
        text = "Nothing has been retrained yet."
    elif metric in LOWER_IS_BETTER:
        text += f" {'Lower' if LOWER_IS_BETTER[metric] else 'Higher'} is better."
    if corpora:
        text += f" Data: {'; '.join(corpora)}."
    published = [_published_row(row) for row in published_rows(task, corpora)]
    bodies = [Body([_result_row(group, groups) for group in groups])]
    if published:
        text += " Below, what others have published at full size: marked, and not to be compared with a smaller budget."
        heading = f"Published by others on {CORPORA.get(task, task)} at full size, not measured here"
        bodies.append(Body(published, heading, published=True))
    return Part(
        anchor=f"results-{number}",
        heading=f"Results on {task}{names}",
        text=text,
        table=Table(_result_columns(metric), bodies),
        runs=_runs_table(records, metric),
        charts=spread_charts(groups, metric),
    )


def _result_columns(metric: str) -> list[Column]:
    return [
        Column("method", main=True), Column("n"), Column("join"), Column("runs", number=True), Column("seeds"),
        Column(f"validation {metric}", number=True, score=True), Column(f"test {metric}", number=True, score=True),
        Column("parameters", number=True), Column("epochs", number=True), Column("seconds", number=True),
        Column("device, precision"), Column("scale, notes", wide=True),
    ]  # fmt: skip


def _result_row(group: Group, groups: Sequence[Group]) -> list[str]:
    notes = [f"scale {group.scale}" if group.scale else "scale not recorded"]
    for number, what in ((group.failed, "without a result"), (group.unfinished, "not finished")):
        notes += [f"{number} of {len(group.runs)} runs {what}"] if number else []
    notes += _differences(group, [other for other in groups if other.method == group.method])
    return [
        group.method,
        _word(group.n),
        _word(group.combine),
        str(len(group.runs)),
        ", ".join(map(str, group.seeds)),
        _spread(group, "validation"),
        _spread(group, "test"),
        _number(group.mean("parameters")),
        _number(group.mean("epochs")),
        _number(group.mean("seconds")),
        ", ".join(filter(None, (group.words("device"), group.words("precision")))) or NOTHING,
        "; ".join(notes),
    ]


def _differences(group: Group, alike: Sequence[Group]) -> list[str]:
    """Tell in what the search space of a group is another than that of other groups of its method."""
    spaces = [json.loads(other.variant) for other in alike]
    own = json.loads(group.variant)
    differing = [name for name in own if any(space.get(name) != own[name] for space in spaces)]
    return [f"{name.replace('_', ' ')} {_listed(own[name])}" for name in differing]


def _published_row(row: Published) -> list[str]:
    """Return a row whose last cell takes the columns that are left."""
    scores = [NOTHING if value is None else f"{value:.2f}" for value in (row.validation, row.test)]
    return [row.method, row.n, *[""] * 3, *scores, f"published, {row.source}: {row.note}"]


def _runs_table(records: Sequence[Record], metric: str) -> Table:
    columns = [
        Column("task of the plan", main=True), Column("seed", number=True), Column("cell"),
        Column("epoch of search", number=True), Column(f"validation {metric}", number=True, score=True),
        Column(f"test {metric}", number=True, score=True), Column("epochs", number=True),
        Column("seconds", number=True), Column("device"), Column("commit"),
    ]  # fmt: skip
    several = len({record["experiment"] for record in records}) > 1
    rows = []
    for record in records:
        state = _UNFINISHED.get(str(record.get("state")), "failed") if "failure" in record else ""
        rows.append(
            [
                f"{record['experiment']} {record['key']}" if several else str(record["key"]),
                _word(record["seed"]),
                _word(record.get("cell")),
                _word(search_epoch(record)),
                state or _number(record["validation"], 2),
                _number(record["test"], 2),
                _number(record["epochs"]),
                _number(record["seconds"]),
                _word(record["device"]),
                _word(record["commit"]),
            ]
        )
    return Table(columns, [Body(rows)])


def _failures(records: Sequence[Record]) -> Table | None:
    rows = [
        [f"{record['experiment']} {record['key']}", str(record["failure"])]
        for record in records
        if "failure" in record and record.get("state") not in _UNFINISHED
    ]
    return Table([Column("task of the plan", main=True), Column("reason", wide=True)], [Body(rows)]) if rows else None


def _unfinished(records: Sequence[Record]) -> list[str]:
    """Return a line for each state of tasks that have not ended."""
    lines = []
    for state, words in _UNFINISHED.items():
        keys = [str(record["key"]) for record in records if "failure" in record and record.get("state") == state]
        if keys:
            lines.append(f"{words.capitalize()}: {', '.join(keys)}.")
    return lines


def _settings(sources: Sequence[Source], records: Sequence[Record]) -> list[dict[str, Any]]:
    blocks = []
    for task in _tasks(records):
        mine = [record for record in records if _task(record) == task]
        stages = [stage for stage in STAGES if any(one["stage"] == stage and one.get("settings") for one in mine)]
        values = {stage: _merged(one["settings"] for one in mine if one["stage"] == stage and one.get("settings"))
                  for stage in stages}  # fmt: skip
        names = sorted({name for stage in stages for name in values[stage]})
        if names:
            rows = [[name, *(values[stage].get(name, NOTHING) for stage in stages)] for name in names]
            columns = [Column("setting", main=True), *(Column(stage) for stage in stages)]
            blocks.append(
                {"heading": f"{task}: settings of the trials", "table": Table(columns, [Body(rows)], stacked=False)}
            )
    pair = [Column("what", main=True), Column("value")]
    for source in sources:
        shown = experiment_settings(source.config)
        space = _merged(record["space"] for record in source.records if isinstance(record.get("space"), dict))
        facts = {**{f"space: {name}": value for name, value in space.items()}, **shown}
        if facts:
            rows = [[name, value] for name, value in facts.items()]
            blocks.append(
                {
                    "heading": f"{source.name}: experiment and search space",
                    "table": Table(pair, [Body(rows)], stacked=False),
                }
            )
    facts = _merged(record["versions"] for record in records if isinstance(record.get("versions"), dict))
    for name in ("commit", "device", "precision", "date"):
        found = list(dict.fromkeys(str(record[name]) for record in records if record.get(name)))
        facts[name] = ", ".join(found) or "not recorded"
    rows = [[name, value] for name, value in facts.items()]
    blocks.append({"heading": "Versions, commit, device", "table": Table(pair, [Body(rows)], stacked=False)})
    return blocks


def _merged(mappings: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return every name with its value, or with all its values where they differ."""
    found: dict[str, dict[str, None]] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            found.setdefault(str(name), {})[_listed(value) or NOTHING] = None
    return {name: " / ".join(values) for name, values in found.items()}


def _listed(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _word(value: object) -> str:
    return NOTHING if value in (None, "", "-") else str(value)


def _number(value: Any, digits: int = 0) -> str:
    return NOTHING if value is None else f"{float(value):,.{digits}f}"


def _spread(group: Group, name: str) -> str:
    spread = group.spread(name)
    return _number(group.mean(name), 2) + ("" if spread is None else f" ± {_number(spread, 2)}")
