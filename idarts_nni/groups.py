"""Runs that may be averaged: the same task, method and budget, and nothing that differs but seed and cell."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .parameters import METHODS, is_number
from .report import UNFINISHED, Record, stand_ins

_SAME = ("task", "method", "n", "combine", "scale")
_VARIANT = ("transform", "gate", "num_nodes", "operations", "profile")
"""What else of a search space decides about a cell's numbers."""


@dataclass(frozen=True)
class Group:
    """Retrained cells of one method under one budget."""

    task: str
    method: str
    n: str
    combine: str
    scale: str
    """Name of the scale that the experiment was shrunk to, ``full``, or nothing where it was not recorded."""
    search_epoch: int | None
    """Epoch of the search that the cells were taken at, where that is not its end."""
    budget: str
    """What the runs were trained with: the same text for the same data, settings and precision."""
    variant: str
    """What the cells were taken from: the same text for the same kind of search space."""
    runs: tuple[Record, ...]

    @property
    def failed(self) -> int:
        """Runs that have ended without a validation metric."""
        return len(self.runs) - len(self.values("validation")) - self.unfinished

    @property
    def unfinished(self) -> int:
        """Runs that may still get a validation metric."""
        return sum("failure" in record and record.get("state") in UNFINISHED for record in self.runs)

    @property
    def seeds(self) -> tuple[Any, ...]:
        """The seeds of the runs, each once."""
        return tuple(dict.fromkeys(record["seed"] for record in self.runs if record["seed"] is not None))

    def values(self, name: str) -> list[float]:
        """Return the numbers that the runs have under a name."""
        return [float(record[name]) for record in self.runs if is_number(record.get(name))]

    def mean(self, name: str) -> float | None:
        """Return the mean over the runs; ``None`` where no run has the number."""
        values = self.values(name)
        return statistics.fmean(values) if values else None

    def spread(self, name: str) -> float | None:
        """Return the sample standard deviation; ``None`` for fewer than two runs."""
        values = self.values(name)
        return statistics.stdev(values) if len(values) > 1 else None

    def words(self, name: str) -> str:
        """Return the different texts that the runs have under a name, joined."""
        return ", ".join(dict.fromkeys(str(record[name]) for record in self.runs if record.get(name) not in (None, "")))


def search_epoch(record: Record) -> int | None:
    """Return the epoch of the search that a retrained cell was taken at; ``None`` for its end."""
    epoch = record.get("search_epoch")
    return epoch if isinstance(epoch, int) and not isinstance(epoch, bool) and epoch > 0 else None


def group_runs(records: Iterable[Record]) -> list[Group]:
    """Sort the retrained cells among records into groups, in the order of a table.

    A run that left no record goes to the group of its method in its experiment. Where one run stands for the cells of
    several epochs of a search, it is in the group of each.
    """
    retrained = [one for record in records if record["stage"] == "retrain" for one in stand_ins(record)]
    found: dict[Any, list[Record]] = {}
    for record in retrained:
        near = record if budget_of(record) else _nearest(record, retrained)
        key = (*(str(record.get(name) or "") for name in _SAME), search_epoch(record), budget_of(near), _variant(near))
        found.setdefault(key, []).append(record)
    groups = [
        Group(task, method, n, combine, scale, epoch, budget, variant, tuple(runs))
        for (task, method, n, combine, scale, epoch, budget, variant), runs in found.items()
    ]
    return sorted(groups, key=_order)


def by_budget(records: Iterable[Record]) -> list[tuple[str, list[Record]]]:
    """Sort retrained cells by what they were trained with: the experiments or files that did so, and their records."""
    retrained = [record for record in records if record["stage"] == "retrain"]
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in retrained:
        near = record if budget_of(record) else _nearest(record, retrained)
        found.setdefault((str(record["task"]), str(record.get("scale") or ""), budget_of(near)), []).append(record)
    named = [[str(record.get("source") or origin(record)) for record in runs] for runs in found.values()]
    return [(", ".join(dict.fromkeys(names)), runs) for names, runs in zip(named, found.values(), strict=True)]


def origin(record: Record) -> str:
    """Return where a record comes from: its experiment, or the results file that has it."""
    experiment = str(record["experiment"] or "-")
    return str(record.get("source") or "-") if experiment == "-" else experiment


def summary_frame(groups: Sequence[Group]) -> pd.DataFrame:
    """Return the groups as a table of numbers, one row each."""
    rows = []
    for group in groups:
        row: dict[str, Any] = {name: getattr(group, name) for name in (*_SAME, "search_epoch")}
        row |= {
            "runs": len(group.runs),
            "failed": group.failed,
            "unfinished": group.unfinished,
            "seeds": " ".join(map(str, group.seeds)),
        }
        for name in ("validation", "test"):
            row |= {name: group.mean(name), f"{name}_std": group.spread(name)}
        row |= {name: group.mean(name) for name in ("parameters", "epochs", "seconds")}
        row |= {name: group.words(name) for name in ("device", "precision", "commit")}
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def budget_of(record: Record) -> str:
    """Return what a run was trained with; of a row of a results file only its experiment, or the file, is known."""
    settings = record.get("settings")
    if isinstance(settings, dict) and settings:
        same = {name: record.get(name) for name in ("corpus", "precision")}
        return json.dumps({**same, **settings}, sort_keys=True, default=str)
    return f"as in {origin(record)}" if record.get("epochs") is not None else ""


def _variant(record: Record) -> str:
    space = record.get("space")
    known = space if isinstance(space, dict) else {}
    return json.dumps({name: known[name] for name in _VARIANT if name in known})


def _nearest(gap: Record, retrained: Sequence[Record]) -> Record:
    """Return the run whose budget a run without a record most likely had; itself where there is none."""
    near = [record for record in retrained if origin(record) == origin(gap) and budget_of(record)]
    near.sort(key=lambda record: (record["method"] != gap["method"], record["n"] != gap["n"]))
    return near[0] if near else gap


def _order(group: Group) -> tuple[Any, ...]:
    place = METHODS.index(group.method) if group.method in METHODS else len(METHODS)
    epoch = group.search_epoch or 0
    return group.task, group.scale, group.budget, place, group.method, group.n, group.combine, epoch, group.variant
