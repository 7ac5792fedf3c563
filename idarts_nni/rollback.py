"""What happens when the loss is no longer a number: back to before that epoch, with a smaller step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, optim

FACTOR = 0.5
"""The step of all optimisers is multiplied by this at each reduction."""
REDUCTIONS = 3
"""Reductions that a run may take before it fails."""
_STEPS_BETWEEN_LOOKS = 32


class Diverged(Exception):
    """Something that must be a finite number is none.

    Parameters
    ----------
    what
        What it is, such as ``the training loss``.
    epoch
        Epoch, counted from 0.
    reductions
        Epochs from which on the step was reduced before.
    """

    def __init__(self, what: str, epoch: int, reductions: Sequence[int]) -> None:
        super().__init__(f"{what} is not a finite number in epoch {epoch + 1}")
        self.epoch = epoch
        self.reductions = tuple(reductions)


class FiniteTraining(Callback):
    """Looks whether losses, weights and the validation metric are finite, and keeps the step reduced after a fault.

    A reduction holds from the beginning of the epoch in which the fault appeared. So it does not matter which older
    checkpoint a run goes back to: what it computes is the same, however often and wherever it was interrupted.

    Parameters
    ----------
    reductions
        Epochs (counted from 0) from which on the step is multiplied by :data:`FACTOR`, once for each.
    metric
        Name of the validation metric.

    Raises
    ------
    Diverged
        By the hooks, when something is not finite.
    """

    def __init__(self, reductions: Sequence[int] = (), metric: str = "validation") -> None:
        self._reductions = tuple(reductions)
        self._metric = metric
        self._suspect: Tensor | None = None
        self._rates: list[Any] = []
        self._handles: list[Any] = []

    @property
    def reductions(self) -> tuple[int, ...]:
        """Epochs from which on the step is smaller."""
        return self._reductions

    def state_dict(self) -> dict[str, Any]:
        """Return the reductions."""
        return {"reductions": list(self._reductions)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the reductions of an interrupted run, unless a fault has just added one."""
        self._reductions = max(self._reductions, tuple(state_dict["reductions"]), key=len)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Get behind the steps of the optimisers."""
        for optimizer in trainer.optimizers:
            self._handles.append(optimizer.register_step_post_hook(self._put_back_the_step))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: optim.Optimizer
    ) -> None:
        """Make the step smaller, for this once: whoever sets learning rates goes on with what they know."""
        factor = FACTOR ** sum(first <= trainer.current_epoch for first in self._reductions)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups if factor != 1.0 else ():
            group["lr"] = group["lr"] * factor

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the optimisers alone again."""
        while self._handles:
            self._handles.pop().remove()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss; on an accelerator only now and then, since looking waits for it."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        bad = ~torch.isfinite(loss.detach()).all()
        self._suspect = bad if self._suspect is None else self._suspect | bad
        if loss.device.type == "cpu" or batch_idx % _STEPS_BETWEEN_LOOKS == 0 or trainer.is_last_batch:
            self._look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights once an epoch."""
        if trainer.state.fn == "fit":
            self._look_at_weights(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the metric."""
        value = trainer.callback_metrics.get(self._metric)
        if trainer.state.fn == "fit" and value is not None and not bool(torch.isfinite(value).all()):
            raise Diverged("the validation metric", trainer.current_epoch, self._reductions)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let no checkpoint be written that holds a fault."""
        self._look(trainer)
        self._look_at_weights(trainer, pl_module)

    def _look(self, trainer: Trainer) -> None:
        suspect = self._suspect is not None and bool(self._suspect)
        # One process's share of the batch may be faulty; all of them go back.
        if trainer.strategy.reduce_boolean_decision(suspect, all=False):
            raise Diverged("the training loss", trainer.current_epoch, self._reductions)
        self._suspect = None

    def _look_at_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise Diverged(f"the weight {name}", trainer.current_epoch, self._reductions)

    def _put_back_the_step(self, optimizer: optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
