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
from .parameters import BASELINES, METHODS, STAGES, is_number
from .scales import FULL, scale_label
from .space import CellSpace

COLUMNS = (
    "experiment", "task", "method", "n", "combine", "seed", "validation", "test",
    "parameters", "epochs", "seconds", "device", "precision", "commit", "date", "search_epoch", "search_seed", "scale",
    "corpus",
)  # fmt: skip
"""Columns of ``trials/results/*.csv``, in this order."""

_LATER: dict[str, Any] = {"search_epoch": None, "search_seed": None, "scale": FULL, "corpus": ""}
"""What records of earlier versions lack."""
_SCORE = re.compile(r"test (.+) (?:precision|recall|f1)")
NOTHING = "–"
"""What a table shows where there is no number."""

_NUMBER, _WHOLE = "a finite number or null", "a whole number or null"
_KINDS = {
    **dict.fromkeys(("validation", "test", "parameters", "epochs", "seconds"), _NUMBER),
    **dict.fromkeys(("seed", "search_epoch", "search_seed"), _WHOLE),
}
UNFINISHED = {"todo": "not run", "busy": "unfinished"}
"""States of tasks that may still get a result -> what a table says of them."""
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
    for name, value in _LATER.items():
        record.setdefault(name, value)
    missing = [key for key in (*COLUMNS, "key", "stage") if key not in record]
    if missing:
        raise ValueError(f"{path}: the record lacks {', '.join(missing)}; it needs {', '.join(COLUMNS)}, key, stage.")
    for key in (*COLUMNS, "key", "stage"):
        value, kind = record[key], _KINDS.get(key, "a text")
        if not _is_of_kind(value, kind):
            found = f"found {str(value)[:80]!r} of type {type(value).__name__}"
            raise ValueError(f"{path}: {key}: {found}; expected {kind}.")
    return record


def search_frames(path: str | os.PathLike[str]) -> dict[str, list[tuple[int, Architecture]]]:
    """Return the cells of searches over their epochs: key -> epoch and cell.

    Parameters
    ----------
    path
        One record, or a folder with records (an experiment's, for example).

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If no search there has recorded the cells of its epochs.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such record or folder.")
    found: dict[str, list[tuple[int, Architecture]]] = {}
    for record in load_records(path) if path.is_dir() else [read_record(path)]:
        steps = record.get("trajectory") or []
        cells = [(step["epoch"], step.get("architecture")) for step in steps if isinstance(step, dict)]
        frames = [(int(epoch), Architecture.from_dict(cell, origin=str(path))) for epoch, cell in cells if cell]
        if frames:
            found[str(record["key"])] = frames
    if not found:
        raise ValueError(f"{path}: no search in it has recorded the cells of its epochs; name a search's record.")
    return found


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
    origins = json.loads(parameters.get("origins") or "[]")
    record.update(search_epoch=parameters.get("epoch") or None, search_seed=origins[0][0] if origins else None)
    settings = json.loads(parameters.get("settings") or "{}")
    record.update(scale=scale_label(parameters.get("scale") or FULL, settings), origins=origins)
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


def stand_ins(record: Record) -> list[Record]:
    """Return a record once for each search and search epoch whose cell it is.

    Equal cells are retrained once. Where a plan has snapshots, that one result counts for every search seed and epoch
    that gave the cell (``origins`` lists them); without, it is one result of the best search that found it.
    """
    origins = record.get("origins") or []
    if len(origins) < 2:
        return [record]
    return [{**record, "search_seed": seed, "search_epoch": epoch or None} for seed, epoch in origins]


def trial_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per result: the columns of :data:`COLUMNS` and in front stage, key and cell.

    A trial has one row, or one for each of its :func:`stand_ins`.
    """
    front = ("stage", "key", "cell")
    rows = [{key: one.get(key) for key in (*front, *COLUMNS)} for record in records for one in stand_ins(record)]
    return pd.DataFrame(rows, columns=[*front, *COLUMNS], dtype=object)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per task, method, n, way of joining, scale, search epoch and precision: mean and spread over runs.

    Parameters
    ----------
    table
        Rows with at least the columns of :data:`COLUMNS`; a run without a validation value counts as failed.

    Returns
    -------
    Columns ``task, method, n, combine, scale, search_epoch, precision, runs, failed, search_seeds, seeds``;
    ``validation``, ``validation_std``, ``test`` and ``test_std`` (sample standard deviation, empty for a single run);
    mean ``parameters``, ``epochs``, ``seconds``.
    """
    rows = []
    keys = ["task", "method", "n", "combine", "scale", "search_epoch"]
    table = table.fillna(dict.fromkeys([*keys, "precision", "search_seed"], ""))
    # A run that failed before it wrote a record does not tell its precision; it counts with the others of its kind.
    precisions = table["precision"].where(table["precision"] != "")
    table["precision"] = precisions.fillna(precisions.groupby([table[key] for key in keys]).transform("first")).fillna(
        ""
    )
    keys.append("precision")
    for key, group in table.groupby(keys, sort=False, dropna=False):
        numbers = group[["validation", "test", "parameters", "epochs", "seconds"]].apply(pd.to_numeric)
        row: dict[str, Any] = dict(zip(keys, key, strict=True))
        row["runs"] = len(group)
        row["failed"] = int(numbers["validation"].isna().sum())
        row["search_seeds"] = _listed(group["search_seed"])
        row["seeds"] = _listed(group["seed"])
        for name in ("validation", "test"):
            row[name], row[f"{name}_std"] = numbers[name].mean(), numbers[name].std(ddof=1)
        row.update({name: numbers[name].mean() for name in ("parameters", "epochs", "seconds")})
        rows.append(row)
    rows.sort(key=_summary_order)
    return pd.DataFrame(rows)


def _listed(values: Iterable[Any]) -> str:
    """Return seeds as a text, each once."""
    return ", ".join(sorted({str(value) for value in values if value != "" and not pd.isna(value)}, key=int))


def _summary_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        row["task"],
        *_method_order(row["method"]),
        row["n"],
        row["combine"],
        int(row["search_epoch"] or 0),
        row["precision"],
    )


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
    """Return one line per trial: method, n, seed, cell, validation, test, parameters, epochs, seconds.

    Where cells differ in how their edges join, come from several searches or epochs, or were trained at another than
    full scale, a column says so.
    """
    name = f" {metric}" if metric else ""
    joins = len({record["combine"] for record in records} - {"-", None}) > 1
    sources = any(record.get("origins") for record in records)
    scaled = any(record.get("scale") not in (None, "", FULL) for record in records)
    header = [
        "method",
        "n",
        *(["combine"] if joins else []),
        *(["scale"] if scaled else []),
        "seed",
        "cell",
        *(["found by"] if sources else []),
    ]
    header += [f"validation{name}", f"test{name}", "parameters", "epochs", "seconds"]
    rows = []
    for record in records:
        failure = record.get("failure")
        row = [record["method"], record["n"], *([record["combine"]] if joins else [])]
        row += [*([record.get("scale")] if scaled else []), record["seed"]]
        row += [_found_cell(record), *([_found_by(record)] if sources else [])]
        result = UNFINISHED.get(record["state"], "failed") if failure else _number(record["validation"], 2)
        numbers = [_number(record["test"], 2)]
        numbers += [_number(record[column], 0) for column in ("parameters", "epochs", "seconds")]
        rows.append([*map(_word, row), result, *numbers])
    return to_markdown(header, rows)


def _found_by(record: Record) -> str:
    """Return the searches that gave a cell, such as ``1, 2`` or, with their epochs, ``1 (epochs 2, 4)``."""
    epochs: dict[int, list[int]] = {}
    for seed, epoch in record.get("origins") or []:
        epochs.setdefault(seed, []).extend([epoch] if epoch else [])
    named = [
        f"{seed} (epoch{'s' * (len(at) > 1)} {', '.join(map(str, at))})" if at else f"{seed}"
        for seed, at in epochs.items()
    ]
    return ", ".join(named)


def summary_markdown(summary: pd.DataFrame) -> str:
    """Return one line per method: mean and sample standard deviation over runs, and how many of them failed.

    Task, scale, search epoch, precision and search seeds have a column where they say something.
    """
    shown = [
        ("task", "task", summary["task"].nunique() > 1 if len(summary) else False),
        ("method", "method", True),
        ("n", "n", True),
        ("combine", "combine", True),
        ("scale", "scale", any(summary["scale"] != FULL)),
        ("search epoch", "search_epoch", any(summary["search_epoch"] != "")),
        ("precision", "precision", len(set(summary["precision"]) - {""}) > 1 if len(summary) else False),
        ("runs", "runs", True),
        ("search seeds", "search_seeds", any(summary["search_seeds"] != "")),
        ("seeds", "seeds", True),
    ]
    front = [(title, name) for title, name, says_something in shown if says_something]
    rows = []
    for row in summary.to_dict("records"):
        runs = f"{row['runs']}" + (f" ({row['failed']} failed)" if row["failed"] else "")
        cells = [runs if name == "runs" else _word(row[name]) for _, name in front]
        cells += [_with_spread(row[name], row[f"{name}_std"]) for name in ("validation", "test")]
        rows.append(cells + [_number(row[name], 0) for name in ("parameters", "epochs", "seconds")])
    return to_markdown([*(title for title, _ in front), "validation", "test", "parameters", "epochs", "seconds"], rows)


def scores_markdown(records: Sequence[Record]) -> str:
    """Return one line per trial and type of what a test pass scored beside its metric; empty where none did.

    A record's ``scores`` name them ``test TYPE precision``, ``test TYPE recall`` and ``test TYPE f1``, in per cent.
    """
    rows = []
    for record in records:
        scores = record.get("scores") or {}
        kinds = dict.fromkeys(found[1] for name in scores if (found := _SCORE.fullmatch(str(name))))
        for kind in kinds:
            values = [_number(scores.get(f"test {kind} {name}"), 2) for name in ("precision", "recall", "f1")]
            front = [record["method"], record["n"], record["seed"], record.get("cell")]
            rows.append([*map(_word, front), kind, *values])
    return to_markdown(["method", "n", "seed", "cell", "type", "precision", "recall", "F1"], rows) if rows else ""


def _found_cell(record: Record) -> object:
    """Return the fingerprint of a record's cell; that of a search is the cell that it found."""
    data = record.get("architecture")
    if record["stage"] == "search" and isinstance(data, dict) and "nodes" in data:
        return Architecture.from_dict(data, origin=f"record of {record['key']}").fingerprint
    return record.get("cell")


def _is_of_kind(value: object, kind: str) -> bool:
    if kind == _NUMBER:
        return value is None or is_number(value)
    if kind == _WHOLE:
        return value is None or type(value) is int
    return isinstance(value, str)


def _method_order(method: object) -> tuple[int, str]:
    name = str(method)
    return (METHODS.index(name) if name in METHODS else len(METHODS), name)


def _word(value: object) -> str:
    return NOTHING if value is None or value == "" else str(value)


def _number(value: Any, digits: int) -> str:
    return NOTHING if value is None or value == "" or pd.isna(value) else f"{float(value):,.{digits}f}"


def _with_spread(mean: Any, spread: Any) -> str:
    return _number(mean, 2) if pd.isna(spread) else f"{_number(mean, 2)} ± {_number(spread, 2)}"
