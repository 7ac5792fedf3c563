"""Ways to weigh the edges in training other than the plain softmax: sampled, and perturbed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLINGS = ("softmax", "gumbel", "gumbel-hard")


class EdgeWeights(nn.Module):
    """Softmax over the last axis in evaluation; in training a Gumbel sample and random smoothing, as far as asked for.

    ``gumbel`` draws ``softmax((logits + g) / temperature)`` with Gumbel noise ``g`` (Xie et al., "SNAS", ICLR 2019).
    ``gumbel-hard`` takes the largest entry of such a sample alone, and its gradient from the soft one (Dong and Yang,
    "Searching for a Robust Neural Architecture in Four GPU Hours", CVPR 2019). The temperature falls linearly over the
    epochs.

    ``smoothing`` adds uniform noise to the probabilities in the weight step, so that the weights suit a neighbourhood
    of the architecture (Chen and Hsieh, "Stabilizing Differentiable Architecture Search via Perturbation-based
    Regularization", ICML 2020). The result is cut at 0 and divided by its sum. The noise grows linearly over the epochs
    to its full size in the last one.

    Parameters
    ----------
    sampling
        One of :data:`SAMPLINGS`.
    temperature_start, temperature_end
        In the first and in the last epoch.
    smoothing
        Largest noise, epsilon; 0 for none.

    Raises
    ------
    ValueError
        If a value is impossible; the message says what is allowed.
    """

    def __init__(
        self,
        sampling: str = "softmax",
        temperature_start: float = 10.0,
        temperature_end: float = 0.1,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling: found {sampling!r}; allowed: {', '.join(SAMPLINGS)}.")
        for name, value in (("temperature_start", temperature_start), ("temperature_end", temperature_end)):
            if not value > 0.0:
                raise ValueError(f"{name}: found {value!r}; expected a number above 0.")
        if not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"smoothing: found {smoothing!r}; expected a number from 0 to 1.")
        self.sampling = sampling
        self.temperatures = temperature_start, temperature_end
        self.smoothing = smoothing
        self.is_weight_step = False
        """Whether the weights' loss is being computed, which alone is smoothed; see :func:`weight_step`."""
        self.set_epoch(0, 1)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Set temperature and noise for epoch ``epoch`` (from 0) of so many."""
        start, end = self.temperatures
        self.temperature = start + (end - start) * epoch / max(1, epochs - 1)
        self.noise = self.smoothing * (epoch + 1) / epochs

    def forward(self, logits: Tensor) -> Tensor:
        """Return weights of the shape of the logits; those of the last axis sum to one."""
        if not self.training:
            return logits.softmax(-1)
        if self.sampling == "softmax":
            weights = logits.softmax(-1)
        else:
            weights = functional.gumbel_softmax(logits, self.temperature, hard=self.sampling == "gumbel-hard")
        return self._smoothed(weights) if self.noise and self.is_weight_step else weights

    def _smoothed(self, weights: Tensor) -> Tensor:
        noisy = (weights + torch.empty_like(weights).uniform_(-self.noise, self.noise)).clamp_min(0.0)
        total = noisy.sum(-1, keepdim=True)
        return torch.where(total > 0.0, noisy / total, weights)  # all cut off: as without noise


@contextmanager
def weight_step(module: nn.Module) -> Iterator[None]:
    """Tell all edge weights below a module that the loss of the weights is computed, not that of the architecture."""
    weighing = [part for part in module.modules() if isinstance(part, EdgeWeights)]
    for part in weighing:
        part.is_weight_step = True
    try:
        yield
    finally:
        for part in weighing:
            part.is_weight_step = False
