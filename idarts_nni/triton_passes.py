"""The elementwise passes of a fused unroll for CUDA devices: one kernel for each pass, where plain torch takes twenty.

Nothing here waits for the device. The kernels are in :mod:`idarts_nni.triton_kernels`.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .elementwise import OPERATIONS, Normalisation
from .links import Links
from .native_loop import Buffers

BLOCK = 1024
"""Elements that one program of the spread passes takes."""
ROWS, COLUMNS = 64, 16
"""Tile of the settle passes: a program takes COLUMNS columns and goes down all rows, for the batch's statistics."""

_NUMBERS = {name: number for number, name in enumerate(OPERATIONS)}


class TritonPasses:
    """The passes of :class:`~idarts_nni.elementwise.Passes` as Triton kernels, for contiguous tensors on one device."""

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
        self._mode = 1 if norm.batch else 2 if norm.active else 0
        self._share = 1.0 / links.num_nodes
        self._operations = tuple(_NUMBERS[name] for name in links.operations)
        self._tables = _tables(links, coefficients.device)
        self._wanted = coefficients_grad
        self._parts: Tensor | None = None

    def spread(self, stage: int, state: Tensor, product: Tensor, totals: Tensor) -> None:
        """Run :meth:`~idarts_nni.elementwise.Passes.spread`."""
        found = self._links.stages[stage]
        grid = (_parts_of(state.numel(), BLOCK), len(found.links))
        _kernels().spread[grid](
            state, product, self._coefficients, totals, *self._tables[stage],
            state.numel(), state.shape[1], product.shape[1],
            OPERATIONS=self._operations, GATED=found.gated, SHARED=found.shared, BLOCK=BLOCK,
        )  # fmt: skip

    def spread_backward(
        self, stage: int, state: Tensor, product: Tensor, grad_totals: Tensor, grad_state: Tensor
    ) -> None:
        """Run :meth:`~idarts_nni.elementwise.Passes.spread_backward`."""
        found = self._links.stages[stage]
        programs = _parts_of(state.numel(), BLOCK)
        if self._wanted and self._parts is None:
            self._parts = self._coefficients.new_zeros(programs, *self._coefficients.shape)
        parts = self._coefficients if self._parts is None else self._parts
        _kernels().spread_backward[(programs,)](
            state, product, self._coefficients, grad_totals, grad_state, parts, *self._tables[stage],
            state.numel(), state.shape[1], product.shape[1], self._coefficients.numel(),
            LINKS=len(found.links), OPERATIONS=self._operations, GATED=found.gated, SHARED=found.shared,
            WANTED=self._wanted, BLOCK=BLOCK,
        )  # fmt: skip

    def settle(
        self, total: Tensor, state: Tensor, masked: Tensor | None, mean: Tensor, variance: Tensor, output: Tensor | None
    ) -> None:
        """Run :meth:`~idarts_nni.elementwise.Passes.settle`."""
        norm = self._norm
        if norm.mean is not None and norm.inverse is not None:
            mean, variance = norm.mean, norm.inverse
        batch, size = total.shape
        _kernels().settle[(_parts_of(size, COLUMNS),)](
            total, _or(self._mask, total), mean, variance, state, _or(masked, state), _or(output, state),
            batch, size, self._norm.eps, self._share,
            MODE=self._mode, MASKED=masked is not None, OUTPUT=output is not None, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip

    def settle_backward(
        self,
        grad_state: Tensor,
        grad_masked: Tensor | None,
        grad_output: Tensor | None,
        state: Tensor,
        variance: Tensor,
        grad_total: Tensor,
    ) -> None:
        """Run :meth:`~idarts_nni.elementwise.Passes.settle_backward`."""
        if self._norm.inverse is not None:
            variance = self._norm.inverse
        batch, size = state.shape
        _kernels().settle_backward[(_parts_of(size, COLUMNS),)](
            grad_state, _or(grad_masked, state), _or(self._mask, state), _or(grad_output, state), state, variance,
            grad_total, batch, size, self._norm.eps, self._share,
            MODE=self._mode, PRODUCT=grad_masked is not None, MASKED=self._mask is not None,
            OUTPUT=grad_output is not None, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip

    def walk(self, buffers: Buffers) -> bool:
        """Run :meth:`~idarts_nni.elementwise.Passes.walk`: never, the products of a device are torch's to launch."""
        return False

    def finish_coefficients(self) -> Tensor:
        """Return the gradient of the coefficients, summed over all :meth:`spread_backward`."""
        assert self._parts is not None
        return self._parts.sum(0)


def _kernels() -> Any:
    """Return the kernels; importing them needs Triton, which comes with torch's CUDA builds."""
    from . import triton_kernels

    return triton_kernels


def _parts_of(whole: int, part: int) -> int:
    return -(-whole // part)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Return what a kernel takes in place of a tensor that it will not read."""
    return other if tensor is None else tensor


@lru_cache(maxsize=64)  # made once: bringing numbers to a device waits for it
@torch.inference_mode(False)  # an evaluation may come first, and its tensors could not be trained with
def _tables(links: Links, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return targets, rows and operations in use (as bits) of each stage's links, shape ``(L,)`` each."""
    stages = []
    for stage in links.stages:
        used = [sum(1 << column for column in link.columns) for link in stage.links]
        columns = [link.target for link in stage.links], [link.row for link in stage.links], used
        targets, rows, bits = (torch.tensor(column, dtype=torch.int32, device=device) for column in columns)
        stages.append((targets, rows, bits))
    return stages
