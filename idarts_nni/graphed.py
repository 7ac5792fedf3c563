"""A fused unroll recorded once for each sequence length and replayed: on a GPU, as a CUDA graph.

A step of training launches thousands of small kernels; launching them takes longer than running them. A CUDA graph
launches all of them at once, at fixed places in memory: so inputs are copied into buffers of the record, outputs and
gradients out of them. A record belongs to one kind of call (cell, shapes, which gradients are wanted, normalisation);
the next length gets its own, and each keeps its products: about the memory of one training step each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .fused import Run, Setting, fused_unroll, without_autocast
from .workspace import Workspace

MOST_RECORDS = 64
"""Records that are kept, the latest used ones: retraining on Penn Treebank meets some fifty lengths."""

T = TypeVar("T")


class Recorded(Protocol[T]):
    """Work on fixed buffers that can be done again."""

    result: T
    """What the work returned: after :meth:`replay`, of the latest time."""

    def replay(self) -> None:
        """Do it again, with what the buffers hold now."""


class CudaGraph:
    """Work as a CUDA graph. It must neither wait for the device nor allocate outside torch's allocator."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.result = work()

    def replay(self) -> None:
        """Launch the graph."""
        self._graph.replay()


class Again:
    """Work that is simply called again: what a record does where there is no GPU."""

    result: Any = None

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work

    def replay(self) -> None:
        """Call the work."""
        self.result = self._work()


Recorder = Callable[[Callable[[], Any]], Recorded[Any]]


def graphed_unroll(
    setting: Setting,
    inputs: Tensor,
    hidden: Tensor,
    input_weight: Tensor,
    node_weights: Tensor,
    coefficients: Tensor,
    input_mask: Tensor | None,
    hidden_mask: Tensor | None,
    *,
    recorder: Recorder = CudaGraph,
) -> Tensor:
    """Return what :func:`idarts_nni.fused.fused_unroll` returns, which it calls where no gradient is wanted.

    One backward pass for each forward pass, before the next forward pass of the same kind.
    """
    tensors = (inputs, hidden, input_weight, node_weights, coefficients)
    masks = tuple(None if mask is None else mask.to(inputs.dtype) for mask in (input_mask, hidden_mask))
    needs = tuple(tensor.requires_grad for tensor in tensors)
    if not (torch.is_grad_enabled() and any(needs)):
        return fused_unroll(setting, *tensors, *masks)
    record = _record(setting, [*tensors, *masks], needs, recorder)
    output: Tensor = _Replay.apply(record, *tensors, *masks)  # type: ignore[no-untyped-call]
    return output


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, record: Record, *tensors: Tensor | None) -> Tensor:
        ctx.record, ctx.turn = record, record.turn + 1
        return record.forward(tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.record.backward(grad_output, ctx.turn), None, None)


@dataclass
class _Pass:
    run: Run
    output: Tensor


class Record:
    """Buffers of one kind of call, and the recorded forward and backward pass between them."""

    def __init__(
        self, setting: Setting, tensors: Sequence[Tensor | None], needs: tuple[bool, ...], recorder: Recorder
    ) -> None:
        self.turn = 0
        """Counts forward passes: the buffers belong to the latest."""
        self._setting, self._needs = setting, needs
        self._inputs = [None if tensor is None else tensor.detach().clone() for tensor in tensors]
        first = self._inputs[0]
        assert first is not None and self._inputs[1] is not None
        self._grad_output = torch.zeros(
            *first.shape[:2], self._inputs[1].shape[-1], dtype=first.dtype, device=first.device
        )
        with torch.no_grad(), without_autocast(first):
            self._warm_up(first.device)
            self._forward: Recorded[_Pass] = recorder(self._run_forward)
            self._backward: Recorded[list[Tensor | None]] = recorder(self._run_backward)

    def forward(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Return the outputs, a tensor of its own."""
        self.turn += 1
        for buffer, tensor in zip(self._inputs, tensors, strict=True):
            if buffer is not None and tensor is not None:
                buffer.copy_(tensor.detach())
        with without_autocast(self._grad_output):
            self._forward.replay()
        return self._forward.result.output.clone()

    def backward(self, grad_output: Tensor, turn: int) -> list[Tensor | None]:
        """Return the gradients of the first five tensors; None where not needed."""
        if turn != self.turn:
            raise RuntimeError(
                "A graphed unroll was asked for the gradient of an earlier forward pass, or a second time; its memory "
                "holds the latest one only. Use another backend, such as backend='fused'."
            )
        self.turn += 1  # the backward pass writes over what the forward pass kept
        self._grad_output.copy_(grad_output)
        with without_autocast(self._grad_output):
            self._backward.replay()
        return [None if grad is None else grad.clone() for grad in self._backward.result]

    def _run_forward(self) -> _Pass:
        workspace = Workspace(shared=False)
        run = Run(self._setting, *self._inputs, keep=True, workspace=workspace)  # type: ignore[arg-type]
        return _Pass(run, run.forward())

    def _run_backward(self) -> list[Tensor | None]:
        made = self._forward.result
        return made.run.backward(self._grad_output, made.output, self._needs)

    def _warm_up(self, device: torch.device) -> None:
        """Let libraries and kernels make what they make at their first call; undo what a forward pass leaves behind."""
        if device.type != "cuda":
            return
        statistics = _statistics(self._setting.norm)
        kept = [tensor.clone() for tensor in statistics]
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            made = self._run_forward()
            made.run.backward(self._grad_output, made.output, self._needs)
        torch.cuda.current_stream(device).wait_stream(side)
        for tensor, before in zip(statistics, kept, strict=True):
            tensor.copy_(before)


_records: OrderedDict[Hashable, Record] = OrderedDict()


def _record(setting: Setting, tensors: Sequence[Tensor | None], needs: tuple[bool, ...], recorder: Recorder) -> Record:
    norm = setting.norm
    kinds = tuple(None if tensor is None else (tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
    state = None if norm is None else (id(norm), norm.training, *(tensor.data_ptr() for tensor in _statistics(norm)))
    key = (setting.links, setting.passes, setting.products, state, kinds, needs, recorder)
    if key not in _records:
        _records[key] = Record(setting, tensors, needs, recorder)
        while len(_records) > MOST_RECORDS:
            _records.popitem(last=False)
    _records.move_to_end(key)
    return _records[key]


def _statistics(norm: nn.BatchNorm1d | None) -> list[Tensor]:
    return [] if norm is None else list(norm.buffers())
