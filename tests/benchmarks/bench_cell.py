"""The cell alone: its cost over steps and rows, the matrix-product limit, and ``nn.LSTM`` of the same width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from idarts_nni import kernels
from idarts_nni.derive import cell_probabilities

from .bench_step import Size, Step, in_setting
from .timing import interleave


def lstm_run(size: Size) -> Callable[[], None]:
    """Return forward and backward of an LSTM layer as wide as the cell."""
    layer = nn.LSTM(size.hidden, size.hidden)
    inputs = torch.randn(size.steps, size.batch, size.hidden, requires_grad=True)

    def run() -> None:
        layer(inputs)[0].sum().backward()

    return run


def cell_run(size: Size, *, fixed: bool, backend: str = "auto") -> Callable[[], None]:
    """Return forward and backward of the cell with all gradients, without embedding and head."""
    step = Step(replace(size, words=10), fixed)
    inputs = torch.randn(size.steps, size.batch, size.hidden, requires_grad=True)
    tensors = (inputs, step.hidden, step.weights["input"], step.weights["nodes"])

    def run() -> None:
        if step.architecture is not None:
            states = kernels.unroll_fixed(*tensors, step.architecture, size.space, backend=backend)
        else:
            probabilities = cell_probabilities(step.logits)
            states = kernels.unroll_mixed(*tensors, probabilities, size.space, norm=step.norm, backend=backend)
        states.sum().backward()

    return run


def matmul_limit(size: Size, *, bf16: bool = False, rounds: int = 9) -> float:
    """Return the best GFLOP/s of products of the step's own shapes, forward, backward and of a weight gradient.

    No unroll can beat the rate of the products that it consists of, in the faster of torch's settings.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    width, rows = 2 * size.hidden, size.batch
    operands = [torch.randn(shape).to(dtype) for shape in ((rows, size.hidden), (size.hidden, width), (rows, width))]
    left, weight, grad = operands
    outputs = [torch.empty(shape, dtype=dtype) for shape in ((rows, width), (rows, size.hidden))]

    def run() -> None:
        for _ in range(20):
            torch.mm(left, weight, out=outputs[0])
            torch.mm(grad, weight.t(), out=outputs[1])

    settings = {setting: in_setting(run, matmul=setting) for setting in ("highest", "medium")}
    fastest = min(min(times.clock) for times in interleave(settings, rounds).values())
    return 40 * 2 * rows * size.hidden * width / fastest / 1e9


def sweep(size: Size, rounds: int) -> list[tuple[int, int, float]]:
    """Return (T, B, seconds) of the mixed cell over T at the size's B, then over B at its T."""
    points = [(steps, size.batch) for steps in (5, 10, 20, 40)] + [(10, batch) for batch in (32, 64, 128, 256)]
    runs = {
        f"{steps} {batch}": cell_run(replace(size, steps=steps, batch=batch), fixed=False)
        for steps, batch in dict.fromkeys(points)
    }
    times = interleave(runs, rounds)
    return [(steps, batch, times[f"{steps} {batch}"].median_processor) for steps, batch in points]
