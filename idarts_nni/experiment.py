"""An NNI experiment seen from outside: started by ``nnictl create``, followed over REST, stopped by ``nnictl stop``."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .loopback import node_options
from .manager import final_metric, request
from .preflight import DATA_VARIABLE, CheckedExperiment

ENDED = ("DONE", "ERROR", "STOPPED", "STOPPING", "GONE")
"""States of an experiment in which nothing more happens; ``GONE`` is ours: the manager does not answer any more."""

_FIRST_PORT, _PORTS = 8080, 100
_ID = re.compile(r"Experiment ID:\s*(?:\x1b\[[0-9;]*m)*(\w+)")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_TRIES = 3
_SLOW = "Timeout, retry"
"""What ``nnictl`` says while it waits for its manager; it waits a minute here, and then ends the manager."""
_CONNECTION_SECONDS = 60.0
_SILENCE = 15.0
"""Seconds without an answer after which the manager counts as gone."""


class ExperimentError(RuntimeError):
    """NNI could not start, or could not be found."""


class _Busy(ExperimentError):
    """NNI ended what it had started, because its manager took too long."""


@dataclass(frozen=True)
class Experiment:
    """An experiment of NNI on this machine."""

    id: str
    folder: Path
    """Its own folder, with trials, logs and database."""
    port: int

    @property
    def web_address(self) -> str:
        """Address of NNI's web page."""
        return f"http://localhost:{self.port}"

    @property
    def base(self) -> str:
        """Address of the REST interface."""
        return f"http://127.0.0.1:{self.port}/api/v1/nni"


@dataclass(frozen=True)
class Trial:
    """One trial as it stands."""

    id: str
    number: int
    parameters: Mapping[str, Any]
    status: str
    metric: Mapping[str, Any] | None
    """The final metric, where there is one."""
    epochs: int
    """Intermediate metrics reported so far."""
    latest: float | None
    """The last intermediate metric."""
    seconds: float
    folder: Path

    @property
    def key(self) -> str:
        """The task that it works on."""
        return str(self.parameters.get("key", f"trial {self.number}"))

    @property
    def has_ended(self) -> bool:
        """Whether it will not report any more."""
        return self.status not in ("WAITING", "RUNNING", "UNKNOWN", "ADD_RESUMED")


@dataclass(frozen=True)
class Snapshot:
    """An experiment at one moment."""

    status: str
    errors: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The tuner's plan: key -> state (todo, busy, done, failed), reason, attempts."""
    problem: str = ""
    """Why the tuner gave up, in its own words."""

    def task_states(self) -> dict[str, str]:
        """Return the state of every task that is planned or was tried; trials count for more than the plan."""
        states = {key: str(task.get("state", "todo")) for key, task in self.tasks.items()}
        for trial in self.trials:
            if trial.status == "SUCCEEDED" and trial.metric is not None:
                states[trial.key] = "done"
            elif states.get(trial.key) != "done":
                states[trial.key] = "busy" if not trial.has_ended else states.get(trial.key, "failed")
        return states


def free_port(first: int = _FIRST_PORT) -> int:
    """Return the first port from 8080 on that nothing listens on, on any interface.

    Raises
    ------
    ExperimentError
        If a hundred in a row are taken.
    """
    for port in range(first, first + _PORTS):
        if is_free(port):
            return port
    raise ExperimentError(f"No free port from {first} to {first + _PORTS - 1}; name one with --port.")


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def environment(checked: CheckedExperiment) -> dict[str, str]:
    """Return the variables under which ``nnictl`` is run.

    Our interpreter's folder leads PATH, because NNI runs ``python`` of the trial command from there. A relative
    ``IDARTS_DATA`` is made absolute, because trials run elsewhere. The manager is kept on the loopback interface,
    unless the experiment names the address (``nniManagerIp``) at which other machines shall reach it.
    """
    found = dict(os.environ)
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", os.defpath)])
    data = found.get(DATA_VARIABLE)
    if data and Path(data).expanduser().is_dir():
        found[DATA_VARIABLE] = str(Path(data).expanduser().absolute())
    for name in ("NO_PROXY", "no_proxy"):
        found[name] = ",".join(filter(None, [found.get(name), "localhost", "127.0.0.1"]))
    if checked.is_closed:
        found["NODE_OPTIONS"] = node_options(found.get("NODE_OPTIONS"))
    return found


def nnictl() -> str:
    """Return the ``nnictl`` that belongs to this interpreter."""
    beside = Path(sys.executable).parent / "nnictl"
    found = str(beside) if beside.is_file() else shutil.which("nnictl")
    if found is None:
        raise ExperimentError(f"There is no nnictl beside {sys.executable}. Install NNI there: pip install nni==3.0.")
    return found


def patient_nnictl() -> list[str]:
    """Return the call of ``nnictl`` that waits longer for NNI's manager than ``nnictl`` itself does."""
    nnictl()  # or say that it is not there
    return [sys.executable, "-m", f"{__package__}.patient_nnictl"]


def start(checked: CheckedExperiment, port: int) -> Experiment:
    """Start an experiment by ``nnictl create --config FILE --port PORT``, again if NNI lost its patience too soon.

    An interrupt that comes meanwhile waits until ``nnictl`` has ended, stops what it started, and then goes on.

    Raises
    ------
    ExperimentError
        If ``nnictl`` fails, with what it said; or if the machine is too busy for NNI's patience.
    """
    for _ in range(_TRIES):
        try:
            experiment = _create(checked, port)
        except _Busy:
            continue
        try:
            connected = _tuner_connects(experiment)
        except BaseException:
            stop(experiment.id)
            raise
        if connected:
            return experiment
        stop(experiment.id)
    raise ExperimentError(
        f"NNI's manager has a minute to start, and its tuner 10 seconds to connect: this machine was too busy for that "
        f"{_TRIES} times. Try again when it has less to do."
    )


def _tuner_connects(experiment: Experiment) -> bool:
    """Wait until the tuner has written its first line of log, or NNI has given it up before that."""
    log = experiment.folder / "log" / "dispatcher.log"
    deadline = time.monotonic() + _CONNECTION_SECONDS
    while time.monotonic() < deadline:
        if log.is_file() and log.stat().st_size:
            return True
        try:
            if request("GET", f"{experiment.base}/check-status")["status"] in ENDED:
                return log.is_file() and log.stat().st_size > 0
        except (OSError, ValueError):
            pass  # it starts, or it is gone; the deadline tells
        time.sleep(0.2)
    return True  # neither: whoever follows the experiment will see why


def _create(checked: CheckedExperiment, port: int) -> Experiment:
    arguments = ["create", "--config", str(checked.path), "--port", str(port)]
    process = subprocess.Popen(
        [*patient_nnictl(), *arguments],
        env=environment(checked),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A session of its own: Ctrl-C in the terminal must not end it halfway, with a manager that nobody knows.
        start_new_session=True,
    )
    try:
        said, _ = process.communicate()
    except BaseException:
        said, _ = process.communicate()
        if found := _ID.search(said):
            stop(found[1])
        raise
    said = _COLORS.sub("", said).strip()
    found = _ID.search(said)
    if process.returncode != 0 or found is None:
        kind = _Busy if _SLOW in said else ExperimentError
        raise kind(f"nnictl {' '.join(arguments)} failed (exit code {process.returncode}). It said:\n{said}")
    return Experiment(found[1], checked.working_directory / found[1], port)


def stop(experiment_id: str) -> bool:
    """Stop an experiment, its trials included, by ``nnictl stop ID``; tell whether ``nnictl`` did so."""
    try:
        command = [nnictl(), "stop", experiment_id]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def known_experiments() -> dict[str, dict[str, Any]]:
    """Return NNI's own list of the experiments on this machine: id -> name, status, port, folder, ..."""
    manifest = Path.home() / "nni-experiments" / ".experiment"
    known = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    return known if isinstance(known, dict) else {}


def find_experiment(experiment_id: str) -> Path:
    """Return the folder of an experiment, running or ended, from NNI's own list.

    Raises
    ------
    ExperimentError
        If NNI knows no such experiment, or its folder is gone.
    """
    known = known_experiments()
    if experiment_id not in known:
        raise ExperimentError(
            f"NNI knows no experiment {experiment_id!r}. The latest: {', '.join(list(known)[-5:]) or 'none'} "
            f"(all: nnictl experiment list --all). A folder can be named as well."
        )
    folder = Path(known[experiment_id]["logDir"]) / experiment_id
    if not folder.is_dir():
        raise ExperimentError(f"The folder of experiment {experiment_id}, {folder}, is gone.")
    return folder


def follow(experiment: Experiment, pause: float = 1.0) -> Iterator[Snapshot]:
    """Yield snapshots until the experiment has ended; the last one says how."""
    last, heard = Snapshot("INITIALIZED"), time.monotonic()
    while last.status not in ENDED:
        try:
            last, heard = take_snapshot(experiment), time.monotonic()
        except (OSError, ValueError, KeyError) as error:
            if time.monotonic() - heard > _SILENCE:
                said = f"NNI's manager does not answer any more: {error}"
                last = replace(last, status="GONE", errors=(said,))
        yield last
        if last.status not in ENDED:
            time.sleep(pause)


def take_snapshot(experiment: Experiment) -> Snapshot:
    """Ask NNI's manager how an experiment stands, and read the tuner's plan.

    Raises
    ------
    OSError, ValueError
        If the manager does not answer, or not in JSON.
    """
    status = request("GET", f"{experiment.base}/check-status")
    reported: dict[str, Mapping[str, Any]] = {}
    for metric in request("GET", f"{experiment.base}/metric-data-latest") or []:
        if metric["type"] == "PERIODICAL":
            reported[metric["trialJobId"]] = metric
    jobs = request("GET", f"{experiment.base}/trial-jobs") or []
    trials = [_read_trial(experiment, job, reported.get(job["trialJobId"])) for job in jobs]
    return Snapshot(
        status=str(status["status"]),
        errors=tuple(str(error) for error in status.get("errors") or ()),
        trials=tuple(sorted(trials, key=lambda trial: trial.number)),
        **read_plan(experiment.folder),
    )


def _read_trial(experiment: Experiment, job: Mapping[str, Any], reported: Mapping[str, Any] | None) -> Trial:
    sent = unpack((job.get("hyperParameters") or ["{}"])[0])
    parameters = sent.get("parameters") if isinstance(sent, dict) else None
    begun, ended = job.get("startTime"), job.get("endTime") or time.time() * 1000
    latest = unpack(reported["data"]) if reported else None
    latest = latest.get("default") if isinstance(latest, dict) else latest
    return Trial(
        id=str(job["trialJobId"]),
        number=int(job.get("sequenceId", -1)),
        parameters=parameters if isinstance(parameters, dict) else {},
        status=str(job["status"]),
        metric=final_metric(job),
        epochs=int(reported["sequence"]) + 1 if reported else 0,
        latest=float(latest) if isinstance(latest, (int, float)) else None,
        seconds=max(0.0, (ended - begun) / 1000) if begun else 0.0,
        folder=trial_folder(experiment.folder, str(job["trialJobId"])),
    )


def trial_folder(folder: Path, trial_id: str) -> Path:
    """Return the folder of a trial within that of its experiment."""
    # local-env; for another machine remote-worker1 and so on, once something of it has come back.
    for place in folder.glob("environments/*/trials/"):
        if (place / trial_id).is_dir():
            return place / trial_id
    return folder / "trials" / trial_id


def read_plan(folder: Path) -> dict[str, Any]:
    """Return what a snapshot takes from the tuner's plan: ``tasks`` and ``problem``; both empty before there is one."""
    path = folder / "checkpoint" / "plan.json"
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        plan = None  # not there yet, or an experiment with a tuner of another kind
    if not isinstance(plan, dict):
        return {}
    tasks = plan.get("tasks")
    return {"tasks": tasks if isinstance(tasks, dict) else {}, "problem": str(plan.get("problem") or "")}


def unpack(data: Any) -> Any:
    """Parse what the manager keeps as JSON inside a JSON string, once or twice; None where it is not JSON."""
    try:
        for _ in range(3):
            data = json.loads(data) if isinstance(data, str) else data
    except ValueError:
        return None
    return data
