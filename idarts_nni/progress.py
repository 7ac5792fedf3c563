"""How a running experiment shows on a terminal, and in a log file."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from datetime import timedelta
from typing import TextIO

from .experiment import Snapshot, Trial
from .parameters import STAGES

_QUIET_SECONDS = 60.0
"""Into a log file goes a line at every event, and at least one in this time."""


class Progress:
    """Writes a line for every trial that starts or ends, and on a terminal keeps one line up to date below them.

    Parameters
    ----------
    optimize_mode
        ``minimize`` or ``maximize``: which metric is the best.
    stream
        Where to write; standard error by default, so that the tables alone go to standard output.
    """

    def __init__(self, optimize_mode: str = "minimize", stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_live = self._stream.isatty()
        self._better = min if optimize_mode == "minimize" else max
        self._seen: dict[str, str] = {}
        self._begun = self._told = time.monotonic()

    def show(self, snapshot: Snapshot) -> None:
        """Show how the experiment stands now."""
        for trial in snapshot.trials:
            phase = "ended" if trial.has_ended else trial.status
            if self._seen.get(trial.id) != phase and phase in ("RUNNING", "ended"):
                self._line(self._event(trial))
            self._seen[trial.id] = phase
        if self._is_live:
            width = shutil.get_terminal_size().columns
            self._stream.write(f"\r\x1b[2K{self.summary(snapshot)[: width - 1]}")
            self._stream.flush()
        elif time.monotonic() - self._told >= _QUIET_SECONDS:
            self._line(self.summary(snapshot))

    def close(self) -> None:
        """Leave the terminal with a clean line."""
        if self._is_live:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()

    def summary(self, snapshot: Snapshot) -> str:
        """Return one line: time gone, tasks of the plan by stage, what runs, the best metric by stage so far."""
        states = snapshot.task_states()
        stage_of = {trial.key: str(trial.parameters.get("stage", "trial")) for trial in snapshot.trials}
        total, done, failed = Counter[str](), Counter[str](), Counter[str]()
        for key, state in states.items():
            stage = stage_of.get(key) or key.partition("-")[0]
            total[stage] += 1
            done[stage] += state == "done"
            failed[stage] += state == "failed"
        parts = [str(timedelta(seconds=round(time.monotonic() - self._begun)))]
        for stage in sorted(total, key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES)):
            bad = f" ({failed[stage]} failed)" if failed[stage] else ""
            parts.append(f"{stage} {done[stage]}/{total[stage]}{bad}")
        running = [trial for trial in snapshot.trials if trial.status == "RUNNING"]
        parts += [f"{trial.key}: {_epochs(trial)}" for trial in running]
        stages = [stage_of[trial.key] for trial in snapshot.trials if trial.metric is not None]
        if stages:
            ended = [t for t in snapshot.trials if t.metric is not None and stage_of[t.key] == stages[-1]]
            best = self._better(ended, key=lambda trial: float((trial.metric or {})["default"]))
            parts.append(f"best {stages[-1]} {float((best.metric or {})['default']):.6g} ({best.key})")
        return " | ".join(parts)

    def _event(self, trial: Trial) -> str:
        if not trial.has_ended:
            attempt = trial.parameters.get("attempt", 1)
            return f"{trial.key} started" + (f" (attempt {attempt})" if attempt != 1 else "")
        if trial.status == "SUCCEEDED" and trial.metric is not None:
            return f"{trial.key} done in {trial.seconds:.0f} s: {float(trial.metric['default']):.6g}"
        return f"{trial.key} {trial.status} after {trial.seconds:.0f} s [{trial.folder}]"

    def _line(self, text: str) -> None:
        lead = "\r\x1b[2K" if self._is_live else ""
        clock = time.strftime("%H:%M:%S")
        self._stream.write(f"{lead}[{clock}] {text}\n")
        self._stream.flush()
        self._told = time.monotonic()


def _epochs(trial: Trial) -> str:
    latest = "" if trial.latest is None else f", {trial.latest:.6g}"
    return f"epoch {trial.epochs}{latest}" if trial.epochs else str(timedelta(seconds=round(trial.seconds)))
