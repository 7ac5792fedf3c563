r"""The recurrent cell, written in the order of the equations: the reference that every faster unroll must equal.

Axis letters: ``T`` time steps, ``B`` batch, ``D`` input width, ``H`` hidden width, ``N`` nodes, ``K`` operations,
``P = N (N + 1) / 2`` (source, target) pairs, ``G`` = 2 with the highway gate and 1 without.

State 0 is made of the input and the last hidden state:

.. math:: [c_0, u_0] = [x_t, h_{t-1}] W_0, \qquad s_0 = h_{t-1} + \sigma(c_0) (\tanh(u_0) - h_{t-1}).

An edge from state ``j`` to node ``i`` with operation ``f`` has the value

.. math:: [c, u] = s_j W_i, \qquad s_j + \sigma(c) (f(u) - s_j),

a highway gate round the operation (``gate: none`` leaves ``f(s_j W_i)``). With ``transform: source`` the matrix is
``W_j``. A zeroize edge contributes nothing. ``h_t`` is the mean of the states of nodes 1..N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .architecture import Architecture, edge_shares
from .operations import ZEROIZE, operation_function
from .space import CellSpace

NodeFunction = Callable[[int, Sequence[Tensor]], Tensor]
"""From a node's number (1..N) and the states before it, each ``(B, H)``, to the node's state."""


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
) -> Tensor:
    r"""Run the cell of the search network, in which every edge is present with its probability.

    .. math:: s_i = \sum_{j < i, k} \alpha_{i,j,k} \, \mathrm{edge}_{i,j,k}(s_j)

    Parameters
    ----------
    inputs
        :math:`x`, shape ``(T, B, D)``.
    hidden
        :math:`h_0`, shape ``(B, H)``.
    input_weight
        :math:`W_0`, shape ``(D + H, 2 H)``.
    node_weights
        :math:`W_1 .. W_N` (``transform: target``) or :math:`W_0 .. W_{N-1}` of the states (``source``),
        shape ``(N, H, G H)``.
    probabilities
        Shape ``(P, K)``, rows as in :mod:`idarts_nni.derive`.
    space
        Names the columns, the transform and the gate.
    input_mask, hidden_mask
        Variational dropout: scaled masks of shape ``(B, D)`` and ``(B, H)``, the same for all steps. The second is
        on :math:`h_{t-1}` and on every :math:`s_j` before its matrix product, never on what the gate carries.
    norm
        Batch normalisation without affine parameters, applied to every state, state 0 included, and shared by all
        nodes and steps (the DARTS code; the paper is silent).

    Returns
    -------
    :math:`h_1 .. h_T`, shape ``(T, B, H)``.
    """
    functions = {name: operation_function(name) for name in space.active_operations}

    def node_state(node: int, states: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(states[0])
        for source, state in enumerate(states):
            row = probabilities[space.first_pair(node) + source]
            gate, update = _transform(state, node, source, node_weights, space, hidden_mask)
            for column, name in enumerate(space.operations):
                if name != ZEROIZE:
                    total = total + row[column] * _edge_value(state, gate, functions[name](update))
        return total

    return _unroll(inputs, hidden, input_weight, space.num_nodes, node_state, input_mask, hidden_mask, norm)


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
) -> Tensor:
    """Run a derived cell.

    Parameters
    ----------
    inputs, hidden, input_weight, node_weights, input_mask, hidden_mask
        As in :func:`unroll_mixed`.
    architecture
        The edges of each node.
    space
        Gives ``transform``, ``gate`` and ``combine``: the kept edges of a node join as their sum, their mean, or
        their sum weighted by :attr:`~idarts_nni.architecture.Edge.weight`.

    Returns
    -------
    Hidden states of all steps, shape ``(T, B, H)``.

    Raises
    ------
    ValueError
        If ``combine`` is ``weighted`` and an edge has no weight.
    """
    shares = edge_shares(architecture, space)
    functions = {edge.operation: operation_function(edge.operation) for edges in architecture.nodes for edge in edges}

    def node_state(node: int, states: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(states[0])
        for edge, share in zip(architecture.nodes[node - 1], shares[node - 1], strict=True):
            state = states[edge.source]
            gate, update = _transform(state, node, edge.source, node_weights, space, hidden_mask)
            total = total + share * _edge_value(state, gate, functions[edge.operation](update))
        return total

    return _unroll(inputs, hidden, input_weight, architecture.num_nodes, node_state, input_mask, hidden_mask, None)


def _unroll(
    inputs: Tensor,
    hidden: Tensor,
    input_weight: Tensor,
    num_nodes: int,
    node_state: NodeFunction,
    input_mask: Tensor | None,
    hidden_mask: Tensor | None,
    norm: nn.BatchNorm1d | None,
) -> Tensor:
    outputs = []
    for step in inputs:
        states = [_first_state(step, hidden, input_weight, input_mask, hidden_mask)]
        if norm is not None:
            states[0] = norm(states[0])
        for node in range(1, num_nodes + 1):
            state = node_state(node, states)
            states.append(state if norm is None else norm(state))
        hidden = torch.stack(states[1:]).mean(0)
        outputs.append(hidden)
    return torch.stack(outputs)


def _first_state(
    step: Tensor, hidden: Tensor, input_weight: Tensor, input_mask: Tensor | None, hidden_mask: Tensor | None
) -> Tensor:
    joined = torch.cat([_masked(step, input_mask), _masked(hidden, hidden_mask)], dim=-1)  # (B, D + H)
    gate, update = (joined @ input_weight).chunk(2, dim=-1)  # each (B, H)
    return hidden + gate.sigmoid() * (update.tanh() - hidden)


def _transform(
    state: Tensor, node: int, source: int, node_weights: Tensor, space: CellSpace, hidden_mask: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """Return the gate's argument (None without a gate) and the operation's, each ``(B, H)``."""
    weight = node_weights[node - 1 if space.transform == "target" else source]
    product = _masked(state, hidden_mask) @ weight  # (B, G H)
    if space.gate == "none":
        return None, product
    gate, update = product.chunk(2, dim=-1)
    return gate, update


def _edge_value(state: Tensor, gate: Tensor | None, value: Tensor) -> Tensor:
    return value if gate is None else state + gate.sigmoid() * (value - state)


def _masked(tensor: Tensor, mask: Tensor | None) -> Tensor:
    return tensor if mask is None else tensor * mask
