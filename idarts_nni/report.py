"""From the records of trials to tables: by trial and by method.

Every trial writes one ``record.json``. A task that ended without a number keeps its row, with the numbers left empty:
a table never looks better than the experiment was.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .architecture import Architecture
from .files import MAX_BYTES
from .parameters import BASELINES, METHODS, STAGES
from .space import CellSpace

COLUMNS = (
    "experiment", "task", "method", "n", "combine", "seed", "validation", "test",
    "parameters", "epochs", "seconds", "device", "precision", "commit", "date",
)  # fmt: skip
"""Columns of ``trials/results/*.csv``, in this order."""

NOTHING = "–"
"""What a table shows where there is no number."""

_STATES = {"todo": "not run", "busy": "unfinished"}
RECORD_FILE = "record.json"
_FOLDERS = ("", "*/", "environments/*/trials/*/", "environments/*/trials/*/output/")
Record = dict[str, Any]


def load_records(folder: str | os.PathLike[str]) -> list[Record]:
    """Read the records below a folder: an NNI experiment's, or one that trials outside NNI wrote to.

    Returns
    -------
    The records in the order of stage, method, seed and key.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a record cannot be read; the message names its file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder.")
    found = {path.resolve(): None for place in _FOLDERS for path in sorted(folder.glob(place + RECORD_FILE))}
    return sort_records([read_record(path) for path in found])


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read one record and check that it has what a table needs."""
    path = Path(path)
    if path.stat().st_size > 16 * MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes; a record has at most {16 * MAX_BYTES:,}.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a record in JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: a record is a mapping; found {type(record).__name__}.")
    missing = [key for key in (*COLUMNS, "key", "stage") if key not in record]
    if missing:
        raise ValueError(f"{path}: the record lacks {', '.join(missing)}; it needs {', '.join(COLUMNS)}, key, stage.")
    return record


def failed_record(parameters: Mapping[str, Any], *, state: str, reason: str) -> Record:
    """Stand in for the record of a task that left none, so that a table shows the gap and its reason.

    Parameters
    ----------
    parameters
        The trial's, as far as they are known.
    state
        ``failed``, or how far the task got: ``todo``, ``busy``.
    reason
        Stands under the key ``failure``.
    """
    n, combine = "-", "-"
    space = json.loads(parameters.get("space") or "{}")
    if parameters.get("method") not in BASELINES and "num_nodes" in space:
        checked = CellSpace.from_dict(space, origin="parameters of the failed trial")
        n, combine = str(checked.edges_per_node), checked.combine
    record: Record = {**dict.fromkeys(COLUMNS), "n": n, "combine": combine, "state": state, "failure": reason}
    record.update({key: parameters.get(key) for key in ("method", "seed", "key", "stage", "cell")})
    return record


def sort_records(records: Iterable[Record]) -> list[Record]:
    """Return the records as a table shows them: by stage, method, seed and key."""
    stages = {stage: order for order, stage in enumerate(STAGES)}
    return sorted(
        records,
        key=lambda record: (
            stages.get(record["stage"], len(stages)),
            *_method_order(record["method"]),
            str(record["n"]),
            record["seed"] if isinstance(record["seed"], int) else 0,
            str(record["key"]),
        ),
    )


def trial_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per trial: the columns of :data:`COLUMNS` and in front stage, key and cell."""
    front = ("stage", "key", "cell")
    rows = [{key: record.get(key) for key in (*front, *COLUMNS)} for record in records]
    return pd.DataFrame(rows, columns=[*front, *COLUMNS], dtype=object)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per task, method, n and way of joining: mean and spread over its runs.

    Parameters
    ----------
    table
        Rows with at least the columns of :data:`COLUMNS`; a run without a validation value counts as failed.

    Returns
    -------
    Columns ``task, method, n, combine, runs, failed, seeds``; ``validation``, ``validation_std``, ``test`` and
    ``test_std`` (sample standard deviation, empty for a single run); mean ``parameters``, ``epochs``, ``seconds``.
    """
    rows = []
    for key, group in table.fillna({"task": "", "n": "", "combine": ""}).groupby(
        ["task", "method", "n", "combine"], sort=False, dropna=False
    ):
        numbers = group[["validation", "test", "parameters", "epochs", "seconds"]].apply(pd.to_numeric)
        row: dict[str, Any] = dict(zip(("task", "method", "n", "combine"), key, strict=True))
        row["runs"] = len(group)
        row["failed"] = int(numbers["validation"].isna().sum())
        row["seeds"] = ", ".join(str(seed) for seed in dict.fromkeys(group["seed"]))
        for name in ("validation", "test"):
            row[name], row[f"{name}_std"] = numbers[name].mean(), numbers[name].std(ddof=1)
        row.update({name: numbers[name].mean() for name in ("parameters", "epochs", "seconds")})
        rows.append(row)
    rows.sort(key=lambda row: (row["task"], *_method_order(row["method"]), row["n"], row["combine"]))
    return pd.DataFrame(rows)


def to_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns also line up as plain text; numbers stand on the right."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    numeric = [
        len(cells) > 1 and all(re.match(r"[-–\d]", row[column]) for row in cells[1:]) for column in range(len(header))
    ]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("| " + " | ".join(padded) + " |")
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines) + "\n"


def trials_markdown(records: Sequence[Record], metric: str = "") -> str:
    """Return one line per trial: method, n, seed, cell, validation, test, parameters, epochs, seconds, device."""
    name = f" {metric}" if metric else ""
    header = ["method", "n", "seed", "cell", f"validation{name}", f"test{name}", "parameters", "epochs", "seconds"]
    rows = []
    for record in records:
        failure = record.get("failure")
        rows.append(
            [
                _word(record["method"]),
                _word(record["n"]),
                _word(record["seed"]),
                _word(_found_cell(record)),
                _STATES.get(record["state"], "failed") if failure else _number(record["validation"], 2),
                _number(record["test"], 2),
                _number(record["parameters"], 0),
                _number(record["epochs"], 0),
                _number(record["seconds"], 0),
            ]
        )
    return to_markdown(header, rows)


def summary_markdown(summary: pd.DataFrame) -> str:
    """Return one line per method: mean and sample standard deviation over runs, and how many of them failed."""
    header = ["method", "n", "combine", "runs", "seeds", "validation", "test", "parameters", "epochs", "seconds"]
    several_tasks = summary["task"].nunique() > 1 if len(summary) else False
    rows = []
    for row in summary.to_dict("records"):
        runs = f"{row['runs']}" + (f" ({row['failed']} failed)" if row["failed"] else "")
        cells = [_word(row["method"]), _word(row["n"]), _word(row["combine"]), runs, row["seeds"]]
        cells += [_with_spread(row[name], row[f"{name}_std"]) for name in ("validation", "test")]
        cells += [_number(row[name], 0) for name in ("parameters", "epochs", "seconds")]
        rows.append([_word(row["task"]), *cells] if several_tasks else cells)
    return to_markdown(["task", *header] if several_tasks else header, rows)


def _found_cell(record: Record) -> object:
    """Return the fingerprint of a record's cell; that of a search is the cell that it found."""
    data = record.get("architecture")
    if record["stage"] == "search" and isinstance(data, dict) and "nodes" in data:
        return Architecture.from_dict(data, origin=f"record of {record['key']}").fingerprint
    return record.get("cell")


def _method_order(method: object) -> tuple[int, str]:
    name = str(method)
    return (METHODS.index(name) if name in METHODS else len(METHODS), name)


def _word(value: object) -> str:
    return NOTHING if value is None or value == "" else str(value)


def _number(value: Any, digits: int) -> str:
    return NOTHING if value is None or value == "" or pd.isna(value) else f"{float(value):,.{digits}f}"


def _with_spread(mean: Any, spread: Any) -> str:
    return _number(mean, 2) if pd.isna(spread) else f"{_number(mean, 2)} ± {_number(spread, 2)}"
