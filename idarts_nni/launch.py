"""``idarts run``: check an experiment file, start it, stay with it to its end, and leave nothing running."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from . import experiment as nni
from .gather import gather
from .messages import FAILED, say
from .outcome import collect_records, describe_failures, write_outputs
from .preflight import CheckedExperiment, check_experiment, check_input
from .progress import Progress
from .remote import RemoteError, tunnels
from .reporting import write_page
from .returned import ask_for_logs, bring_back
from .scales import write_scaled


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run(options: argparse.Namespace) -> int:
    """Run the command ``idarts run`` and return its exit code."""
    checked = check_experiment(options.file, options.scale)
    check_input(checked)
    if options.port is not None and not nni.is_free(options.port):
        raise ValueError(f"--port {options.port} is in use; leave the option out to have a free one chosen.")
    started: nni.Experiment | None = None
    interrupt: Interrupted | None = None
    snapshot = nni.Snapshot("INITIALIZED")
    progress = Progress(checked.optimize_mode)
    port = options.port or nni.free_port()
    way_back = contextlib.ExitStack()  # for trials on other machines, until the experiment has been stopped
    with _signals_raise():
        try:
            if checked.is_closed:
                way_back.enter_context(tunnels(checked.machines, port))
            with _file_to_start(checked, options.scale) as file:
                started = nni.start(replace(checked, path=file), port)
            say(f"Experiment {started.id} runs. Web page: {started.web_address}\nFolder: {started.folder}")
            for snapshot in nni.follow(started):  # noqa: B007 - the last one is used below
                progress.show(snapshot)
        except (nni.ExperimentError, RemoteError) as error:
            way_back.close()
            say(f"idarts run: {error}")
            return FAILED
        except Interrupted as error:
            interrupt = error
        except BaseException:
            if started is not None:
                nni.stop(started.id)
            way_back.close()
            raise
        finally:
            progress.close()
    if started is None:
        way_back.close()
        say("Interrupted before the experiment had started.")
        return 128 + (interrupt.number if interrupt else signal.SIGINT)
    if checked.machines:
        ask_for_logs(started, snapshot)
    if interrupt is not None or not options.keep_open:
        _stop(started.id, interrupt)
    way_back.close()
    if checked.machines:
        snapshot, problems = bring_back(started.folder, started.id, snapshot, checked.machines)
        for line in problems:
            say(line)
    records = collect_records(snapshot, experiment=checked.name, task=checked.task)
    outputs = write_outputs(started.folder / "idarts", records)
    print(f"\n{outputs.tables}\nTables:   " + "\n          ".join(map(str, outputs.files)))
    if outputs.pictures:
        print("Pictures: " + "\n          ".join(map(str, outputs.pictures)))
    if records:
        print(f"Page:     {write_page(started.folder / 'idarts', gather([str(started.folder)]))}")
    if interrupt is not None:
        say(f"Stopped by {interrupt}. To go on: {_way_on(checked, started.id)}")
        return 128 + interrupt.number
    failures = describe_failures(snapshot, records, started.folder / "log")
    for line in failures:
        say(line)
    if snapshot.status == "GONE":
        say(f"To go on: {_way_on(checked, started.id)}")
    if options.keep_open:
        say(f"The web page stays up: {started.web_address}. To end it: nnictl stop {started.id}")
    return FAILED if failures else 0


@contextlib.contextmanager
def _file_to_start(checked: CheckedExperiment, scale: str | None) -> Iterator[Path]:
    """Yield the file for NNI, which reads it once: the user's own, or a passing copy with the scale asked for."""
    if scale is None:
        yield checked.path
        return
    with tempfile.TemporaryDirectory(prefix="idarts-") as folder:
        yield write_scaled(checked.path, scale, Path(folder))


def _way_on(checked: CheckedExperiment, experiment_id: str) -> str:
    """Return the line for a shell that resumes an experiment."""
    # Trials run the first python of PATH, which has to be this one; and the port is to stay as closed as it was.
    closed = f'eval "$({sys.executable} -m idarts_nni env)" && ' if checked.is_closed else ""
    return f'{closed}PATH="{Path(sys.executable).parent}:$PATH" nnictl resume {experiment_id}'


def _stop(experiment_id: str, interrupt: Interrupted | None) -> None:
    if interrupt is not None:
        say(f"{interrupt}: stopping experiment {experiment_id} and its trials; please wait.")
    with _signals_wait():
        if not nni.stop(experiment_id):
            say(f"nnictl could not stop the experiment; try: nnictl stop {experiment_id}")


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into :class:`Interrupted`, wherever the program stands."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number)

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    # What was ignored from outside (nohup) stays ignored.
    old = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    for number in old:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Let nothing cut the stopping of an experiment short, for that would leave trials running."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    old = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
