"""The ``idarts`` command: run an experiment, show and draw cells, make tables.

Exit codes: 0 for full success; 1 where something did not succeed, with the reasons; 2 for a file or an argument that
cannot be used, with nothing started; 130 and 143 after Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .messages import UNUSABLE, say

_DESCRIPTION = """\
Search recurrent cells with I-DARTS on Microsoft NNI.

  idarts run trials/experiments/ptb_tiny.yaml      search, retrain, tables and pictures
  idarts watch EXPERIMENT_ID                       see it run, from any terminal
  idarts show search_spaces/architectures/darts_v2.yaml
  idarts draw search_spaces/architectures/darts_v2.yaml -o cell.png
  idarts report EXPERIMENT_ID                      a page, tables and pictures, running or ended

`nnictl create --config FILE` starts the same experiments; `idarts run` checks the file first and stays with it.
"""
_RUN = """\
Check an experiment file, start it through `nnictl create`, follow it to its end, and show tables and pictures.

The check comes first: NNI's schema, the tuner's class and arguments, the search space, the data folder, the trial code.
While there is a problem nothing is started (exit code 2). Ctrl-C stops the experiment and its trials;
`nnictl resume ID` goes on later. Exit code 0 means that every task of the plan succeeded.
"""
_WATCH = """\
Show a running experiment in the terminal: the tasks of the plan, their stage, epoch, metric, time left and GPU.

On a terminal the view stays in its place; elsewhere it is printed when a task changes its state, and once a minute.
It ends with the experiment (exit code 1 if that failed). Ctrl-C leaves the experiment alone.
"""
_REPORT = """\
Make a page, tables and pictures from what NNI and the trials recorded, or renew the tables of README and docs.

  idarts report RFjE2bGk                                    running or ended: tables to the terminal; report.html,
                                                            tables and pictures into the experiment's folder
  idarts report RFjE2bGk k3jdD9aa more.csv --output both/   several together
  idarts report RFjE2bGk --results trials/results/ptb_small.csv   add the retrained results to a results file
  idarts report outputs/                                    records that trials outside NNI wrote
  idarts report --update-readme                             renew README.md and docs/results.md from the results
  idarts report --update-readme --check                     only tell whether that would change it (exit code 1)
"""
_ENV = """\
Print a line for the shell that keeps the manager of `nnictl create` and `nnictl resume` on the loopback interface:

  eval "$(idarts env)" && nnictl create --config FILE

NNI listens on all interfaces without a password. `idarts run` needs no such line.
"""

_COMPARE = """\
Compare each method with random cells of the same task, n, epochs and number of parameters: mean and spread over cells,
an interval for the difference, and in words whether the data carry a claim.

  idarts compare RFjE2bGk
  idarts compare trials/results/ptb_small.csv --better lower
  idarts compare trials/results/second_order.csv --better lower --against idarts:first

With --against METHOD:SCALE results of all scales are compared with those of one. Three cells on each side can carry no
claim, whatever they show. Below 6 the interval is Welch's t interval, from 6 on a bootstrap-t one.
"""
_DERIVE = """\
Show the cells that both derivations (profile paper and authors-code) make of one set of alphas, side by side.

  idarts derive outputs/demo/record.json --epoch 2
  idarts derive outputs/demo/tasks/search-idarts-s1/last.ckpt
"""
_GAIN = "Print by how much a cell may multiply its state in each step, for each way of joining edges."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; ``arguments`` are those of the command line by default."""
    parser = build_parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        say(parser.format_help().rstrip())
        return UNUSABLE
    options = parser.parse_args(arguments)
    try:
        return command_function(options.function)(options)
    except (ValueError, OSError) as error:
        say(f"idarts {options.command}: {error}")
    except sqlite3.Error as error:
        say(f"idarts {options.command}: NNI's database of this experiment cannot be read: {error}.")
    return UNUSABLE


def command_function(place: str) -> Callable[[argparse.Namespace], int]:
    """Import the function of a command from ``module.function`` of this package.

    Only the command that is asked for is loaded: NNI takes seconds to import, and torch longer.
    """
    module, _, name = place.partition(".")
    function: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(f".{module}", __package__), name)
    return function


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line.

    A command is one entry here, with ``function="module.function"`` as a default: a function of this package that
    takes the parsed options and returns the exit code.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("idarts", description=_DESCRIPTION, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"idarts {importlib.metadata.version('idarts-nni')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run", help="check, start and follow an experiment", description=_RUN, formatter_class=raw
    )
    run.add_argument("file", type=Path, help="experiment file of NNI, such as trials/experiments/ptb_tiny.yaml")
    run.add_argument(
        "--scale", metavar="NAME|NUMBER", help="a scale that the file names, full, or a number below 1 to shrink it by"
    )
    run.add_argument("--port", type=int, help="port of NNI's web page (default: the first free one from 8080)")
    run.add_argument("--keep-open", action="store_true", help="leave the web page up when the experiment has ended")
    run.set_defaults(function="launch.run")

    watch = commands.add_parser("watch", help="see a running experiment", description=_WATCH, formatter_class=raw)
    watch.add_argument("experiment", help="experiment id")
    watch.add_argument("--once", action="store_true", help="show how it stands now, and leave")
    watch.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="between two looks (default: 2)")
    watch.set_defaults(function="watch.watch")

    show = commands.add_parser("show", help="print a cell as text", description="Print a cell as text, and check it.")
    show.add_argument("file", type=Path, help="architecture file (YAML or JSON)")
    show.add_argument("--space", type=Path, help="search space file that the cell should belong to")
    show.set_defaults(function="commands.show")

    draw = commands.add_parser(
        "draw",
        help="draw a cell, or a search's cells as they changed",
        description="Draw a cell as PNG, SVG or DOT (the output's ending says which), or a search's cells as a GIF.",
    )
    draw.add_argument("file", type=Path, help="architecture file (YAML or JSON); with --animate a record or a folder")
    draw.add_argument("-o", "--output", type=Path, action="append", help="may be repeated (default: FILE with .png)")
    draw.add_argument("--title", default="", help="line above the picture (default: the file's own name for the cell)")
    draw.add_argument("--animate", type=Path, metavar="OUT.gif", help="the cells of a search, epoch by epoch")
    draw.set_defaults(function="commands.draw")

    report = commands.add_parser(
        "report", help="page, tables and pictures of results", description=_REPORT, formatter_class=raw
    )
    report.add_argument("experiment", nargs="*", help="experiment ids, folders with records, results files (.csv)")
    report.add_argument(
        "--output", type=Path, help="folder to write to (default: idarts in that one folder; idarts-report for several)"
    )
    report.add_argument("--results", type=Path, help="results file to add the retrained results to")
    report.add_argument("--replace", action="store_true", help="with --results: drop the rows that are there")
    report.add_argument("--update-readme", action="store_true", help="renew the tables between the documents' markers")
    report.add_argument("--check", action="store_true", help="with --update-readme: change nothing")
    report.add_argument(
        "--readme", type=Path, action="append", help="may be repeated (default: README.md and docs/results.md)"
    )
    report.add_argument("--results-folder", type=Path, default=Path("trials/results"), help="default: trials/results")
    report.set_defaults(function="reporting.report")

    fetch = commands.add_parser(
        "fetch",
        help="copy files from other machines",
        description="Copy records, logs, cells and the weights of retrained models from the machines on which the "
        "trials of an experiment ran (NNI's remote training service) into the experiment's folder here, by SSH.",
    )
    fetch.add_argument("experiment", help="experiment id, or its folder")
    fetch.add_argument("--all", action="store_true", help="also the checkpoints that only a resumed trial needs")
    fetch.set_defaults(function="fetching.fetch")

    env = commands.add_parser("env", help="keep bare nnictl off the network", description=_ENV, formatter_class=raw)
    env.set_defaults(function="loopback.show_environment")

    compare = commands.add_parser(
        "compare", help="is it better than random cells?", description=_COMPARE, formatter_class=raw
    )
    compare.add_argument("source", help="experiment id, a folder with records, or a results file (.csv)")
    compare.add_argument("--column", choices=("validation", "test"), default="test", help="default: test")
    compare.add_argument(
        "--better", choices=("lower", "higher"), help="which numbers are good (default: by the metric)"
    )
    compare.add_argument(
        "--against",
        default="random",
        metavar="METHOD[:SCALE]",
        help="what to compare with (default: random cells, within each scale)",
    )
    compare.set_defaults(function="compare.compare")

    derive = commands.add_parser(
        "derive", help="both derivations of a search", description=_DERIVE, formatter_class=raw
    )
    derive.add_argument("source", type=Path, help="record of a search, its folder, or a checkpoint (.ckpt)")
    derive.add_argument("--epoch", type=int, help="epoch of the record, from 1 (default: the last)")
    derive.add_argument("--edges", help="edges kept for each node, or all (default: as the search space says)")
    derive.add_argument("--space", type=Path, help="search space, for a checkpoint without job.json beside it")
    derive.add_argument("--method", choices=("idarts", "darts"), help="likewise")
    derive.add_argument("-o", "--output", type=Path, help="folder to write the two cells to")
    derive.set_defaults(function="derivations.derive")

    gain = commands.add_parser("gain", help="can a cell's state grow without bound?", description=_GAIN)
    gain.add_argument("file", type=Path, help="architecture file (YAML or JSON)")
    gain.add_argument("--space", type=Path, required=True, help="search space file")
    gain.set_defaults(function="derivations.gain")
    return parser
