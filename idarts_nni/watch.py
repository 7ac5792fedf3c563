"""``idarts watch``: a running experiment on a terminal, task by task."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from .devices import lease_holders
from .experiment import (
    ENDED,
    Experiment,
    ExperimentError,
    Snapshot,
    Trial,
    find_experiment,
    follow,
    known_experiments,
    take_snapshot,
)
from .manager import request
from .messages import FAILED, say
from .outcome import read_database
from .parameters import STAGES, is_number

INTERRUPTED = 130
_QUIET_SECONDS = 60.0
_WORDS = {"done": "done", "busy": "running", "todo": "waiting", "failed": "failed"}


@dataclass(frozen=True)
class Row:
    """One task of the plan."""

    key: str
    stage: str
    state: str
    epoch: str
    metric: str
    gone: str
    left: float | None
    """Seconds that it is likely to need still."""
    device: str

    def cells(self) -> list[str]:
        """Return the row as text."""
        left = "" if self.left is None else _clock(self.left)
        return [self.stage, self.key, self.state, self.epoch, self.metric, self.gone, left, self.device]


_HEAD = ["stage", "task", "state", "epoch", "metric", "gone", "left", "device"]


def watch(options: argparse.Namespace) -> int:
    """Show an experiment until it ends; Ctrl-C leaves the experiment alone."""
    try:
        folder = find_experiment(options.experiment)
    except ExperimentError as error:
        raise ValueError(str(error)) from None
    port = known_experiments()[options.experiment].get("port")
    experiment = Experiment(options.experiment, folder, int(port) if port else 0)
    try:
        # The port of an experiment that has ended may be another's by now.
        if request("GET", f"{experiment.base}/experiment", timeout=5.0)["id"] != experiment.id:
            return _show_ended(experiment)
        snapshot = take_snapshot(experiment)
    except (OSError, ValueError, KeyError, TypeError):
        return _show_ended(experiment)
    if options.every <= 0:
        raise ValueError(f"--every {options.every:g}: expected a number of seconds above 0.")
    screen = Screen(sys.stdout)
    if options.once:
        screen.show(view(experiment, snapshot, screen.width))
        return 0
    try:
        for snapshot in follow(experiment, options.every):
            screen.show(view(experiment, snapshot, screen.width))
    except KeyboardInterrupt:
        say(f"\nThe experiment goes on. To see it again: idarts watch {experiment.id}")
        return INTERRUPTED
    failed = snapshot.status != "DONE" or "failed" in snapshot.task_states().values()
    say(f"The experiment has ended: {snapshot.status}. Its report: idarts report {experiment.id}")
    return FAILED if failed else 0


def _show_ended(experiment: Experiment) -> int:
    try:
        snapshot = read_database(experiment.folder)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    screen = Screen(sys.stdout)
    screen.show(view(experiment, snapshot, screen.width))
    say(f"The experiment does not run (any more). Its report: idarts report {experiment.id}")
    return FAILED if "failed" in snapshot.task_states().values() else 0


def view(experiment: Experiment, snapshot: Snapshot, width: int = 120) -> list[str]:
    """Return what is to be seen, line by line: a head, the tasks of the plan, and a summary of what is left.

    Where ``width`` columns are too few, the stage is left out, with which every task's key begins, and of a device
    all but its name.
    """
    rows = task_rows(snapshot, lease_holders())
    name = known_experiments().get(experiment.id, {}).get("experimentName") or ""
    counts = {word: sum(row.state == word for row in rows) for word in _WORDS.values()}
    head = f"{experiment.id} {name}  {snapshot.status}  " + ", ".join(
        f"{count} {word}" for word, count in counts.items() if count
    )
    left = time_left(snapshot, rows)
    if left and snapshot.status not in ENDED:
        head += f"; about {_clock(left)} left (for tasks known so far)"
    table = [_HEAD, *(row.cells() for row in rows)]
    if not any(row.device for row in rows):
        table = [cells[:-1] for cells in table]
    lines = _aligned(table)
    if max(map(len, lines)) >= width:
        lines = _aligned([[*cells[1:-1], cells[-1].partition(",")[0]] for cells in table])
    problems = [f"NNI says: {error}" for error in snapshot.errors]
    return [_plain(line).rstrip() for line in (head, "", *lines, *problems, snapshot.problem) if line is not None]


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    columns = list(zip(*[[_plain(text) for text in cells] for cells in table], strict=True))
    widths = [max(map(len, column)) for column in columns]
    return ["  ".join(text.ljust(room) for text, room in zip(cells, widths, strict=True)).rstrip()
            for cells in zip(*columns, strict=True)]  # fmt: skip


def task_rows(snapshot: Snapshot, devices: Mapping[str, str]) -> list[Row]:
    """Return the tasks in the order of the plan: search, select, retrain.

    Parameters
    ----------
    snapshot
        How the experiment stands.
    devices
        Trial id -> the GPU that it holds.
    """
    latest: dict[str, Trial] = {trial.key: trial for trial in snapshot.trials}
    rows = []
    for key, state in snapshot.task_states().items():
        trial = latest.get(key)
        stage = str(trial.parameters.get("stage", "trial")) if trial else key.partition("-")[0]
        rows.append(_row(key, stage, state, trial, snapshot, devices))
    order = {stage: place for place, stage in enumerate(STAGES)}
    return sorted(rows, key=lambda row: order.get(row.stage, len(order)))


def _row(key: str, stage: str, state: str, trial: Trial | None, snapshot: Snapshot, devices: Mapping[str, str]) -> Row:
    word = _WORDS.get(state, state)
    if trial is None:
        return Row(key, stage, word, "", "", "", None, "")
    if state == "busy" and trial.status != "RUNNING":
        word = "waiting"
    attempt = trial.parameters.get("attempt", 1)
    if attempt != 1 and state != "done":
        word += f" (attempt {attempt})"
    total = planned_epochs(stage, trial, snapshot.trials)
    epochs = trial.epochs or (total if state == "done" and total else 0)
    epoch = f"{epochs}/{total}" if total else str(epochs or "")
    metric = (trial.metric or {}).get("default") if trial.metric else trial.latest
    left = None
    if trial.status == "RUNNING" and trial.epochs and total:
        left = max(0.0, trial.seconds / trial.epochs * (total - trial.epochs))
    device = devices.get(trial.id, "") or _recorded_device(trial)
    return Row(
        key, stage, word, epoch, f"{metric:.6g}" if is_number(metric) else "", _clock(trial.seconds), left, device
    )


def planned_epochs(stage: str, trial: Trial, trials: Sequence[Trial]) -> int | None:
    """Return how many epochs a trial is to run: as its parameters say, or as others of its stage have run."""
    try:
        settings = json.loads(trial.parameters.get("settings") or "{}")
    except (TypeError, ValueError):
        settings = {}
    epochs = settings.get("epochs") if isinstance(settings, dict) else None
    if isinstance(epochs, int) and epochs > 0:
        return epochs
    ended = [one.metric.get("epochs") for one in trials if one.metric and one.parameters.get("stage") == stage]
    known = [int(count) for count in ended if is_number(count) and count and count > 0]
    return max(known) if known else None


def time_left(snapshot: Snapshot, rows: Sequence[Row]) -> float | None:
    """Return the seconds that the known tasks are likely to need; ``None`` while nothing tells.

    A task that waits needs as long as those of its stage that have ended; they share as many places as run now.
    """
    ended: dict[str, list[float]] = {}
    for trial in snapshot.trials:
        if trial.status == "SUCCEEDED" and trial.seconds:
            ended.setdefault(str(trial.parameters.get("stage")), []).append(trial.seconds)
    total, places = 0.0, sum(trial.status == "RUNNING" for trial in snapshot.trials)
    for row in rows:
        if row.state.startswith(("done", "failed")):
            continue
        if row.left is not None:
            total += row.left
        elif row.stage in ended:
            total += statistics.fmean(ended[row.stage])
        else:
            return None
    return total / max(1, places)


class Screen:
    """Shows a view: on a terminal in place of the last one, elsewhere as lines, at most once a minute or at an event.

    Parameters
    ----------
    stream
        Where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_live = stream.isatty()
        self._height = 0
        self._shown: list[str] = []
        self._told = -_QUIET_SECONDS

    @property
    def width(self) -> int:
        """Columns that there are; on no terminal, as many as one likes."""
        return shutil.get_terminal_size().columns if self._is_live else 1000

    def show(self, lines: Sequence[str]) -> None:
        """Show a view."""
        if self._is_live:
            size = shutil.get_terminal_size()
            room = max(3, size.lines - 1)
            cut = [line[: size.columns - 1] for line in lines]
            if len(cut) > room:
                cut = [*cut[: room - 1], f"... {len(cut) - room + 1} more lines; a higher window shows them"]
            back = f"\x1b[{self._height}A" if self._height else ""
            self._stream.write(f"{back}\r\x1b[J" + "\n".join(cut) + "\n")
            self._height = len(cut)
        else:
            # An event is a task that changed its state; the rest changes all the time.
            states = [re.sub(r"\s+\S*\d.*", "", line) for line in lines[2:]]
            if states == self._shown and time.monotonic() - self._told < _QUIET_SECONDS:
                return
            self._shown, self._told = states, time.monotonic()
            self._stream.write("\n".join([*lines, "", ""]))
        self._stream.flush()


def _recorded_device(trial: Trial) -> str:
    if not trial.has_ended:
        return ""
    try:
        record: Any = json.loads((Path(trial.folder) / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(record.get("device") or "") if isinstance(record, dict) else ""


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")


def _plain(text: str) -> str:
    """Leave out what could steer the terminal: names and reasons come from anywhere."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
