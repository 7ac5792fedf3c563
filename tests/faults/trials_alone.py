"""Kill trials that run without NNI, at random moments, and start them again until they end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.live import ROOT

from .jobs import SETTINGS, SPACE
from .results import differences, result_of
from .tally import Tally

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST = 300.0
"""Seconds after which a trial counts as hanging."""


def disturb_trial(words: Sequence[str], kills: int, generator: random.Random, folder: Path) -> Tally:
    """Run a trial in peace, run it again with some kills, and compare what both end with."""
    peaceful, disturbed = folder / "peaceful", folder / "disturbed"
    begun = time.monotonic()
    finish(words, peaceful)
    length = time.monotonic() - begun
    tally = Tally(tasks=1)
    for number in range(kills):
        with start(words, disturbed) as process:
            # In turn: at any moment, within the training, and when the record appears.
            _wait_for_moment(process, disturbed, number % 3, generator.uniform(0.0, length))
            sent = generator.choice(SIGNALS)
            process.send_signal(sent)
            process.communicate(timeout=LONGEST)
            tally.trial_kills += process.returncode == -sent
    finish(words, disturbed)
    tally.resumes = kills
    results = [list(_results(where)) for where in (peaceful, disturbed)]
    tally.lost, tally.doubled = not results[1], max(0, len(results[1]) - 1)
    if results[1]:
        tally.note_differences(words[2], differences(results[0][0], results[1][0]))
    return tally


def start(words: Sequence[str], output: Path) -> subprocess.Popen[str]:
    """Start a trial; the same words and folder go on with it."""
    space = output.with_suffix(".yaml")
    space.write_text(yaml.safe_dump(SPACE))
    settings = [f"{name}={value}" for name, value in SETTINGS[words[0]].items()]
    command = [sys.executable, "-m", "trials.run", *words, "--space", str(space), "--data", "embedded"]
    command += ["--threads", "1", "--checkpoint-minutes", "0.001", "--output", str(output)]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NNI_", "IDARTS_"))}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(words: Sequence[str], output: Path) -> None:
    """Run a trial to its end."""
    with start(words, output) as process:
        said, _ = process.communicate(timeout=LONGEST)
    if process.returncode != 0:
        raise AssertionError(f"{' '.join(words)} ended with {process.returncode}:\n{said[-3000:]}")


def _wait_for_moment(process: subprocess.Popen[str], output: Path, kind: int, delay: float) -> None:
    """Wait for a moment of a run: any; soon after a checkpoint was written; just when the record is there."""
    if kind == 0:
        _sleep_beside(process, delay)
        return
    wanted = "record.json" if kind == 2 else "tasks/*/*.ckpt"
    before = _written(output, wanted)
    while process.poll() is None and _written(output, wanted) <= before:
        time.sleep(0.002)
    _sleep_beside(process, delay % 0.5 if kind == 1 else delay % 0.05)


def _sleep_beside(process: subprocess.Popen[str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def _written(output: Path, pattern: str) -> int:
    times = []
    for path in output.glob(pattern):
        try:
            times.append(path.stat().st_mtime_ns)
        except FileNotFoundError:  # replaced just now
            pass
    return max(times, default=0)


def _results(output: Path) -> list[dict[str, Any]]:
    return [result_of(json.loads(path.read_text()), output / "tasks") for path in output.glob("**/record.json")]
