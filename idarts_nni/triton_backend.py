"""Whether the Triton kernels can be used on a device: tried once on a small cell, against plain torch.

A kernel that does not compile for a device, or computes something else there, must cost its user no more than the time
of the check: ``auto`` then goes on to plain torch, and the log says why. With ``TRITON_INTERPRET=1`` the kernels run on
a CPU too, slowly, which is how they are tested without a GPU.
"""

from __future__ import annotations

import os
from functools import lru_cache

import torch
from torch import Tensor, nn

from .elementwise import TorchPasses
from .fused import PassesFactory, Setting, fused_unroll
from .links import mixed_coefficients, mixed_links
from .matmul import Products
from .space import CellSpace
from .triton_passes import TritonPasses

TOLERANCE = 1e-4
"""Largest difference from plain torch, relative to a tensor's largest entry, in fp32."""


def obstacle(inputs: Tensor) -> str:
    """Return why inputs like this one cannot be run here; empty if they can."""
    if inputs.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "the tensors are not on a CUDA device"
    return _tried(inputs.device)


@lru_cache(maxsize=16)
def _tried(device: torch.device) -> str:
    try:
        expected, actual = (_small_cell(device, passes) for passes in (TorchPasses, TritonPasses))
    except ImportError as error:
        return f"Triton is not installed ({error})"
    except Exception as error:  # what a compiler can raise is not listed anywhere
        return f"its kernels failed on {device}: {type(error).__name__}: {str(error)[-300:]}"
    for one, other in zip(actual, expected, strict=True):
        difference = float((one - other).abs().max() / other.abs().max())
        if not difference < TOLERANCE:
            return f"its kernels differ from plain torch by {difference:.1e} on {device}"
    return ""


@torch.inference_mode(False)  # the first question may come from an evaluation
def _small_cell(device: torch.device, passes: PassesFactory) -> list[Tensor]:
    """Return the states of a small cell of all operations, and all its gradients."""
    space = CellSpace(2, ("zeroize", "tanh", "relu", "sigmoid", "identity"))
    steps, batch, size = 2, 6, 20
    numbers = torch.Generator().manual_seed(0)
    shapes = [(steps, batch, size), (batch, size), (2 * size, 2 * size), (2, size, 2 * size), (space.num_pairs, 5)]
    leaves = [torch.randn(shape, generator=numbers).mul_(0.3).to(device).requires_grad_() for shape in shapes]
    inputs, hidden, input_weight, node_weights, logits = leaves
    norm = nn.BatchNorm1d(size, affine=False).to(device)
    links = mixed_links(space)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        coefficients = mixed_coefficients(links, logits.softmax(-1), space)
        mask = (torch.rand(batch, size, generator=numbers) < 0.8).float().to(device)
        setting = Setting(links, passes, Products(), norm)
        output = fused_unroll(setting, inputs, hidden, input_weight, node_weights, coefficients, None, mask)
        return [output.detach(), *torch.autograd.grad(output.sin().sum(), leaves)]
