"""A callback that watches a search: how settled it is after each epoch, and the cell so far."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from .architecture import Architecture
from .derive import node_distributions
from .health import health_figures, normalised_entropy
from .mutator import MixedRecurrentCell
from .search_module import IDARTSLightningModule

_logger = logging.getLogger(__name__)


class SearchMonitor(Callback):
    """Logs the figures of :mod:`idarts_nni.health` with each validation pass and keeps the cells of all epochs.

    Of a search space with a recurrent cell it watches the first label's cell. Of any other space (NNI's own cells,
    layer choices) it tells ``entropy`` alone, the mean over all choices, and keeps no trajectory: what those choices
    make of a probability is NNI's to say.

    Attributes
    ----------
    trajectory
        One entry for each epoch: ``epoch`` (from 1), ``architecture`` (plain data) and ``probabilities`` (one row for
        each node, as :func:`idarts_nni.derive.node_distributions` gives them).
    """

    def __init__(self) -> None:
        self.trajectory: list[dict[str, Any]] = []
        self._before: Architecture | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: plain data."""
        return {"trajectory": list(self.trajectory)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the trajectory of an interrupted run."""
        self.trajectory = list(state_dict["trajectory"])
        if self.trajectory:
            self._before = Architecture.from_dict(self.trajectory[-1]["architecture"], "trajectory")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the cell that the first logits give, which the first epoch's is compared with."""
        cell = _cell(pl_module)
        if cell is not None and self._before is None:
            self._before = cell.derive()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures of an epoch, beside the task's own."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        cell = _cell(pl_module)
        figures = _entropy(pl_module) if cell is None else self._look_at(cell, trainer.current_epoch + 1)
        for name, value in figures.items():
            pl_module.log(name, value)

    def _look_at(self, cell: MixedRecurrentCell, epoch: int) -> Mapping[str, float]:
        architecture, before = cell.derive(), self._before
        probabilities = node_distributions(cell.logits, cell.relaxation)
        self._before = architecture
        self.trajectory.append({"epoch": epoch, "architecture": architecture.to_dict(), "probabilities": probabilities})
        _logger.info("cell after epoch %d: %s", epoch, architecture)
        operations = cell.space.operations
        return health_figures(probabilities, operations, cell.relaxation, architecture, before or architecture)


def mixed_cells(module: nn.Module) -> Iterator[MixedRecurrentCell]:
    """Yield the recurrent cells of a search network, each label once."""
    seen: set[str] = set()
    for found in module.modules():
        if isinstance(found, MixedRecurrentCell) and found.label not in seen:
            seen.add(found.label)
            yield found


def _cell(module: nn.Module) -> MixedRecurrentCell | None:
    return next(mixed_cells(module), None)


def _entropy(module: LightningModule) -> dict[str, float]:
    if not isinstance(module, IDARTSLightningModule):
        return {}
    choices = [normalised_entropy(list(choice.values())) for choice in module.export_probs().values()]
    return {"entropy": sum(choices) / len(choices)} if choices else {}
