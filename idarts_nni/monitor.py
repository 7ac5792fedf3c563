"""A callback that watches a search: how settled it is after each epoch, and the cell so far."""

import logging
import math
from collections.abc import Iterator
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from .architecture import Architecture
from .derive import node_distributions
from .health import health_figures, normalised_entropy
from .hessian import largest_eigenvalue
from .mutator import MixedRecurrentCell
from .search_module import IDARTSLightningModule
from .stopping import Epoch, Stop, StoppingRules

_logger = logging.getLogger(__name__)

EIGENVALUE = "eigenvalue"


class SearchMonitor(Callback):
    """Logs the figures of :mod:`idarts_nni.health` with each validation pass and keeps the cells of all epochs.

    Of a search space with a recurrent cell it watches the first label's cell. Of any other space (NNI's own cells,
    layer choices) it tells ``entropy`` alone, the mean over all choices, and keeps no trajectory: what those choices
    make of a probability is NNI's to say.

    Parameters
    ----------
    hessian_every
        Measure the largest eigenvalue of the Hessian of the validation loss in the architecture parameters every so
        many epochs, on the first batch of the validation pass; 0 for never. It costs some thirty gradients.
    rules
        When to stop the search.

    Attributes
    ----------
    trajectory
        One entry for each epoch: ``epoch`` (from 1), ``architecture`` (plain data) and ``probabilities`` (one row for
        each node, as :func:`idarts_nni.derive.node_distributions` gives them).
    stop
        Why the search stopped before its last epoch; None if it did not.
    """

    def __init__(self, hessian_every: int = 0, rules: StoppingRules | None = None) -> None:
        self.hessian_every = hessian_every
        self.rules = rules or StoppingRules()
        if hessian_every < 0:
            raise ValueError(f"hessian_every: found {hessian_every}; expected a number of epochs, or 0 for never.")
        if self.rules.eigenvalue_ratio and not hessian_every:
            raise ValueError("stop_eigenvalue needs the eigenvalue: set hessian_every, such as hessian_every: 1.")
        self.trajectory: list[dict[str, Any]] = []
        self.stop: Stop | None = None
        self._epochs: list[Epoch] = []
        self._before: Architecture | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: plain data."""
        epochs = [(epoch.changed, epoch.eigenvalue) for epoch in self._epochs]
        stop = None if self.stop is None else (self.stop.reason, self.stop.epoch)
        before = None if self._before is None else self._before.to_dict()
        return {"trajectory": list(self.trajectory), "epochs": epochs, "stop": stop, "before": before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the trajectory of an interrupted run."""
        self.trajectory = list(state_dict["trajectory"])
        self._epochs = [Epoch(*epoch) for epoch in state_dict["epochs"]]
        self.stop = None if state_dict["stop"] is None else Stop(*state_dict["stop"])
        if state_dict["before"] is not None:
            self._before = Architecture.from_dict(state_dict["before"], "trajectory")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the cell that the first logits give, which the first epoch's is compared with."""
        cell = _cell(pl_module)
        if cell is not None and self._before is None:
            self._before = cell.derive()
        # A run that had stopped, and was interrupted before its result was written, has no epoch to add.
        if self.stop is not None:
            trainer.should_stop = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures of an epoch, beside the task's own."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        cell, epoch = _cell(pl_module), trainer.current_epoch + 1
        figures = _entropy(pl_module) if cell is None else self._look_at(cell, epoch)
        # Lightning keeps the last value of a name for ever; one of an earlier epoch must not pass for this one's.
        trainer.callback_metrics.pop(EIGENVALUE, None)
        if self.hessian_every and epoch % self.hessian_every == 0 and isinstance(pl_module, IDARTSLightningModule):
            # One process's, where there are several: rules that end a search look at it.
            value = trainer.strategy.broadcast(_eigenvalue(trainer, pl_module))
            figures |= {EIGENVALUE: value} if math.isfinite(value) else {}
        for name, value in figures.items():
            pl_module.log(name, value)
        if cell is not None:
            self._epochs.append(Epoch(figures["changed edges"], figures.get(EIGENVALUE)))
            self.stop = self.rules.decide(self._epochs)
            if self.stop is not None:
                _logger.info("The search stops after epoch %d: %s.", epoch, self.stop.reason)
                trainer.should_stop = True

    def _look_at(self, cell: MixedRecurrentCell, epoch: int) -> dict[str, float]:
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


def _eigenvalue(trainer: Trainer, module: IDARTSLightningModule) -> float:
    loaders: Any = trainer.val_dataloaders
    batch = next(iter(loaders))
    return largest_eigenvalue(lambda: module.architecture_gradients(batch), module.arch_parameters())


def _entropy(module: LightningModule) -> dict[str, float]:
    if not isinstance(module, IDARTSLightningModule):
        return {}
    choices = [normalised_entropy(list(choice.values())) for choice in module.export_probs().values()]
    return {"entropy": sum(choices) / len(choices)} if choices else {}
