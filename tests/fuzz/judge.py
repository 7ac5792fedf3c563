"""Whether what a reader did with an input is a result, an error of ours, or something that must not happen."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .readers import ROOT, Reader, Refused

SECONDS = 5.0
"""Processor time that reading one small input may take."""
OURS = (str(ROOT / "idarts_nni"), str(ROOT / "trials"))
_EXECUTIONS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.connect")
_watch: dict[str, Any] = {"folder": None, "seen": []}


@dataclass(frozen=True)
class Verdict:
    """What became of one input."""

    kind: str
    """``accepted``, ``refused`` or ``foreign``."""
    reason: str = ""


def judge(reader: Reader, data: bytes, folder: Path) -> Verdict:
    """Read an input and judge what happens.

    An error is ours if the reader documents its type, our own code raised it, and its message names what was read. An
    input must not run a command, open a connection, write outside ``folder``, ask for more memory than there is, or
    take seconds.
    """
    _watch["folder"], _watch["seen"] = str(folder), []
    begun = time.process_time()
    try:
        reader.read(data, folder)
        verdict = Verdict("accepted")
    except Refused:
        verdict = Verdict("refused")
    except Exception as error:
        reason = _foreign_reason(error, reader)
        verdict = Verdict("foreign", reason) if reason else Verdict("refused", str(error))
    finally:
        _watch["folder"] = None
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if _watch["seen"]:
        return Verdict("foreign", f"did {_watch['seen'][0]}")
    if time.process_time() - begun > SECONDS:
        return Verdict("foreign", f"took {time.process_time() - begun:.0f} s")
    return verdict


def _foreign_reason(error: Exception, reader: Reader) -> str:
    """Say why an exception is none of ours; empty if it is."""
    name, where = type(error).__name__, _innermost(error.__traceback__)
    message = str(error)
    is_named = type(error) in (ValueError, FileNotFoundError, *reader.errors)
    if not (is_named or type(error).__module__.split(".")[0] in ("idarts_nni", "trials")):
        return f"{name} at {where}: {message[:200]}"
    if not where.startswith(OURS):
        return f"{name} raised at {where}: {message[:200]}"
    if not message or reader.names not in message:
        return f"{name} at {where} does not name {reader.names}: {message[:200]}"
    try:
        message.encode("utf-8")
    except UnicodeEncodeError:
        return f"{name} at {where}: the message cannot be written: {message[:200]!r}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or "allocate memory" in str(cause) or "MemoryError" in str(cause):
            return f"{name} at {where}: out of memory: {message[:200]}"
        cause = cause.__cause__ or cause.__context__
    return ""


def _innermost(trace: TracebackType | None) -> str:
    frame = traceback.extract_tb(trace)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    folder = _watch["folder"]
    if folder is None:
        return
    if event in _EXECUTIONS:
        _watch["seen"].append(f"{event} {arguments[:1]}")
    elif event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not os.path.abspath(arguments[0]).startswith((folder, "/dev/")):
            _watch["seen"].append(f"write to {arguments[0]}")


sys.addaudithook(_audit)


def empty_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder, in memory where the machine has such a place."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None, prefix="fuzz")
