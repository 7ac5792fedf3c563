"""Real experiments for tests: ``nnictl create``, a tiny trial without torch, and always a ``nnictl stop``.

Every experiment has its own port, its own folder and its own HOME (where nnictl lists the experiments of a user), so
tests do not see each other, nor the experiments of whoever runs them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml

from idarts_nni.manager import request

ROOT = Path(__file__).resolve().parents[1]
TINY_SPACE = {"num_nodes": 3, "operations": ["zeroize", "tanh", "relu"], "edges_per_node": 1}
TRIAL_COMMAND = "python -m tests.live_trial"


class LiveExperiment:
    """An experiment that runs now.

    Parameters
    ----------
    home
        Folder that stands for the user's HOME.
    port
        Port of NNI's manager.
    environment
        Variables with which ``nnictl`` is called.
    experiment_id
        NNI's name of the experiment.
    """

    def __init__(self, home: Path, port: int, environment: Mapping[str, str], experiment_id: str) -> None:
        self.home = home
        self.port = port
        self.environment = dict(environment)
        self.id = experiment_id
        self.base = f"http://localhost:{port}/api/v1/nni"
        self.folder = home / "experiments" / experiment_id

    def status(self) -> str:
        """Return the experiment's status, such as RUNNING, DONE or ERROR."""
        return request("GET", f"{self.base}/check-status")["status"]

    def wait(self, *wanted: str, seconds: float = 60.0) -> str:
        """Wait for one of these statuses and return it."""
        return self.wait_until(lambda: next((s for s in [self.status()] if s in wanted), None), f"{wanted}", seconds)

    def wait_until(self, look: Any, what: str, seconds: float = 60.0) -> Any:
        """Wait until ``look()`` gives something true and return that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.2)
        raise AssertionError(f"No {what} after {seconds} s; status {self.status()}.\n{self.log()[-6000:]}")

    def trials(self) -> list[dict[str, Any]]:
        """Return the manager's records of all trials, with their parameters unpacked."""
        records = request("GET", f"{self.base}/trial-jobs")
        return [{**job, "parameters": json.loads(job["hyperParameters"][0])["parameters"]} for job in records]

    def plan(self) -> dict[str, Any]:
        """Return what the tuner keeps in plan.json."""
        return json.loads((self.folder / "checkpoint" / "plan.json").read_text())

    def log(self) -> str:
        """Return the dispatcher's log."""
        path = self.folder / "log" / "dispatcher.log"
        return path.read_text() if path.exists() else ""

    def received(self) -> dict[str, dict[str, Any]]:
        """Return what each trial process says it got, by trial id (the last process of each)."""
        files = self.folder.glob("environments/*/trials/*/received.json")
        return {file.parent.name: json.loads(file.read_text()) for file in files}

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Return the parameters of each trial as NNI's database has them."""
        with closing(sqlite3.connect(f"file:{self.folder}/db/nni.sqlite?mode=ro", uri=True)) as database:
            query = (
                "select trialJobId, data from TrialJobEvent where data like '%parameter_id%' order by timestamp desc"
            )
            return {trial: json.loads(data)["parameters"] for trial, data in database.execute(query) if trial}

    def stop(self) -> None:
        """Stop the experiment with ``nnictl stop``, and its manager by force if that does not help."""
        manager = self.manager_pid()
        _nnictl(["stop", self.id], self.environment, self.home)
        deadline = time.monotonic() + 20
        while manager and _is_alive(manager):
            if time.monotonic() > deadline:
                os.kill(manager, signal.SIGKILL)
                break
            time.sleep(0.1)

    def resume(self, *, same_port: bool = False, **variables: str) -> None:
        """Go on with a stopped experiment, on a port of its own or on the one it had."""
        self.environment.update(variables)
        for _ in range(4):
            self.port = self.port if same_port else free_port()
            self.base = f"http://localhost:{self.port}/api/v1/nni"
            known = len(self.log())
            output = _nnictl(["resume", self.id, "--port", str(self.port)], self.environment, self.home)
            self.wait_until(self._answers, f"answer after resume: {output}", 30)
            self.wait_until(lambda known=known: len(self.log()) > known or self.status() == "ERROR", "dispatcher", 60)
            if len(self.log()) > known:
                return
            self.stop()

    def manager_pid(self) -> int | None:
        """Return the process id of NNI's manager."""
        listed = json.loads((self.home / "nni-experiments" / ".experiment").read_text())
        return listed[self.id].get("pid") if self.id in listed else None

    def _answers(self) -> bool:
        try:
            return bool(self.status())
        except OSError:
            return False


def write_experiment(
    home: Path,
    class_args: Mapping[str, Any],
    concurrency: int = 1,
    space: Mapping[str, Any] | None = None,
    trial_command: str = TRIAL_COMMAND,
    **config: Any,
) -> Path:
    """Write an experiment file; see :func:`live_experiment`."""
    file = home / "experiment.yaml"
    service = {"className": "idarts_nni.tuner.SearchThenRetrain", "codeDirectory": str(ROOT)}
    content = {
        "experimentName": "live-test",
        "searchSpace": dict(TINY_SPACE if space is None else space),
        "trialCommand": trial_command,
        "trialCodeDirectory": str(ROOT),
        "trialConcurrency": concurrency,
        "experimentWorkingDirectory": str(home / "experiments"),
        "tuner": {**service, "classArgs": {"poll": 1.0, **class_args}},
        "trainingService": {"platform": "local"},
        **config,
    }
    file.write_text(yaml.safe_dump(content))
    return file


def user_environment(
    home: Path,
    behaviour: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> dict[str, str]:
    """Return the variables of a user whose HOME is ``home``; see :func:`live_experiment`."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("NNI_", "IDARTS_"))},
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FAKE_TRIAL": json.dumps(behaviour or {}),
        "PWD": str(cwd or home),
        **(environment or {}),
    }


@contextmanager
def live_experiment(
    home: Path,
    class_args: Mapping[str, Any],
    *,
    concurrency: int = 1,
    space: Mapping[str, Any] | None = None,
    behaviour: Mapping[str, Mapping[str, Any]] | None = None,
    trial_command: str = TRIAL_COMMAND,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    **config: Any,
) -> Iterator[LiveExperiment]:
    """Run an experiment with the fake trial of ``tests/live_trial.py``.

    Parameters
    ----------
    home
        An empty folder for everything the experiment writes.
    class_args
        Arguments of the tuner.
    concurrency
        ``trialConcurrency``.
    space
        Search space; a tiny one by default.
    behaviour
        What the fake trial of a task (by its key) does; see ``tests/live_trial.py``.
    trial_command, environment, cwd, **config
        Other things of the experiment file and of the call of ``nnictl``.
    """
    variables = user_environment(home, behaviour, environment, cwd)
    file = write_experiment(home, class_args, concurrency, space, trial_command, **config)
    experiment = _created(file, home, variables, cwd or home)
    try:
        yield experiment
    finally:
        experiment.stop()


def _created(file: Path, home: Path, environment: Mapping[str, str], cwd: Path, tries: int = 4) -> LiveExperiment:
    port = free_port()
    output = _nnictl(["create", "--config", str(file), "--port", str(port)], environment, cwd)
    found = re.search(r"Experiment ID: \S*?(\w{8})\b", re.sub(r"\x1b\[[0-9;]*m", "", output))
    assert found, f"nnictl create did not start an experiment:\n{output}"
    experiment = LiveExperiment(home, port, environment, found.group(1))
    # On a busy machine Python needs more than the ten seconds after which NNI gives its dispatcher up.
    experiment.wait_until(lambda: experiment.log() or experiment.status() == "ERROR", "dispatcher", 60)
    if experiment.log() or tries == 1:
        return experiment
    experiment.stop()
    return _created(file, home, environment, cwd, tries - 1)


def free_port() -> int:
    """Return a port that is free now."""
    with closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _nnictl(arguments: list[str], environment: Mapping[str, str], cwd: Path) -> str:
    # With more patience where something is started: on a busy machine the manager needs more than nnictl's 3 seconds.
    patient = [sys.executable, "-m", "idarts_nni.patient_nnictl"]
    bare = [str(Path(sys.executable).parent / "nnictl")]
    command = [*(patient if arguments[0] in ("create", "resume") else bare), *arguments]
    done = subprocess.run(command, env=dict(environment), cwd=cwd, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
