"""Kill trials and the manager of real experiments at random moments, resume, and compare with a run in peace."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from idarts_nni.experiment import Experiment, take_snapshot
from idarts_nni.outcome import collect_records
from tests.live import LiveExperiment, live_experiment

from .jobs import COMMAND, SPACE, class_args
from .results import differences, result_of
from .tally import Tally

LONGEST = 900.0
"""Seconds after which an experiment counts as hanging."""
Results = dict[str, dict[str, Any]]


def undisturbed_results(task: str, folder: Path) -> Results:
    """Run an experiment in peace and return the result of each task by its key."""
    with _experiment(task, 2, folder) as experiment:
        assert experiment.wait("DONE", "ERROR", seconds=LONGEST) == "DONE", experiment.log()[-3000:]
        return _results(experiment)[0]


def disturb_experiment(
    task: str, concurrency: int, kills: int, generator: random.Random, folder: Path, expected: Results
) -> Tally:
    """Run an experiment with some kills of each kind, and compare its results with those expected."""
    with _experiment(task, concurrency, folder) as experiment:
        tally = Tally(tasks=len(expected))
        for number in range(2 * kills):
            if not _wait_a_while(experiment, generator.uniform(0.0, 8.0)):
                break
            disturb = (_kill_trial, _end_manager)[number % 2]
            disturb(experiment, tally, generator)
        end = experiment.wait("DONE", "ERROR", seconds=LONGEST)
        found, counts = _results(experiment)
        if end != "DONE":
            tally.notes.append(f"{task}, concurrency {concurrency}: {end}: {experiment.plan().get('problem')}")
        tally.mismatched = _mismatched(experiment, tally)
    tally.lost = len(set(expected) - set(found))
    tally.doubled = sum(counts.values()) - len(counts) + len(set(found) - set(expected))
    for key in set(expected) & set(found):
        tally.note_differences(f"{task} {key}", differences(expected[key], found[key]))
    return tally


def _experiment(task: str, concurrency: int, folder: Path) -> Any:
    folder.mkdir(parents=True)
    return live_experiment(
        folder,
        class_args(task),
        concurrency=concurrency,
        space=SPACE,
        trial_command=COMMAND.format(task=task),
        environment={"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
    )


def _results(experiment: LiveExperiment) -> tuple[Results, Counter[str]]:
    """Return the results as ``idarts report`` takes them, and how many trials succeeded for each task."""
    snapshot = take_snapshot(Experiment(experiment.id, experiment.folder, experiment.port))
    succeeded = Counter(trial.key for trial in snapshot.trials if trial.status == "SUCCEEDED")
    records = collect_records(snapshot, experiment=experiment.id, task="")
    tasks = experiment.folder / "tasks"
    return {one["key"]: result_of(one, tasks) for one in records if "failure" not in one}, succeeded


def _mismatched(experiment: LiveExperiment, tally: Tally) -> int:
    """Count the trials whose record is of another task than NNI's database says."""
    wrong = 0
    shown = experiment.recorded()
    for path in experiment.folder.glob("environments/*/trials/*/**/record.json"):
        record, trial = json.loads(path.read_text()), path.relative_to(experiment.folder).parts[3]
        asked = {name: shown[trial][name] for name in ("key", "stage", "method", "seed")}
        if any(record[name] != value for name, value in asked.items()):
            wrong += 1
            tally.notes.append(f"trial {trial} worked on {record['key']}, NNI shows {asked}")
    return wrong


def _wait_a_while(experiment: LiveExperiment, seconds: float) -> bool:
    """Wait; tell whether the experiment still runs."""
    time.sleep(seconds)
    return experiment.status() not in ("DONE", "ERROR")


def _kill_trial(experiment: LiveExperiment, tally: Tally, generator: random.Random) -> None:
    """Kill a trial; where none runs, wait for the next one, which a busy machine starts slowly."""
    sent = generator.choice([signal.SIGKILL, signal.SIGTERM])
    for _ in range(3):
        _wait(lambda: any(_trials(experiment)) or not _wait_a_while(experiment, 0.0), 120)
        time.sleep(generator.uniform(0.0, 2.0))
        processes = list(_trials(experiment))
        try:
            generator.choice(processes).send_signal(sent)
            tally.trial_kills += 1
            return
        except (IndexError, psutil.NoSuchProcess):
            continue


def _end_manager(experiment: LiveExperiment, tally: Tally, generator: random.Random) -> None:
    """End the manager by force or by ``nnictl stop``, and resume: at once, or when nothing of it is left."""
    is_killed, at_once = generator.random() < 0.5, generator.random() < 0.5
    if is_killed:
        os.kill(experiment.manager_pid() or 0, signal.SIGKILL)
        # What the manager wrote before it died names a process that is gone; nnictl notices that by itself.
        _wait(lambda: not psutil.pid_exists(experiment.manager_pid() or 0), 30)
    else:
        experiment.stop()
    tally.manager_kills += 1
    if not at_once and not _wait(lambda: not list(_trials(experiment)), 60):
        tally.notes.append("a trial outlived its manager for a minute")
    # A stopped manager may hold its port for a while, and then the new one does not start.
    experiment.resume(same_port=is_killed)
    tally.resumes += 1


def _wait(look: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if look():
            return True
        time.sleep(0.1)
    return False


def _trials(experiment: LiveExperiment) -> Iterator[psutil.Process]:
    """Yield the processes that work on trials of an experiment."""
    for process in psutil.process_iter():
        try:
            if "trials.run" in process.cmdline() and process.environ().get("NNI_EXP_ID") == experiment.id:
                yield process
        except psutil.Error:
            continue
