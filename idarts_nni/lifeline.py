"""Processes of an experiment end with the manager that started them, so that none meets the one that is resumed.

NNI kills what it started when it ends in order. A manager that is killed itself cannot, and its trials and its
dispatcher look for it at a port where soon the resumed manager listens, which takes them for its own.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import select
import signal
import sys
import threading

import psutil  # type: ignore[import-untyped]  # ships no type information; NNI depends on it

_PR_SET_PDEATHSIG = 1
_OPTION = "--experiment-id"
"""Followed by the experiment, on the command line of its manager."""


def end_with_parent() -> None:
    """Ask Linux for a SIGTERM when the process dies that started this one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end_with_manager() -> None:
    """End by a SIGTERM when NNI's manager dies, of which this process may be a grandchild: NNI puts a shell between.

    Nothing is done where the manager is not among the processes that this one descends from, or the system has no way
    to wait for it.
    """
    try:
        found = next((one for one in psutil.Process().parents() if _OPTION in one.cmdline()), None)
        if found is not None and sys.platform == "linux":
            arguments = os.pidfd_open(found.pid), os.getpid()
            threading.Thread(target=_end_after, args=arguments, name="lifeline", daemon=True).start()
    except (psutil.Error, OSError):
        pass


def _end_after(descriptor: int, this: int) -> None:
    select.select([descriptor], [], [])
    os.kill(this, signal.SIGTERM)


def is_left_behind(experiment: str) -> bool:
    """Tell whether the manager of an experiment that runs on this machine is younger than this process.

    Then another one had started this process, and died before :func:`end_with_parent`. Where no manager can be seen,
    as on another machine, the answer is no.
    """
    managers = []
    for process in psutil.process_iter():
        try:
            if (_OPTION, experiment) in itertools.pairwise(process.cmdline()):
                managers.append(process.create_time())
        except psutil.Error:
            continue
    return bool(managers) and min(managers) > psutil.Process().create_time()
