"""The language model's head under variational dropout: a column of the batch multiplies only the features it keeps.

The dropout on the head's input is locked: a column of the batch drops the same features at every step. With a rate of
0.75 three quarters of the products have a factor of zero. Here each column multiplies its own quarter of the weight.

Axis letters: ``T`` steps, ``B`` columns of the batch, ``H`` hidden width, ``K`` features that a column keeps,
``V`` vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .head import check_classes, linear_cross_entropy, logits_of, losses_of
from .matmul import Products, products_for

MOST_KEPT = 0.5
"""Above this share of kept features the whole product is as fast as the parts with their copies."""

LEAST_WORK = 2**24
"""Multiplications of a column's whole product, below which the calls for each column cost more than they save."""


def dropped_linear_cross_entropy(
    states: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> Tensor:
    """Return the mean cross-entropy of a linear layer on states under locked dropout.

    Equal to ``linear_cross_entropy((states * mask).flatten(0, 1), weight, bias, targets.flatten())``, which it calls
    where skipping zeros would not pay: few zeros, small products, or another device than a CPU.

    Parameters
    ----------
    states
        Shape ``(T, B, H)``.
    mask
        Factor of each feature of a column, 0 where it is dropped, shape ``(B, H)``; a constant.
    weight, bias
        Shape ``(V, H)`` and ``(V,)``, or no bias.
    targets
        Classes, int64, shape ``(T, B)``.

    Returns
    -------
    Mean loss in nats, a scalar. Gradients are computed for those of states, weight and bias that require them.
    """
    wanted = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (states, weight, bias)
    )
    if not (wanted and pays(states, mask, weight)):
        return linear_cross_entropy((states * mask).flatten(0, 1), weight, bias, targets.flatten())
    check_classes(targets, len(weight))
    loss: Tensor = _DroppedLinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states.to(weight.dtype), mask.to(weight.dtype), weight, bias, targets
    )
    return loss


def pays(states: Tensor, mask: Tensor, weight: Tensor) -> bool:
    """Tell whether products of the kept features alone, column by column, are faster than the whole one."""
    if states.device.type != "cpu":
        return False
    work = len(states) * weight.numel()
    return work >= LEAST_WORK and int(mask.count_nonzero()) <= MOST_KEPT * mask.numel()


class _DroppedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        products = products_for(states)
        needs = [ctx.needs_input_grad[place] for place in (0, 2, 3)]
        with torch.autocast(states.device.type, enabled=False):
            loss, ctx.grads = _loss_and_grads(products, states.detach(), mask, weight, bias, targets, needs)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("dropped_linear_cross_entropy allows one backward pass; run the forward pass again.")
        states, weight, bias = (None if grad is None else grad.mul_(grad_loss) for grad in ctx.grads)
        ctx.grads = None  # they were scaled in place
        return states, None, weight, bias, None


def _loss_and_grads(
    products: Products,
    states: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    needs: list[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    # Transposed, so that a column's features are whole rows: they are then copied and added to at memory speed.
    features = products.operand(weight).t().contiguous()  # (H, V)
    grad_states = torch.zeros_like(states) if needs[0] else None
    grad_features = torch.zeros(features.shape, dtype=weight.dtype) if needs[1] else None
    grad_bias = torch.zeros_like(bias) if bias is not None and needs[2] else None
    total = torch.zeros((), dtype=torch.float64)
    for column, factors in enumerate(mask):
        kept = factors.nonzero()[:, 0]
        rows = states[:, column].index_select(1, kept).mul_(factors[kept])  # (T, K)
        operand = features.index_select(0, kept)  # (K, V)
        logits = logits_of(products, rows, operand, bias)
        total += losses_of(logits, targets[:, column].contiguous(), 1.0 / targets.numel()).sum()  # now their gradient
        if grad_bias is not None:
            grad_bias += logits.sum(0)
        grad = products.operand(logits)
        if grad_states is not None:
            grad_states[:, column].index_copy_(1, kept, products.transposed(grad, operand).mul_(factors[kept]))
        if grad_features is not None:
            grad_features.index_add_(0, kept, products.weight_gradient(rows, grad))
    grad_weight = None if grad_features is None else grad_features.t().contiguous()
    return (total / targets.numel()).to(states.dtype), [grad_states, grad_weight, grad_bias]
