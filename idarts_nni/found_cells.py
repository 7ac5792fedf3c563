"""Cells that searches found: how they were derived, at which epochs, and which of them are the same cell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .architecture import Architecture
from .parameters import Derivation, Settings
from .space import CellSpace

Space = CellSpace | Mapping[str, Any]
Origin = tuple[int, int]
"""Search seed, and search epoch; epoch 0 stands for the end of a search, or for a draw."""


@dataclass(frozen=True)
class Cell:
    """A cell that a method found, and its score where a search gave one."""

    fingerprint: str
    architecture: str
    score: float | None = None
    edges_per_node: int | str | None = None
    """n of its derivation; None for the search space's own."""
    combine: str | None = None
    """How its edges join when it is retrained; None for the search space's own."""
    origins: tuple[Origin, ...] = ()
    """The searches and epochs that gave this very cell."""

    def __post_init__(self) -> None:
        # A plan that was read from disk brings lists.
        object.__setattr__(self, "origins", tuple(sorted((seed, epoch) for seed, epoch in self.origins)))

    def space(self, space: Space) -> Space:
        """Return the space in which this cell is retrained."""
        if not isinstance(space, CellSpace) or self.edges_per_node is None:
            return space
        return replace(space, edges_per_node=self.edges_per_node, combine=self.combine or space.combine)

    def label(self, space: Space) -> str:
        """Return what tells this cell from others of its method in a task's key.

        Where edges join by their learnt weights, cells with the same edges and other weights are others.
        """
        own = self.space(space)
        is_weighted = isinstance(own, CellSpace) and own.combine == "weighted"
        weights = f".{hashlib.sha256(self.architecture.encode()).hexdigest()[:4]}" if is_weighted else ""
        derivation = "" if self.edges_per_node is None else f"-n{self.edges_per_node}-{self.combine}"
        return f"{self.fingerprint}{weights}{derivation}"


def derivations_of(settings: Settings, space: Space, method: str) -> list[Derivation | None]:
    """Return how the cells of a method are derived; a single None stands for the search space's own n and combine.

    DARTS keeps one edge for each node, so of a list of derivations those with ``edges_per_node: 1`` apply to it.

    Raises
    ------
    ValueError
        If there are derivations or snapshots for a space that has no recurrent cell.
    """
    if not isinstance(space, CellSpace):
        asked = [name for name in ("derivations", "snapshots") if getattr(settings, name)]
        if asked:
            raise ValueError(
                f"{asked[0]}: such a plan needs a space of recurrent cells, such as search_spaces/recurrent8.yaml; "
                f"found {dict(space)!r}. Leave {asked[0]} out."
            )
        return [None]
    if not settings.derivations:
        return [None]
    complete = [replace(one, combine=one.combine or space.combine) for one in settings.derivations]
    return [one for one in dict.fromkeys(complete) if method != "darts" or one.edges_per_node == 1]


def read_cell(metric: Mapping[str, Any], space: Space) -> Cell:
    """Take the cell and its score from the final metric of a search.

    Raises
    ------
    ValueError
        If there is no cell, or it does not belong to the space.
    """
    text = metric.get("architecture")
    if not isinstance(text, str) or not text:
        raise ValueError(f"its final metric has no cell: architecture is {text!r}; expected JSON text.")
    if isinstance(space, CellSpace):
        architecture = Architecture.from_json(text)
        architecture.check_fits(space)
        return Cell(architecture.fingerprint, architecture.to_json(), float(metric["default"]))
    try:
        plain = json.dumps(json.loads(text), separators=(",", ":"), sort_keys=True)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its final metric has no cell: architecture is not JSON: {error}") from None
    return Cell(hashlib.sha256(plain.encode()).hexdigest()[:8], plain, float(metric["default"]))


def read_cells(
    metric: Mapping[str, Any],
    space: Space,
    derivations: Sequence[Derivation | None],
    snapshots: Sequence[int],
    seed: int,
) -> tuple[list[Cell], list[Cell]]:
    """Take all cells that a plan needs from the final metric of a search.

    Parameters
    ----------
    metric
        ``architecture`` is the cell at the end by the space's own n; ``cells`` is the JSON of a list of ``epoch``,
        ``edges_per_node`` and ``architecture``, wherever other derivations or other epochs were asked for.
    space, seed
        Those of the search.
    derivations
        From :func:`derivations_of`.
    snapshots
        Search epochs; those that the search did not reach, because it stopped early, are passed over.

    Returns
    -------
    The cells of the end with their score, one for each derivation; and those of the snapshots.

    Raises
    ------
    ValueError
        If a cell is missing, or does not belong to its space.
    """
    own = read_cell(metric, space)
    if not isinstance(space, CellSpace):
        return [replace(own, origins=((seed, 0),))], []
    last = metric.get("epochs", 0)
    if type(last) is not int or (snapshots and last < 1):
        raise ValueError(f"its final metric does not tell its epochs: found {last!r}.")
    sent = _sent_cells(metric.get("cells"))
    ends, earlier = [], []
    for epoch in sorted({last, *(epoch for epoch in snapshots if epoch < last)}):
        for derivation in derivations:
            n = space.edges_per_node if derivation is None else derivation.edges_per_node
            cell = own
            if epoch != last or n != space.edges_per_node:
                if (epoch, n) not in sent:
                    raise ValueError(f"its final metric has no cell of epoch {epoch} with edges_per_node: {n}.")
                architecture = sent[epoch, n]
                architecture.check_fits(replace(space, edges_per_node=n))
                cell = Cell(architecture.fingerprint, architecture.to_json(), own.score)
            cell = _derived(cell, derivation, (seed, epoch if snapshots else 0))
            if epoch == last:
                ends.append(cell)
            else:
                earlier.append(replace(cell, score=None))
    return ends, earlier


def draw_cell(space: CellSpace, derivation: Derivation | None, seed: int) -> Cell:
    """Draw a cell with the n of a derivation; derivations that differ only in ``combine`` get the same cell."""
    n = space.edges_per_node if derivation is None else derivation.edges_per_node
    architecture = Architecture.random(replace(space, edges_per_node=n), seed)
    if (space.combine if derivation is None else derivation.combine) == "weighted":
        architecture = architecture.with_equal_weights()
    return _derived(Cell(architecture.fingerprint, architecture.to_json()), derivation, (seed, 0))


def merge_equal(cells: Iterable[Cell], space: Space) -> list[Cell]:
    """Put equal cells together: each stands where the first of them stood, with the origins of all."""
    merged: dict[str, Cell] = {}
    for cell in cells:
        label = cell.label(space)
        known = merged.get(label)
        merged[label] = cell if known is None else replace(known, origins=tuple({*known.origins, *cell.origins}))
    return list(merged.values())


def _derived(cell: Cell, derivation: Derivation | None, origin: Origin) -> Cell:
    if derivation is None:
        return replace(cell, origins=(origin,))
    return replace(cell, edges_per_node=derivation.edges_per_node, combine=derivation.combine, origins=(origin,))


def _sent_cells(text: object) -> dict[tuple[int, int | str], Architecture]:
    if text is None:
        return {}
    try:
        entries = json.loads(str(text))
        return {
            (int(entry["epoch"]), entry["edges_per_node"]): Architecture.from_dict(entry["architecture"])
            for entry in entries
        }
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"its final metric has damaged cells: {error!r}") from None
