"""The language model as the public DARTS code structures it, in our own words: what the fast kernels stand against.

A Python loop over steps; states grown by concatenation; one call per activation; log-softmax, then NLL; torch's own
settings. A search step computes all gradients in both halves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from idarts_nni.architecture import Architecture
from idarts_nni.cell import edge_shares
from idarts_nni.operations import ZEROIZE, operation_function
from idarts_nni.space import CellSpace


def original_mixed(
    inputs: Tensor,
    hidden: Tensor,
    input_weight: Tensor,
    node_weights: Tensor,
    probabilities: Tensor,
    space: CellSpace,
    *,
    input_mask: Tensor,
    hidden_mask: Tensor,
    norm: nn.Module,
) -> Tensor:
    """Run the mixed cell: one product and one call per operation for each node, over all its sources at once."""
    functions = [None if name == ZEROIZE else operation_function(name) for name in space.operations]
    size = hidden.shape[-1]
    outputs = []
    for step in inputs:
        states = norm(_first_state(step, hidden, input_weight, input_mask, hidden_mask)).unsqueeze(0)
        for node in range(1, space.num_nodes + 1):
            if space.transform == "target":
                product = ((states * hidden_mask).view(-1, size) @ node_weights[node - 1]).view(node, -1, 2 * size)
            else:
                product = torch.bmm(states * hidden_mask, node_weights[:node])
            gate, update = product.split(size, dim=-1)
            gate = gate.sigmoid()
            rows = probabilities[space.first_pair(node) : space.first_pair(node) + node]
            total = torch.zeros_like(hidden)
            for column, function in enumerate(functions):
                if function is not None:
                    edges = states + gate * (function(update) - states)
                    total = total + (rows[:, column, None, None] * edges).sum(0)
            states = torch.cat([states, norm(total).unsqueeze(0)])
        hidden = states[1:].mean(0)
        outputs.append(hidden)
    return torch.stack(outputs)


def original_fixed(
    inputs: Tensor,
    hidden: Tensor,
    input_weight: Tensor,
    node_weights: Tensor,
    architecture: Architecture,
    space: CellSpace,
    *,
    input_mask: Tensor,
    hidden_mask: Tensor,
) -> Tensor:
    """Run the derived cell: one product and one call per edge."""
    shares = edge_shares(architecture, space)
    outputs = []
    for step in inputs:
        states = [_first_state(step, hidden, input_weight, input_mask, hidden_mask)]
        for node, edges in enumerate(architecture.nodes):
            state = torch.zeros_like(hidden)
            for edge, share in zip(edges, shares[node], strict=True):
                source = states[edge.source]
                matrix = node_weights[node if space.transform == "target" else edge.source]
                gate, update = ((source * hidden_mask) @ matrix).chunk(2, dim=-1)
                edge_value = source + gate.sigmoid() * (operation_function(edge.operation)(update) - source)
                state = state + share * edge_value
            states.append(state)
        hidden = torch.stack(states[1:]).mean(0)
        outputs.append(hidden)
    return torch.stack(outputs)


def original_head(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss through the log-probabilities of all words."""
    return nn.functional.nll_loss(nn.functional.linear(hidden, weight, bias).log_softmax(-1), targets)


def _first_state(step: Tensor, hidden: Tensor, input_weight: Tensor, input_mask: Tensor, hidden_mask: Tensor) -> Tensor:
    both = torch.cat([step * input_mask, hidden * hidden_mask], dim=-1) @ input_weight
    gate, update = both.chunk(2, dim=-1)
    return hidden + gate.sigmoid() * (update.tanh() - hidden)
