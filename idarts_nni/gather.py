"""Everything that is known of some experiments: from NNI's own storage, from folders, and from results files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .experiment import ExperimentError, Snapshot, find_experiment, known_experiments, unpack
from .outcome import collect_records, read_database
from .published import METRICS
from .report import Record, load_records, sort_records
from .results import read_results
from .returned import unpack_records

_NUMBERS = {
    "seed": int,
    "search_epoch": int,
    "search_seed": int,
    "validation": float,
    "test": float,
    "parameters": float,
    "epochs": float,
    "seconds": float,
}


@dataclass(frozen=True)
class Source:
    """One experiment, folder or results file."""

    name: str
    """Id of the experiment, or name of the folder or file."""
    records: list[Record]
    folder: Path | None = None
    """Where it lies; ``None`` for a results file."""
    title: str = ""
    """The experiment's own name."""
    state: str = ""
    """What NNI says of the experiment: RUNNING, DONE, STOPPED, ERROR."""
    problem: str = ""
    """Why the tuner gave up."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The experiment file as NNI took it."""


def gather(names: Sequence[str]) -> list[Source]:
    """Find what is known under the given names.

    Parameters
    ----------
    names
        Ids of experiments, running or ended; folders, of an experiment or of trials outside NNI; results files
        (``.csv``). A row of a results file that repeats a record of another source is left out.

    Raises
    ------
    ValueError
        If there is nothing under a name, or nothing in it yet; the message says which.
    """
    sources = [_source(name) for name in dict.fromkeys(names)]
    known = {record["experiment"] for source in sources if source.folder for record in source.records}
    for source in sources:
        if source.folder is None:
            source.records[:] = [record for record in source.records if record["experiment"] not in known]
    return sources


def all_records(sources: Sequence[Source]) -> list[Record]:
    """Return the records of all sources in the order of a table."""
    return sort_records(record for source in sources for record in source.records)


def _source(name: str) -> Source:
    path = Path(name)
    if path.suffix.lower() == ".csv" and path.is_file():
        source = Source(path.name, _read_rows(path))
    else:
        folder = path.resolve() if path.is_dir() else _experiment_folder(name)
        is_nni = (folder / "db" / "nni.sqlite").is_file()
        source = _read_experiment(folder) if is_nni else Source(folder.name, load_records(folder), folder)
    if not source.records:
        raise ValueError(f"{name}: there is no record of a trial in it yet.")
    return source


def _experiment_folder(name: str) -> Path:
    try:
        return find_experiment(name)
    except ExperimentError as error:
        raise ValueError(str(error)) from None


def _read_experiment(folder: Path) -> Source:
    config = read_config(folder)
    unpack_records(folder)  # of trials on other machines
    snapshot = read_database(folder)
    known = load_records(folder)
    task = str(known[0]["task"]) if known else ""
    records = collect_records(snapshot, experiment=folder.name, task=task)
    _add_curves(records, snapshot, read_curves(folder))
    listed = known_experiments().get(folder.name, {})
    title = str(config.get("experimentName") or listed.get("experimentName") or "")
    state = str(listed.get("status") or "")
    return Source(folder.name, records, folder, title, state, snapshot.problem, config)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the experiment file as NNI's storage has it; nothing where it has none."""
    query = "select params from ExperimentProfile order by revision desc limit 1"
    with closing(_open(folder)) as connection:
        row = connection.execute(query).fetchone()
    found = unpack(row[0]) if row else None
    return found if isinstance(found, dict) else {}


def read_curves(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what each trial has reported after its epochs so far, by trial id."""
    curves: dict[str, dict[int, dict[str, Any]]] = {}
    query = "select trialJobId, sequence, data from MetricData where type = 'PERIODICAL' order by timestamp"
    with closing(_open(folder)) as connection:
        for trial, sequence, data in connection.execute(query):
            metrics = unpack(data)
            metrics = metrics if isinstance(metrics, dict) else {"default": metrics}
            numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
            curves.setdefault(trial, {})[sequence] = {"epoch": sequence + 1, **numbers}
    return {trial: [reports[number] for number in sorted(reports)] for trial, reports in curves.items()}


def _open(folder: Path) -> sqlite3.Connection:
    address = f"{(folder / 'db' / 'nni.sqlite').resolve().as_uri()}?mode=ro"
    return sqlite3.connect(address, uri=True, timeout=60)


def _add_curves(records: Sequence[Record], snapshot: Snapshot, curves: Mapping[str, list[dict[str, Any]]]) -> None:
    """Give the tasks that have no record yet the curves that NNI has of their latest trials."""
    latest = {trial.key: trial.id for trial in snapshot.trials}
    for record in records:
        if "history" not in record and latest.get(record["key"]) in curves:
            record["history"] = curves[latest[record["key"]]]


def _read_rows(path: Path) -> list[Record]:
    records = []
    for number, row in enumerate(read_results(path).to_dict("records"), start=2):
        record: Record = {str(name): value or None for name, value in row.items()}
        for name, kind in _NUMBERS.items():
            try:
                record[name] = kind(record[name]) if record.get(name) is not None else None
            except ValueError:
                raise ValueError(f"{path}, line {number}: {name} is {record[name]!r}; expected a number.") from None
        record.update(stage="retrain", key=f"{path.name} line {number}", cell=None, source=path.name)
        record["metric"] = METRICS.get(str(record["task"]))
        if record["validation"] is None:
            record.update(state="failed", failure="it has no result; a results file does not tell the reason")
        records.append(record)
    return records


def _readable(value: Any) -> str:
    """Return a value of an experiment file as text: flat lists and mappings without brackets, others as JSON."""
    if isinstance(value, str):
        return value
    is_flat = isinstance(value, (list, dict)) and not any(
        isinstance(one, (list, dict)) for one in (value.values() if isinstance(value, dict) else value)
    )
    if not is_flat:
        return json.dumps(value)
    return (
        ", ".join(f"{name}: {one}" for name, one in value.items())
        if isinstance(value, dict)
        else ", ".join(map(str, value))
    )


def experiment_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of an experiment file that decides about results, flat: name -> value as text."""
    tuner = config.get("tuner")
    arguments = tuner.get("classArgs") if isinstance(tuner, dict) else None
    shown: dict[str, Any] = {"trialCommand": config.get("trialCommand")}
    shown["trialConcurrency"] = config.get("trialConcurrency")
    for name, value in (arguments if isinstance(arguments, dict) else {}).items():
        if name != "data":  # a folder of the machine
            shown[f"tuner.{name}"] = value
    return {name: _readable(value) for name, value in shown.items() if value is not None}
