"""The elementwise passes of a fused unroll in plain torch, on any device.

Two passes forward, *spread* (from a stage's product to all stages that read it) and *settle* (from a stage's total to
its state), and their two transposes backward. :mod:`idarts_nni.native` offers the same four, compiled.
Shapes: states, totals and masks ``(B, H)``, products ``(B, slots * G * H)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from .links import Links, Stage
from .native_loop import Buffers

Derivative = Callable[[Tensor, Tensor], Tensor]
"""From the argument and the operation's value to the derivative."""


def _gelu_derivative(argument: Tensor, value: Tensor) -> Tensor:
    normal = 0.5 * (1.0 + torch.erf(argument * math.sqrt(0.5)))
    return normal + argument * torch.exp(-0.5 * argument * argument) / math.sqrt(2.0 * math.pi)


def _silu_derivative(argument: Tensor, value: Tensor) -> Tensor:
    gate = argument.sigmoid()
    return gate + value * (1.0 - gate)


OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Derivative]] = {
    "tanh": (torch.tanh, lambda argument, value: 1.0 - value * value),
    "relu": (torch.relu, lambda argument, value: (argument > 0).to(argument.dtype)),
    "sigmoid": (torch.sigmoid, lambda argument, value: value * (1.0 - value)),
    "identity": (lambda argument: argument, lambda argument, value: torch.ones_like(argument)),
    "gelu": (torch.nn.functional.gelu, _gelu_derivative),
    "silu": (torch.nn.functional.silu, _silu_derivative),
}
"""Operations whose derivative the fused passes know. The order is the native passes' numbering."""


@dataclass(frozen=True)
class Normalisation:
    """How a step normalises its states.

    ``batch``: by the mean and variance of the batch. Otherwise by ``mean`` and ``inverse`` (of the standard deviation),
    shape ``(H,)`` each, or not at all if these are None.
    """

    batch: bool = False
    eps: float = 0.0
    mean: Tensor | None = None
    inverse: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether states are normalised."""
        return self.batch or self.mean is not None


class Passes(Protocol):
    """What a fused unroll asks of its elementwise passes."""

    def spread(self, stage: int, state: Tensor, product: Tensor, totals: Tensor) -> None:
        """Add what ``state`` sends through ``product`` to the ``totals`` of later stages, ``(stages, B, H)``."""

    def spread_backward(
        self, stage: int, state: Tensor, product: Tensor, grad_totals: Tensor, grad_state: Tensor
    ) -> None:
        """Turn ``product`` into its gradient, write the carry's to ``grad_state``, add up the coefficients'."""

    def settle(
        self, total: Tensor, state: Tensor, masked: Tensor | None, mean: Tensor, variance: Tensor, output: Tensor | None
    ) -> None:
        """Normalise a total to a state, mask it, add its N-th part to the step's output."""

    def settle_backward(
        self,
        grad_state: Tensor,
        grad_masked: Tensor | None,
        grad_output: Tensor | None,
        state: Tensor,
        variance: Tensor,
        grad_total: Tensor,
    ) -> None:
        """Collect the gradient of a state (None: nothing comes that way) and carry it through the normalisation."""

    def walk(self, buffers: Buffers) -> bool:
        """Run all steps, forward or (given ``grad_output``) backward, if these passes can; tell whether they did."""

    def finish_coefficients(self) -> Tensor:
        """Return the gradient of the coefficients, summed over all :meth:`spread_backward`."""


class TorchPasses:
    """The passes in plain torch operators: no compiler needed, no host synchronisation, any device."""

    def __init__(
        self,
        links: Links,
        coefficients: Tensor,
        mask: Tensor | None,
        norm: Normalisation,
        coefficients_grad: bool = False,
    ) -> None:
        self._links = links
        self._coefficients = coefficients
        self._mask = mask
        self._norm = norm
        self._grad = torch.zeros_like(coefficients) if coefficients_grad else None
        self._targets, self._rows, self._used = _indices(links, coefficients.device)
        self._functions = [OPERATIONS[name] for name in links.operations]

    def spread(self, stage: int, state: Tensor, product: Tensor, totals: Tensor) -> None:
        """Run :meth:`Passes.spread`."""
        links = self._links.stages[stage]
        gate, update = _split(product, links)
        rows = self._coefficients[self._rows[stage]]  # (links, K)
        sent: Tensor | None = None
        for column in _columns(links):
            share = rows[:, column].view(-1, 1, 1)
            value = _edge(state, gate, self._functions[column][0](update))
            sent = share * value if sent is None else sent + share * value  # (links, B, H)
        assert sent is not None
        totals.index_add_(0, self._targets[stage], sent)

    def spread_backward(
        self, stage: int, state: Tensor, product: Tensor, grad_totals: Tensor, grad_state: Tensor
    ) -> None:
        """Run :meth:`Passes.spread_backward`."""
        links = self._links.stages[stage]
        gate, update = _split(product, links)
        rows = self._coefficients[self._rows[stage]]
        incoming = grad_totals[self._targets[stage]]  # (links, B, H)
        grad_update = torch.zeros_like(update)
        grad_gate = torch.zeros_like(update)
        grad_carry = torch.zeros_like(update)
        for column in _columns(links):
            function, derivative = self._functions[column]
            value = function(update)
            grad_value = rows[:, column].view(-1, 1, 1) * incoming
            if self._grad is not None:
                self._add_grad(stage, column, (incoming * _edge(state, gate, value)).sum((1, 2)))
            if links.shared:
                grad_value = grad_value.sum(0, keepdim=True)
            if gate is not None:
                grad_gate += grad_value * (value - state)
                grad_carry += grad_value * (1.0 - gate)
                grad_value = grad_value * gate
            grad_update += grad_value * derivative(update, value)
        parts = _parts(product, links)
        if gate is not None:
            parts[:, :, 0] = (grad_gate * gate * (1.0 - gate)).transpose(0, 1)
        parts[:, :, -1] = grad_update.transpose(0, 1)
        torch.sum(grad_carry, 0, out=grad_state)

    def _add_grad(self, stage: int, column: int, grads: Tensor) -> None:
        assert self._grad is not None
        self._grad[:, column].index_add_(0, self._rows[stage], grads * self._used[stage][column])

    def settle(
        self, total: Tensor, state: Tensor, masked: Tensor | None, mean: Tensor, variance: Tensor, output: Tensor | None
    ) -> None:
        """Run :meth:`Passes.settle`."""
        norm = self._norm
        if norm.batch:
            torch.mean(total, 0, out=mean)
            centred = total - mean
            torch.mean(centred * centred, 0, out=variance)
            torch.mul(centred, (variance + norm.eps).rsqrt(), out=state)
        elif norm.mean is not None and norm.inverse is not None:
            torch.mul(total - norm.mean, norm.inverse, out=state)
        else:
            state.copy_(total)
        if masked is not None:
            masked.copy_(state if self._mask is None else state * self._mask)
        if output is not None:
            output.add_(state, alpha=1.0 / self._links.num_nodes)

    def settle_backward(
        self,
        grad_state: Tensor,
        grad_masked: Tensor | None,
        grad_output: Tensor | None,
        state: Tensor,
        variance: Tensor,
        grad_total: Tensor,
    ) -> None:
        """Run :meth:`Passes.settle_backward`."""
        norm = self._norm
        grad = grad_state
        if grad_masked is not None:
            grad = grad + (grad_masked if self._mask is None else grad_masked * self._mask)
        if grad_output is not None:
            grad = grad + grad_output * (1.0 / self._links.num_nodes)
        if norm.batch:
            inverse = (variance + norm.eps).rsqrt()
            grad = (grad - grad.mean(0) - state * (grad * state).mean(0)) * inverse
        elif norm.inverse is not None:
            grad = grad * norm.inverse
        grad_total.copy_(grad)

    def walk(self, buffers: Buffers) -> bool:
        """Run :meth:`Passes.walk`: never, as a loop over torch operators is what the caller has."""
        return False

    def finish_coefficients(self) -> Tensor:
        """Return the gradient of the coefficients, summed over all :meth:`spread_backward`."""
        assert self._grad is not None
        return self._grad


@lru_cache(maxsize=64)  # made once: bringing numbers to a device waits for it
@torch.inference_mode(False)  # an evaluation may come first, and its tensors could not be trained with
def _indices(links: Links, device: torch.device) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return targets and rows of each stage's links, ``(links,)``, and what they use, ``(operations, links)``."""
    columns = range(len(links.operations))
    targets = [torch.tensor([link.target for link in s.links], device=device) for s in links.stages]
    rows = [torch.tensor([link.row for link in s.links], device=device) for s in links.stages]
    used = [
        torch.tensor([[column in link.columns for link in s.links] for column in columns], device=device)
        for s in links.stages
    ]
    return targets, rows, used


def _columns(stage: Stage) -> list[int]:
    return sorted({column for link in stage.links for column in link.columns})


def _parts(product: Tensor, stage: Stage) -> Tensor:
    return product.view(product.shape[0], stage.slots, 2 if stage.gated else 1, -1)  # (B, slots, G, H)


def _split(product: Tensor, stage: Stage) -> tuple[Tensor | None, Tensor]:
    """Return the open share of the gate (None without a gate) and the operations' argument, ``(slots, B, H)`` each."""
    parts = _parts(product, stage).transpose(0, 1)
    return (parts[:, :, 0].sigmoid() if stage.gated else None), parts[:, :, -1]


def _edge(state: Tensor, gate: Tensor | None, value: Tensor) -> Tensor:
    return value if gate is None else state + gate * (value - state)
