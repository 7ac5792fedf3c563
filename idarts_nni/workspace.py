"""Large buffers that outlive a step: asking the system for fresh memory each time costs more than filling it."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

_LIMIT = 4
_ALIGNMENT = 64  # bytes
_spare: list[Tensor] = []
_lock = threading.Lock()


class Workspace:
    """Buffers of one unroll. :meth:`release` hands them to the next; forgotten ones are freed as usual.

    Parameters
    ----------
    shared
        Take buffers that others have released, and hand these on. A CUDA graph needs places of its own.
    """

    def __init__(self, shared: bool = True) -> None:
        self._shared = shared
        self._held: list[Tensor] = []

    def take(self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Return uninitialised contiguous tensors of the given shapes, cut from one block."""
        sizes = [-(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT for shape in shapes]
        block = _take(sum(sizes), device) if self._shared else torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        self._held.append(block)
        parts = torch.split(block[: sum(sizes)], sizes)
        return [
            part[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
            for part, shape in zip(parts, shapes, strict=True)
        ]

    def release(self) -> None:
        """Keep the blocks for whoever asks next, at most a few; the smallest go first."""
        if not self._shared:
            return
        with _lock:
            _spare.extend(self._held)
            _spare.sort(key=len, reverse=True)
            del _spare[_LIMIT:]
        self._held = []


def _take(size: int, device: torch.device) -> Tensor:
    with _lock:
        fitting = [block for block in _spare if block.device == device and size <= len(block) <= 2 * size + 4096]
        if fitting:
            found = min(fitting, key=len)
            _spare[:] = [block for block in _spare if block is not found]
            return found
        # A block that has become too small would only hold memory that the new one needs.
        smaller = [block for block in _spare if block.device == device and len(block) < size]
        if smaller:
            largest = max(smaller, key=len)
            _spare[:] = [block for block in _spare if block is not largest]
    return torch.empty(size, dtype=torch.uint8, device=device)
