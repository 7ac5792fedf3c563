"""The NNI tuner that searches cells, picks the best and retrains them, in one experiment."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no type information; NNI depends on it
from nni.tuner import Tuner

from .files import write_atomically
from .found_cells import Space, derivations_of
from .lifeline import end_with_manager
from .manager import Manager, refuse_gpu_number
from .parameters import Settings, TrialParameters
from .plan import Outcome, Plan, judge, published_space, read_space

_logger = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
"""In NNI_CHECKPOINT_DIRECTORY: the decisions taken, the state of every task, and the reason of an ERROR."""
EMBEDDED = "embedded"
_PATIENCE = 24
"""Failed looks at the manager in a row after which the experiment is given up."""


class SearchThenRetrain(Tuner):
    """Search cells with several methods and seeds, keep the best of each method, retrain those.

    Name it in an experiment file as ``tuner.className: idarts_nni.tuner.SearchThenRetrain``; its arguments
    (``classArgs``) are the fields of :class:`idarts_nni.parameters.Settings`. It works at any ``trialConcurrency``,
    sets the experiment to DONE when every task has settled, and to ERROR with a reason when nothing succeeded. Leave
    ``maxTrialNumber`` and ``trialGpuNumber`` out of the file. The search space is read once, at the start.

    Parameters
    ----------
    **class_args
        See :class:`idarts_nni.parameters.Settings`.

    Raises
    ------
    TypeError
        If an argument is unknown. Inside an experiment it becomes the reason of its ERROR instead.
    ValueError
        If an argument has an impossible value; inside an experiment likewise.
    """

    def __init__(self, **class_args: Any) -> None:
        super().__init__()
        is_in_experiment = os.environ.get("SDK_PROCESS") == "dispatcher"
        if is_in_experiment:
            end_with_manager()
        self._lock = threading.RLock()
        self._space: Space | None = None
        self._plan: Plan | None = None
        self._manager: Manager | None = None
        self._send: Callable[[int, Any], None] | None = None
        self._credits: list[int] = []  # parameter ids that NNI offered and that are not used yet
        self._sent: dict[str, int] = {}  # trials sent for each task, those of earlier sessions included
        self._saved = ""
        self._misses = 0
        self._problem: str | None = None
        self._is_over = False
        try:
            self._settings = Settings.from_class_args(class_args)
        except (TypeError, ValueError) as error:
            # Raised in the dispatcher, it would reach the user as "Tuner did not connect in 10 seconds".
            if not is_in_experiment:
                raise
            self._settings = Settings()
            self._fail(f"tuner.classArgs: {error}")

    # NNI calls the following, on two threads and in any order. Each is a wake-up; the manager's database tells what
    # happened. None may raise: that would end the dispatcher and leave the experiment running for ever.

    def update_search_space(self, search_space: Any) -> None:
        """Take the search space; called by NNI before anything else, and by an edit on the web page."""
        with self._lock:
            try:
                space = read_space(search_space)
            except Exception as error:
                if self._plan is None:
                    self._fail(f"searchSpaceFile: {error}")
                    return
                space = None
            if self._plan is None:
                self._space = space
            elif space != self._space:
                _logger.error("The search space was edited while the experiment runs: ignored; start a new experiment.")

    def generate_multiple_parameters(self, parameter_id_list: list[int], **kwargs: Any) -> list[Any]:
        """Take NNI's offer to run trials; those that have to wait are sent later under the same ids."""
        with self._lock:
            is_first = self._send is None
            self._send = kwargs["st_callback"]
            if is_first:
                threading.Thread(target=self._poll, name="poll", daemon=True).start()
            ready = self._look("offer")
            # NNI gives the returned tasks the first of the offered ids.
            taken = [self._mark_sent(task, "offer") for task in ready[: len(parameter_id_list)]]
            self._credits += parameter_id_list[len(taken) :]
            return taken

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any) -> None:
        """Look at the manager: a trial reported its final metric."""
        self._wake("result")

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        """Look at the manager: a trial ended."""
        self._wake("end")

    def import_data(self, data: Any) -> None:
        """Look at the manager: a resumed experiment replays its successes, which the manager lists anyway."""
        self._wake("resume")

    def _poll(self) -> None:
        while not self._is_over:
            time.sleep(self._settings.poll)
            self._wake("poll")

    def _wake(self, cause: str) -> None:
        with self._lock:
            for task in self._look(cause)[: len(self._credits)]:
                parameters = self._mark_sent(task, cause)
                try:
                    assert self._send is not None
                    self._send(self._credits.pop(0), parameters)
                except Exception:  # the channel is gone, and the dispatcher about to end
                    _logger.exception("Task %s could not be sent", task.key)

    def _look(self, cause: str) -> list[TrialParameters]:
        """Bring the plan up to date and return the tasks that may start; errors become the experiment's ERROR."""
        with self._lock:
            if self._send is None or self._is_over:
                return []
            if self._problem is not None:
                self._fail(self._problem)
                return []
            try:
                ready = self._ready()
                self._misses = 0
                return ready
            except OSError as error:
                self._misses += 1
                _logger.warning("Look %d at the manager failed (%s): %s", self._misses, cause, error)
                if self._misses >= _PATIENCE:
                    self._fail(f"{self._misses} looks at NNI's manager in a row failed, the last: {error}")
            except ValueError as error:
                self._fail(str(error))
            except Exception:
                self._fail(f"an error in the tuner itself: {traceback.format_exc()}")
            return []

    def _ready(self) -> list[TrialParameters]:
        if self._manager is None:
            self._manager = Manager.from_environment()
        if self._plan is None:
            self._plan = self._start(self._manager)
        jobs, num_trials = self._manager.jobs(self._is_recovered)

        def outcome_of(key: str) -> Outcome:
            known = jobs.get(key, [])
            self._sent[key] = max(self._sent.get(key, 0), len(known))
            return judge(known, self._sent[key], self._settings.max_attempts)

        self._plan.advance(outcome_of)
        # A decision is on disk before a trial relies on it.
        self._save(self._plan)
        if self._plan.is_settled:
            self._end(self._plan, self._manager, num_trials)
        return self._plan.ready

    def _start(self, manager: Manager) -> Plan:
        config = manager.config()
        refuse_gpu_number(config)
        if self._space is None:
            raise ValueError("NNI sent no search space.")
        for method in self._settings.methods:
            derivations_of(self._settings, self._space, method)
        saved = self._load()
        if config.get("maxTrialNumber") and not saved:
            _logger.warning("maxTrialNumber is %s: the plan is cut off there.", config["maxTrialNumber"])
        # The folder of the first session, wherever the experiment is resumed from, as long as it is there.
        is_there = saved is not None and (saved["data"] in ("", EMBEDDED) or Path(saved["data"]).is_dir())
        data = saved["data"] if saved and is_there else find_data(self._settings.data, config, _user_environment())
        plan = Plan(self._settings, self._space, data)
        if saved:
            plan.restore(saved)
        manager.publish(published_space(self._space, self._settings))
        return plan

    def _mark_sent(self, task: TrialParameters, cause: str) -> dict[str, Any]:
        self._sent[task.key] += 1
        _logger.info("Send %s, attempt %d (%s)", task.key, task.attempt, cause)
        return task.to_nni()

    def _end(self, plan: Plan, manager: Manager, num_trials: int) -> None:
        if plan.failure is not None:
            self._fail(plan.failure)
            return
        manager.finish(num_trials)
        self._is_over = True
        _logger.info("All %d tasks have settled.", len(plan.tasks))

    def _fail(self, reason: str) -> None:
        """Set the experiment to ERROR; before NNI's first request there is no way, so it is kept until then."""
        _logger.error("The experiment cannot go on: %s", reason)
        self._problem = reason
        if self._send is None:
            return
        self._is_over = True
        self._save(self._plan)
        # NNI hands its dispatcher to a tuner only as the owner of this callback.
        getattr(self._send, "__self__").report_error(reason)  # noqa: B009

    def _is_recovered(self, parameters: Mapping[str, Any]) -> bool:
        # By task and attempt: NNI uses parameter ids again after a resume.
        recovered = getattr(getattr(self._send, "__self__", None), "recovered_trial_params", {})
        wanted = parameters.get("key"), parameters.get("attempt")
        found = [one for one in recovered.values() if isinstance(one, Mapping)]
        return any((one.get("key"), one.get("attempt")) == wanted for one in found)

    def _load(self) -> dict[str, Any] | None:
        path = _plan_path()
        if path is None or not path.is_file():
            return None
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if set(saved) == {"problem"}:  # it could not start
                return None
            Plan(self._settings, {}).restore(saved)
            return {**saved, "data": str(saved["data"])}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _logger.warning("%s is damaged (%s): the plan is made again from the manager's database.", path, error)
            return None

    def _save(self, plan: Plan | None) -> None:
        path = _plan_path()
        text = json.dumps({**(plan.to_dict() if plan else {}), "problem": self._problem}, indent=1)
        if path is None or text == self._saved:
            return
        try:
            write_atomically(path, text)
            self._saved = text
        except OSError as error:
            _logger.warning("%s cannot be written (%s); the manager's database still holds everything.", path, error)


def find_data(asked: str | None, config: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> str:
    """Find the folder of the corpus that trials shall read.

    A relative folder of the experiment file is looked for in ``trialCodeDirectory`` first, then where ``nnictl`` was
    called; one of IDARTS_DATA the other way round, as its author stood at a shell. Where trials run on other machines,
    the folder is one of theirs, and is handed on as it stands.

    Parameters
    ----------
    asked
        ``data`` of the experiment file; ``None`` asks the environment variable IDARTS_DATA.
    config
        The experiment's configuration.
    environment
        Variables to look at; those of this process by default.

    Returns
    -------
    An absolute folder (for other machines perhaps one relative to the trial code), ``embedded``, or nothing where
    neither names one.

    Raises
    ------
    ValueError
        If there is no such folder; the message says where it was looked for.
    """
    environment = os.environ if environment is None else environment
    name = environment.get("IDARTS_DATA", "") if asked is None else asked
    if name in ("", EMBEDDED):
        return name
    code, shell = Path(config.get("trialCodeDirectory") or "."), Path(environment.get("PWD") or ".")
    if is_elsewhere(config):
        # A folder of the machines where trials run, which cannot be seen from here, or one that comes with the code.
        if Path(name).is_absolute() or (code / name).is_dir():
            return name
        raise ValueError(
            f"data asks for {name!r}. Trials run on other machines: name the absolute path of the folder there, a "
            f"folder within {code}, which is copied to them, or {EMBEDDED!r} for the corpus that comes along."
        )
    starts = [shell, code] if asked is None else [code, shell]
    candidates = list(dict.fromkeys((start / Path(name).expanduser()).resolve() for start in starts))
    for candidate in candidates:
        if candidate.is_dir():
            return str(candidate)
    origin = "the environment variable IDARTS_DATA" if asked is None else "data in tuner.classArgs"
    places = " and ".join(f"{place}{' (a file)' if place.is_file() else ''}" for place in candidates)
    raise ValueError(
        f"{origin} asks for {name!r}; there is no such folder: looked for {places}. "
        f"Name an existing folder, by its absolute path to be sure, or {EMBEDDED!r} for the corpus that comes along."
    )


def is_elsewhere(config: Mapping[str, Any]) -> bool:
    """Tell whether trials run on other machines than the manager."""
    service = config.get("trainingService")
    places = service if isinstance(service, list) else [service]
    return any(isinstance(place, Mapping) and place.get("platform", "local") != "local" for place in places)


def _user_environment() -> dict[str, str]:
    """Return the environment in which the user called nnictl.

    The dispatcher works in its log folder, and the shell between it and the manager has set PWD to that; the manager
    still has the user's.
    """
    environment = dict(os.environ)
    try:
        environment["PWD"] = psutil.Process(os.getppid()).environ()["PWD"]
    except (psutil.Error, OSError, KeyError) as error:
        _logger.warning("The folder in which nnictl was called is unknown (%r).", error)
    return environment


def _plan_path() -> Path | None:
    folder = os.environ.get("NNI_CHECKPOINT_DIRECTORY")
    return Path(folder) / PLAN_FILE if folder else None
