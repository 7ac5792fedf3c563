"""What came out of an experiment: records, failures with their reasons, and the files that tell a user."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architecture import Architecture
from .draw import draw_architecture
from .experiment import Snapshot, Trial, read_plan, trial_folder, unpack
from .files import write_atomically
from .graphs import graphs_of
from .groups import by_budget
from .manager import final_metric
from .model_architecture import ModelArchitecture, read_architecture
from .report import (
    RECORD_FILE,
    UNFINISHED,
    Record,
    failed_record,
    read_record,
    scores_markdown,
    sort_records,
    summary_markdown,
    summary_table,
    trial_table,
    trials_markdown,
)
from .space import ALL

_PLACES = (RECORD_FILE, f"output/{RECORD_FILE}")
"""Where NNI_OUTPUT_DIR lies within a trial's folder: the folder itself with the local training service of NNI 3.0."""


@dataclass(frozen=True)
class Outputs:
    """What :func:`write_outputs` made."""

    tables: str
    """The tables as Markdown, for the terminal."""
    files: tuple[Path, ...]
    """The table files."""
    pictures: tuple[Path, ...]
    """PNG and SVG of every kept cell."""


def read_database(folder: Path) -> Snapshot:
    """Read how an experiment stands from its folder alone, running or ended.

    Raises
    ------
    FileNotFoundError
        If the folder holds no database of NNI.
    """
    database = folder / "db" / "nni.sqlite"
    if not database.is_file():
        raise FileNotFoundError(f"{folder}: this is no folder of an NNI experiment; there is no {database}.")
    jobs: dict[str, dict[str, Any]] = {}
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
        events = "select timestamp, trialJobId, event, data, sequenceId from TrialJobEvent order by timestamp, rowid"
        for time, job_id, event, data, number in connection.execute(events):
            job = jobs.setdefault(job_id, {"number": number if number is not None else len(jobs), "status": "WAITING"})
            if isinstance(data, str) and "parameter_id" in data:
                job["sent"] = unpack(data)
            if event in ("WAITING", "RUNNING", "SUCCEEDED", "FAILED") or event.endswith("CANCELED"):
                job["status"] = event
            job.setdefault("begun", time)
            job["ended"] = time
        finals = "select trialJobId, data from MetricData where type = 'FINAL' order by timestamp"
        for job_id, data in connection.execute(finals):
            jobs[job_id]["metric"] = final_metric({"finalMetricData": [{"data": data}]})
    trials = tuple(_recorded_trial(folder, job_id, job) for job_id, job in jobs.items())
    return Snapshot("RECORDED", (), trials, **read_plan(folder))


def collect_records(snapshot: Snapshot, *, experiment: str, task: str) -> list[Record]:
    """Return one record for each task of an experiment, in the order of a table.

    A task that has no result is there as well, with its reason under ``failure``.
    """
    records: list[Record] = []
    gaps: list[Record] = []
    # A task that never ran is told by its key alone; what follows is the same for all.
    known = next((trial.parameters for trial in snapshot.trials if "space" in trial.parameters), {})
    common = {name: known[name] for name in ("space", "scale") if name in known}
    for key, state in snapshot.task_states().items():
        tried = [trial for trial in snapshot.trials if trial.key == key]
        good = [trial for trial in tried if trial.status == "SUCCEEDED" and trial.metric is not None]
        found = [trial.folder / place for trial in good[-1:] for place in _PLACES]
        found = [path for path in found if path.is_file()]
        if found:
            records.append(read_record(found[0]))
            continue
        parameters = tried[-1].parameters if tried else _parameters_of(key, common)
        reason = _reason(key, state, snapshot, tried)
        if good:
            state, reason = "failed", f"the trial succeeded, but left no {RECORD_FILE} in {good[-1].folder}"
        gaps.append(failed_record(parameters, state=state, reason=reason))
    for gap in gaps:
        gap.update(experiment=experiment, task=task)
        if records:
            gap.update({name: records[0][name] for name in ("experiment", "task")})
    return sort_records([*records, *gaps])


def describe_failures(snapshot: Snapshot, records: Sequence[Record], logs: Path) -> list[str]:
    """Return why an ended experiment is not a full success, one line for each reason; nothing if it is."""
    lines = [] if snapshot.status == "DONE" else [f"The experiment ended as {snapshot.status}."]
    if snapshot.problem:
        # The rest of the sentence repeats the tasks, which follow below.
        lines.append(snapshot.problem.partition(f". {next(iter(snapshot.tasks), None)}:")[0])
    else:
        lines += [f"NNI says: {error}" for error in snapshot.errors]
    lines += [f"Task {record['key']} has no result: {record['failure']}" for record in records if "failure" in record]
    if not records:
        lines.append("No trial was started.")
    if snapshot.status != "DONE" and not snapshot.problem:
        lines += [f"Log of the tuner: {line}" for line in _logged_errors(logs / "dispatcher.log")]
    return [*lines, f"Logs: {logs}"] if lines else []


def last_words(folder: Path) -> str:
    """Return the last line that a trial wrote to its error output, and where the rest stands."""
    for name in ("trial.stderr", "trial.log", "trial.stdout"):
        path = folder / name
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace")[-20_000:].strip().splitlines()
            if lines:
                return f"its last words: {lines[-1].strip()[:300]} [{path}]"
    return f"its folder: {folder}"


def experiment_markdown(records: Sequence[Record]) -> str:
    """Return the tables of an experiment: searches, retrained cells, and the summary by method."""
    parts = []
    tasks = list(dict.fromkeys(record["task"] for record in records))
    stages = (("search", "Searches"), ("select", "Short retrainings"), ("retrain", "Results"))
    for (stage, heading), task in itertools.product(stages, tasks):
        rows = [record for record in records if record["stage"] == stage and record["task"] == task]
        if rows:
            metric = next((str(record["metric"]) for record in rows if record.get("metric")), "")
            on = f" on {task}" if len(tasks) > 1 else ""
            parts.append(f"{heading}{on}\n\n{trials_markdown(rows, metric)}")
    retrained = [record for record in records if record["stage"] == "retrain"]
    settled = [record for record in retrained if "failure" not in record or record["state"] not in UNFINISHED]
    budgets = by_budget(settled)
    for names, runs in budgets if len(settled) > len({record["method"] for record in settled}) else ():
        among = f", {names}" if len(budgets) > 1 else ""
        table = summary_markdown(summary_table(trial_table(runs)))
        parts.append(f"By method{among} (mean ± sample standard deviation)\n\n{table}")
    if scores := scores_markdown(retrained):
        parts.append(f"Test scores by type (per cent)\n\n{scores}")
    return "\n".join(parts)


def write_outputs(folder: Path, records: Sequence[Record]) -> Outputs:
    """Write tables and pictures of an experiment into a folder of its own, ``idarts`` for an experiment of NNI.

    Returns
    -------
    The tables and the paths of ``records.csv``, ``table.md`` and the pictures, a PNG and an SVG for each kept cell;
    beside them lies the cell itself as YAML.
    """
    tables = experiment_markdown(records)
    csv, markdown = folder / "records.csv", folder / "table.md"
    write_atomically(csv, trial_table(records).to_csv(index=False, lineterminator="\n"))
    write_atomically(markdown, tables)
    pictures: list[Path] = []
    for name, (title, cell) in _kept_cells(records).items():
        cell.to_yaml(folder / "cells" / f"{name}.yaml", name=title)
        pictures += [draw_architecture(cell, folder / "cells" / f"{name}{kind}", title) for kind in (".png", ".svg")]
    return Outputs(tables, (csv, markdown), tuple(pictures))


def _kept_cells(records: Sequence[Record]) -> dict[str, tuple[str, Architecture | ModelArchitecture]]:
    """Return the retrained cells that a picture can show: file name -> title and cell."""
    kept: dict[str, tuple[str, Architecture | ModelArchitecture]] = {}
    for record in records:
        data = unpack(record.get("architecture")) if record["stage"] == "retrain" else None
        if isinstance(data, dict):
            cell = read_architecture(data, origin=f"record of {record['key']}")
            if not graphs_of(cell):
                continue
            kept[f"{record['method']}-{cell.fingerprint}"] = (f"{record['method']} cell {cell.fingerprint}", cell)
    return kept


def _reason(key: str, state: str, snapshot: Snapshot, tried: Sequence[Trial]) -> str:
    reason = str(snapshot.tasks.get(key, {}).get("reason") or f"it is {state}")
    if tried:
        # The tuner points to the error output; here stands what is in it, unless the tuner has repeated it.
        reason = reason.partition("; see trial.stderr")[0]
        words, _, place = last_words(tried[-1].folder).rpartition(" [")
        said = words.removeprefix("its last words: ").removeprefix("error: ")
        return f"{reason} [{place}" if said and said in reason else f"{reason}; {last_words(tried[-1].folder)}"
    return reason


def _parameters_of(key: str, common: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a table needs of a task that never ran off its key, such as retrain-METHOD-CELL-n2-mean-rSEED."""
    stage, method, *rest = f"{key}--".split("-")
    seed, derivation = re.search(r"-[rs](\d+)$", key), re.search(r"-n(\d+|all)-(\w+)-r\d+$", key)
    space = json.loads(common.get("space") or "{}")
    if derivation and space:
        n = derivation[1]
        space.update(edges_per_node=n if n == ALL else int(n), combine=derivation[2])
    return {
        **common,
        "key": key,
        "space": json.dumps(space),
        "stage": stage,
        "method": method,
        "cell": rest[0] if stage != "search" and len(rest) > 3 else "-",
        "seed": int(seed[1]) if seed else None,
    }


def _logged_errors(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace")[-50_000:].splitlines()
    return [line.strip()[:300] for line in lines if re.search(r"\bERROR\b|^\w*(Error|Exception)\b", line)][-3:]


def _recorded_trial(folder: Path, job_id: str, job: dict[str, Any]) -> Trial:
    sent = job.get("sent")
    parameters = sent.get("parameters") if isinstance(sent, dict) else None
    return Trial(
        id=job_id,
        number=int(job["number"]),
        parameters=parameters if isinstance(parameters, dict) else {},
        status=job["status"],
        metric=job.get("metric"),
        epochs=0,
        latest=None,
        seconds=max(0.0, (job["ended"] - job["begun"]) / 1000),
        folder=trial_folder(folder, job_id),
    )
