"""Averaging of the weights that starts by itself, when training alone no longer helps."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import AveragedModel


class NonMonotoneAveraging(WeightAveraging):
    """Average the weights from the moment the validation loss stops falling (NT-ASGD; Merity, Keskar, Socher 2018).

    The trigger: the metric ``validation`` of an epoch has not beaten the best of all but the last ``patience`` epochs
    before it. From then on every step adds to an equally weighted average, evaluation uses the average, and training
    goes on from the plain weights. In place of ``torch.optim.ASGD``, whose step size lags one step behind a learning
    rate that changes at every step.

    Parameters
    ----------
    patience
        Epochs that the comparison leaves out.
    """

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self._history: list[float] = []

    @property
    def averaging(self) -> bool:
        """Whether the average has started."""
        return self._average_model is not None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the average for later: Lightning's own would start from the untrained weights."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether to start."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = float(trainer.callback_metrics["validation"])
        earlier = self._history[: -self.patience] if self.patience else self._history
        # Written so that a loss that is not a number starts nothing.
        if not self.averaging and earlier and value > min(earlier):
            self._start(pl_module)
        self._history.append(value)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a step to the average, once there is one."""
        if self.averaging:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averaged weights in the model, if there are any."""
        if self.averaging:
            super().on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Add the history that the trigger looks at."""
        return {**super().state_dict(), "history": list(self._history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history."""
        super().load_state_dict(state_dict)
        self._history = list(state_dict["history"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store both kinds of weights once there are two."""
        if self.averaging:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up an average that had started."""
        if "averaging_state" in checkpoint:
            self._start(pl_module)
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _start(self, pl_module: LightningModule) -> None:
        self._average_model = AveragedModel(pl_module, device=pl_module.device, use_buffers=True)
