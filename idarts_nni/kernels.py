"""Fast unrolls of the mixed and the derived cell, interchangeable with the reference in :mod:`idarts_nni.cell`.

Same signatures plus ``backend``, a key of :data:`BACKENDS` or ``auto``: the fastest backend that computes exactly what
was asked; the log says once which one that is and why. To add a backend, write its elementwise passes
(:mod:`idarts_nni.elementwise` says what they are) and enter them in the table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from . import cell, native, triton_backend
from .architecture import Architecture
from .elementwise import OPERATIONS, TorchPasses
from .fused import PassesFactory, Setting, fused_unroll
from .graphed import graphed_unroll
from .links import fixed_coefficients, fixed_links, mixed_coefficients, mixed_links
from .matmul import products_for
from .space import CellSpace
from .triton_passes import TritonPasses

_logger = logging.getLogger(__name__)

AUTO = "auto"


@dataclass(frozen=True)
class Backend:
    """One way to unroll a cell."""

    description: str
    passes: PassesFactory | None
    """Elementwise passes of the fused unroll; None for the reference, which is no fused unroll."""
    obstacle: Callable[[Tensor], str]
    """Why inputs like this one cannot be run here; empty if they can."""
    unroll: Callable[..., Tensor] = fused_unroll
    automatic: bool = True
    """Whether ``auto`` may choose it."""


def _graph_obstacle(inputs: Tensor) -> str:
    return triton_backend.obstacle(inputs) if inputs.is_cuda else "the tensors are not on a CUDA device"


BACKENDS: dict[str, Backend] = {
    "native": Backend(
        "fused unroll with compiled elementwise passes; CPU; needs a C++ compiler once",
        native.NativePasses,
        native.obstacle,
    ),
    "triton": Backend(
        "fused unroll with Triton kernels; CUDA devices",
        TritonPasses,
        triton_backend.obstacle,
    ),
    "graph": Backend(
        "the same in one CUDA graph for each sequence length; CUDA devices; on demand only",
        TritonPasses,
        _graph_obstacle,
        graphed_unroll,
        automatic=False,  # until it has been measured on a GPU
    ),
    "fused": Backend("fused unroll in plain torch; any device", TorchPasses, lambda inputs: ""),
    "reference": Backend("one operator at a time, as in the equations; any operation", None, lambda inputs: ""),
}
"""Backends, the one that ``auto`` likes best first."""


def unroll_mixed(
    inputs: Tensor,
    hidden: Tensor,
    input_weight: Tensor,
    node_weights: Tensor,
    probabilities: Tensor,
    space: CellSpace,
    *,
    input_mask: Tensor | None = None,
    hidden_mask: Tensor | None = None,
    norm: nn.BatchNorm1d | None = None,
    backend: str = AUTO,
) -> Tensor:
    """Run the cell of the search network: :func:`idarts_nni.cell.unroll_mixed`, faster.

    Parameters
    ----------
    inputs, hidden, input_weight, node_weights, probabilities, space, input_mask, hidden_mask, norm
        As there. Inside ``torch.autocast(..., torch.bfloat16)`` products are taken in bfloat16
        (:mod:`idarts_nni.matmul`), everything else in fp32.
    backend
        A key of :data:`BACKENDS`, or ``auto``.

    Returns
    -------
    Hidden states of all steps, shape ``(T, B, H)``. The fused backends allow one backward pass.

    Raises
    ------
    ValueError
        If the backend is unknown or cannot run this cell, or if a batch of one row is to be normalised in training.
    """
    tensors = (inputs, hidden, input_weight, node_weights, probabilities)
    name = _chosen(backend, tensors, space.active_operations, [input_mask, hidden_mask], norm)
    found = BACKENDS[name]
    if found.passes is None:
        return cell.unroll_mixed(
            inputs,
            hidden,
            input_weight,
            node_weights,
            probabilities,
            space,
            input_mask=input_mask,
            hidden_mask=hidden_mask,
            norm=norm,
        )
    if norm is not None and norm.training and len(hidden) < 2:
        raise ValueError("Batch normalisation in training needs two rows or more; this batch has one.")
    links = mixed_links(space)
    coefficients = mixed_coefficients(links, probabilities, space)
    setting = Setting(links, found.passes, products_for(inputs), norm)
    return found.unroll(setting, inputs, hidden, input_weight, node_weights, coefficients, input_mask, hidden_mask)


def unroll_fixed(
    inputs: Tensor,
    hidden: Tensor,
    input_weight: Tensor,
    node_weights: Tensor,
    architecture: Architecture,
    space: CellSpace,
    *,
    input_mask: Tensor | None = None,
    hidden_mask: Tensor | None = None,
    backend: str = AUTO,
) -> Tensor:
    """Run a derived cell: :func:`idarts_nni.cell.unroll_fixed`, faster.

    Parameters
    ----------
    inputs, hidden, input_weight, node_weights, architecture, space, input_mask, hidden_mask
        As there.
    backend
        As in :func:`unroll_mixed`.

    Returns
    -------
    Hidden states of all steps, shape ``(T, B, H)``. The fused backends allow one backward pass.

    Raises
    ------
    ValueError
        If the backend is unknown or cannot run this cell, or if ``combine: weighted`` lacks a weight.
    """
    operations = {edge.operation for edges in architecture.nodes for edge in edges}
    tensors = (inputs, hidden, input_weight, node_weights)
    name = _chosen(backend, tensors, operations, [input_mask, hidden_mask], None)
    found = BACKENDS[name]
    if found.passes is None:
        return cell.unroll_fixed(
            inputs,
            hidden,
            input_weight,
            node_weights,
            architecture,
            space,
            input_mask=input_mask,
            hidden_mask=hidden_mask,
        )
    links = fixed_links(architecture, space)
    coefficients = fixed_coefficients(links, architecture, space, node_weights)
    setting = Setting(links, found.passes, products_for(inputs))
    return found.unroll(setting, inputs, hidden, input_weight, node_weights, coefficients, input_mask, hidden_mask)


def _chosen(
    backend: str,
    tensors: Sequence[Tensor],
    operations: Iterable[str],
    masks: Iterable[Tensor | None],
    norm: nn.BatchNorm1d | None,
) -> str:
    if backend != AUTO and backend not in BACKENDS:
        raise ValueError(f"backend: found {backend!r}; allowed: {', '.join([AUTO, *BACKENDS])}.")
    general = _obstacle(tensors, operations, masks, norm)
    reasons: list[str] = []
    automatic = [name for name, found in BACKENDS.items() if found.automatic]
    for name in automatic if backend == AUTO else [backend]:
        found = BACKENDS[name]
        reason = "" if found.passes is None else general or found.obstacle(tensors[0])
        if not reason:
            if backend == AUTO:
                _log_choice(name, "; ".join(reasons) or "the fastest that fits")
            return name
        reasons.append(f"not {name}: {reason}")
    raise ValueError(f"backend {backend!r} cannot run this cell ({general or reasons[0]}); use {AUTO!r}.")


def _obstacle(
    tensors: Sequence[Tensor], operations: Iterable[str], masks: Iterable[Tensor | None], norm: nn.BatchNorm1d | None
) -> str:
    """Return what keeps a fused unroll from being exact; empty if nothing does."""
    for name in operations:
        if name not in OPERATIONS:
            return f"the derivative of {name!r} is not built in"
    if norm is not None and norm.affine:
        return "the batch normalisation has weights"
    if any(mask is not None and mask.requires_grad for mask in masks):
        return "a mask wants a gradient"
    kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
    if len(kinds) > 1:
        return f"the tensors differ in type or device: {', '.join(sorted(map(str, kinds)))}"
    if tensors[0].dtype not in (torch.float32, torch.float64):
        return f"the tensors are {tensors[0].dtype}"
    return ""


@lru_cache(maxsize=16)  # says each thing once
def _log_choice(name: str, reason: str) -> None:
    _logger.info("Cells run on the backend %s (%s): %s.", name, BACKENDS[name].description, reason)
