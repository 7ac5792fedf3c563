"""A search trial: the strategy, what watches it, and what is looked at when it has ended."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from nni.nas.evaluator.pytorch import Lightning
from nni.nas.evaluator.pytorch import Trainer as TracedTrainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from pytorch_lightning import Trainer, seed_everything

from idarts_nni.architecture import Architecture
from idarts_nni.data_parallel import EqualGradients
from idarts_nni.model_architecture import ModelArchitecture
from idarts_nni.monitor import SearchMonitor, mixed_cells
from idarts_nni.mutator import MixedRecurrentCell, architecture_weights, weighed
from idarts_nni.search_module import IDARTSLightningModule
from idarts_nni.selection import select_by_perturbation
from idarts_nni.shares import agreed
from idarts_nni.strategy import IDARTS

from .search_options import SearchOptions
from .task import Job, Workload

_logger = logging.getLogger(__name__)

RELAXATIONS = {"idarts": "node", "darts": "edge"}


@dataclass
class Found:
    """What a search came to."""

    architecture: Architecture | ModelArchitecture | None
    validation: float
    """The search network's metric in the epoch whose cell is kept."""
    stopped: dict[str, Any] | None = None
    """``reason`` and ``epoch`` (whose cell is kept) of a search that stopped before its last epoch."""
    gap: dict[str, float] | None = None
    """See :func:`measure_gap`."""


def make_trainer(job: Job, **options: Any) -> Trainer:
    """Make the trainer of a job: one device, or one of several processes that train together."""
    accelerator = "gpu" if job.device == "cuda" else "cpu"
    if job.share.count == 1:
        return TracedTrainer(accelerator=accelerator, devices=1, **options)
    together = {"num_nodes": job.share.count, "strategy": EqualGradients(job.share), "use_distributed_sampler": False}
    trainer = TracedTrainer(accelerator=accelerator, devices=1, **together, **options)
    # Lightning's handler of SIGTERM talks to the other processes from wherever this one is, in the midst of what they
    # are saying to each other. TimedCheckpoint has a handler too, and lets all of them end after the same step.
    trainer._signal_connector.register_signal_handlers = lambda: None
    return trainer


def search_monitor(job: Job, workload: Workload) -> SearchMonitor:
    """Return the callback that watches a search, with the rules that the settings ask for.

    Raises
    ------
    ValueError
        If the plan wants cells that such a search cannot give.
    """
    options = workload.settings
    if not isinstance(options, SearchOptions):
        return SearchMonitor()
    if job.derive.get("edges_per_node") and (options.stop_eigenvalue or options.selection == "perturbation"):
        raise ValueError(
            "derivations and snapshots take the last epoch's cell by probability; selection: perturbation and "
            "stop_eigenvalue choose otherwise. Leave out the one or the other."
        )
    if job.derive.get("snapshots") and options.stop_unchanged:
        raise ValueError("snapshots want all epochs, and stop_unchanged may end the search before. Leave out one.")
    return SearchMonitor(options.hessian_every, options.stopping_rules())


def run_search(
    job: Job, workload: Workload, evaluator: Lightning, monitor: SearchMonitor, history: Sequence[Any]
) -> Found:
    """Search, derive the architecture, and measure the gap if it is asked for.

    Parameters
    ----------
    job, workload
        What to search and how.
    evaluator
        Whose trainer has ``monitor`` among its callbacks.
    history
        Filled during the search with the metrics of every epoch.
    """
    strategy = IDARTS(relaxation=RELAXATIONS[job.method], gradient_clip_val=workload.gradient_clip, **workload.strategy)
    strategy(RawFormatModelSpace(workload.model, evaluator), SequentialExecutionEngine())
    kept = -1 if monitor.stop is None else monitor.stop.epoch - 1
    validation = history[kept]["validation"] if history else math.nan
    stopped = None if monitor.stop is None else asdict(monitor.stop)
    if job.space is None:
        return Found(ModelArchitecture(next(strategy.ranked_samples()).sample), validation)
    module = strategy.oneshot_module
    module.set_model(strategy.supernet)
    cell = next(mixed_cells(module), None)
    if cell is None:
        return Found(None, validation, stopped)
    cells = [other for other in module.modules() if isinstance(other, MixedRecurrentCell) and other.label == cell.label]
    options = workload.settings
    if monitor.stop is not None:
        architecture = Architecture.from_dict(monitor.trajectory[kept]["architecture"], "trajectory")
    elif options.selection == "perturbation":
        batches = list(islice(_evaluation(workload), options.selection_batches or None))
        chosen = select_by_perturbation(cells, lambda: module.mean_loss(batches))
        architecture = Architecture.from_dict(agreed(chosen.to_dict()), "selection") if job.share.count > 1 else chosen
    else:
        architecture = cell.derive()
    gap = measure_gap(job, workload, evaluator.trainer, module, cells, architecture) if options.gap_epochs else None
    return Found(architecture, validation, stopped, gap)


def measure_gap(
    job: Job,
    workload: Workload,
    trainer: Trainer,
    module: IDARTSLightningModule,
    cells: Sequence[MixedRecurrentCell],
    architecture: Architecture,
) -> dict[str, float]:
    """Measure what it costs to derive the cell, in the task's validation metric; the search network is used up.

    The derived cell runs inside the search network: with its weights, and normalised by the batch at hand, as the
    search network itself is evaluated, so that there are no statistics to calibrate. Then its weights are trained for a
    few epochs by the recipe of the search, the edges fixed. Where ``stop_eigenvalue`` went back to the cell of an
    earlier epoch, that cell runs in the last epoch's network: the earlier one is gone.

    Returns
    -------
    ``supernet``, ``derived`` and ``trained``, and ``epochs``, the length of that training.
    """
    epochs = workload.settings.gap_epochs
    # The same numbers whether the search ran through or was taken up again after its last epoch.
    seed_everything(job.seed, workers=True, verbose=False)
    gap = {"supernet": _validated(trainer, module, workload)}
    warmup, module.warmup_epochs = module.warmup_epochs, epochs  # no architecture step
    try:
        with weighed(cells, architecture_weights(architecture, cells[0].space)):
            gap["derived"] = _validated(trainer, module, workload)
            short = make_trainer(
                job,
                precision=trainer.precision,
                max_epochs=epochs,
                limit_val_batches=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            assert isinstance(workload.validation, Mapping)
            short.fit(module, {"train": workload.train, "val": workload.validation["search"]})
            gap["trained"] = _validated(trainer, module, workload)
    finally:
        module.warmup_epochs = warmup
    gap["epochs"] = float(epochs)
    _logger.info("gap: %s", {name: round(value, 4) for name, value in gap.items()})
    return gap


def _validated(trainer: Trainer, module: IDARTSLightningModule, workload: Workload) -> float:
    (metrics,) = trainer.validate(module, _evaluation(workload), verbose=False)
    return float(metrics["validation"])


def _evaluation(workload: Workload) -> Any:
    return workload.validation["evaluate"] if isinstance(workload.validation, Mapping) else workload.validation
