"""Peak memory of one step, each variant in a process of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from .bench_step import RETRAIN, SEARCH, Step, in_setting

WAYS = ("nothing", "fast", "fast bf16", "original", "fast retrain", "original retrain")


def peak_megabytes(way: str) -> float:
    """Run one step in a child process and return its peak resident memory."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_memory", way]
    # Threads that spin while they wait make a step many times slower where other programs run.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def _run(way: str) -> float:
    fixed = "retrain" in way
    step = Step(RETRAIN if fixed else SEARCH, fixed, fast="fast" in way)
    if way != "nothing":
        in_setting(step.run, bf16="bf16" in way)()
    return _peak_megabytes()


def _peak_megabytes() -> float:
    """Return the peak of this program; ``ru_maxrss`` would count that of the one that started it as well."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    print(_run(sys.argv[1]))
