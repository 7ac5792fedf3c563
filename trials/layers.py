"""Regularisers and recurrent layers that the tasks share.

Axis letters: ``T`` steps, ``B`` batch, ``D`` input width, ``H`` hidden width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from idarts_nni.architecture import Architecture
from idarts_nni.modules import FixedRecurrentCell, RecurrentCell
from idarts_nni.shares import Share, joined, own_columns
from idarts_nni.space import CellSpace


def locked_dropout(sequence: Tensor, rate: float, training: bool) -> Tensor:
    """Drop the same features at every step; ``sequence`` is ``(T, B, D)`` (variational dropout, Gal and Ghahramani)."""
    if not training or rate == 0.0:
        return sequence
    return sequence * locked_mask(sequence, rate)


def locked_mask(sequence: Tensor, rate: float) -> Tensor:
    """Draw the factors ``(1, B, D)`` by which locked dropout multiplies a sequence ``(T, B, D)``."""
    shape = (1, *sequence.shape[1:])
    return own_columns(shape, 1, lambda size: sequence.new_empty(size).bernoulli_(1.0 - rate)).div_(1.0 - rate)


def embed(tokens: Tensor, weight: Tensor, rate: float, training: bool) -> Tensor:
    """Look words up, dropping whole words of the vocabulary: tokens ``(T, B)``, weight ``(V, D)`` -> ``(T, B, D)``."""
    embedded = functional.embedding(tokens, weight)
    if not training or rate == 0.0:
        return embedded
    # One draw per word type, looked up like the words: a mask on the whole table would cost a copy of it.
    mask = weight.new_empty(weight.shape[0], 1).bernoulli_(1.0 - rate).div_(1.0 - rate)
    return embedded * functional.embedding(tokens, mask)


def clip_gradients(parameters: Iterable[nn.Parameter], longest: float) -> None:
    """Shorten gradients to a common norm, as :func:`torch.nn.utils.clip_grad_norm_`, which takes no sparse ones."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            # Rows that a batch met more than once are added up first.
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad._values())
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    factor = (longest / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.device))


class LSTMLayer(nn.Module):
    """``nn.LSTM`` under the calling convention of the recurrent cell: the baseline that a found cell has to beat.

    Variational dropout acts on its input; ``nn.LSTM`` offers none on the recurrent state.

    Parameters
    ----------
    input_size, hidden_size
        Widths D and H.
    input_dropout
        Rate of the variational dropout on the input.
    """

    def __init__(self, input_size: int, hidden_size: int, *, input_dropout: float = 0.0) -> None:
        super().__init__()
        self.input_dropout = input_dropout
        self.lstm = nn.LSTM(input_size, hidden_size)

    def forward(
        self, inputs: Tensor, hidden: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over ``(T, B, D)``; return all hidden states ``(T, B, H)`` and the last state."""
        outputs, last = self.lstm(locked_dropout(inputs, self.input_dropout, self.training), hidden)
        return outputs, last


def recurrent_layer(
    space: CellSpace | None,
    architecture: Architecture | None,
    input_size: int,
    hidden_size: int,
    *,
    input_dropout: float = 0.0,
    hidden_dropout: float = 0.0,
    label: str = "cell",
    backend: str = "auto",
) -> nn.Module:
    """Make the recurrent layer of a model: a cell to search, a found cell, or (without a space) an LSTM.

    Parameters
    ----------
    space
        Space of the cell; None for the LSTM baseline.
    architecture
        The found cell; None to search one.
    input_size, hidden_size
        Widths D and H.
    input_dropout, hidden_dropout
        Variational dropout on the input, and on every state before its matrix product.
    label
        Layers with one label share one architecture in a search.
    backend
        How a cell is computed; see :data:`idarts_nni.kernels.BACKENDS`.
    """
    if space is None:
        return LSTMLayer(input_size, hidden_size, input_dropout=input_dropout)
    rates = {"input_dropout": input_dropout, "hidden_dropout": hidden_dropout, "backend": backend}
    if architecture is None:
        return RecurrentCell(space, input_size, hidden_size, label=label, **rates)
    return FixedRecurrentCell(architecture, space, input_size, hidden_size, **rates)


def detached(hidden: Tensor | tuple[Tensor, ...] | None) -> Tensor | tuple[Tensor, ...] | None:
    """Cut a carried state off from the graph of the sequence before."""
    if hidden is None:
        return None
    return hidden.detach() if isinstance(hidden, torch.Tensor) else tuple(state.detach() for state in hidden)


def moved(hidden: Tensor | tuple[Tensor, ...] | None, device: torch.device) -> Tensor | tuple[Tensor, ...] | None:
    """Copy a carried state to a device, apart from the outputs that it may be a view of."""
    if hidden is None:
        return None
    if isinstance(hidden, torch.Tensor):
        return hidden.to(device, copy=True)
    return tuple(state.to(device, copy=True) for state in hidden)


def joined_state(hidden: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """Return the carried state of all columns, of which every process has its share, ``(..., B, H)``."""
    return joined(hidden, -2) if isinstance(hidden, torch.Tensor) else tuple(joined(state, -2) for state in hidden)


def own_state(hidden: Tensor | tuple[Tensor, ...], share: Share) -> Tensor | tuple[Tensor, ...]:
    """Return this process's share of a carried state of all columns; undoes :func:`joined_state`."""
    if isinstance(hidden, torch.Tensor):
        return share.columns(hidden, -2)
    return tuple(share.columns(state, -2) for state in hidden)
