"""Small tools of the training phases: parameters held fixed, the loss in a result, and passes that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor, nn


class frozen:
    """Keep parameters out of a backward pass: a phase computes only the gradients that its step needs."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *exception: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)


@contextmanager
def wanting_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Let parameters take part in a backward pass though they are held fixed at the moment (a warm-up)."""
    fixed = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in fixed:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in fixed:
            parameter.requires_grad_(False)


def loss_of(result: Any) -> Tensor:
    """Return the loss in what a ``training_step`` returned.

    Raises
    ------
    TypeError
        If there is none.
    """
    loss = result["loss"] if isinstance(result, Mapping) else result
    if not isinstance(loss, torch.Tensor):
        raise TypeError(
            f"training_step returned {type(result).__name__}; expected a loss tensor or a dict with 'loss'."
        )
    return loss


@contextmanager
def without_trace(module: LightningModule) -> Iterator[None]:
    """Undo what a pass notes: carried states and sums in the module's own lists and dicts, and all buffers.

    A pass that only looks (at a virtual weight step, at a Hessian) must not move a carried hidden state on, nor count
    in a mean over the epoch.
    """
    notes = {name: _copied(value) for name, value in vars(module).items() if _is_note(name, value)}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        vars(module).update(notes)
        for buffer, old in buffers:
            buffer.copy_(old)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation (no dropout, no sampling), and back to what each part was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _is_note(name: str, value: object) -> bool:
    # Torch and Lightning keep their own books under these names; numbers are notes as well (counts).
    return name not in _BOOKS and isinstance(value, (dict, list, int, float))


def _copied(value: Any) -> Any:
    """Copy lists and dicts at any depth, and share what they hold: nobody changes a noted tensor in place."""
    if type(value) is dict:
        return {key: _copied(inner) for key, inner in value.items()}
    if type(value) is list:
        return [_copied(inner) for inner in value]
    return value


_BOOKS = frozenset(vars(LightningModule()))
