"""One trial's work: search or retrain, through the strategy and NNI's evaluator, with checkpoints that survive."""

from __future__ import annotations

import importlib
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nni.nas.evaluator.pytorch import Lightning
from nni.nas.evaluator.pytorch import Trainer as TracedTrainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from numpy.random import RandomState
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.utilities.exceptions import SIGTERMException

from idarts_nni.architecture import Architecture
from idarts_nni.checkpoint import AtomicCheckpointIO, ExactResume, load_plain
from idarts_nni.model_architecture import ModelArchitecture
from idarts_nni.monitor import SearchMonitor
from idarts_nni.parameters import BASELINES
from idarts_nni.strategy import IDARTS

from .snapshots import CellSnapshots
from .task import Job, Workload

_logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
RELAXATIONS = {"idarts": "node", "darts": "edge"}

UNTRAINED = 0.0
"""Validation metric of a drawn architecture: NNI asks for a number, and all draws are to rank the same."""

EpochReport = Callable[[dict[str, float]], None]


@dataclass
class Outcome:
    """What came out of a trial."""

    validation: float
    """The best epoch's metric of a retraining; the last epoch's of a search, whose last cell is the one kept."""
    parameters: int
    epochs: int
    seconds: float
    settings: Any
    test: float | None = None
    architecture: Architecture | ModelArchitecture | None = None
    cells: list[dict[str, Any]] = field(default_factory=list)
    """Cells by other derivations and of other epochs, as the job's ``derive`` asks for them."""
    history: list[dict[str, float]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    """What the test pass told beside the test metric, such as the F1 of each type of entity."""
    trajectory: list[dict[str, Any]] = field(default_factory=list)
    """The cell of each epoch of a search; see :class:`idarts_nni.monitor.SearchMonitor`."""


class EpochReporter(Callback):
    """Keeps the metrics of every epoch, passes them on, and counts the seconds over all resumed runs.

    Parameters
    ----------
    report
        Called with the metrics of each epoch; ``default`` is the validation metric.
    """

    def __init__(self, report: EpochReport) -> None:
        self.history: list[dict[str, float]] = []
        self._report = report
        self._seconds_before = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self._seconds_before + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"history": [dict(epoch) for epoch in self.history], "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the history of an interrupted run, and report it again for NNI's curve."""
        self.history = [dict(epoch) for epoch in state_dict["history"]]
        self._seconds_before = float(state_dict["seconds"])
        for epoch in self.history:
            self._report(epoch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report an epoch."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if not name.startswith("prob/")
        }
        epoch = {"default": metrics["validation"], **metrics, "epoch": trainer.current_epoch + 1.0}
        epoch["seconds"] = round(self.seconds, 3)
        self.history.append(epoch)
        self._report(epoch)
        _logger.info("epoch %d: %s", trainer.current_epoch + 1, {key: round(value, 4) for key, value in epoch.items()})


def load_task(name: str) -> ModuleType:
    """Import ``trials/<name>.py``.

    Raises
    ------
    ValueError
        If there is no such task.
    """
    folder = Path(__file__).parent
    known = sorted(path.stem for path in folder.glob("*.py") if "\ndef prepare(" in path.read_text(encoding="utf-8"))
    if name not in known:
        raise ValueError(f"There is no task {name!r}; tasks: {', '.join(known)}.")
    return importlib.import_module(f"{__package__}.{name}")


def run_job(task: ModuleType, job: Job, checkpoints: Path, report: EpochReport) -> Outcome:
    """Do what a trial was asked to do.

    Parameters
    ----------
    task
        The task's module; see :mod:`trials.task`.
    job
        Stage, method, seed, cell, settings, data.
    checkpoints
        Folder of this job's checkpoints; a checkpoint that lies there is gone on from.
    report
        Called after every epoch.

    Raises
    ------
    FloatingPointError
        If training ended without a finite validation metric.
    ValueError
        If the job is not one for this task.
    """
    _check_job(task, job)
    seed_everything(job.seed, workers=True, verbose=False)
    workload = task.prepare(job)
    # Counted now: the strategy will add architecture parameters, which the published counts leave out.
    parameters = sum(parameter.numel() for parameter in workload.model.parameters())
    reporter = EpochReporter(report)
    if job.stage == "search" and job.method == "random":
        return _finished(reporter, workload, parameters, UNTRAINED, architecture=_draw(job, workload))
    snapshots = CellSnapshots(**job.derive)
    snapshots.check_epochs(workload.epochs)
    best, every = _checkpoint_callbacks(checkpoints, task.OPTIMIZE_MODE)
    monitor = SearchMonitor()
    # Numbers that are not finite stay so: weights do not come back from them, and the rest of the budget is saved.
    diverged = EarlyStopping("validation", mode=best.mode, patience=sys.maxsize, check_finite=True)
    watching = [monitor, snapshots] if job.stage == "search" else [diverged]
    trainer = _trainer(job, workload, [*watching, reporter, *workload.callbacks, best, every], checkpoints)
    last = checkpoints / "last.ckpt"
    evaluator = Lightning(
        workload.module,
        trainer,
        train_dataloaders=workload.train,
        val_dataloaders=workload.validation,
        fit_kwargs={"ckpt_path": str(last)} if last.is_file() else {},
    )
    if job.stage == "search":
        with _interrupts(trainer):
            architecture = _search(job, workload, evaluator)
        validation = reporter.history[-1]["validation"] if reporter.history else math.nan
        return _finished(
            reporter,
            workload,
            parameters,
            validation,
            architecture=architecture,
            cells=snapshots.cells,
            trajectory=monitor.trajectory,
        )
    with _interrupts(trainer):
        evaluator.evaluate(workload.model)
    if best.best_model_score is None or not math.isfinite(best.best_model_score):
        raise FloatingPointError(
            f"The training diverged: no epoch gave a finite validation metric, and it was given up after "
            f"{len(reporter.history)} of {workload.epochs}. Lower the learning rate; with several edges per node use "
            f"combine: mean or weighted."
        )
    scores = _test(trainer, workload, best) if job.stage == "retrain" else {}
    return _finished(
        reporter, workload, parameters, float(best.best_model_score), test=scores.pop("test", None), scores=scores
    )


@contextmanager
def _interrupts(trainer: Trainer) -> Iterator[None]:
    """Turn Lightning's exits into one KeyboardInterrupt that carries the signal, so that the caller can leave by it."""
    try:
        yield
    except SIGTERMException:
        raise KeyboardInterrupt(signal.SIGTERM) from None
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt(signal.SIGINT) from None
        raise


def _check_job(task: ModuleType, job: Job) -> None:
    baseline, kind = getattr(task, "BASELINE", "lstm"), getattr(task, "SPACE", "cell")
    if job.method in BASELINES:
        if job.method != baseline:
            raise ValueError(f"The baseline of this task is {baseline}; found {job.method}.")
    elif (job.space is None) != (kind == "model") or (not job.model_space) != (kind == "cell"):
        other = {"cell": "a recurrent cell (search_spaces/recurrent8.yaml)", "model": "'model: {...}'"}
        raise ValueError(f"This task searches {other[kind]}; the search space that was given is of another kind.")


def _draw(job: Job, workload: Workload) -> ModelArchitecture:
    """Draw an architecture uniformly; its search trial trains nothing."""
    sample: dict[str, Any] = {}
    states = RandomState(job.seed)
    for mutable in workload.model.simplify().values():
        mutable.random(sample, states)
    return ModelArchitecture(sample)


def _search(job: Job, workload: Workload, evaluator: Lightning) -> Architecture | ModelArchitecture | None:
    strategy = IDARTS(relaxation=RELAXATIONS[job.method], gradient_clip_val=workload.gradient_clip, **workload.strategy)
    strategy(RawFormatModelSpace(workload.model, evaluator), SequentialExecutionEngine())
    if job.space is None:
        return ModelArchitecture(next(strategy.ranked_samples()).sample)
    return next(iter(strategy.derived_architectures().values()), None)


def _test(trainer: Trainer, workload: Workload, best: ModelCheckpoint) -> dict[str, float]:
    """Read the test set once, with the weights that were best in validation; return all that the task logged."""
    workload.module.load_state_dict(load_plain(best.best_model_path)["state_dict"])
    results = trainer.test(workload.module, workload.test, verbose=False)
    return {name: float(value) for name, value in results[0].items()}


def _finished(reporter: EpochReporter, workload: Workload, parameters: int, validation: float, **extra: Any) -> Outcome:
    return Outcome(
        validation=validation,
        parameters=parameters,
        epochs=len(reporter.history),
        seconds=round(reporter.seconds, 1),
        settings=workload.settings,
        history=reporter.history,
        **extra,
    )


def _checkpoint_callbacks(folder: Path, mode: str) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """Keep the best epoch and the last one; in this order, so that the last knows which was best."""
    # After the epoch's bookkeeping, so that a resumed run starts with the next epoch.
    common: dict[str, Any] = {"dirpath": folder, "save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(
        filename="best", monitor="validation", mode={"minimize": "min", "maximize": "max"}[mode], **common
    )
    # Not save_last of the other: that writes only when an epoch was the best so far.
    return best, ModelCheckpoint(filename="last", **common)


def _trainer(job: Job, workload: Workload, callbacks: list[Callback], folder: Path) -> Trainer:
    loaders = [workload.train, *(workload.validation.values() if isinstance(workload.validation, dict) else [])]
    callbacks = [ExactResume(loaders), *callbacks]
    interactive = sys.stderr.isatty()
    if interactive:
        callbacks.append(TQDMProgressBar(leave=True))
    return TracedTrainer(
        accelerator="gpu" if job.device == "cuda" else "cpu",
        devices=1,
        precision=PRECISIONS[job.precision],
        max_epochs=workload.epochs,
        # A strategy clips by itself; the trainer cannot, under manual optimisation.
        gradient_clip_val=None if job.stage == "search" else workload.gradient_clip,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=interactive,
        enable_model_summary=False,
        default_root_dir=folder,
    )
