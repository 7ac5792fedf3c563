"""``python -m tests.faults`` (or ``make faults``): kill trials and managers at random moments; nothing may be lost.

Trials outside NNI and real experiments of both tasks, at concurrency 1 to 4, are killed (``kill -9``, SIGTERM, Ctrl-C;
``kill -9`` of the manager and ``nnictl stop``) and resumed. Every result must be there once, and be that of a run in
peace bit for bit: numbers, curves, cells, weights.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .experiments import disturb_experiment, undisturbed_results
from .jobs import PLAIN, SETTINGS
from .tally import Tally
from .trials_alone import disturb_trial

COLUMNS = ("trial_kills", "manager_kills", "resumes", "tasks", "lost", "doubled", "mismatched", "differing")


def main() -> int:
    """Run everything; return 0 if nothing was lost, doubled or changed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trial-kills", type=int, default=6, metavar="N", help="of each trial outside NNI")
    parser.add_argument("--kills", type=int, default=4, metavar="N", help="of trials and of managers, per experiment")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 2, 3, 4], help="of the experiments")
    options = parser.parse_args()
    # A shell starts what it runs in the background with Ctrl-C ignored, which the trials would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begun, total = time.monotonic(), Tally()
    _print_line("what", [name.replace("_", " ") for name in COLUMNS])
    _print_line("-" * 34, ["-" * (len(name) - 1) + ":" for name in COLUMNS])
    with tempfile.TemporaryDirectory(prefix="faults") as scratch:
        for words, tally in _disturbed_trials(options.trial_kills, options.seed, Path(scratch)):
            total += _show(f"{words[0]}, {words[2]} by {words[4]}", tally)
        generator = random.Random(options.seed)
        for number, task in enumerate(SETTINGS):
            chosen = options.concurrency[number :: len(SETTINGS)]
            if not chosen:
                continue
            expected = undisturbed_results(task, Path(scratch) / f"{task}-peace")
            for concurrency in chosen:
                folder = Path(scratch) / f"{task}-{concurrency}"
                tally = disturb_experiment(task, concurrency, options.kills, generator, folder, expected)
                total += _show(f"{task}, experiment, concurrency {concurrency}", tally)
    _show(f"all, in {time.monotonic() - begun:.0f} s", total)
    print("\n".join(total.notes))
    return 0 if total.is_good and not total.notes else 1


def _disturbed_trials(kills: int, seed: int, folder: Path) -> Iterator[tuple[tuple[str, ...], Tally]]:
    """Disturb the trials outside NNI, two at a time."""

    def disturb(number: int) -> Tally:
        place = folder / f"trial{number}"
        place.mkdir()
        return disturb_trial(PLAIN[number], kills, random.Random(f"{seed} {number}"), place)

    with ThreadPoolExecutor(2) as pool:
        yield from zip(PLAIN if kills else (), pool.map(disturb, range(len(PLAIN) if kills else 0)), strict=True)


def _show(what: str, tally: Tally) -> Tally:
    _print_line(what, [f"{int(getattr(tally, name)):>{len(name)}}" for name in COLUMNS])
    return tally


def _print_line(first: str, cells: list[str]) -> None:
    print(f"| {first:<34} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
