"""Several processes that train one model: the share of each in every batch, and what they tell each other.

Every process draws the random numbers of the whole batch and takes its own columns of them. So all processes have the
same random states at every step, a checkpoint of one of them serves all, and what is computed does not depend on their
number, rounding and the batch normalisation of a search aside (a process normalises by its share).

Outside ``torch.distributed`` there is one process, and every function here is the identity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

Value = TypeVar("Value")

_batch: tuple[int, slice] | None = None  # columns of the whole batch, and those of this process


@dataclass(frozen=True)
class Share:
    """Which of several processes this is.

    Raises
    ------
    ValueError
        If the rank is not below the count.
    """

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ValueError(f"share: found rank {self.rank} of {self.count}; ranks count from 0.")

    def part(self, size: int) -> slice:
        """Return this process's part of ``size`` columns; parts differ in size by one at most and may be empty."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def check_equal_parts(self, size: int, name: str) -> None:
        """Check that all processes get the same number of columns.

        Raises
        ------
        ValueError
            If they do not; the message names the setting and what would work.
        """
        if size % self.count:
            lower = size // self.count * self.count
            works = f"{lower} or {lower + self.count}" if lower else self.count
            raise ValueError(
                f"{name}: found {size}; with --devices {self.count} every process computes the same number of columns: "
                f"use {works}, or another number of devices."
            )

    def columns(self, tensor: Tensor, dim: int) -> Tensor:
        """Return this process's part of a tensor of the whole batch, whose columns lie along ``dim``."""
        part = self.part(tensor.shape[dim])
        return tensor.narrow(dim, part.start, part.stop - part.start)

    @contextmanager
    def drawing(self, size: int) -> Iterator[None]:
        """Let :func:`own_columns` draw for a whole batch of ``size`` columns."""
        global _batch
        before, _batch = _batch, (size, self.part(size)) if self.count > 1 else None
        try:
            yield
        finally:
            _batch = before


ALONE = Share()
"""That of a process which trains a model by itself."""


def own_columns(shape: Sequence[int], dim: int, draw: Callable[[Sequence[int]], Tensor]) -> Tensor:
    """Draw random numbers for the batch at hand.

    Parameters
    ----------
    shape
        Shape of what this process needs.
    dim
        The dimension of the batch's columns.
    draw
        Draws a tensor of a shape.

    Returns
    -------
    A tensor of ``shape``: within :meth:`Share.drawing` this process's columns of what is drawn for the whole batch.

    Raises
    ------
    ValueError
        If this process's part of the batch has another number of columns.
    """
    if _batch is None:
        return draw(shape)
    size, part = _batch
    if shape[dim] != part.stop - part.start:
        raise ValueError(f"{shape[dim]} columns to draw for; this process has {part} of {size} columns.")
    whole = [*shape[:dim], size, *shape[dim + 1 :]]
    return draw(whole).narrow(dim, part.start, shape[dim]).contiguous()


def are_several() -> bool:
    """Tell whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@torch.no_grad()
def averaged(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the mean over the processes of each tensor, the same bits in all of them; what is None stays None."""
    present = [tensor for tensor in tensors if tensor is not None]
    if not are_several() or not present:
        return list(tensors)
    # One message: a recurrent cell's gradients are ready all at once, at the end of the backward pass.
    flat = torch.cat([tensor.flatten() for tensor in present])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    parts = iter(torch.split(flat, [tensor.numel() for tensor in present]))
    return [None if tensor is None else next(parts).view_as(tensor) for tensor in tensors]


def summed(numbers: Tensor) -> Tensor:
    """Return the sum over the processes, the same bits in all of them."""
    if not are_several():
        return numbers
    total = numbers.clone()
    distributed.all_reduce(total)
    return total


def joined(tensor: Tensor, dim: int) -> Tensor:
    """Return the whole batch's tensor from this process's columns along ``dim``; all parts must have one size."""
    if not are_several():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, dim)


def gathered(value: Value) -> list[Value]:
    """Return every process's value, in the order of the ranks; plain data that JSON can hold."""
    if not are_several():
        return [value]
    # As text: torch would pickle an object, and unpickling runs code.
    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(distributed.get_world_size())]
    distributed.all_gather(lengths, torch.tensor([len(mine)]))
    longest = max(int(length) for length in lengths)
    texts = [torch.zeros(longest, dtype=torch.uint8) for _ in lengths]
    distributed.all_gather(texts, torch.cat([mine, mine.new_zeros(longest - len(mine))]))
    return [
        json.loads(text[: int(length)].numpy().tobytes().decode()) for text, length in zip(texts, lengths, strict=True)
    ]


def agreed(value: Value, source: int = 0) -> Value:
    """Return the value of one process, by default the first, in all of them; plain data that JSON can hold."""
    if not are_several():
        return value
    return gathered(value if distributed.get_rank() == source else None)[source]  # type: ignore[return-value]
