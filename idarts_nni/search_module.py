"""The two-phase training of a search, as a Lightning module round the evaluator's own."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from torch import Tensor, nn, optim

from .phases import evaluating, frozen, loss_of, wanting_gradients, without_trace
from .sampling import EdgeWeights, weight_step
from .second_order import unrolled_gradients
from .shares import averaged


class IDARTSLightningModule(DartsLightningModule):
    """The two-phase training step of :class:`~idarts_nni.strategy.IDARTS`, round the evaluator's own module.

    Parameters
    ----------
    training_module
        The evaluator's module; its ``training_step`` computes the loss of both phases.
    arc_learning_rate, arc_weight_decay, arc_betas, gradient_clip_val, log_prob_every_n_step, warmup_epochs, penalty,
    second_order
        As in :class:`~idarts_nni.strategy.IDARTS`.
    """

    def __init__(
        self,
        training_module: LightningModule,
        *,
        arc_weight_decay: float,
        arc_betas: tuple[float, float],
        second_order: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(training_module, **kwargs)
        self.second_order = second_order
        self._epoch = -1
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
        self._set_epoch(self.trainer.current_epoch)
        if self.trainer.current_epoch >= self.warmup_epochs:
            self._architecture_step(batch, batch_idx)
        self.resample()
        with frozen(self.arch_parameters()):
            with weight_step(self):
                result = self.training_module.training_step(batch["train"], 2 * batch_idx + 1)
            self.advance_optimization(loss_of(result), batch_idx, self.gradient_clip_val)
        self.advance_lr_schedulers(batch_idx)
        if batch_idx % self.log_prob_every_n_step == 0:
            self.log_probs(self.export_probs())
        return result

    def _set_epoch(self, epoch: int) -> None:
        """Tell the edges' weighing how far the search has come; an epoch that is resumed has no start to do it at."""
        if epoch != self._epoch:
            self._epoch = epoch
            for module in self.modules():
                if isinstance(module, EdgeWeights):
                    module.set_epoch(epoch, self.trainer.max_epochs or 1)

    def _architecture_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        optimizer = self.architecture_optimizers()
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(f"Expected one optimiser of the architecture parameters; found {optimizer!r}.")
        self.resample()
        optimizer.zero_grad()
        if self.second_order:
            self._unrolled_backward(batch, batch_idx)
        else:
            with frozen(self._weights()):
                self.manual_backward(self._architecture_loss(batch["val"], batch_idx))
        optimizer.step()

    def _architecture_loss(self, batch: Any, batch_idx: int) -> Tensor:
        loss = loss_of(self.training_module.training_step(batch, 2 * batch_idx))
        if self.penalty is not None:
            loss, details = self.penalty(loss, self.export_probs())
            self.log_dict({f"penalty/{name}": value for name, value in details.items()})
        return loss

    def _unrolled_backward(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Leave the second-order gradient in the architecture parameters."""
        random = torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if self.on_gpu else None

        def train_loss() -> Tensor:
            # Three passes with one dropout mask, and none of them counts: the real weight step is still to come.
            with torch.random.fork_rng([self.device] if self.on_gpu else []), without_trace(self.training_module):
                torch.set_rng_state(random[0])
                if random[1] is not None:
                    torch.cuda.set_rng_state(random[1], self.device)
                with weight_step(self):
                    return loss_of(self.training_module.training_step(batch["train"], 2 * batch_idx + 1))

        parameters = self.arch_parameters()
        gradients = unrolled_gradients(
            train_loss,
            partial(self._architecture_loss, batch["val"], batch_idx),
            [weight for weight in self._weights() if weight.requires_grad],
            parameters,
            self._weight_optimizer(),
            clip=self.gradient_clip_val,
            mean=averaged,
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def _weight_optimizer(self) -> optim.Optimizer:
        found = self.optimizers(use_pl_optimizer=False)
        every: list[Any] = found if isinstance(found, list) else [found]
        weights = [optimizer for optimizer in every if not getattr(optimizer, "is_arch_optimizer", False)]
        if len(weights) != 1:
            raise TypeError(f"second_order needs one optimiser of the weights; found {len(weights)}.")
        return weights[0]

    def mean_loss(self, batches: Iterable[Any]) -> float:
        """Return the mean loss over batches, as the search network is evaluated: no dropout, no sampling, no trace."""
        losses = []
        with torch.no_grad(), evaluating(self), without_trace(self.training_module):
            for number, batch in enumerate(batches):
                losses.append(self._loss_on(batch, number))
        return float(torch.stack(losses).double().mean())

    def architecture_gradients(self, batch: Any) -> list[Tensor]:
        """Return the gradient of the loss on one batch by each architecture parameter, evaluated as :meth:`mean_loss`.

        Works inside a validation pass, where gradients are switched off.
        """
        parameters = self.arch_parameters()
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            evaluating(self),
            without_trace(self.training_module),
            frozen(self._weights()),
            wanting_gradients(parameters),
        ):
            found = torch.autograd.grad(self._loss_on(batch, 0), parameters, allow_unused=True)
        return [
            torch.zeros_like(parameter) if gradient is None else gradient
            for gradient, parameter in zip(found, parameters, strict=True)
        ]

    def _loss_on(self, batch: Any, number: int) -> Tensor:
        batch = self.trainer.strategy.batch_to_device(batch, self.device)
        with self.trainer.precision_plugin.forward_context():
            return loss_of(self.training_module.training_step(batch, number))

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
