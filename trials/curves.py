"""The metrics of every epoch as TensorBoard's curves, where NNI's TensorBoard button looks for them.

Written beside whatever logger a trainer of Lightning has; tensorboard is an extra (``pip install '.[tensorboard]'``).
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

from idarts_nni.trial import is_in_experiment, tensorboard_directory

from .reporter import EpochReport


def with_curves(report: EpochReport, wanted: bool | None) -> EpochReport:
    """Return a report that also writes curves, if these are wanted.

    Parameters
    ----------
    report
        What else is done with the metrics of an epoch.
    wanted
        None: under NNI, where tensorboard is installed.

    Raises
    ------
    ValueError
        If they are wanted and tensorboard is not installed.
    """
    installed = importlib.util.find_spec("tensorboard") is not None
    if wanted and not installed:
        raise ValueError("--tensorboard: tensorboard is not installed; pip install '.[tensorboard]', or leave it out.")
    if wanted is False or not installed or not (wanted or is_in_experiment()):
        return report
    curves = Curves(tensorboard_directory())

    def report_and_draw(metrics: dict[str, float]) -> None:
        report(metrics)
        curves.add(metrics)

    return report_and_draw


class Curves:
    """Scalars of one trial.

    Parameters
    ----------
    folder
        Where the event file goes. Files that are there already are deleted with the first epoch: a trial that goes on
        from a checkpoint reports its earlier epochs again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def add(self, metrics: dict[str, float]) -> None:
        """Add the metrics of one epoch, whose number is ``epoch``; numbers that are not finite are left out."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            for old in self._folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = SummaryWriter(str(self._folder))
        for name, value in metrics.items():
            if name not in ("default", "epoch") and math.isfinite(value):
                self._writer.add_scalar(name, value, int(metrics["epoch"]))
        # After every epoch, so that the page is up to date and a killed trial leaves its curves.
        self._writer.flush()
