"""Processes of an experiment end with the manager that started them, so that none meets the one that is resumed.

NNI kills what it started when it ends in order. A manager that is killed itself cannot, and its trials and its
dispatcher look for it at a port where soon the resumed manager listens, which takes them for its own.
"""

from __future__ import annotations

import ctypes
import itertools
import signal
import sys

import psutil  # type: ignore[import-untyped]  # ships no type information; NNI depends on it

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ask Linux for a SIGTERM when the process dies that started this one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def is_left_behind(experiment: str) -> bool:
    """Tell whether the manager of an experiment that runs on this machine is younger than this process.

    Then another one had started this process, and died before :func:`end_with_parent`. Where no manager can be seen,
    as on another machine, the answer is no.
    """
    managers = []
    for process in psutil.process_iter():
        try:
            if ("--experiment-id", experiment) in itertools.pairwise(process.cmdline()):
                managers.append(process.create_time())
        except psutil.Error:
            continue
    return bool(managers) and min(managers) > psutil.Process().create_time()
