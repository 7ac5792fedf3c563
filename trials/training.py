"""One trial's work: search or retrain, through the strategy and NNI's evaluator, with checkpoints that survive."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nni.nas.evaluator.pytorch import Lightning
from numpy.random import RandomState
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import TQDMProgressBar

from idarts_nni.architecture import Architecture
from idarts_nni.checkpoint import AtomicCheckpointIO, ExactResume, first_intact
from idarts_nni.data_parallel import SameEverywhere
from idarts_nni.gain import gain_warning
from idarts_nni.model_architecture import ModelArchitecture
from idarts_nni.parameters import BASELINES
from idarts_nni.rollback import FACTOR, REDUCTIONS, Diverged, FiniteTraining
from idarts_nni.saving import BEST, MINUTES, BestEpoch, BestLost, TimedCheckpoint, checkpoint_paths
from idarts_nni.shares import agreed

from .reporter import EpochReport, EpochReporter
from .searching import make_trainer, run_search, search_monitor
from .snapshots import CellSnapshots
from .task import Job, Workload

_logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}

UNTRAINED = 0.0
"""Validation metric of a drawn architecture: NNI asks for a number, and all draws are to rank the same."""


@dataclass(frozen=True)
class Precautions:
    """What is done against faults while a run trains."""

    minutes: float = MINUTES
    """Longest time between two checkpoints."""
    every_steps: int | None = None
    """Save after every so many steps of an epoch as well."""
    reductions: int = REDUCTIONS
    """How often the step may be made smaller when the loss is not finite."""


@dataclass
class Outcome:
    """What came out of a trial."""

    validation: float
    """The best epoch's metric of a retraining; the last epoch's of a search, whose last cell is the one kept."""
    parameters: int
    epochs: int
    seconds: float
    settings: Any
    corpus: str = ""
    """What the data were; see :class:`trials.task.Workload`."""
    test: float | None = None
    architecture: Architecture | ModelArchitecture | None = None
    cells: list[dict[str, Any]] = field(default_factory=list)
    """Cells by other derivations and of other epochs, as the job's ``derive`` asks for them."""
    history: list[dict[str, float]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    """What the test pass told beside the test metric, such as the F1 of each type of entity."""
    trajectory: list[dict[str, Any]] = field(default_factory=list)
    """The cell of each epoch of a search; see :class:`idarts_nni.monitor.SearchMonitor`."""
    stopped: dict[str, Any] | None = None
    """Why a search stopped before its last epoch, and the epoch whose cell is kept."""
    gap: dict[str, float] | None = None
    """What deriving the cell costs; see :func:`trials.searching.measure_gap`."""
    reductions: tuple[int, ...] = ()
    """Epochs (from 1) from which on the step was made smaller, since the loss was not finite in them."""


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


def run_job(
    task: ModuleType, job: Job, checkpoints: Path, report: EpochReport, precautions: Precautions | None = None
) -> Outcome:
    """Do what a trial was asked to do.

    Parameters
    ----------
    task
        The task's module; see :mod:`trials.task`.
    job
        Stage, method, seed, cell, settings, data.
    checkpoints
        Folder of this job's checkpoints; the newest undamaged one that lies there is gone on from.
    report
        Called after every epoch.
    precautions
        How often to save, and what to do when the loss is not finite.

    Raises
    ------
    FloatingPointError
        If the loss, the weights or the validation metric were not finite, and a smaller step did not help.
    KeyboardInterrupt
        With the number of the signal, if one ended the run; all steps that were finished are saved.
    ValueError
        If the job is not one for this task.
    """
    check_job(task, job)
    if isinstance(job.architecture, Architecture) and job.space is not None:
        if warning := gain_warning(job.architecture, job.space):
            _logger.warning("%s", warning)
    precautions = precautions or Precautions()
    start, reductions = _start(job, checkpoints), ()
    while True:
        try:
            return _attempt(task, job, checkpoints, report, precautions, start, reductions)
        except BestLost as fault:
            if start is None:
                raise
            _logger.error("%s All of this run is done anew.", fault)
            # All of it: an old last.ckpt would vouch for a best.ckpt of the new run.
            for path in (*checkpoint_paths(checkpoints), checkpoints / BEST):
                path.unlink(missing_ok=True)
            start, reductions = None, ()
        except Diverged as fault:
            reductions = _reduced(fault, precautions.reductions)
            start = _start(job, checkpoints, fault.epoch)
            _logger.warning(
                "%s; goes on from %s, and from epoch %d on with a step of %g of the planned one (reduction %d of %d).",
                fault,
                start.name if start else "the beginning",
                fault.epoch + 1,
                FACTOR ** len(reductions),
                len(reductions),
                precautions.reductions,
            )


def _start(job: Job, checkpoints: Path, before_epoch: int | None = None) -> Path | None:
    """Return the checkpoint to go on from, the same one in all processes."""
    found = first_intact(checkpoint_paths(checkpoints), before_epoch) if job.share.rank == 0 else None
    name = agreed(found.name if found else None)
    return checkpoints / name if name else None


def _attempt(
    task: ModuleType,
    job: Job,
    checkpoints: Path,
    report: EpochReport,
    precautions: Precautions,
    start: Path | None,
    reductions: Sequence[int],
) -> Outcome:
    """Train from a checkpoint, or from the beginning, to the end."""
    seed_everything(job.seed, workers=True, verbose=False)
    workload = task.prepare(job)
    # Counted now: the strategy will add architecture parameters, which the published counts leave out.
    parameters = sum(parameter.numel() for parameter in workload.model.parameters())
    reporter = EpochReporter(report)
    if job.stage == "search" and job.method == "random":
        return _finished(reporter, workload, parameters, UNTRAINED, architecture=_draw(job, workload))
    snapshots = CellSnapshots(**job.derive)
    snapshots.check_epochs(workload.epochs)
    finite, monitor = FiniteTraining(reductions), search_monitor(job, workload)
    best = BestEpoch(checkpoints, task.OPTIMIZE_MODE)
    saver = TimedCheckpoint(checkpoints, precautions.minutes, precautions.every_steps)
    # Looks for faults come first: a faulty epoch is not reported. The saver comes last: it knows which was best.
    watching = [finite, monitor, snapshots] if job.stage == "search" else [finite]
    trainer = _trainer(job, workload, [*watching, reporter, *workload.callbacks, best, saver], checkpoints)
    evaluator = Lightning(
        workload.module,
        trainer,
        train_dataloaders=workload.train,
        val_dataloaders=workload.validation,
        fit_kwargs={"ckpt_path": str(start)} if start else {},
    )
    with saver.stopping_on_signals():
        if job.stage == "search":
            found = run_search(job, workload, evaluator, monitor, reporter.history)
            outcome = _finished(
                reporter,
                workload,
                parameters,
                found.validation,
                architecture=found.architecture,
                cells=snapshots.cells,
                trajectory=monitor.trajectory,
                stopped=found.stopped,
                gap=found.gap,
            )
        else:
            evaluator.evaluate(workload.model)
            if best.best_model_score is None:
                raise ValueError(f"epochs: found {workload.epochs}; nothing was trained, so there is nothing to test.")
            validation = float(best.best_model_score)
            scores = _test(trainer, workload, best) if job.stage == "retrain" else {}
            outcome = _finished(
                reporter, workload, parameters, validation, test=scores.pop("test", None), scores=scores
            )
    outcome.reductions = tuple(epoch + 1 for epoch in finite.reductions)
    return outcome


def _reduced(fault: Diverged, allowed: int) -> tuple[int, ...]:
    """Add a reduction, or give up."""
    if len(fault.reductions) < allowed:
        return (*fault.reductions, fault.epoch)
    tried = ", ".join(f"{FACTOR ** (count + 1):g}" for count in range(allowed))
    also = f", also with steps of {tried} of the planned one" if tried else ""
    raise FloatingPointError(
        f"The training diverged: {fault}{also}. Lower the learning rate or the gradient clip; with several edges per "
        f"node use combine: mean or weighted in the search space."
    ) from fault


def check_job(task: ModuleType, job: Job) -> None:
    """Check that a job is one for a task.

    Raises
    ------
    ValueError
        If it is not.
    """
    if job.share.count > 1 and not getattr(task, "DATA_PARALLEL", False):
        raise ValueError(f"--devices {job.share.count}: this task trains on one device only. Leave --devices out.")
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


def _test(trainer: Trainer, workload: Workload, best: BestEpoch) -> dict[str, float]:
    """Read the test set once, with the weights that were best in validation; return all that the task logged."""
    workload.module.load_state_dict(best.best_weights())
    results = trainer.test(workload.module, workload.test, verbose=False)
    return {name: float(value) for name, value in results[0].items()}


def _finished(reporter: EpochReporter, workload: Workload, parameters: int, validation: float, **extra: Any) -> Outcome:
    return Outcome(
        validation=validation,
        parameters=parameters,
        epochs=len(reporter.history),
        seconds=round(reporter.seconds, 1),
        settings=workload.settings,
        corpus=workload.corpus,
        history=reporter.history,
        **extra,
    )


def _trainer(job: Job, workload: Workload, callbacks: list[Callback], folder: Path) -> Trainer:
    loaders = [workload.train, *(workload.validation.values() if isinstance(workload.validation, dict) else [])]
    callbacks = [ExactResume(loaders, workload.module), *callbacks]
    if job.share.count > 1:
        callbacks.insert(0, SameEverywhere())
    interactive = sys.stderr.isatty() and job.share.rank == 0
    if interactive:
        callbacks.append(TQDMProgressBar(leave=True))
    return make_trainer(
        job,
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
