"""A run that was stopped, at any step, in any way, and run again ends with the numbers of one that was left alone."""

import dataclasses
import random
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback

from idarts_nni.architecture import Architecture
from idarts_nni.checkpoint import first_intact, load_plain
from idarts_nni.saving import BEFORE_LAST, LAST, checkpoint_paths
from idarts_nni.space import CellSpace
from trials import conll, digits, ptb
from trials.task import Job
from trials.training import Precautions, run_job

TINY = CellSpace(2, ("zeroize", "tanh", "relu"))
IMAGES = {"space": "ENAS", "width": 2, "num_cells": 3}
SETTINGS = {
    # Lengths of pieces vary, the validation stream of the search is shorter than that of training, averaging starts.
    "ptb": {
        "epochs": 4, "hidden_size": 8, "batch_size": 128, "evaluation_batch_size": 100, "train_tokens": 12800,
        "bptt": 8, "bptt_longest": 12, "averaging_patience": 1, "learning_rate": 100.0,
    },
    # The learning rate falls after every epoch that does not help.
    "conll": {
        "epochs": 4, "hidden_size": 8, "batch_size": 16, "word_width": 8, "character_width": 8, "train_sentences": 150,
        "learning_rate": 0.5, "gradient_clip": 5.0, "anneal_patience": 1,
    },
    "digits": {"epochs": 2, "batch_size": 200},
}  # fmt: skip
TASKS = {"ptb": ptb, "conll": conll, "digits": digits}
CASES = [
    ("ptb", "search", "idarts"), ("ptb", "retrain", "idarts"), ("conll", "search", "idarts"),
    ("conll", "retrain", "idarts"), ("ptb", "retrain", "lstm"), ("digits", "search", "idarts"),
    ("digits", "retrain", "cnn"),
]  # fmt: skip


class Killed(Exception):
    """Stands for the end of the process: nothing is saved any more."""


class StopAt(Callback):
    """Does something after a step, counted over all epochs of this process, and counts the steps."""

    def __init__(self, step=None, act=None):
        self.step, self.act, self.steps = step, act, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1
        if self.steps == self.step:
            self.act()


def job_of(name, stage, method):
    space = TINY if name != "digits" and method == "idarts" else None
    cell = Architecture.random(TINY, 1) if space is not None and stage == "retrain" else None
    model_space = IMAGES if name == "digits" and method == "idarts" else {}
    return Job(stage, method, 1, space, cell, SETTINGS[name], "embedded", model_space=model_space)


def run(name, job, folder, callback=None, precautions=None, report=lambda metrics: None):
    task = TASKS[name]

    def prepare(asked):
        workload = task.prepare(asked)
        workload.callbacks += [callback] if callback is not None else []
        return workload

    names = {"OPTIMIZE_MODE": task.OPTIMIZE_MODE, "SPACE": getattr(task, "SPACE", "cell")}
    names["BASELINE"] = getattr(task, "BASELINE", "lstm")
    return run_job(SimpleNamespace(prepare=prepare, **names), job, folder, report, precautions)


def end_of(folder):
    """Return what decides the future at the end of a run: weights, averages, optimisers, random states, places."""
    found = load_plain(folder / LAST)
    callbacks = {name: state for name, state in found["callbacks"].items() if not name.startswith("BestEpoch")}
    callbacks["EpochReporter"] = [{**epoch, "seconds": 0} for epoch in callbacks["EpochReporter"]["history"]]
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "averaging_state", "current_model_state", "place")
    return {"callbacks": callbacks, **{name: found[name] for name in kept if name in found}}


def assert_equal(one, other, path=""):
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert list(one) == list(other), path
        for key, value in one.items():
            assert_equal(value, other[key], f"{path}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for index, value in enumerate(one):
            assert_equal(value, other[index], f"{path}/{index}")
    else:
        assert one == other, path


def assert_same_result(one, other):
    assert (one.validation, one.test, one.architecture) == (other.validation, other.test, other.architecture)
    assert one.scores == other.scores and one.parameters == other.parameters
    histories = [[{**epoch, "seconds": 0} for epoch in outcome.history] for outcome in (one, other)]
    assert histories[0] == histories[1]


def check_stops(tmp_path, name, stage, method, count):
    job, counter = job_of(name, stage, method), StopAt()
    whole = run(name, job, tmp_path / "whole", counter)
    expected = end_of(tmp_path / "whole")
    assert ("averaging_state" in expected) == (name == "ptb" and stage == "retrain")
    steps = random.Random(f"{name} {stage}").sample(range(1, counter.steps + 1), count)
    for index, step in enumerate(steps):
        folder = tmp_path / f"stopped at {step}"
        if index % 2:
            number = random.Random(step).choice([signal.SIGTERM, signal.SIGINT])
            with pytest.raises(KeyboardInterrupt) as stopped:
                run(name, job, folder, StopAt(step, lambda number=number: signal.raise_signal(number)))
            assert stopped.value.args == (number,)
            place = load_plain(folder / LAST)["place"]
            done = place["epochs"] * counter.steps // SETTINGS[name]["epochs"] + place["batches"]
            assert name == "ptb" or done == step, "nothing that was computed is lost"
        else:

            def kill():
                raise Killed

            with pytest.raises(Killed):
                run(name, job, folder, StopAt(step, kill), Precautions(every_steps=3))
        assert_same_result(run(name, job, folder), whole)
        assert_equal(end_of(folder), expected)


@pytest.mark.parametrize(("name", "stage", "method"), [CASES[0], CASES[3]])
def test_a_run_stopped_within_an_epoch_equals_an_uninterrupted_one_bit_for_bit(tmp_path, name, stage, method):
    check_stops(tmp_path, name, stage, method, 2)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_taken(tmp_path, caplog, damage):
    job = job_of("ptb", "search", "idarts")
    whole = run("ptb", job, tmp_path / "whole")

    def kill():
        raise Killed

    folder = tmp_path / "parts"
    with pytest.raises(Killed):
        run("ptb", job, folder, StopAt(18, kill), Precautions(every_steps=2))
    steps = [load_plain(folder / name)["global_step"] for name in (LAST, BEFORE_LAST)]
    content = bytearray((folder / LAST).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / LAST).write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    assert first_intact(checkpoint_paths(folder)) == folder / BEFORE_LAST and steps[1] < steps[0]
    why = {"cut": "it was cut short", "changed": "its checksum differs"}[damage]
    assert "damaged checkpoint is passed over" in caplog.text and why in caplog.text
    assert_same_result(run("ptb", job, folder), whole)
    assert_equal(end_of(folder), end_of(tmp_path / "whole"))


def test_a_folder_that_was_moved_is_gone_on_from_with_its_best_score(tmp_path):
    job = job_of("ptb", "retrain", "idarts")
    whole = run("ptb", job, tmp_path / "whole")

    def kill():
        raise Killed

    with pytest.raises(Killed):
        run("ptb", job, tmp_path / "here", StopAt(30, kill), Precautions(every_steps=2))
    shutil.move(tmp_path / "here", tmp_path / "there")
    best = load_plain(tmp_path / "there" / LAST)["callbacks"]
    assert any(str(tmp_path / "here") in str(state) for state in best.values()), "an epoch was best before"
    assert_same_result(run("ptb", job, tmp_path / "there"), whole)
    # At its end as well: nothing is trained any more, and the weights that are tested lie there.
    shutil.move(tmp_path / "there", tmp_path / "elsewhere")
    assert_same_result(run("ptb", job, tmp_path / "elsewhere"), whole)


@pytest.mark.parametrize("fault", ["damaged", pytest.param("gone", marks=pytest.mark.slow)])
def test_a_run_whose_best_weights_are_lost_is_done_anew(tmp_path, caplog, fault):
    job = job_of("ptb", "retrain", "lstm")
    whole = run("ptb", job, tmp_path)
    best = tmp_path / "best.ckpt"
    if fault == "damaged":
        best.write_bytes(best.read_bytes()[:-100])
    else:
        best.unlink()
    assert_same_result(run("ptb", job, tmp_path), whole)
    assert "The weights of the best epoch are lost" in caplog.text and load_plain(best)["state_dict"]


def test_a_search_that_is_run_again_after_its_end_finds_and_measures_the_same(tmp_path):
    job = job_of("ptb", "search", "idarts")
    job = dataclasses.replace(job, overrides={**job.overrides, "gap_epochs": 1})
    first, again = (run("ptb", job, tmp_path) for _ in range(2))
    assert first.gap == again.gap is not None
    assert_same_result(first, again)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage", "method"), CASES)
def test_a_run_stopped_at_ten_random_steps_equals_an_uninterrupted_one_bit_for_bit(tmp_path, name, stage, method):
    check_stops(tmp_path, name, stage, method, 10)
