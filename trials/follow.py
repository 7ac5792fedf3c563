"""One of the further processes of a trial on several devices; :mod:`trials.ranks` starts it, nobody by hand.

What it has to do comes as one line of JSON through its standard input. It trains with the others and leaves no trace:
no report, no record, no checkpoint, no output, unless it fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from idarts_nni.parameters import TrialParameters
from idarts_nni.shares import Share
from idarts_nni.trial import leave_by_signal

from .faults import EXIT_NO_ROOM, explain
from .ranks import met, note_failure, note_ready
from .run import EXIT_BAD_INPUT, precautions, prepare
from .training import run_job


def main() -> int:
    """Train as told; return the exit code, as the trial itself would."""
    with os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0) as told:
        orders = json.loads(told.readline())
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    folder, rank = Path(orders["folder"]), int(orders["rank"])
    logging.disable(logging.CRITICAL)  # the first process says it all
    try:
        _follow(orders, folder, Share(rank, orders["count"]))
    except KeyboardInterrupt as interrupt:
        leave_by_signal(interrupt.args[0])
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        note_failure(folder, rank, str(error))
        return EXIT_BAD_INPUT
    except Exception as error:
        reason = explain(error)
        note_failure(folder, rank, reason or traceback.format_exc())
        return 1 if reason is None else EXIT_NO_ROOM
    return 0


def _follow(orders: dict[str, Any], folder: Path, share: Share) -> None:
    options, device = argparse.Namespace(**orders["options"]), orders["device"]
    task, job = prepare(TrialParameters.from_dict(orders["parameters"]), options, device)
    note_ready(folder, share.rank)
    with met(share, device, folder):
        checkpoints = Path(orders["checkpoints"])
        run_job(task, dataclasses.replace(job, share=share), checkpoints, lambda metrics: None, precautions(options))


def _end_with_the_first() -> None:
    # Not sys.stdin.read(): its lock would be held when Python ends.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
