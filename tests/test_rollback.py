"""A loss that is not finite takes a run back, with a smaller step, as often as was allowed, and always the same way."""

import dataclasses
import logging
from types import SimpleNamespace

import pytest
import torch

from idarts_nni.checkpoint import load_plain
from idarts_nni.rollback import FiniteTraining
from idarts_nni.saving import LAST
from tests.test_resume import Killed, StopAt, assert_equal, assert_same_result, end_of, job_of
from trials import ptb
from trials.training import Precautions, run_job


class Planted(ptb.LanguageModelRecipe):
    """Its loss is NaN at one batch until the step has been made smaller often enough."""

    def __init__(self, settings, epoch, batch, needed):
        super().__init__(settings)
        self.epoch, self.batch, self.needed, self.seen = epoch, batch, needed, 0

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.seen = 0

    def running_state(self):
        return {**super().running_state(), "seen": self.seen}

    def load_running_state(self, state, device):
        super().load_running_state(state, device)
        self.seen = state["seen"]

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if batch.stream != "train":
            return loss
        self.seen += 1
        guard = next(callback for callback in self.trainer.callbacks if isinstance(callback, FiniteTraining))
        planted = (self.trainer.current_epoch, self.seen) == (self.epoch, self.batch)
        return loss * float("nan") if planted and len(guard.reductions) < self.needed else loss


def run(folder, job, epoch=1, batch=4, needed=1, callback=None, **precautions):
    def prepare(asked):
        workload = ptb.prepare(asked)
        workload.module = Planted(workload.settings, epoch, batch, needed)
        workload.callbacks += [callback] if callback is not None else []
        return workload

    task = SimpleNamespace(OPTIMIZE_MODE="minimize", prepare=prepare)
    return run_job(task, job, folder, lambda metrics: None, Precautions(**precautions))


@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_a_planted_nan_is_survived_and_interruptions_do_not_change_how(tmp_path, stage, caplog):
    job = job_of("ptb", stage, "idarts")
    caplog.set_level(logging.WARNING)
    whole = run(tmp_path / "whole", job)
    assert "the training loss is not a finite number in epoch 2; goes on from" in caplog.text
    assert "from epoch 2 on with a step of 0.5 of the planned one (reduction 1 of 3)" in caplog.text
    assert whole.reductions == (2,) and [epoch["epoch"] for epoch in whole.history] == [1.0, 2.0, 3.0, 4.0]

    def kill():
        raise Killed

    # Killed once before the fault, once after it, with checkpoints in other places than those of the whole run.
    for step in (15, 30):
        with pytest.raises(Killed):
            run(tmp_path / "parts", job, callback=StopAt(step, kill), every_steps=2)
    assert_same_result(run(tmp_path / "parts", job), whole)
    assert_equal(end_of(tmp_path / "parts"), end_of(tmp_path / "whole"))


@pytest.mark.parametrize("stage", ["search", pytest.param("retrain", marks=pytest.mark.slow)])
def test_a_reduction_is_half_the_learning_rate_of_every_optimiser(tmp_path, stage):
    job = job_of("ptb", stage, "idarts")
    settings = ptb.SEARCH if stage == "search" else ptb.RETRAIN
    halves = {"learning_rate": job.overrides["learning_rate"] / 2, "arc_learning_rate": settings.arc_learning_rate / 2}
    run(tmp_path / "reduced", job, epoch=0)
    halved = dataclasses.replace(job, overrides={**job.overrides, **halves})
    run(tmp_path / "halved", halved, needed=0)
    one, other = (load_plain(tmp_path / name / LAST)["state_dict"] for name in ("reduced", "halved"))
    assert_equal(one, other)


@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_a_nan_that_stays_ends_the_run_with_the_reason(tmp_path, stage):
    with pytest.raises(
        FloatingPointError, match="diverged: the training loss .* epoch 2, also with steps of 0.5, 0.25 of"
    ):
        run(tmp_path, job_of("ptb", stage, "idarts"), needed=99, reductions=2)
    checkpoint = load_plain(tmp_path / LAST)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values()), "no fault is ever saved"


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, torch.cuda.OutOfMemoryError])
def test_only_a_number_that_is_not_finite_takes_a_run_back(tmp_path, error):
    def act():
        raise error("stop")

    with pytest.raises(error):
        run(tmp_path, job_of("ptb", "retrain", "idarts"), needed=0, callback=StopAt(3, act))
