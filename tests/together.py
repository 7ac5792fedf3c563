"""Jobs that two processes do together, and one process by itself, with what a test wants to see of them.

``python -m tests.together FOLDER RANK COUNT NAME...`` is one of the processes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from pytorch_lightning import Callback
from torch import nn

from idarts_nni.architecture import Architecture
from idarts_nni.monitor import mixed_cells
from idarts_nni.rollback import FiniteTraining
from idarts_nni.search_module import IDARTSLightningModule
from idarts_nni.shares import Share
from idarts_nni.space import CellSpace
from trials import conll, ptb
from trials.averaging import NonMonotoneAveraging
from trials.ranks import met
from trials.task import Job
from trials.training import Precautions, run_job

TINY = CellSpace(2, ("zeroize", "tanh", "relu"))
# Nine evaluation columns do not divide by two; pieces vary in length.
TEXT = {
    "epochs": 3, "hidden_size": 8, "batch_size": 64, "evaluation_batch_size": 9, "train_tokens": 6400, "bptt": 8,
    "bptt_longest": 12, "averaging_patience": 1, "test_batch_size": 1024,
}  # fmt: skip
NO_DROPOUT = {
    name: 0.0
    for name in ("output_dropout", "hidden_dropout", "input_dropout", "embedding_dropout", "word_dropout")
}  # fmt: skip
# Seven sentences do not divide by two either.
ENTITIES = {
    "epochs": 2, "hidden_size": 8, "batch_size": 7, "word_width": 8, "character_width": 8, "train_sentences": 100,
    "learning_rate": 0.5, "unknown_rate": 0.5,
}  # fmt: skip
SEARCH = {**TEXT, "averaging_patience": 0, "epochs": 2, "evaluation_batch_size": 64}


class Killed(Exception):
    """Stands for the end of all processes at one moment."""


class Alphas(Callback):
    """Notes the alphas of a search after every step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if isinstance(pl_module, IDARTSLightningModule):
            self.steps.append(torch.cat([alpha.detach().flatten() for alpha in pl_module.arch_parameters()]))


class WithoutNormalisation(Callback):
    """Takes the batch normalisation out of a search network: the one thing that depends on how a batch is shared."""

    def on_fit_start(self, trainer, pl_module):
        for cell in mixed_cells(pl_module):
            cell.norm = None


class AfterBetterEpochs(Callback):
    """Lets the averaging of the weights start after the first epoch."""

    def on_fit_start(self, trainer, pl_module):
        for averaging in trainer.callbacks:
            if isinstance(averaging, NonMonotoneAveraging) and not averaging._history:
                averaging._history = [0.0, 0.0]


class NormalisedByShare(Callback):
    """Lets one process normalise each half of a training batch by itself, as two processes do."""

    def on_fit_start(self, trainer, pl_module):
        for cell in mixed_cells(pl_module):
            if trainer.world_size == 1:
                cell.norm = Halves(cell.hidden_size, affine=False, track_running_stats=False)


class Halves(nn.BatchNorm1d):
    def forward(self, states):
        return torch.cat([super(Halves, self).forward(half) for half in states.chunk(2 if self.training else 1)])


class Act(Callback):
    """Does something after a step of one process or of all."""

    def __init__(self, step, act, rank=None):
        self.step, self.act, self.rank, self.steps = step, act, rank, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1
        if self.steps == self.step and self.rank in (None, trainer.global_rank):
            self.act(pl_module)


class Spoilt(ptb.LanguageModelRecipe):
    """Its loss is NaN at one step until the step is made smaller, in the last process alone."""

    def training_step(self, batch, batch_idx):
        guard = next(callback for callback in self.trainer.callbacks if isinstance(callback, FiniteTraining))
        here = (self.share.rank, self.trainer.current_epoch, batch_idx) == (self.share.count - 1, 1, 3)
        return super().training_step(batch, batch_idx) * (float("nan") if here and not guard.reductions else 1.0)


def kill(module):
    raise Killed


def push(module):
    with torch.no_grad():
        next(module.parameters()).add_(1e-6)


def job_of(task, stage, overrides, method="idarts", share=None):
    space = TINY if method == "idarts" else None
    cell = Architecture.random(TINY, 1) if stage == "retrain" and space is not None else None
    # The plain backend takes any normalisation, the fast ones torch's own alone.
    return Job(stage, method, 1, space, cell, overrides, "embedded", backend="reference", share=share or Share())


JOBS = {
    "text": (ptb, "retrain", TEXT),
    "text without dropout": (ptb, "retrain", TEXT | NO_DROPOUT),
    "lstm": (ptb, "retrain", TEXT, "lstm"),
    "entities": (conll, "retrain", ENTITIES),
    "search": (ptb, "search", SEARCH),
    "second order": (ptb, "search", {**SEARCH, "epochs": 1, "second_order": True}),
    # At the usual rate rounding grows thousandfold within ten steps.
    "normalised search": (ptb, "search", {**SEARCH, "learning_rate": 0.5, "gap_epochs": 1}),
    "entity search": (conll, "search", {**ENTITIES, "epochs": 1, "batch_size": 16}),
    "spoilt": (ptb, "retrain", TEXT),
    "drifted": (ptb, "retrain", TEXT),
}
CALLBACKS = {
    "text": [AfterBetterEpochs], "search": [WithoutNormalisation], "second order": [WithoutNormalisation],
    "normalised search": [NormalisedByShare], "drifted": [lambda: Act(3, push, rank=1)],
}  # fmt: skip


def do(name, folder, share=None, callbacks=(), precautions=None):
    """Do a job; return its outcome and the alphas after every step."""
    task, *description = JOBS[name]
    alphas = Alphas()

    def prepare(asked):
        workload = task.prepare(asked)
        if name == "spoilt":
            workload.module = Spoilt(workload.settings, asked.share)
        workload.callbacks += [alphas, *(make() for make in CALLBACKS.get(name, ())), *callbacks]
        return workload

    constants = {constant: getattr(task, constant) for constant in dir(task) if constant.isupper()}
    job = job_of(task, *description, share=share)
    outcome = run_job(SimpleNamespace(**constants, prepare=prepare), job, folder, lambda metrics: None, precautions)
    return outcome, torch.stack(alphas.steps) if alphas.steps else torch.empty(0)


def stopped_and_resumed(name, folder, share, again=True):
    """Do a job that ends after its 17th step, saved after the 15th, and do it once more, to its end."""
    try:
        do(name, folder, share, [Act(17, kill)], Precautions(every_steps=3))
    except Killed:
        return do(name, folder, share) if again else None
    raise AssertionError("it was not stopped")


def main(folder, rank, count, *names):
    share = Share(rank, count)
    with met(share, "cpu", folder):
        for name in names:
            place = folder / name
            place.mkdir(exist_ok=True)
            if name.startswith("stopped "):
                stopped_and_resumed(name.removeprefix("stopped "), place, share)
            elif name.startswith("left "):
                stopped_and_resumed(name.removeprefix("left "), place, share, again=False)
            elif name == "drifted":
                try:
                    do(name, place, share)
                except RuntimeError as error:
                    (place / f"{rank}.error").write_text(str(error))
            else:
                outcome, alphas = do(name, place, share)
                told = {key: getattr(outcome, key) for key in ("validation", "test", "scores", "gap", "reductions")}
                told["cell"] = outcome.architecture and outcome.architecture.to_json()
                told["history"] = [
                    {key: value for key, value in epoch.items() if key != "seconds"} for epoch in outcome.history
                ]
                torch.save({**told, "alphas": alphas}, place / f"{rank}.result")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
