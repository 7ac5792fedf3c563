"""The cell once more, as plainly as it can be said: one edge, one matrix product, one row of loops.

It shares no code with :mod:`idarts_nni` but the data types, so that a slip there cannot repeat itself here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from idarts_nni.architecture import Architecture
from idarts_nni.space import CellSpace

FUNCTIONS = {
    "tanh": lambda z: 1 - 2 / ((2 * z).exp() + 1),
    "relu": lambda z: z.clamp(min=0),
    "sigmoid": lambda z: 1 / (1 + (-z).exp()),
    "identity": lambda z: z,
    "gelu": lambda z: z * (1 + torch.erf(z / 2**0.5)) / 2,
    "silu": lambda z: z / (1 + (-z).exp()),
}


def mixed_edges(probabilities: Tensor, space: CellSpace) -> list[list[tuple[int, str, Tensor]]]:
    """Return (source, operation, share) of every edge of nodes 1..N."""
    nodes, row = [], 0
    for node in range(1, space.num_nodes + 1):
        edges = []
        for source in range(node):
            for column, name in enumerate(space.operations):
                if name != "zeroize":
                    edges.append((source, name, probabilities[row, column]))
            row += 1
        nodes.append(edges)
    return nodes


def fixed_edges(architecture: Architecture, space: CellSpace) -> list[list[tuple[int, str, float]]]:
    """Return (source, operation, share) of every kept edge of nodes 1..N."""
    nodes = []
    for edges in architecture.nodes:
        weights = {"sum": [1.0 for _ in edges], "mean": [1.0 / len(edges) for _ in edges]}
        if space.combine == "weighted":
            weights["weighted"] = [edge.weight / sum(other.weight for other in edges) for edge in edges]
        shares = weights[space.combine]
        nodes.append([(edge.source, edge.operation, share) for edge, share in zip(edges, shares, strict=True)])
    return nodes


def unroll(
    inputs: Tensor,
    hidden: Tensor,
    input_weight: Tensor,
    node_weights: Tensor,
    nodes: Sequence[Sequence[tuple[int, str, Tensor | float]]],
    space: CellSpace,
    input_mask: Tensor | None = None,
    hidden_mask: Tensor | None = None,
    normalise: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """Run the cell whose nodes have the given edges; shapes as in :mod:`idarts_nni.cell`."""
    size = hidden.shape[1]
    outputs = []
    for step in inputs:
        masked_step = step if input_mask is None else step * input_mask
        masked_hidden = hidden if hidden_mask is None else hidden * hidden_mask
        both = masked_step @ input_weight[: step.shape[1]] + masked_hidden @ input_weight[step.shape[1] :]
        gate = FUNCTIONS["sigmoid"](both[:, :size])
        states = [(1 - gate) * hidden + gate * FUNCTIONS["tanh"](both[:, size:])]
        if normalise:
            states[0] = _normalised(states[0], eps)
        for number, edges in enumerate(nodes, start=1):
            state = torch.zeros_like(hidden)
            for source, name, share in edges:
                read = states[source] if hidden_mask is None else states[source] * hidden_mask
                product = read @ node_weights[number - 1 if space.transform == "target" else source]
                if space.gate == "none":
                    state = state + share * FUNCTIONS[name](product)
                else:
                    gate = FUNCTIONS["sigmoid"](product[:, :size])
                    state = state + share * ((1 - gate) * states[source] + gate * FUNCTIONS[name](product[:, size:]))
            states.append(_normalised(state, eps) if normalise else state)
        hidden = sum(states[1:]) / len(nodes)
        outputs.append(hidden)
    return torch.stack(outputs)


def _normalised(state: Tensor, eps: float) -> Tensor:
    mean = state.mean(0)
    variance = ((state - mean) ** 2).mean(0)
    return (state - mean) / (variance + eps).sqrt()
