"""What only the trials' own code can tell of an experiment before it starts: are its data and settings usable?

A trial would find out as well, half a minute after the start and once for each attempt. So the trial command is run
once beforehand with ``--check`` (see :mod:`trials.run`), in seconds and without a model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .parameters import BASELINES, STAGES

RUNNER = "trials.run"
_SECONDS = 300.0


def input_problems(command: list[str], code: Path, data: str, arguments: Mapping[str, Any]) -> list[str]:
    """Let the code of the trials check data and settings, and return what is wrong with them.

    Parameters
    ----------
    command
        The words of ``trialCommand``. Nothing is checked, and no problem found, for one that is not
        ``python -m trials.run TASK``.
    code
        The trial code folder.
    data
        Folder of the corpus, or ``embedded``.
    arguments
        The tuner's arguments, in the scale that runs.
    """
    if RUNNER not in command[:-1] or not Path(command[0]).name.startswith("python"):
        return []
    stages = [stage for stage in STAGES if _has_stage(stage, arguments)]
    asked = {"data": data, "settings": {stage: arguments.get(stage) or {} for stage in stages}}
    done = subprocess.run(
        [sys.executable, *command[1:], "--check"],
        cwd=code,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    try:
        return [str(problem) for problem in json.loads(done.stdout.strip().rpartition("\n")[2])]
    except ValueError:
        words = done.stderr.strip().rpartition("\n")[2] or f"it ended with exit code {done.returncode}"
        return [f"trialCommand: {' '.join(command)} --check failed in {code}: {words}"]


def _has_stage(stage: str, arguments: Mapping[str, Any]) -> bool:
    if stage == "search":
        return any(method not in BASELINES for method in arguments.get("methods") or ["idarts"])
    return stage == "retrain" or arguments.get("select_by") == "validation"
