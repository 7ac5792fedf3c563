"""Faults of the machine in words: what ran out, and what helps."""

from __future__ import annotations

import errno

EXIT_NO_ROOM = 3
"""Exit code of a trial that ran out of memory or of disk."""


class ProcessFailed(Exception):
    """Another process of this training failed.

    Parameters
    ----------
    reason
        Which, and why.
    code
        The exit code that this trial should end with.
    """

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


_DISK = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your share of the disk is used up"}
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc")


def explain(error: BaseException) -> str | None:
    """Say what ran out and what to do about it; None for an error of another kind.

    Parameters
    ----------
    error
        What ended the trial. Torch tells of missing memory by a RuntimeError, the operating system by an OSError.
    """
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f" ({error.filename})" if error.filename else ""
        return (
            f"A file could not be written{where}: {_DISK[error.errno]}. Nothing that was written before is lost. Make "
            f"room, or name another folder (--output, IDARTS_CHECKPOINTS); the same command then goes on."
        )
    reason = " ".join(str(error).split())
    told = isinstance(error, (RuntimeError, OSError, ImportError)) and any(
        sign in reason.lower() for sign in _NO_MEMORY
    )
    if isinstance(error, MemoryError) or told:
        return (
            f"The memory is not enough ({reason[:200] or type(error).__name__}). Lower batch_size, hidden_size or bptt "
            f"(--set NAME=VALUE, or search: and retrain: in the experiment file), use --precision bf16, or let fewer "
            f"trials run at a time (trialConcurrency, --slots-per-gpu)."
        )
    return None
