"""NNI's manager over its own REST interface: which trials there are, and when the experiment is over.

The manager's database is the one truth about an experiment. What NNI 3.0 tells a tuner through callbacks comes in any
order, sometimes with empty parameters, and for trials that were resumed not at all.
"""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from .parameters import CELL_KEYS, is_number
from .plan import Job

SETTLING_SECONDS = 5.0
"""How long after its end a trial may still gain a metric, or turn out to have been cancelled by the user."""
KILLED = "killed by a signal, perhaps by the system for want of memory: then lower batch_size or trialConcurrency"
REFUSAL = "refused.txt"
"""In the folder of a trial whose input cannot be used: the reason."""
_LIVE = ("UNKNOWN", "WAITING", "RUNNING", "ADD_RESUMED")
# Over loopback; a proxy from the environment must not see it.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def request(method: str, url: str, body: object = None, timeout: float = 20.0) -> Any:
    """Ask NNI's manager; the answer is parsed as plain JSON, never as NNI's serialised objects.

    Raises
    ------
    OSError
        If the manager cannot be reached, or answers with an error or with something other than JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with _open(urllib.request.Request(url, data, headers, method=method), timeout=timeout) as answer:
            return read_answer(answer.read())
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{method} {url}: not an answer of NNI's manager: {error!r}") from error


def read_answer(text: str | bytes) -> Any:
    """Parse JSON that the manager sent; no text is no answer, ``None``.

    Raises
    ------
    ValueError
        If it is not JSON, or nested too deep for any answer.
    """
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


class Manager:
    """The manager of the experiment that this process is the dispatcher of.

    Parameters
    ----------
    base
        Address of the REST interface, such as ``http://localhost:8080/api/v1/nni``.
    folder
        The experiment's own folder, or ``None`` where it is not known.
    """

    def __init__(self, base: str, folder: Path | None = None) -> None:
        self.base = base
        self.folder = folder
        self._cells: dict[str, dict[str, str]] = {}  # by trial; what a trial that succeeded has reported stays

    @classmethod
    def from_environment(cls) -> Manager:
        """Find the manager by the variables that it sets for its dispatcher."""
        channel = os.environ.get("NNI_TUNER_COMMAND_CHANNEL", "")  # ws://localhost:PORT[/PREFIX]/tuner
        if not channel.startswith("ws://") or not channel.endswith("/tuner"):
            raise RuntimeError(
                f"NNI_TUNER_COMMAND_CHANNEL is {channel!r}; expected ws://HOST:PORT/tuner. "
                f"SearchThenRetrain runs inside an NNI experiment: nnictl create --config FILE."
            )
        logs = os.environ.get("NNI_LOG_DIRECTORY")
        address = channel.removeprefix("ws://").removesuffix("/tuner")
        return cls(f"http://{address}/api/v1/nni", Path(logs).parent if logs else None)

    def config(self) -> dict[str, Any]:
        """Return the experiment's configuration, as the experiment file gave it."""
        return request("GET", f"{self.base}/experiment")["params"]

    def publish(self, search_space: Mapping[str, Any]) -> None:
        """Replace the search space that the web page shows."""
        body = {"params": {"searchSpace": search_space}}
        request("PUT", f"{self.base}/experiment?update_type=SEARCH_SPACE", body)

    def finish(self, trials: int) -> None:
        """Let the experiment be DONE: NNI 3.0 gets there only by reaching a number of trials."""
        body = {"params": {"maxTrialNumber": trials}}
        request("PUT", f"{self.base}/experiment?update_type=MAX_TRIAL_NUM", body)

    def jobs(self, is_recovered: Callable[[Mapping[str, Any]], bool]) -> tuple[dict[str, list[Job]], int]:
        """Return the trials of each task, oldest first, and the number of all trials.

        Parameters
        ----------
        is_recovered
            Tells by its parameters whether the manager runs a resumed trial again in this session.
        """
        records = request("GET", f"{self.base}/trial-jobs")
        cancelled = self._cancelled_by_user() if any(job["status"] == "USER_CANCELED" for job in records) else set()
        view: dict[str, list[Job]] = {}
        for record in records:
            sent = _sent_record(record)
            parameters = sent.get("parameters")
            # A trial that a user typed or copied on the web page belongs to no task.
            if sent.get("parameter_source") == "customized" or not isinstance(parameters, dict):
                continue
            key = parameters.get("key")
            if isinstance(key, str):
                job = read_job(record, key, is_recovered(parameters), record.get("trialJobId") in cancelled)
                if job.metric is not None and parameters.get("stage") == "search":
                    job = replace(job, metric={**job.metric, **self._cells_of(record["trialJobId"])})
                if job.state == "ended" and (refusal := self._refusal(record["trialJobId"])):
                    job = replace(job, state="refused", reason=refusal)
                view.setdefault(key, []).append(job)
        return view, len(records)

    def _refusal(self, trial: str) -> str:
        """Return why a trial could not use its input, as it wrote down itself; empty where it did not."""
        if self.folder is None:
            return ""
        for path in self.folder.glob(f"environments/*/trials/{trial}/**/{REFUSAL}"):
            return path.read_text(encoding="utf-8", errors="replace")[:2000].strip()
        return ""

    def _cells_of(self, trial: str) -> dict[str, str]:
        """Return the cells that a search trial reported with its last epoch, as JSON text by :data:`CELL_KEYS`."""
        if trial not in self._cells:
            reports = request("GET", f"{self.base}/metric-data/{trial}?type=PERIODICAL")
            metrics = [_unpacked(report["data"]) for report in reports]
            plain = [metric for metric in metrics if isinstance(metric, dict)]
            self._cells[trial] = {
                key: text for metric in plain for key in CELL_KEYS if isinstance(text := metric.get(key), str) and text
            }
        return self._cells[trial]

    def _cancelled_by_user(self) -> set[str]:
        """Return the trials that a user cancelled: for NNI, one that a signal killed has the same status."""
        database = self.folder / "db" / "nni.sqlite" if self.folder else None
        if database is None or not database.is_file():
            return set()
        query = "select distinct trialJobId from TrialJobEvent where event = 'USER_TO_CANCEL'"
        try:
            with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
                return {row[0] for row in connection.execute(query)}
        except sqlite3.Error as error:
            raise OSError(f"{database} cannot be read: {error}") from error


def read_job(
    record: Mapping[str, Any], key: str, is_recovered: bool, is_cancelled: bool, now: float | None = None
) -> Job:
    """Judge one record of ``/trial-jobs``; ``now`` is the time in seconds, for tests."""
    status = record["status"]
    if status == "ADD_RESUMED" and not is_recovered:
        # Stopped twice before it ran again: the manager will never run it.
        return Job(key, "lost", reason="lost by NNI when the experiment was stopped twice")
    if status in _LIVE:
        return Job(key, "live")
    metric = final_metric(record)
    if status == "SUCCEEDED" and metric is not None:
        return Job(key, "succeeded", metric)
    ended = record.get("endTime")
    if ended and (time.time() if now is None else now) - ended / 1000 < SETTLING_SECONDS:
        return Job(key, "live")
    if status == "USER_CANCELED":
        return Job(key, "cancelled") if is_cancelled else Job(key, "ended", reason=KILLED)
    if status == "SUCCEEDED":
        found = record.get("finalMetricData")
        return Job(key, "ended", reason=f"ended without a usable final metric (found {found!r})")
    return Job(key, "ended", reason=f"{status}; see trial.stderr in {record.get('logPath') or 'its folder'}")


def final_metric(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the final metric of a trial, or ``None`` if it has none with a finite number as ``default``."""
    reports = record.get("finalMetricData")
    if not reports:
        return None
    try:
        metric = _unpacked(reports[0]["data"])
    except ValueError:
        return None
    plain = metric if isinstance(metric, dict) else {"default": metric}
    return plain if is_number(plain.get("default")) else None


def _sent_record(record: Mapping[str, Any]) -> dict[str, Any]:
    texts = record.get("hyperParameters")
    try:
        sent = _unpacked(texts[0]) if texts else None
    except ValueError:
        return {}
    return sent if isinstance(sent, dict) else {}


def _unpacked(data: Any) -> Any:
    # The manager stores JSON inside a JSON string, once or twice.
    for _ in range(3):
        if isinstance(data, str):
            data = read_answer(data)
    return data


def refuse_gpu_number(config: Mapping[str, Any]) -> None:
    """Refuse an experiment that lets NNI hand out GPUs.

    NNI 3.0's scheduler retries without a pause in ordinary cases (one GPU, and one asked) and fills the memory of the
    machine with probes.

    Raises
    ------
    ValueError
        If ``trialGpuNumber`` is set, for the experiment or for one of its training services.
    """
    services = config.get("trainingService")
    for place in [config, *(services if isinstance(services, list) else [services])]:
        if isinstance(place, Mapping) and place.get("trialGpuNumber"):
            raise ValueError(
                f"trialGpuNumber: {place['trialGpuNumber']} is set in the experiment file. NNI 3.0's GPU scheduler can "
                f"loop for ever and fill the machine's memory, so it is refused. Remove the line: each trial takes "
                f"a GPU by itself (trialCommand: ... --device auto --slots-per-gpu 1)."
            )
