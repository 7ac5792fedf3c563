"""What trials on other machines made, brought into the experiment's folder here.

NNI's remote training service copies nothing back but logs. So a trial that runs elsewhere repeats its last report with
the text of its record, and the manager keeps that in its database, as it keeps a cell; larger files come by SSH.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from .experiment import Experiment, Snapshot, trial_folder, unpack
from .files import write_atomically
from .remote import Machine, RemoteError, fetch, read_machines
from .report import RECORD_FILE
from .trial import RECORD


def unpack_records(folder: Path) -> list[Path]:
    """Write the records that trials sent to where those of this machine's trials lie.

    Parameters
    ----------
    folder
        The experiment's folder.

    Returns
    -------
    The new files; a record that is there already stays as it is.
    """
    database = folder / "db" / "nni.sqlite"
    if not database.is_file():
        return []
    query = "select trialJobId, data from MetricData where type = 'PERIODICAL' and data like ? order by timestamp"  # noqa: S608
    places = "select trialJobId, max(environmentId) from TrialJobEvent group by trialJobId"
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
        rows = connection.execute(query, (f"%{RECORD}%",)).fetchall()
        environments = dict(connection.execute(places).fetchall()) if rows else {}
    texts: dict[str, str] = {}
    for trial, data in rows:
        metric = unpack(data)
        text = metric.get(RECORD) if isinstance(metric, dict) else None
        # Whatever the other machine sent has to be a record, and its trial's folder a name.
        if isinstance(text, str) and isinstance(unpack(text), dict) and Path(trial).name == trial:
            texts[trial] = text
    written = []
    for trial, text in texts.items():
        environment = Path(environments.get(trial) or "remote").name or "remote"
        path = folder / "environments" / environment / "trials" / trial / RECORD_FILE
        if not path.is_file():
            write_atomically(path, json.dumps(unpack(text)))
            written.append(path)
    return written


def ask_for_logs(experiment: Experiment, snapshot: Snapshot) -> None:
    """Let the manager copy the logs of trials without a result here, from whatever machine they ran on.

    Only while the experiment is not stopped. A log that cannot be had is left out.
    """
    opener = build_opener(ProxyHandler({}))
    for trial in snapshot.trials:
        if trial.has_ended and trial.metric is None:
            try:
                opener.open(f"{experiment.base}/trial-file/{trial.id}/stderr", timeout=20).close()
            except (URLError, OSError):
                return  # the machine is gone, and so are the logs of the others there


def bring_back(
    folder: Path, experiment_id: str, snapshot: Snapshot, machines: Sequence[Machine]
) -> tuple[Snapshot, list[str]]:
    """Bring records, logs, cells and the retrained weights into the experiment's folder.

    Returns
    -------
    The snapshot with its trials' folders where they are now; and the reasons why files of a machine did not come.
    """
    problems = []
    for machine in dict.fromkeys(machines):
        try:
            fetch(machine, experiment_id, folder)
        except RemoteError as error:
            problems.append(f"{error} Later: idarts fetch {experiment_id}")
    unpack_records(folder)
    trials = tuple(replace(trial, folder=trial_folder(folder, trial.id)) for trial in snapshot.trials)
    return replace(snapshot, trials=trials), problems


def machines_of(folder: Path) -> tuple[Machine, ...]:
    """Return the machines on which an experiment's trials ran, as NNI's database has them; none for this one alone."""
    database = folder / "db" / "nni.sqlite"
    if not database.is_file():
        raise ValueError(f"{folder}: this is no folder of an NNI experiment; there is no {database}.")
    query = "select params from ExperimentProfile order by revision desc limit 1"
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
        row = connection.execute(query).fetchone()
    config = unpack(row[0]) if row else None
    service = config.get("trainingService") if isinstance(config, dict) else None
    return read_machines(service) if isinstance(service, dict) else ()
