"""The two-phase training of a search, as a Lightning module round the evaluator's own."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from torch import Tensor, nn, optim


class IDARTSLightningModule(DartsLightningModule):
    """The two-phase training step of :class:`~idarts_nni.strategy.IDARTS`, round the evaluator's own module.

    Parameters
    ----------
    training_module
        The evaluator's module; its ``training_step`` computes the loss of both phases.
    arc_learning_rate, arc_weight_decay, arc_betas, gradient_clip_val, log_prob_every_n_step, warmup_epochs, penalty
        As in :class:`~idarts_nni.strategy.IDARTS`.
    """

    def __init__(
        self,
        training_module: LightningModule,
        *,
        arc_weight_decay: float,
        arc_betas: tuple[float, float],
        **kwargs: Any,
    ) -> None:
        super().__init__(training_module, **kwargs)
        self.arc_weight_decay = arc_weight_decay
        self.arc_betas = arc_betas

    def arch_parameters(self) -> list[nn.Parameter]:
        """Return the architecture parameters, each once, in the order of the modules."""
        # dict.fromkeys keeps the order stable: optimiser state is restored by position, and NNI's base class passes
        # the parameters through a set, so that a resumed Adam could pair its moments with the wrong parameter.
        return list(dict.fromkeys(self._all_arch_parameters()))

    def _all_arch_parameters(self) -> Iterator[nn.Parameter]:
        for module in self.supernet_modules():
            if hasattr(module, "arch_parameters"):
                yield from module.arch_parameters()

    def configure_architecture_optimizers(self) -> optim.Optimizer:
        """Make the Adam of the architecture parameters, with the settings of the strategy."""
        parameters = self.arch_parameters()
        if not parameters:
            raise ValueError("The model has no architecture parameters, so there is nothing to search.")
        return optim.Adam(parameters, self.arc_learning_rate, betas=self.arc_betas, weight_decay=self.arc_weight_decay)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Any:
        """Take an architecture step on validation data, then a weight step on training data."""
        if self.trainer.current_epoch >= self.warmup_epochs:
            self._architecture_step(batch["val"], batch_idx)
        self.resample()
        with _frozen(self.arch_parameters()):
            result = self.training_module.training_step(batch["train"], 2 * batch_idx + 1)
            self.advance_optimization(_loss(result), batch_idx, self.gradient_clip_val)
        self.advance_lr_schedulers(batch_idx)
        if batch_idx % self.log_prob_every_n_step == 0:
            self.log_probs(self.export_probs())
        return result

    def _architecture_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.architecture_optimizers()
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(f"Expected one optimiser of the architecture parameters; found {optimizer!r}.")
        self.resample()
        optimizer.zero_grad()
        with _frozen(self._weights()):
            loss = _loss(self.training_module.training_step(batch, 2 * batch_idx))
            if self.penalty is not None:
                loss, details = self.penalty(loss, self.export_probs())
                self.log_dict({f"penalty/{name}": value for name, value in details.items()})
            self.manual_backward(loss)
        optimizer.step()

    def _weights(self) -> list[nn.Parameter]:
        architecture = set(self.arch_parameters())
        return [parameter for parameter in self.parameters() if parameter not in architecture]

    def log_probs(self, probs: Mapping[str, Any]) -> None:
        """Log every edge's probability, where there is a logger to take them."""
        if self.trainer.loggers:
            super().log_probs(probs)

    # NNI's wrapper forwards the hooks of training only; without these there would be no validation.

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Evaluate the search network on one batch."""
        return self.training_module.validation_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Forward to the evaluator's module."""
        self.training_module.on_validation_epoch_start()

    def on_validation_epoch_end(self) -> None:
        """Forward to the evaluator's module."""
        self.training_module.on_validation_epoch_end()


class _frozen:
    """Keep parameters out of a backward pass: a phase computes only the gradients that its step needs."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *exception: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)


def _loss(result: Any) -> Tensor:
    loss = result["loss"] if isinstance(result, Mapping) else result
    if not isinstance(loss, torch.Tensor):
        raise TypeError(
            f"training_step returned {type(result).__name__}; expected a loss tensor or a dict with 'loss'."
        )
    return loss
