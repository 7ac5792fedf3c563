"""The image task: its data, its models, and a search and a retraining through the same runner as the other tasks."""

import dataclasses
import json

import pytest
import torch

from idarts_nni.found_cells import read_cell
from idarts_nni.model_architecture import ModelArchitecture, read_architecture
from trials import digits, ptb
from trials.run import main
from trials.task import Job, resolve_settings
from trials.training import load_task, run_job

SPACE = {"space": "ENAS", "width": 2, "num_cells": 3}


def job(stage="search", method="idarts", seed=1, architecture=None, model_space=SPACE, **overrides):
    settings = {"epochs": 1, "batch_size": 360, **overrides}
    return Job(stage, method, seed, None, architecture, settings, "", model_space=model_space)


def run(tmp_path, **kwargs):
    return run_job(digits, job(**kwargs), tmp_path / "checkpoints", lambda metrics: None)


def drawn(tmp_path, seed=1):
    return run(tmp_path, method="random", seed=seed).architecture


def test_the_parts_are_disjoint_complete_and_the_same_in_every_run():
    parts = digits.split_digits()
    assert {name: len(labels) for name, (_, labels) in parts.items()} == {"test": 360, "validation": 360, "train": 1077}
    pictures = torch.cat([images.reshape(len(images), -1) for images, _ in parts.values()])
    assert pictures.shape == (1797, 192) and pictures.min() == -1.0 and pictures.max() == 1.0
    assert len(pictures.unique(dim=0)) == 1797, "no image is in two parts"
    again = digits.split_digits()
    assert all(torch.equal(parts[name][1], again[name][1]) for name in parts)


def test_a_training_pass_shuffles_by_seed_and_number_and_evaluation_sees_every_image_once():
    images, labels = torch.arange(10.0)[:, None], torch.arange(10)
    first, again = digits.Batches(images, labels, 4, seed=1), digits.Batches(images, labels, 4, seed=1)
    one, two = ([batch[1].tolist() for batch in first] for _ in range(2))
    assert len(first) == len(one) == 2 and one != two
    again.load_state_dict({"passes": 1})
    assert [batch[1].tolist() for batch in again] == two
    assert [batch[1].tolist() for batch in digits.Batches(images, labels, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(ValueError, match="batch_size: found 11; allowed: 2 to 10"):
        digits.Batches(images, labels, 11)


def test_accuracy_is_the_share_of_images_told_rightly_in_per_cent():
    recipe = digits.DigitsRecipe(digits.RETRAIN)
    recipe.set_model(torch.nn.Identity())
    for rows, labels in (([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]], [0, 1, 1]), ([[0.0, 1.0]], [1])):
        recipe.validation_step((torch.tensor(rows), torch.tensor(labels)), 0)
    assert recipe._accuracy() == pytest.approx(75.0)


@pytest.mark.parametrize("method", ["idarts", "darts"])
def test_a_search_finds_an_architecture_that_reads_back_and_retrains(tmp_path, method):
    found = run(tmp_path, method=method)
    assert 0.0 <= found.validation <= 100.0 and found.test is None and len(found.history) == 1
    text = found.architecture.to_json()
    read = read_architecture(json.loads(text))
    assert isinstance(read, ModelArchitecture) and read == found.architecture
    kept = read_cell({"architecture": text, "default": found.validation}, {"model": SPACE})
    assert (kept.fingerprint, kept.architecture) == (read.fingerprint, text), "the tuner and the trial name it alike"
    retrained = run_job(
        digits, job(stage="retrain", method=method, architecture=read), tmp_path / "retrain", lambda metrics: None
    )
    assert 0.0 <= retrained.test <= 100.0 and retrained.parameters < found.parameters


def test_a_drawn_architecture_depends_on_the_seed_alone_and_trains_nothing(tmp_path):
    assert drawn(tmp_path) == drawn(tmp_path) != drawn(tmp_path, seed=2)
    outcome = run(tmp_path, method="random")
    assert (outcome.validation, outcome.epochs, outcome.history) == (0.0, 0, [])


def test_the_plain_network_learns_and_needs_no_search_space(tmp_path):
    outcome = run(tmp_path, stage="retrain", method="cnn", model_space={}, epochs=6, batch_size=64)
    assert outcome.test > 80.0 and outcome.architecture is None
    assert outcome.history[-1]["validation"] > outcome.history[0]["validation"]


def test_a_resumed_retraining_ends_as_an_uninterrupted_one(tmp_path):
    class Stop(Exception):
        pass

    def stop(metrics):
        if metrics["epoch"] == 2:
            raise Stop

    task = job(stage="retrain", method="cnn", epochs=4, batch_size=256)
    whole = run_job(digits, task, tmp_path / "whole", lambda metrics: None)
    with pytest.raises(Stop):
        run_job(digits, task, tmp_path / "cut", stop)
    resumed = run_job(digits, task, tmp_path / "cut", lambda metrics: None)
    assert (resumed.validation, resumed.test) == (whole.validation, whole.test)
    keys = [(epoch["epoch"], epoch["validation"]) for epoch in whole.history]
    assert [(epoch["epoch"], epoch["validation"]) for epoch in resumed.history] == keys


@pytest.mark.parametrize("space, message", [
    ({}, "found None"), ({**SPACE, "space": "ResNet"}, "spaces: DARTS, NASNet"), ({**SPACE, "depth": 3}, "keys: space"),
    ({"space": "DARTS", "width": "wide", "num_cells": 3}, "model.width: found 'wide'"), ("DARTS", "found 'DARTS'"),
])  # fmt: skip
def test_a_search_space_that_is_none_of_this_task_is_refused(space, message):
    with pytest.raises(ValueError, match=message):
        digits.hub_space(space)


def test_widths_and_depths_may_be_choices():
    labels = digits.hub_space({"space": "DARTS", "width": [2, 4], "num_cells": [3, 6]}).simplify()
    assert {"width", "depth"} <= set(labels)


def test_a_job_of_another_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="The baseline of this task is cnn; found lstm"):
        run(tmp_path, stage="retrain", method="lstm")
    with pytest.raises(ValueError, match="The baseline of this task is lstm; found cnn"):
        run_job(ptb, job(stage="retrain", method="cnn"), tmp_path, lambda metrics: None)
    with pytest.raises(ValueError, match="This task searches a recurrent cell"):
        run_job(ptb, job(), tmp_path, lambda metrics: None)
    with pytest.raises(ValueError, match="This task searches 'model"):
        run_job(digits, dataclasses.replace(job(), model_space={}), tmp_path, lambda metrics: None)


def test_the_task_is_found_and_its_settings_are_checked():
    assert load_task("digits") is digits
    with pytest.raises(ValueError, match="Unknown setting 'hidden_size'"):
        resolve_settings(digits.RETRAIN, {"hidden_size": 3})


def test_search_and_retraining_run_by_hand(tmp_path, monkeypatch):
    monkeypatch.delenv("NNI_OUTPUT_DIR", raising=False)
    space = tmp_path / "space.yaml"
    space.write_text(json.dumps({"model": SPACE}))
    common = ["digits", "--space", str(space), "--set", "epochs=1", "--device", "cpu"]
    found = tmp_path / "found"
    assert main([*common, "--stage", "search", "--method", "random", "--output", str(found)]) == 0
    record = json.loads((found / "record.json").read_text())
    assert record["metric"] == "accuracy" and read_architecture(record["architecture"]).fingerprint == record["cell"]
    cell = str(found / "architecture.yaml")
    assert ModelArchitecture.from_yaml(cell).fingerprint == record["cell"]
    again = tmp_path / "again"
    assert main([*common, "--stage", "retrain", "--architecture", cell, "--output", str(again)]) == 0
    record = json.loads((again / "record.json").read_text())
    assert 0.0 <= record["test"] <= 100.0 and record["n"] == "-"
