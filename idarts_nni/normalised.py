"""Activations behind a normalisation over the features, for search spaces that name them by import path.

They are also an example of operations of your own: a function from a tensor to one of the same shape, whose last axis
holds the features. ``search_spaces/gated.yaml`` uses them.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import layer_norm


def norm_tanh(states: Tensor) -> Tensor:
    """Normalise each state ``(..., H)`` to mean 0 and variance 1, then apply tanh."""
    return layer_norm(states, states.shape[-1:]).tanh()


def norm_relu(states: Tensor) -> Tensor:
    """Normalise each state ``(..., H)`` to mean 0 and variance 1, then apply relu."""
    return layer_norm(states, states.shape[-1:]).relu()
