"""The language model's head: a linear layer and cross-entropy, without the logits of all tokens in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import native
from .matmul import Products, products_for

CHUNK = 512
"""Rows whose logits exist at one time: large enough for a fast product, small enough for the cache to hold 20 MB."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, chunk: int = CHUNK
) -> Tensor:
    r"""Return the mean cross-entropy of a linear layer's logits.

    Equal to ``cross_entropy(hidden @ weight.T + bias, targets)``. Rows are taken in chunks; a chunk's gradient is
    formed while its logits are at hand, so the backward pass only scales. Inside
    ``torch.autocast(..., torch.bfloat16)`` the products take bfloat16 operands (:mod:`idarts_nni.matmul`).

    Parameters
    ----------
    hidden
        Shape ``(M, H)``.
    weight, bias
        Shape ``(V, H)`` and ``(V,)``, or no bias.
    targets
        Classes, int64, shape ``(M,)``.
    chunk
        Rows at a time.

    Returns
    -------
    Mean loss in nats, a scalar. Gradients are computed for those of the first three that require them.
    """
    hidden, targets = _checked(hidden, weight, targets)
    wanted = [tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)]
    if not (torch.is_grad_enabled() and any(wanted)):
        return linear_nll_sum(hidden, weight, bias, targets, chunk=chunk) / len(targets)
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, targets, chunk)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def linear_nll_sum(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, chunk: int = CHUNK
) -> Tensor:
    """Return the summed negative log-likelihood, for evaluation: a scalar in the type of ``hidden``, no gradient.

    Parameters are those of :func:`linear_cross_entropy`.
    """
    hidden, targets = _checked(hidden, weight, targets)
    products = products_for(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        operand = products.operand(weight).t()
        total = hidden.new_zeros((), dtype=torch.float64)
        for rows, classes in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True):
            total += losses_of(logits_of(products, rows, operand, bias), classes, None).sum()
    return total.to(hidden.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
        products = products_for(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            loss, grads = _loss_and_grads(products, hidden, weight, bias, targets, chunk, ctx.needs_input_grad[:3])
        ctx.grads = grads
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("linear_cross_entropy allows one backward pass; run the forward pass again.")
        grads = [None if grad is None else grad.mul_(grad_loss) for grad in ctx.grads]
        ctx.grads = None  # they were scaled in place
        return (*grads, None, None)


def _loss_and_grads(
    products: Products,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    chunk: int,
    needs: tuple[bool, ...],
) -> tuple[Tensor, list[Tensor | None]]:
    operand = products.operand(weight)  # (V, H)
    grad_hidden = torch.empty_like(hidden) if needs[0] else None
    grad_weight = torch.zeros_like(weight) if needs[1] else None
    grad_bias = torch.zeros_like(bias) if bias is not None and needs[2] else None
    total = hidden.new_zeros((), dtype=torch.float64)
    start = 0
    for rows, classes in zip(torch.split(hidden.detach(), chunk), torch.split(targets, chunk), strict=True):
        logits = logits_of(products, rows, operand.t(), bias)
        total += losses_of(logits, classes, 1.0 / len(targets)).sum()  # logits are their gradient from here on
        if grad_bias is not None:
            grad_bias += logits.sum(0)
        grad = products.operand(logits)
        if grad_hidden is not None:
            grad_hidden[start : start + len(rows)] = grad @ operand
        if grad_weight is not None:
            products.add_weight_gradient(grad_weight, grad, rows)
        start += len(rows)
    return (total / len(targets)).to(hidden.dtype), [grad_hidden, grad_weight, grad_bias]


def logits_of(products: Products, rows: Tensor, operand: Tensor, bias: Tensor | None) -> Tensor:
    """Return the logits ``(M, V)`` of rows ``(M, H)`` for an operand ``(H, V)``."""
    left = products.operand(rows)
    if bias is None or left.dtype != bias.dtype:
        logits = (left @ operand).to(rows.dtype)
        return logits if bias is None else logits.add_(bias)
    return torch.addmm(bias.detach(), left, operand)


def losses_of(logits: Tensor, targets: Tensor, scale: float | None) -> Tensor:
    """Return the losses of a chunk, fp64; with ``scale``, turn the logits into their gradient times it."""
    if not native.obstacle(logits):
        return native.softmax_nll(logits, targets, scale)
    normaliser = logits.logsumexp(1)
    losses = normaliser - logits.gather(1, targets[:, None]).squeeze(1)
    if scale is not None:
        logits.sub_(normaliser[:, None]).exp_().mul_(scale)
        logits.scatter_add_(1, targets[:, None], logits.new_full((len(targets), 1), -scale))
    return losses.double()


def _checked(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden states in the type of the weight (autocast may have lowered them) and contiguous targets."""
    if hidden.dim() != 2 or targets.shape != hidden.shape[:1] or weight.shape[-1:] != hidden.shape[1:]:
        raise ValueError(
            f"hidden, weight and targets: found shapes {tuple(hidden.shape)}, {tuple(weight.shape)} and "
            f"{tuple(targets.shape)}; expected (M, H), (V, H) and (M,)."
        )
    check_classes(targets, len(weight))
    return hidden.to(weight.dtype), targets.contiguous()


def check_classes(targets: Tensor, classes: int) -> None:
    """Raise a ValueError for numbers that are none of the classes.

    On a CPU the compiled pass does not look itself; elsewhere looking would wait for the device, and torch checks.
    """
    if targets.dtype != torch.int64:
        raise ValueError(f"targets: found {targets.dtype}; expected torch.int64, the numbers of the classes.")
    if targets.device.type != "cpu" or not targets.numel():
        return
    least, most = int(targets.min()), int(targets.max())
    if not 0 <= least <= most < classes:
        raise ValueError(f"targets: found {least} to {most}; allowed: 0 to {classes - 1}.")
