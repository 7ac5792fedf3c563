"""The ``idarts`` command: run an experiment, show and draw cells, make tables.

Exit codes: 0 for full success; 1 where something did not succeed, with the reasons; 2 for a file or an argument that
cannot be used, with nothing started; 130 and 143 after Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from .architecture import Architecture
from .files import read_yaml
from .space import CellSpace

FAILED, UNUSABLE = 1, 2

_DESCRIPTION = """\
Search recurrent cells with I-DARTS on Microsoft NNI.

  idarts run trials/experiments/ptb_tiny.yaml      search, retrain, tables and pictures
  idarts show search_spaces/architectures/darts_v2.yaml
  idarts draw search_spaces/architectures/darts_v2.yaml -o cell.png
  idarts report EXPERIMENT_ID                      tables of an experiment, running or ended

`nnictl create --config FILE` starts the same experiments; `idarts run` checks the file first and stays with it.
"""
_RUN = """\
Check an experiment file, start it through `nnictl create`, follow it to its end, and show tables and pictures.

The check comes first: NNI's schema, the tuner's class and arguments, the search space, the data folder, the trial code.
While there is a problem nothing is started (exit code 2). Ctrl-C stops the experiment and its trials;
`nnictl resume ID` goes on later. Exit code 0 means that every task of the plan succeeded.
"""
_REPORT = """\
Make tables from what the trials of an experiment recorded, or renew the README's tables.

  idarts report RFjE2bGk                                    tables to the terminal and into the experiment's folder
  idarts report RFjE2bGk --results trials/results/ptb_small.csv   add the retrained results to a results file
  idarts report outputs/                                    records that trials outside NNI wrote
  idarts report --update-readme                             renew README.md from trials/results/*.csv
  idarts report --update-readme --check                     only tell whether that would change it (exit code 1)
"""


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; ``arguments`` are those of the command line by default."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.function(options))
    except (ValueError, OSError) as error:
        _say(f"idarts {options.command}: {error}")
        return UNUSABLE


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("idarts", description=_DESCRIPTION, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"idarts {importlib.metadata.version('idarts-nni')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run", help="check, start and follow an experiment", description=_RUN, formatter_class=raw
    )
    run.add_argument("file", type=Path, help="experiment file of NNI, such as trials/experiments/ptb_tiny.yaml")
    run.add_argument("--port", type=int, help="port of NNI's web page (default: the first free one from 8080)")
    run.add_argument("--keep-open", action="store_true", help="leave the web page up when the experiment has ended")
    run.set_defaults(function=_run)

    show = commands.add_parser("show", help="print a cell as text", description="Print a cell as text, and check it.")
    show.add_argument("file", type=Path, help="architecture file (YAML or JSON)")
    show.add_argument("--space", type=Path, help="search space file that the cell should belong to")
    show.set_defaults(function=_show)

    draw = commands.add_parser(
        "draw", help="draw a cell", description="Draw a cell as PNG, SVG or DOT; the output's ending says which."
    )
    draw.add_argument("file", type=Path, help="architecture file (YAML or JSON)")
    draw.add_argument("-o", "--output", type=Path, action="append", help="may be repeated (default: FILE with .png)")
    draw.add_argument("--title", default="", help="line above the picture (default: the file's own name for the cell)")
    draw.set_defaults(function=_draw)

    report = commands.add_parser("report", help="tables of results", description=_REPORT, formatter_class=raw)
    report.add_argument("experiment", nargs="?", help="experiment id, or a folder with records")
    report.add_argument("--output", type=Path, help="folder for tables and pictures (default: idarts in that folder)")
    report.add_argument("--results", type=Path, help="results file to add the retrained results to")
    report.add_argument("--replace", action="store_true", help="with --results: drop the rows that are there")
    report.add_argument("--update-readme", action="store_true", help="renew the tables between the README's markers")
    report.add_argument("--check", action="store_true", help="with --update-readme: change nothing")
    report.add_argument("--readme", type=Path, default=Path("README.md"), help="default: README.md")
    report.add_argument("--results-folder", type=Path, default=Path("trials/results"), help="default: trials/results")
    report.set_defaults(function=_report)
    return parser


def _run(options: argparse.Namespace) -> int:
    # NNI takes seconds to import, so only the commands that need it do so.
    from . import experiment as nni
    from .outcome import collect_records, describe_failures, write_outputs
    from .preflight import check_experiment
    from .progress import Progress

    checked = check_experiment(options.file)
    if options.port is not None and not nni.is_free(options.port):
        raise ValueError(f"--port {options.port} is in use; leave the option out to have a free one chosen.")
    started: nni.Experiment | None = None
    interrupt: Interrupted | None = None
    snapshot = nni.Snapshot("INITIALIZED")
    progress = Progress(checked.optimize_mode)
    with _signals_raise():
        try:
            started = nni.start(checked, options.port or nni.free_port())
            _say(f"Experiment {started.id} runs. Web page: {started.web_address}\nFolder: {started.folder}")
            for snapshot in nni.follow(started):  # noqa: B007 - the last one is used below
                progress.show(snapshot)
        except nni.ExperimentError as error:
            _say(f"idarts run: {error}")
            return FAILED
        except Interrupted as error:
            interrupt = error
        except BaseException:
            if started is not None:
                nni.stop(started.id)
            raise
        finally:
            progress.close()
    if started is None:
        _say("Interrupted before the experiment had started.")
        return 128 + (interrupt.number if interrupt else signal.SIGINT)
    if interrupt is not None or not options.keep_open:
        _stop(started.id, interrupt)
    records = collect_records(snapshot, experiment=checked.name, task=checked.task)
    outputs = write_outputs(started.folder / "idarts", records)
    print(f"\n{outputs.tables}\nTables:   " + "\n          ".join(map(str, outputs.files)))
    if outputs.pictures:
        print("Pictures: " + "\n          ".join(map(str, outputs.pictures)))
    if interrupt is not None:
        # Trials run the first python of PATH, which has to be this one.
        _say(f'Stopped by {interrupt}. To go on: PATH="{Path(sys.executable).parent}:$PATH" nnictl resume {started.id}')
        return 128 + interrupt.number
    failures = describe_failures(snapshot, records, started.folder / "log")
    for line in failures:
        _say(line)
    if options.keep_open:
        _say(f"The web page stays up: {started.web_address}. To end it: nnictl stop {started.id}")
    return FAILED if failures else 0


def _stop(experiment_id: str, interrupt: Interrupted | None) -> None:
    from . import experiment as nni

    if interrupt is not None:
        _say(f"{interrupt}: stopping experiment {experiment_id} and its trials; please wait.")
    with _signals_wait():
        if not nni.stop(experiment_id):
            _say(f"nnictl could not stop the experiment; try: nnictl stop {experiment_id}")


def _show(options: argparse.Namespace) -> int:
    data = read_yaml(options.file)
    cell = Architecture.from_dict(data, origin=str(options.file))
    for field in ("name", "source"):
        if data.get(field):
            print(f"{field:12} {data[field]}")
    print(f"{'fingerprint':12} {cell.fingerprint}")
    for node, edges in enumerate(cell.nodes, start=1):
        inputs = []
        for edge in edges:
            weight = "" if edge.weight is None else f" * {edge.weight:g}"
            inputs.append(f"{edge.operation}({edge.source}){weight}")
        print(f"{f'node {node}':12} {' + '.join(inputs)}")
    print(f"{'h_t':12} mean of nodes 1 to {cell.num_nodes}")
    if options.space is not None:
        space = CellSpace.from_yaml(options.space)
        try:
            cell.check_fits(space)
        except ValueError as error:
            _say(f"{options.file} does not fit {options.space}: {error}")
            return FAILED
        print(f"{'fits':12} {options.space}")
    return 0


def _draw(options: argparse.Namespace) -> int:
    from .draw import draw_architecture

    data = read_yaml(options.file)
    cell = Architecture.from_dict(data, origin=str(options.file))
    title = options.title or str(data.get("name") or options.file.stem)
    for path in options.output or [options.file.with_suffix(".png")]:
        print(draw_architecture(cell, path, title))
    return 0


def _report(options: argparse.Namespace) -> int:
    from .results import merge_results, update_readme

    if options.update_readme:
        stale = update_readme(options.readme, options.results_folder, check=options.check)
        for name in stale:
            _say(f"{options.readme}: the table {name} {'is not up to date' if options.check else 'was renewed'}.")
        return FAILED if stale and options.check else 0
    if options.experiment is None:
        raise ValueError("name an experiment id or a folder with records, or use --update-readme.")
    folder, records = _find_records(options.experiment)
    if not records:
        raise ValueError(f"{folder}: there is no record of a trial in it yet.")
    from .outcome import write_outputs

    outputs = write_outputs(options.output or folder / "idarts", records)
    print(f"{outputs.tables}\nTables:   " + "\n          ".join(map(str, [*outputs.files, *outputs.pictures])))
    if options.results is not None:
        count = merge_results(options.results, records, replace=options.replace)
        print(f"Results:  {options.results} ({count} rows)")
    return FAILED if any("failure" in record for record in records) else 0


def _find_records(name: str) -> tuple[Path, list[dict[str, object]]]:
    """Return the folder behind an id or a path, and the records of its tasks."""
    from . import experiment as nni
    from .outcome import collect_records, read_database
    from .report import load_records

    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = nni.find_experiment(name)
        except nni.ExperimentError as error:
            raise ValueError(str(error)) from None
    if (folder / "db" / "nni.sqlite").is_file():
        snapshot = read_database(folder)
        known = load_records(folder)
        experiment, task = (known[0]["experiment"], known[0]["task"]) if known else (folder.name, "")
        return folder, collect_records(snapshot, experiment=experiment, task=task)
    return folder, load_records(folder)


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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
