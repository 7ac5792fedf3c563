"""What a trial needs of NNI: its own parameters, a way to report, a device, and folders that last.

Nothing here imports torch, so that a device can be chosen before torch looks for one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import time
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .devices import DeviceLease, device_lease
from .files import MAX_DEPTH, write_atomically
from .lifeline import end_with_parent, is_left_behind
from .manager import REFUSAL, read_answer, request
from .parameters import CELL_KEYS, TrialParameters

__all__ = [
    "DeviceLease",
    "device_lease",
    "is_in_experiment",
    "leave_by_signal",
    "note_refusal",
    "output_directory",
    "receive_parameters",
    "report_epoch",
    "report_final",
    "report_record",
    "task_directory",
    "tensorboard_directory",
]

_logger = logging.getLogger(__name__)

CHECKPOINTS_VARIABLE = "IDARTS_CHECKPOINTS"
RECORD = "record"
"""Key under which a trial on another machine sends its record, as JSON text."""
_RECORD_SECONDS = 60.0
_held_locks: list[FileLock] = []  # until the process ends
_last_epoch: tuple[int, dict[str, float]] = 0, {}  # number and metrics of the last report
_channel: Any = None  # to the manager, once the parameters have come
_record: dict[str, Any] | None = None


def is_in_experiment() -> bool:
    """Tell whether NNI started this process as a trial."""
    return bool(os.environ.get("NNI_TRIAL_COMMAND_CHANNEL") and os.environ.get("NNI_TRIAL_JOB_ID"))


def receive_parameters() -> TrialParameters:
    """Fetch the parameters of this very trial.

    ``nni.get_next_parameter`` hands out whatever stands first in the manager's queue, which at a concurrency above 1
    is often another trial's, and it deserialises Python objects. So the record of this trial is read by its id from
    the manager's REST interface, as plain JSON. Afterwards NNI's own report functions work as well.

    Raises
    ------
    RuntimeError
        Outside an experiment, or if the manager has no record of this trial.
    ValueError
        If the parameters carry a serialised object, or are not those of a task.
    """
    if not is_in_experiment():
        raise RuntimeError("This process is not a trial: start it by nnictl create --config FILE, or name its task.")
    if os.environ.get("NNI_PLATFORM") in ("local", "remote"):
        end_with_parent()  # the manager, or on another machine its keeper
    text = _own_record(os.environ["NNI_TRIAL_COMMAND_CHANNEL"])
    if is_left_behind(os.environ.get("NNI_EXP_ID", "")):
        _logger.warning("The manager that started this trial is gone, and another has taken over: leaving.")
        leave_by_signal(signal.SIGTERM)
    record, parameters = read_parameters(text)
    _bind_nni(record)
    return parameters


def read_parameters(text: str) -> tuple[dict[str, Any], TrialParameters]:
    """Read what NNI sent to a trial, as plain JSON.

    Returns
    -------
    The whole record, and the parameters in it.

    Raises
    ------
    ValueError
        If the text is not such a record, or its parameters carry a serialised object or are not those of a task.
    """
    record = read_answer(text)
    parameters = record.get("parameters") if isinstance(record, dict) else None
    if not isinstance(parameters, dict):
        raise ValueError(f"The record of this trial has no parameters: {text[:200]!r}.")
    refuse_serialised_objects(parameters)
    return record, TrialParameters.from_dict(parameters)


def report_epoch(metrics: Mapping[str, float], *, epoch: int | None = None) -> None:
    """Report the metrics of one epoch; NNI's page draws each as a curve.

    Parameters
    ----------
    metrics
        Finite numbers; ``default`` is the one that NNI shows.
    epoch
        Number of the epoch, from 1; a trial that goes on from a checkpoint then continues its curve. By default one
        more than the last.

    Raises
    ------
    ValueError
        If ``default`` is missing, or a value is not a finite number.
    """
    global _last_epoch
    epoch = _last_epoch[0] + 1 if epoch is None else epoch
    _last_epoch = epoch, _checked_metrics(metrics)
    # The page keeps one report for each number, the last.
    _send("PERIODICAL", epoch - 1, _last_epoch[1])


def report_final(metrics: Mapping[str, float | str]) -> None:
    """Report the result of this trial: finite numbers, ``default`` among them, and perhaps cells.

    ``architecture`` (the JSON text of a cell) and ``cells`` (that of a list of cells) travel with a repetition of the
    last epoch's metrics: in a final metric they would get an axis of NNI's hyper-parameter plot, and their text would
    cover the others.

    Raises
    ------
    ValueError
        If ``default`` is missing, a value is not a finite number, or a cell is not JSON text.
    """
    plain = _checked_metrics({key: value for key, value in metrics.items() if key not in CELL_KEYS})
    cells = {key: _checked_cells(key, metrics[key]) for key in CELL_KEYS if key in metrics}
    if cells:
        epoch, last = _last_epoch if _last_epoch[0] else (1, plain)
        _send("PERIODICAL", epoch - 1, {**last, **cells})
    _send("FINAL", 0, plain)


def report_record(record: Mapping[str, Any]) -> None:
    """Send the record of this trial to the manager, if that runs on another machine and cannot read it here.

    It travels with a repetition of the last epoch's metrics, as a cell does; call it before :func:`report_final`.
    """
    if os.environ.get("NNI_PLATFORM", "local") == "local":
        return
    epoch, last = _last_epoch
    _send("PERIODICAL", max(epoch, 1) - 1, {"default": 0.0, **last, RECORD: json.dumps(dict(record))})


def output_directory() -> Path:
    """Return the folder of this trial's results (outside an experiment ``outputs``), made if need be."""
    folder = Path(os.environ.get("NNI_OUTPUT_DIR") or "outputs").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def tensorboard_directory() -> Path:
    """Return the folder in which NNI's TensorBoard button looks for this trial's curves.

    That is not below the trial's own folder: ``<experiment>/trials/<trial>/output/tensorboard``. Outside an experiment
    it is ``tensorboard`` in the output folder.
    """
    output = output_directory()
    experiment = os.environ.get("NNI_EXP_ID")
    for parent in output.parents:
        if experiment and parent.name == experiment:
            return parent / "trials" / os.environ["NNI_TRIAL_JOB_ID"] / "output" / "tensorboard"
    return output / "tensorboard"


def note_refusal(reason: str) -> None:
    """Write down that this trial's input cannot be used, so that the tuner does not run the same once more."""
    if is_in_experiment():
        write_atomically(output_directory() / REFUSAL, reason)


def task_directory(key: str, *, patience: float = 60.0) -> Path:
    """Return a folder for the checkpoints of a task, and hold it until the process ends.

    It outlasts the trial: another attempt under another id finds it again. It lies in the experiment's folder, or in
    ``$IDARTS_CHECKPOINTS/<experiment>/<key>``. Two processes never work in it at a time.

    Parameters
    ----------
    key
        The task's key.
    patience
        Seconds to wait for a process that still holds it, such as one that is saving its last checkpoint.

    Raises
    ------
    RuntimeError
        If another process still holds it after that.
    """
    folder = _tasks_root() / re.sub(r"[^\w.-]", "_", key)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise RuntimeError(
            f"Another process still works on task {key!r} (it holds {folder / '.lock'}). "
            f"Stop it, or wait until it ends, and run this one again."
        ) from None
    _held_locks.append(lock)
    return folder


def leave_by_signal(number: int) -> None:
    """End this process by a signal that was caught to save a checkpoint first.

    NNI takes an exit code, whatever its value, for a crash of a trial that the user cancelled, and would run it again.
    """
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def refuse_serialised_objects(data: object, place: str = "parameters", depth: int = 1) -> None:
    """Refuse parameters that carry a Python object in NNI's (json_tricks') serialised form, also inside JSON text.

    Raises
    ------
    ValueError
        If a key anywhere begins with an underscore, as all their markers do; or if the data are nested too deep.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{place[:200]}: nested more than {MAX_DEPTH} levels deep.")
    if isinstance(data, Mapping):
        for key, value in data.items():
            if str(key).startswith("_"):
                raise ValueError(
                    f"{place}: the key {key!r} marks a serialised Python object, which could run any code. "
                    f"Parameters are plain text and numbers only."
                )
            refuse_serialised_objects(value, f"{place}.{key}", depth + 1)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            refuse_serialised_objects(value, f"{place}[{index}]", depth + 1)
    elif isinstance(data, str) and data.lstrip()[:1] in ("{", "["):
        try:
            inner = json.loads(data)
        except (ValueError, RecursionError):
            return  # not JSON; whoever reads it will say so
        refuse_serialised_objects(inner, place, depth + 1)


def _own_record(channel: str, patience: float = _RECORD_SECONDS) -> str:
    # http://localhost:PORT[/PREFIX]/env/ENVIRONMENT/TRIAL
    base, _, trial = channel.rpartition("/")
    if "/env/" not in base:
        raise RuntimeError(f"NNI_TRIAL_COMMAND_CHANNEL is {channel!r}; expected http://HOST:PORT/env/NAME/TRIAL.")
    manager = _remote_manager() if os.environ.get("NNI_PLATFORM") == "remote" else base[: base.rindex("/env/")]
    url = f"{manager}/api/v1/nni/trial-jobs/{trial}"
    deadline = time.monotonic() + patience
    problem: object = "it has no parameters yet"
    while time.monotonic() < deadline:
        try:
            job = request("GET", url)
            # The record is written just after the trial was started, so it can be missing for a moment.
            if job and job.get("hyperParameters"):
                return str(job["hyperParameters"][0])
        except OSError as error:
            problem = error
        time.sleep(0.2)
    raise RuntimeError(f"NNI's manager has no record of this trial at {url}: {problem}.")


def _remote_manager() -> str:
    """Return the manager's address as NNI's keeper on this machine knows it; the trial's own channel ends there.

    Raises
    ------
    RuntimeError
        If the keeper left no such address beside the trial's folder.
    """
    # <environment>/trials/<trial>; a keeper that was started again, as by nnictl resume, has a folder of its own.
    environment = output_directory().parents[1]
    files = sorted(environment.glob("trial_keeper*/launcher_config.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise RuntimeError(f"{environment}: NNI's keeper left no launcher_config.json there.")
    channel = json.loads(files[-1].read_text(encoding="utf-8")).get("managerCommandChannel", "")
    # ws://HOST:PORT[/PREFIX]/platform/SERVICE/CHANNEL
    address, found, _ = str(channel).rpartition("/platform/")
    if not found or not address.startswith("ws://"):
        raise RuntimeError(f"{files[-1]}: managerCommandChannel is {channel!r}; expected ws://HOST:PORT/platform/...")
    return address.replace("ws://", "http://", 1)


def _bind_nni(record: dict[str, Any]) -> None:
    """Let NNI's report functions know the parameter id, without its queue and its deserialiser."""
    global _channel, _record
    import nni.trial
    from nni.runtime.trial_command_channel import set_default_trial_command_channel
    from nni.runtime.trial_command_channel.v3 import TrialCommandChannelV3

    class OwnRecord(TrialCommandChannelV3):
        def receive_parameter(self) -> Any:
            return record

    _channel, _record = OwnRecord(os.environ["NNI_TRIAL_COMMAND_CHANNEL"]), record
    set_default_trial_command_channel(_channel)
    nni.trial.get_next_parameter()


def _send(kind: str, sequence: int, metrics: Mapping[str, float | str]) -> None:
    """Report to the manager through the trial's own channel, under its own parameter id.

    Not by ``nni.report_intermediate_result``: while a strategy trains in this process, NNI's engine has put a channel
    and a parameter of its own in their place, and the report would never leave the process.
    """
    if not is_in_experiment():
        return
    if _channel is None or _record is None:
        raise RuntimeError("Nothing can be reported before receive_parameters() was called.")
    _channel.send_metric(
        type=kind,
        parameter_id=_record["parameter_id"],
        trial_job_id=os.environ["NNI_TRIAL_JOB_ID"],
        sequence=sequence,
        value=dict(metrics),
    )


def _checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    if "default" not in metrics:
        raise ValueError(f"metrics: 'default' is missing; found the keys {', '.join(map(str, metrics))}.")
    for key, value in metrics.items():
        # An object breaks NNI's Compare page; NaN breaks the replay of a resumed experiment.
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(
                f"metrics: {key}: found {value!r} of type {type(value).__name__}; expected a finite number."
            )
    return {key: value if isinstance(value, int) else float(value) for key, value in metrics.items()}


def _checked_cells(key: str, value: object) -> str:
    try:
        if isinstance(value, str) and isinstance(json.loads(value), list if key == "cells" else dict):
            return value
    except ValueError:
        pass
    expected = "a list of cells" if key == "cells" else "a cell"
    raise ValueError(f"metrics: {key}: found {value!r}; expected the JSON text of {expected}.")


def _tasks_root() -> Path:
    experiment = os.environ.get("NNI_EXP_ID", "")
    chosen = os.environ.get(CHECKPOINTS_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().resolve() / experiment
    output = output_directory()
    # <experiment>/environments/<environment>/trials/<trial> with the local training service
    for parent in output.parents:
        if experiment and parent.name == experiment:
            return parent / "tasks"
    return output / "tasks"
