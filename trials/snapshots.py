"""Cells of a running search: by several derivations, at the end of chosen epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from idarts_nni.derive import derive_architecture
from idarts_nni.monitor import mixed_cells


class CellSnapshots(Callback):
    """Derives cells when an epoch ends, and keeps those that a plan retrains.

    Parameters
    ----------
    edges_per_node
        Numbers of edges kept for each node, one derivation for each; none to derive nothing.
    snapshots
        Epochs, from 1; the last epoch is kept in any case.
    """

    def __init__(self, edges_per_node: Sequence[int | str] = (), snapshots: Sequence[int] = ()) -> None:
        self._edges = tuple(edges_per_node)
        self._snapshots = tuple(snapshots)
        self.cells: list[dict[str, Any]] = []
        """``epoch``, ``edges_per_node`` and ``architecture`` (plain data) of every cell."""

    def check_epochs(self, epochs: int) -> None:
        """Check that a training of so many epochs reaches every snapshot.

        Raises
        ------
        ValueError
            If it does not.
        """
        if self._snapshots and max(self._snapshots) > epochs:
            raise ValueError(f"snapshots: epoch {max(self._snapshots)} is asked for; this search has {epochs}.")

    def state_dict(self) -> dict[str, Any]:
        """Return the cells so far, which a resumed search could not derive again."""
        return {"cells": list(self.cells)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the cells of an interrupted search."""
        self.cells = list(state_dict["cells"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Derive; the architecture does not change any more in this epoch."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not self._edges:
            return
        epoch = trainer.current_epoch + 1
        mixed = next(mixed_cells(pl_module))
        self.cells = [cell for cell in self.cells if cell["epoch"] in self._snapshots and cell["epoch"] < epoch]
        for edges in self._edges:
            space = replace(mixed.space, edges_per_node=edges)
            cell = derive_architecture(mixed.logits, space, mixed.relaxation)
            self.cells.append({"epoch": epoch, "edges_per_node": edges, "architecture": cell.to_dict()})
