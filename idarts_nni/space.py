"""What may be searched: a recurrent cell's nodes and operations, as data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .files import read_yaml
from .operations import OPERATIONS, ZEROIZE, is_operation_name

ALL = "all"
"""``edges_per_node: all`` keeps every edge (n = infinity in the paper)."""

CHOICES: dict[str, tuple[str, ...]] = {
    "transform": ("target", "source"),
    "gate": ("highway", "none"),
    "combine": ("sum", "mean", "weighted"),
    "profile": ("paper", "authors-code"),
}
"""Fields of a space that take one of a few words."""

MAX_NODES = 64


@dataclass(frozen=True)
class CellSpace:
    """A space of recurrent cells.

    Node ``i`` (1..N) may read the states of nodes ``0..i-1`` through each of the ``K`` operations, so ``i * K`` edges
    enter it. ``search_spaces/README.md`` says in one line what each field means.

    Raises
    ------
    ValueError
        If a value is impossible; the message names the field, the value and what would work.
    """

    num_nodes: int
    """Nodes 1..N; state 0, made of the input and the last hidden state, is not counted."""
    operations: tuple[str, ...]
    """Candidates on every edge, in the order in which ties break."""
    edges_per_node: int | str = 1
    """Edges kept for each node when the search ends (n in the paper), or ``all``."""
    transform: str = "target"
    """Whose matrix an edge uses: its target node's (both public codes) or its source node's (Eq. 1 and 2)."""
    gate: str = "highway"
    """``highway`` carries the source state round the operation; ``none`` is Eq. 2 to the letter."""
    combine: str = "sum"
    """How the kept edges of a node join in the derived cell: sum, mean, or weighted by the learnt alphas."""
    profile: str = "paper"
    """Derivation by argmax (``paper``) or by the rule of the authors' public code (``authors-code``)."""

    def __post_init__(self) -> None:
        _require_integer("num_nodes", self.num_nodes, 1, MAX_NODES)
        object.__setattr__(self, "operations", _checked_operations(self.operations))
        if self.edges_per_node != ALL:
            if isinstance(self.edges_per_node, str):
                raise ValueError(f"edges_per_node: found {self.edges_per_node!r}; allowed: 1, 2, 3, ... or {ALL!r}.")
            _require_integer("edges_per_node", self.edges_per_node, 1, None)
        for field, allowed in CHOICES.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"{field}: found {value!r}; allowed: {', '.join(allowed)}.")

    @property
    def active_operations(self) -> tuple[str, ...]:
        """The operations that compute something: all but zeroize."""
        return tuple(name for name in self.operations if name != ZEROIZE)

    @property
    def num_pairs(self) -> int:
        """Number of (source, target) pairs: N (N + 1) / 2."""
        return self.num_nodes * (self.num_nodes + 1) // 2

    def kept_edges(self, node: int) -> int:
        """Return how many edges the derived cell keeps at ``node`` (1..N): n, or all where there are fewer."""
        available = node * len(self.active_operations)
        return available if isinstance(self.edges_per_node, str) else min(self.edges_per_node, available)

    def first_pair(self, node: int) -> int:
        """Return the row of pair (0, ``node``) in a tensor of all pairs; rows of a node are consecutive."""
        return node * (node - 1) // 2

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that :meth:`from_dict` reads back, fit for JSON and YAML."""
        return {**asdict(self), "operations": list(self.operations)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], origin: str = "search space") -> CellSpace:
        """Check and build a space from plain data; ``origin`` (a file name) leads every error message."""
        known = [field.name for field in fields(cls)]
        for key in data:
            if key not in known:
                raise ValueError(f"{origin}: unknown key {key!r} (value {data[key]!r}); allowed: {', '.join(known)}.")
        for key in ("num_nodes", "operations"):
            if key not in data:
                raise ValueError(f"{origin}: the key {key!r} is missing; keys: {', '.join(known)}.")
        try:
            return cls(**data)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from None

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> CellSpace:
        """Read a space from a file such as ``search_spaces/recurrent8.yaml``."""
        return cls.from_dict(read_yaml(path), origin=str(path))


def _require_integer(field: str, value: object, least: int, most: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{field}: found {value!r} of type {type(value).__name__}; expected a whole number.")
    if value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{field}: found {value}; allowed: {allowed}.")


def _checked_operations(operations: object) -> tuple[str, ...]:
    known = f"known operations: {', '.join([ZEROIZE, *OPERATIONS])}, or the import path of a function"
    if not isinstance(operations, (list, tuple)):
        raise ValueError(f"operations: found {operations!r} of type {type(operations).__name__}; expected a list.")
    for name in operations:
        if not is_operation_name(name):
            raise ValueError(f"operations: found {name!r}; {known}.")
    if len(set(operations)) != len(operations):
        raise ValueError(f"operations: found {list(operations)!r}, where a name stands twice; name each once.")
    if not set(operations) - {ZEROIZE}:
        raise ValueError(f"operations: found {list(operations)!r}; at least one must compute something; {known}.")
    return tuple(operations)
