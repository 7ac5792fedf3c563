"""A trial on several devices: one process for each, started by the first, watched by it, and ended with it.

The first process is the trial: it alone talks to NNI, takes devices and locks, writes records and checkpoints, and
prints. The others (:mod:`trials.follow`) are told what to do through their standard input, and end when it closes,
which the operating system sees to even if the first process is killed. They meet through a file and talk over the
loopback interface.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idarts_nni.devices import VISIBLE, DeviceLease
from idarts_nni.shares import Share

from .faults import ProcessFailed, explain

_READY_SECONDS = 600.0
_GRACE_SECONDS = 20.0
_POLL_SECONDS = 0.1


@contextmanager
def together(count: int, lease: DeviceLease, orders: Mapping[str, Any]) -> Iterator[Share]:
    """Start the other processes and train together with them within the block; with one there is nothing to do.

    Parameters
    ----------
    count
        Processes, this one included.
    lease
        The devices, one for each process.
    orders
        Plain data for :func:`trials.follow.main`, the same for all.

    Raises
    ------
    ProcessFailed
        If another process was the first to fail.
    """
    if count == 1:
        yield Share()
        return
    # Their talk is not for the network; NCCL and gloo would choose the interface of the host's name.
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, _loopback())
    with tempfile.TemporaryDirectory(prefix="idarts-") as folder:
        others: list[subprocess.Popen[bytes]] = []
        done = threading.Event()
        try:
            for rank in range(1, count):
                gpu = lease.others[rank - 1] if lease.others else ""
                others.append(_start({**orders, "rank": rank, "count": count, "folder": folder}, gpu))
            _wait_until_ready(others, Path(folder))
            threading.Thread(target=_watch, args=(others, Path(folder), done), daemon=True).start()
            share = Share(0, count)
            with met(share, lease.device, Path(folder)):
                yield share
            _wait_for_end(others)
        except RuntimeError as error:
            # This process may have failed only because another is gone.
            if explain(error) is None and (failure := _failure(others, Path(folder), 3.0)):
                raise failure from error
            raise
        finally:
            done.set()
            _end(others)


@contextmanager
def met(share: Share, device: str, folder: Path) -> Iterator[None]:
    """Meet the other processes, each of which does the same, and part from them at the end of the block."""
    from torch import distributed

    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=share.rank,
        world_size=share.count,
        # Not a time after which something is wrong: one process may have a test set of one column to itself. That
        # another process is gone is noticed otherwise.
        timeout=datetime.timedelta(days=7),
    )
    yield
    # Only after success: a process that has failed must not wait for the others.
    distributed.destroy_process_group()


def note_failure(folder: Path, rank: int, reason: str) -> None:
    """Leave the reason for which this process fails where the first one finds it."""
    (folder / f"{rank}.failure").write_text(reason, encoding="utf-8")


def note_ready(folder: Path, rank: int) -> None:
    """Tell the first process that this one has started."""
    (folder / f"{rank}.ready").touch()


def _start(orders: dict[str, Any], gpu: str) -> subprocess.Popen[bytes]:
    # Without what makes a process a trial in the eyes of NNI.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NNI_")}
    environment |= {VISIBLE: gpu, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.follow"],
        stdin=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the first process, which lets all of them end after the same step
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(orders).encode() + b"\n")
    process.stdin.flush()
    return process


def _wait_until_ready(others: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not all((folder / f"{rank}.ready").exists() for rank in range(1, len(others) + 1)):
        if failure := _failure(others, folder, 0.0):
            raise failure
        if time.monotonic() > deadline:
            raise ProcessFailed(f"Not all of {len(others) + 1} processes started within {_READY_SECONDS:g} s.", 1)
        time.sleep(_POLL_SECONDS)


def _wait_for_end(others: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _GRACE_SECONDS
    while any(process.poll() is None for process in others) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _failure(others: Sequence[subprocess.Popen[bytes]], folder: Path, patience: float) -> ProcessFailed | None:
    """Return what another process failed with, if one has, waiting so many seconds for it."""
    deadline = time.monotonic() + patience
    while True:
        for rank, process in enumerate(others, start=1):
            if not process.poll():
                continue
            note = folder / f"{rank}.failure"
            reason = note.read_text(encoding="utf-8") if note.exists() else _ending(process.returncode)
            text = f"Process {rank + 1} of {len(others) + 1} failed: {reason}"
            return ProcessFailed(text, process.returncode if process.returncode > 0 else 1)
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_SECONDS)


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "it was killed (signal 9), perhaps by the operating system for want of memory."
    return f"it ended by signal {-code}." if code < 0 else f"exit code {code}."


def _watch(others: Sequence[subprocess.Popen[bytes]], folder: Path, done: threading.Event) -> None:
    """End this process if another has failed and it does not notice by itself: GPUs wait for a lost one for ever."""
    while not done.wait(_POLL_SECONDS):
        if not any(process.poll() for process in others):
            continue
        failure = _failure(others, folder, 0.0)
        if failure is None or done.wait(_GRACE_SECONDS):
            return
        print(f"error: {failure}", file=sys.stderr, flush=True)
        _end(others)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(failure.code)


def _end(others: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in others:
        if process.stdin is not None:
            process.stdin.close()  # at which it ends by itself
    for process in others:
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _loopback() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name in ("lo", "lo0")), "lo")
