"""All steps of a fused unroll in one compiled call, with torch's own matrix product.

At small sizes a step is some hundred short calls, and making them from Python takes longer than their arithmetic: one
training pass of a derived cell (H = 128, B = 16, T = 15, one AVX2 core) took 40 ms that way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_GEMM = {torch.float32: "sgemm_", torch.float64: "dgemm_"}
_INTEGERS = ("steps", "batch", "size", "stages", "kept", "mode")
_POINTERS = (
    "gemm", "layout", "widths", "weights", "products", "coefficients", "mask", "hidden", "mean", "variance", "states",
    "totals", "masked", "output", "grad_output", "grad_step", "grad_masked", "grad_hidden", "grad_coefficients",
)  # fmt: skip


class _Loop(ctypes.Structure):
    """``struct Loop`` of native_loop.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _INTEGERS),
        ("eps", ctypes.c_double),
        ("share", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


@dataclass
class Buffers:
    """The contiguous tensors of one unroll, named as in :mod:`idarts_nni.fused`; all of one type, on a CPU."""

    hidden: Tensor
    """Shape ``(B, H)``, as the mask and the three gradients at the end."""
    mask: Tensor | None
    weights: Sequence[Tensor]
    """For each stage ``(H, width)``."""
    products: Sequence[Tensor]
    """For each stage ``(kept steps, B, width)``; all steps for stage 0."""
    states: Tensor
    """Shape ``(stages - 1, kept steps, B, H)``."""
    totals: Tensor
    """Shape ``(stages, B, H)``."""
    masked: Tensor
    mean: Tensor
    """Shape ``(T, stages - 1, H)``, as the variance."""
    variance: Tensor
    output: Tensor
    """Shape ``(T, B, H)``, zero before the forward pass."""
    grad_output: Tensor | None = None
    grad_hidden: Tensor | None = None


@lru_cache(maxsize=2)
def torch_gemm(dtype: torch.dtype) -> int:
    """Return the address of the matrix product that torch brings along, 0 where it exports none."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function = getattr(ctypes.CDLL(str(path)), _GEMM[dtype])
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def run_loop(
    function: Any,
    buffers: Buffers,
    layout: Sequence[Any],
    *,
    mode: int,
    eps: float,
    coefficients: Tensor,
    statistics: tuple[Tensor, Tensor] | None,
    grad_coefficients: Tensor | None,
) -> None:
    """Call ``loop_forward`` or ``loop_backward`` of native.cpp.

    Parameters
    ----------
    function
        Which of the two.
    buffers
        All tensors of the unroll.
    layout
        The stages, as the passes describe them.
    mode, eps
        Kind of normalisation, as in ``settle``.
    coefficients
        Shape ``(links, operations)``.
    statistics
        Given mean and inverse deviation, shape ``(H,)``; None takes those of the buffers.
    grad_coefficients
        fp64; added to in the backward pass, if given.
    """
    steps, batch, size = buffers.output.shape
    mean, variance = statistics or (buffers.mean, buffers.variance)
    scratch = buffers.hidden.new_empty(2, batch, size)
    stages = len(layout)
    tensors = {
        "coefficients": coefficients, "mask": buffers.mask, "hidden": buffers.hidden, "mean": mean,
        "variance": variance, "states": buffers.states, "totals": buffers.totals, "masked": buffers.masked,
        "output": buffers.output, "grad_output": buffers.grad_output, "grad_step": scratch[0],
        "grad_masked": scratch[1], "grad_hidden": buffers.grad_hidden, "grad_coefficients": grad_coefficients,
    }  # fmt: skip
    arrays: dict[str, Any] = {
        "layout": _addresses([ctypes.addressof(stage) for stage in layout]),
        "widths": (ctypes.c_int64 * stages)(*(weight.shape[1] for weight in buffers.weights)),
        "weights": _addresses([weight.data_ptr() for weight in buffers.weights]),
        "products": _addresses([product.data_ptr() for product in buffers.products]),
    }
    loop = _Loop(
        steps, batch, size, stages, buffers.states.shape[1], mode, eps, 1.0 / (stages - 2), torch_gemm(mean.dtype)
    )
    for name, array in arrays.items():
        setattr(loop, name, ctypes.addressof(array))
    for name, tensor in tensors.items():
        setattr(loop, name, None if tensor is None else tensor.data_ptr())
    function(ctypes.byref(loop))


def _addresses(values: Sequence[int]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(values))(*values)
