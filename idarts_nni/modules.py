"""The recurrent cell as NNI sees it: a mutable module, and the plain module it freezes to."""

from typing import Any

import torch
from nni.mutable import label_scope
from nni.nas.nn.pytorch import MutableModule
from torch import Tensor, nn

from .architecture import Architecture, Edge
from .choices import EdgeChoice
from .kernels import unroll_fixed
from .shares import own_columns
from .space import CellSpace

INIT_RANGE = 0.04
"""Weights start uniformly in plus or minus this (the DARTS code)."""


def edge_choice(source: int, operation: str) -> str:
    """Spell an edge as it stands in an NNI sample: ``"tanh 0"`` is tanh applied to state 0."""
    return f"{operation} {source}"


def node_label(node: int) -> str:
    """Return the label, inside the cell's scope, of the choice that node 1..N makes."""
    return f"node_{node}"


def node_choices(space: CellSpace, node: int) -> EdgeChoice:
    """Describe what a node chooses, as an ordinary NNI mutable: n of its edges, without repetition."""
    values = [edge_choice(source, name) for source in range(node) for name in space.active_operations]
    return EdgeChoice(values, n_chosen=space.kept_edges(node), label=node_label(node))


def sample_to_architecture(sample: dict[str, Any], label: str, num_nodes: int) -> Architecture:
    """Read the cell of a label out of an NNI sample.

    Raises
    ------
    ValueError
        If the sample lacks a node of this cell or holds something that is not an edge.
    """
    nodes = []
    for node in range(1, num_nodes + 1):
        key = f"{label}/{node_label(node)}"
        if key not in sample:
            raise ValueError(f"The sample has no choice for {key!r}; its labels: {', '.join(map(str, sample))}.")
        nodes.append(tuple(_read_edge(choice) for choice in sample[key]))
    return Architecture(tuple(nodes))


def architecture_to_sample(architecture: Architecture, label: str) -> dict[str, list[str]]:
    """Write a cell as an NNI sample; the inverse of :func:`sample_to_architecture`, weights aside."""
    return {
        f"{label}/{node_label(node)}": [edge_choice(edge.source, edge.operation) for edge in edges]
        for node, edges in enumerate(architecture.nodes, start=1)
    }


class RecurrentCellBase(nn.Module):
    """Weights, dropout and calling convention that the cell has in every form: mutable, mixed and fixed."""

    def _set_up(
        self,
        space: CellSpace,
        input_size: int,
        hidden_size: int,
        input_dropout: float,
        hidden_dropout: float,
        backend: str,
    ) -> None:
        # Not __init__: the mutable form inherits from NNI's modules, whose constructors take no arguments of ours.
        self.space = space
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.input_dropout = input_dropout
        self.hidden_dropout = hidden_dropout
        self.backend = backend
        gates = 2 if space.gate == "highway" else 1
        self.input_weight = nn.Parameter(torch.empty(input_size + hidden_size, 2 * hidden_size))
        self.node_weights = nn.Parameter(torch.empty(space.num_nodes, hidden_size, gates * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, uniformly in plus or minus :data:`INIT_RANGE`."""
        for weight in (self.input_weight, self.node_weights):
            nn.init.uniform_(weight, -INIT_RANGE, INIT_RANGE)

    def forward(self, inputs: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the cell over a sequence.

        Parameters
        ----------
        inputs
            Shape ``(T, B, D)``.
        hidden
            State to start from, shape ``(B, H)``; zeros if not given.

        Returns
        -------
        All hidden states, shape ``(T, B, H)``, and the last one, shape ``(B, H)``.
        """
        if hidden is None:
            hidden = inputs.new_zeros(inputs.shape[1], self.hidden_size)
        outputs = self._unroll(
            inputs,
            hidden,
            self._dropout_mask(inputs, self.input_size, self.input_dropout),
            self._dropout_mask(inputs, self.hidden_size, self.hidden_dropout),
        )
        return outputs, outputs[-1]

    def _unroll(self, inputs: Tensor, hidden: Tensor, input_mask: Tensor | None, hidden_mask: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _dropout_mask(self, inputs: Tensor, width: int, rate: float) -> Tensor | None:
        """Draw one mask for the whole sequence (variational dropout), shape ``(B, width)``; None when not training."""
        if not self.training or rate == 0.0:
            return None
        shape = (inputs.shape[1], width)
        return own_columns(shape, 0, lambda size: inputs.new_empty(size).bernoulli_(1.0 - rate)).div_(1.0 - rate)

    def extra_repr(self) -> str:
        """Describe the cell in one line of a printed model."""
        return f"{self.input_size}, {self.hidden_size}, nodes={self.space.num_nodes}, backend={self.backend!r}"


class FixedRecurrentCell(RecurrentCellBase):
    """A derived cell: what a search yields, as a plain module.

    Parameters
    ----------
    architecture
        The edges of each node.
    space
        Gives ``transform``, ``gate`` and ``combine``; the architecture has to fit it.
    input_size, hidden_size
        Widths D and H.
    input_dropout, hidden_dropout
        Variational dropout on the input, and on every state before its matrix product.
    backend
        How the cell is computed; see :data:`idarts_nni.kernels.BACKENDS`.

    Raises
    ------
    ValueError
        If the architecture does not fit the space.
    """

    def __init__(
        self,
        architecture: Architecture,
        space: CellSpace,
        input_size: int,
        hidden_size: int,
        *,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        architecture.check_fits(space)
        self.architecture = architecture
        self._set_up(space, input_size, hidden_size, input_dropout, hidden_dropout, backend)

    def _unroll(self, inputs: Tensor, hidden: Tensor, input_mask: Tensor | None, hidden_mask: Tensor | None) -> Tensor:
        return unroll_fixed(
            inputs,
            hidden,
            self.input_weight,
            self.node_weights,
            self.architecture,
            self.space,
            input_mask=input_mask,
            hidden_mask=hidden_mask,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Describe the cell in one line of a printed model."""
        return f"{super().extra_repr()}, {self.architecture}"


class RecurrentCell(RecurrentCellBase, MutableModule):
    """A recurrent cell whose edges are to be searched.

    Its choices are ordinary NNI mutables, one for each node, with the labels ``<label>/node_1``, ``<label>/node_2``,
    ...: n of the node's edges, an edge being spelt ``"tanh 0"`` (tanh applied to state 0). Cells of one label share one
    architecture and keep their own weights. It freezes to a :class:`FixedRecurrentCell` that keeps the weights.

    Parameters
    ----------
    space
        Nodes, operations and the other settings of the cell.
    input_size, hidden_size
        Widths D and H.
    input_dropout, hidden_dropout
        Variational dropout on the input, and on every state before its matrix product.
    label
        Names the choices; cells that carry the same label get the same architecture. Made up if not given.
    backend
        How the cell is computed; see :data:`idarts_nni.kernels.BACKENDS`.
    """

    def __init__(
        self,
        space: CellSpace,
        input_size: int,
        hidden_size: int,
        *,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        label: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        with label_scope(label) as scope:
            self.label = scope.name
            self.choices = [
                MutableModule.add_mutable(self, node_choices(space, node)) for node in range(1, space.num_nodes + 1)
            ]
        self._set_up(space, input_size, hidden_size, input_dropout, hidden_dropout, backend)

    @classmethod
    def create_fixed_module(
        cls, sample: dict[str, Any], space: CellSpace, *args: Any, label: str | None = None, **kwargs: Any
    ) -> FixedRecurrentCell:
        """Build the frozen cell at once; NNI calls this where a sample is already chosen."""
        with label_scope(label) as scope:
            architecture = sample_to_architecture(sample, scope.name, space.num_nodes)
        return FixedRecurrentCell(architecture.with_equal_weights(), space, *args, **kwargs)

    def freeze(self, sample: dict[str, Any]) -> FixedRecurrentCell:
        """Return the cell that a sample describes, with a copy of this cell's weights."""
        MutableModule.validate(self, sample)
        return self.fix(sample_to_architecture(sample, self.label, self.space.num_nodes).with_equal_weights())

    def fix(self, architecture: Architecture) -> FixedRecurrentCell:
        """Return the cell with these edges and a copy of this cell's weights."""
        fixed = FixedRecurrentCell(
            architecture,
            self.space,
            self.input_size,
            self.hidden_size,
            input_dropout=self.input_dropout,
            hidden_dropout=self.hidden_dropout,
            backend=self.backend,
        )
        weights = {"input_weight": self.input_weight.detach(), "node_weights": self.node_weights.detach()}
        fixed.load_state_dict(weights)
        return fixed.to(self.input_weight.device)

    def default_architecture(self) -> Architecture:
        """Return the cell of the choices' defaults (the first edges of each node), which a dry run uses."""
        sample = {choice.label: choice.default() for choice in self.choices}
        return sample_to_architecture(sample, self.label, self.space.num_nodes).with_equal_weights()

    def _unroll(self, inputs: Tensor, hidden: Tensor, input_mask: Tensor | None, hidden_mask: Tensor | None) -> Tensor:
        # As NNI's own choices do outside a search: run the default, so that shapes can be tried out.
        return unroll_fixed(
            inputs,
            hidden,
            self.input_weight,
            self.node_weights,
            self.default_architecture(),
            self.space,
            input_mask=input_mask,
            hidden_mask=hidden_mask,
            backend=self.backend,
        )


def _read_edge(choice: object) -> Edge:
    operation, _, source = str(choice).rpartition(" ")
    if not operation or not source.isdecimal():
        raise ValueError(f"{choice!r} is not an edge; an edge is spelt like {edge_choice(0, 'tanh')!r}.")
    return Edge(int(source), operation)
