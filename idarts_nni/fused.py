r"""A whole sequence of a cell as one autograd function, with the backward pass written by hand.

Same mathematics as :mod:`idarts_nni.cell`, less work: :math:`x W_x` is one product for all steps; a state is multiplied
once by the matrices of all its readers; what lies between two products is one elementwise pass
(:mod:`idarts_nni.elementwise`); products are kept for the backward pass, which turns them into their own gradients in
place, so that the weights' gradients are one product per stage after the loop; and only gradients that are asked for
are computed. Memory: the products, ``T * B * (sum of slots) * G * H`` numbers, and the states, ``T * B * (N + 1) * H``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .elementwise import Normalisation, Passes
from .links import Links
from .matmul import Products, products_take_onednn
from .native_loop import Buffers
from .workspace import Workspace

LARGE_PRODUCT = 2**25
"""Multiplications of one slot of a step, above which torch's own products beat the compiled loop, which calls MKL."""

PassesFactory = Callable[[Links, Tensor, "Tensor | None", Normalisation, bool], Passes]


@dataclass
class Setting:
    """What an unroll needs beside its tensors."""

    links: Links
    passes: PassesFactory
    products: Products
    norm: nn.BatchNorm1d | None = None


def fused_unroll(
    setting: Setting,
    inputs: Tensor,
    hidden: Tensor,
    input_weight: Tensor,
    node_weights: Tensor,
    coefficients: Tensor,
    input_mask: Tensor | None,
    hidden_mask: Tensor | None,
) -> Tensor:
    """Return the hidden states of all steps, shape ``(T, B, H)``; arguments as in :mod:`idarts_nni.cell`."""
    tensors = (inputs, hidden, input_weight, node_weights, coefficients)
    input_mask = None if input_mask is None else input_mask.to(inputs.dtype)
    hidden_mask = None if hidden_mask is None else hidden_mask.to(inputs.dtype)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        output: Tensor = _FusedUnroll.apply(setting, *tensors, input_mask, hidden_mask)  # type: ignore[no-untyped-call]
        return output
    with torch.no_grad(), without_autocast(inputs):
        run = Run(setting, *tensors, input_mask, hidden_mask, keep=False)
        output = run.forward()
        run.release()
    return output


class _FusedUnroll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, setting: Setting, *tensors: Tensor) -> Tensor:
        with without_autocast(tensors[0]):
            run = Run(setting, *tensors, keep=True)
            output = run.forward()
        ctx.run = run
        ctx.save_for_backward(*tensors, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        run: Run | None = ctx.run
        if run is None:
            raise RuntimeError(
                "The fused unroll was asked for its gradient a second time, but its first backward pass reuses the "
                "memory of the forward pass. Run the forward pass again, or use backend='reference'."
            )
        ctx.run = None
        *_, output = ctx.saved_tensors  # reading them checks that nobody wrote into them since
        with without_autocast(grad_output):
            grads = run.backward(grad_output, output, ctx.needs_input_grad[1:6])
        run.release()
        return (None, *grads, None, None)


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Return a context in which torch takes products as they are written; ours know their precision."""
    return torch.autocast(tensor.device.type, enabled=False)


class Run:
    """One unroll: its buffers, its forward loop, and its backward loop."""

    def __init__(
        self,
        setting: Setting,
        inputs: Tensor,
        hidden: Tensor,
        input_weight: Tensor,
        node_weights: Tensor,
        coefficients: Tensor,
        input_mask: Tensor | None,
        hidden_mask: Tensor | None,
        *,
        keep: bool,
        workspace: Workspace | None = None,
    ) -> None:
        self._links, self.mm, self._keep = setting.links, setting.products, keep
        self.steps, self.batch, width = inputs.shape
        self.hidden_size = hidden.shape[-1]
        self._inputs, self._hidden = inputs, hidden.contiguous()
        self._input_mask = input_mask
        self._mask = None if hidden_mask is None else hidden_mask.expand_as(hidden).contiguous()
        self._norm = setting.norm
        self._batch_norm = _uses_batch_statistics(setting.norm)
        self._weights_shape = node_weights.shape
        self._coefficients = coefficients.detach().contiguous()
        self._passes = setting.passes
        self._input_weight = self.mm.operand(input_weight[:width])  # (D, 2H)
        self._stage_weights = [self.mm.operand(input_weight[width:])]  # (H, slots * G * H) for each stage
        for stage in self._links.stages[1:]:
            joined = [node_weights[index] for index in stage.matrices]
            weight = torch.cat(joined, dim=-1) if joined else node_weights.new_empty(self.hidden_size, 0)
            self._stage_weights.append(self.mm.operand(weight))
        self._workspace = workspace or Workspace()
        self._allocate()

    def _allocate(self) -> None:
        layout, batch, size, like = self._links, self.batch, self.hidden_size, self._hidden
        kept = self.steps if self._keep else 1
        widths = [layout.width(stage, size) for stage in range(len(layout.stages))]
        depths = [self.steps] + [kept] * (len(widths) - 1)  # x W_x of all steps is made before the loop
        shapes: list[tuple[int, ...]] = [(depth, batch, width) for depth, width in zip(depths, widths, strict=True)]
        self._product = self._workspace.take(shapes, self.mm.product_dtype(like.dtype), like.device)
        count = len(layout.stages) - 1
        shapes = [(count, kept, batch, size), (count + 1, batch, size), (batch, size)]
        self._states, self._totals, self._masked = self._workspace.take(shapes, like.dtype, like.device)
        self._mean = like.new_zeros(self.steps, count, size)
        self._variance = like.new_zeros(self.steps, count, size)

    def _may_walk(self) -> bool:
        """Tell whether a loop over plain BLAS calls computes what was asked, and as fast."""
        large = self.batch * self.hidden_size * 2 * self.hidden_size >= LARGE_PRODUCT
        return self.mm.exact and not (large and products_take_onednn())

    def release(self) -> None:
        """Hand the buffers back for the next unroll."""
        self._workspace.release()

    def forward(self) -> Tensor:
        """Unroll, update the running statistics, and return the outputs."""
        steps, batch, size = self.steps, self.batch, self.hidden_size
        masked_inputs = self._masked_inputs()
        self.mm.into(self._product[0].view(steps * batch, -1), masked_inputs, self._input_weight)
        passes = self._passes(self._links, self._coefficients, self._mask, self._normalisation(), False)
        output = self._hidden.new_zeros(steps, batch, size)
        if not (self._may_walk() and passes.walk(self._buffers(output))):
            hidden = self._hidden
            for step in range(steps):
                masked = hidden if self._mask is None else hidden * self._mask
                self._step(passes, step, hidden, masked, output[step])
                hidden = output[step]
        if self._batch_norm and self._norm is not None:
            _update_running_statistics(self._norm, self._mean.flatten(0, 1), self._variance.flatten(0, 1), batch)
        return output

    def _step(self, passes: Passes, step: int, hidden: Tensor, masked: Tensor, output: Tensor) -> None:
        kept = step if self._keep else 0
        totals = self._totals.zero_()
        product = self._product[0][step]
        self.mm.add_into(product, masked, self._stage_weights[0])
        passes.spread(0, hidden, product, totals)
        for stage in range(1, len(self._links.stages)):
            state = self._states[stage - 1, kept]
            links = self._links.stages[stage].links
            copy = self._masked if self._mask is not None and links else None
            mean, variance = self._mean[step, stage - 1], self._variance[step, stage - 1]
            passes.settle(totals[stage], state, copy, mean, variance, output if stage > 1 else None)
            if links:
                product = self._product[stage][kept]
                self.mm.into(product, state if copy is None else copy, self._stage_weights[stage])
                passes.spread(stage, state, product, totals)

    def backward(self, grad_output: Tensor, output: Tensor, needs: tuple[bool, ...]) -> list[Tensor | None]:
        """Return the gradients of inputs, hidden, input weight, node weights and coefficients; None if not needed."""
        norm = self._normalisation()
        passes = self._passes(self._links, self._coefficients, self._mask, norm, needs[4])
        grad_output = grad_output.contiguous()
        grad_hidden = torch.zeros_like(self._hidden)
        if not (self._may_walk() and passes.walk(self._buffers(output, grad_output, grad_hidden))):
            for step in reversed(range(self.steps)):
                before = output[step - 1] if step else self._hidden
                self._step_backward(passes, step, before, grad_output[step] + grad_hidden, grad_hidden)
        grads: list[Tensor | None] = [None] * 5
        first = self._product[0].view(self.steps * self.batch, -1)
        if needs[0]:
            grad = self.mm.transposed(first, self._input_weight).view(self._inputs.shape)
            grads[0] = grad if self._input_mask is None else grad.mul_(self._input_mask)
        if needs[1]:
            grads[1] = grad_hidden
        if needs[2]:
            before = torch.cat([self._hidden[None], output[:-1]])
            parts = [self._masked_inputs(), self._mask_all(before)]
            grads[2] = torch.cat([self.mm.weight_gradient(part, first) for part in parts])
        if needs[3]:
            grads[3] = self._node_weights_gradient()
        if needs[4]:
            grads[4] = passes.finish_coefficients()
        return grads

    def _step_backward(self, passes: Passes, step: int, before: Tensor, grad: Tensor, grad_hidden: Tensor) -> None:
        totals, carry = self._totals, self._masked  # gradients of the totals, and of a state
        for stage in reversed(range(len(self._links.stages))):
            links = self._links.stages[stage].links
            state = before if stage == 0 else self._states[stage - 1, step]
            into = carry if stage else grad_hidden
            grad_masked = None
            if links:
                product = self._product[stage][step]
                passes.spread_backward(stage, state, product, totals, into)
                grad_masked = self.mm.transposed(product, self._stage_weights[stage])
            else:
                into.zero_()
            if stage == 0:
                assert grad_masked is not None
                grad_hidden.add_(grad_masked if self._mask is None else grad_masked * self._mask)
            else:
                variance = self._variance[step, stage - 1]
                passes.settle_backward(into, grad_masked, grad if stage > 1 else None, state, variance, totals[stage])

    def _node_weights_gradient(self) -> Tensor:
        grad = self._hidden.new_zeros(self._weights_shape)
        for index, stage in enumerate(self._links.stages[1:], start=1):
            if not stage.links:
                continue
            product = self._product[index].view(self.steps * self.batch, -1)
            joined = self.mm.weight_gradient(self._mask_all(self._states[index - 1]), product)
            for matrix, part in zip(stage.matrices, joined.chunk(stage.slots, dim=1), strict=True):
                grad[matrix] += part
        return grad

    def _buffers(self, output: Tensor, grad_output: Tensor | None = None, grad_hidden: Tensor | None = None) -> Buffers:
        return Buffers(
            self._hidden,
            self._mask,
            self._stage_weights,
            self._product,
            self._states,
            self._totals,
            self._masked,
            self._mean,
            self._variance,
            output,
            grad_output,
            grad_hidden,
        )

    def _masked_inputs(self) -> Tensor:
        masked = self._inputs if self._input_mask is None else self._inputs * self._input_mask
        return masked.reshape(self.steps * self.batch, -1)

    def _mask_all(self, states: Tensor) -> Tensor:
        masked = states if self._mask is None else states * self._mask
        return masked.reshape(self.steps * self.batch, -1)

    def _normalisation(self) -> Normalisation:
        norm = self._norm
        if norm is None:
            return Normalisation()
        if self._batch_norm:
            return Normalisation(batch=True, eps=norm.eps)
        assert norm.running_mean is not None and norm.running_var is not None
        dtype = self._hidden.dtype
        return Normalisation(mean=norm.running_mean.to(dtype), inverse=(norm.running_var.to(dtype) + norm.eps).rsqrt())


def _uses_batch_statistics(norm: nn.BatchNorm1d | None) -> bool:
    return norm is not None and (norm.training or norm.running_mean is None)


def _update_running_statistics(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, batch: int) -> None:
    """Give the running statistics what ``norm``, called once for each row of ``mean``, would have given them."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    count = len(mean)
    device, dtype = norm.running_mean.device, norm.running_mean.dtype
    steps = torch.arange(count, device=device, dtype=torch.float64)
    kept: Tensor | float
    if norm.momentum is None:  # the mean over all batches so far
        total = (norm.num_batches_tracked + count).to(torch.float64)
        kept, weights = (1.0 - count / total).to(dtype), torch.ones_like(steps) / total
    else:
        kept = (1.0 - norm.momentum) ** count
        weights = norm.momentum * (1.0 - norm.momentum) ** (count - 1 - steps)
    for running, rows in ((norm.running_mean, mean), (norm.running_var, variance * (batch / (batch - 1)))):
        running.copy_(running * kept + weights.to(dtype) @ rows.to(dtype))
    norm.num_batches_tracked += count
