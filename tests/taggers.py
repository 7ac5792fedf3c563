"""Taggers and jobs that are small enough for a test, on the embedded entity corpus."""

from __future__ import annotations

import torch

from idarts_nni.architecture import Architecture
from idarts_nni.space import CellSpace
from trials import conll
from trials.conll_data import TaggerData
from trials.conll_settings import RETRAIN
from trials.tagger import Tagger
from trials.task import Job, resolve_settings
from trials.training import Outcome, run_job

TINY = CellSpace(2, ("zeroize", "tanh", "relu"))
CELL = Architecture.random(TINY, 1)
QUICK = {
    "epochs": 2, "hidden_size": 8, "batch_size": 16, "word_width": 8, "character_width": 8, "train_sentences": 200,
    "learning_rate": 0.5, "gradient_clip": 5.0,
}  # fmt: skip
QUICK_SETTINGS = resolve_settings(RETRAIN, QUICK)


def tagger(data: TaggerData, space=TINY, architecture=CELL, hidden_size=8, **kwargs) -> Tagger:
    torch.manual_seed(0)
    return Tagger(data.inputs, data.tags, "bioes", space, architecture, hidden_size, **kwargs)


def job(stage="retrain", method="random", seed=1, space=TINY, architecture=CELL, data="embedded", **overrides) -> Job:
    if stage == "search":
        architecture = None
    return Job(stage, method, seed, space, architecture, {**QUICK, **overrides}, data)


def run(tmp_path, name="run", report=lambda metrics: None, **kwargs) -> Outcome:
    return run_job(conll, job(**kwargs), tmp_path / name, report)
