"""The metrics of every epoch, kept and passed on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

_logger = logging.getLogger(__name__)

EpochReport = Callable[[dict[str, float]], None]


class EpochReporter(Callback):
    """Keeps the metrics of every epoch, passes them on, and counts the seconds over all resumed runs.

    Parameters
    ----------
    report
        Called with the metrics of each epoch; ``default`` is the validation metric.
    """

    def __init__(self, report: EpochReport) -> None:
        self.history: list[dict[str, float]] = []
        self._report = report
        self._seconds_before = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self._seconds_before + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"history": [dict(epoch) for epoch in self.history], "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the history of an interrupted run, and report it again for NNI's curve."""
        # In place: others hold this list from before the checkpoint was read.
        self.history[:] = [dict(epoch) for epoch in state_dict["history"]]
        self._seconds_before = float(state_dict["seconds"])
        for epoch in self.history:
            self._report(epoch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report an epoch."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if not name.startswith("prob/")
        }
        epoch = {"default": metrics["validation"], **metrics, "epoch": trainer.current_epoch + 1.0}
        epoch["seconds"] = round(self.seconds, 3)
        self.history.append(epoch)
        self._report(epoch)
        _logger.info("epoch %d: %s", trainer.current_epoch + 1, {key: round(value, 4) for key, value in epoch.items()})
