"""The entity task: its recipes, and searches and retrainings on miniature data."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from idarts_nni.checkpoint import load_plain
from idarts_nni.space import CellSpace
from trials import conll, entities
from trials.conll_data import tagger_data
from trials.conll_settings import RETRAIN
from trials.task import Job, resolve_settings
from trials.training import load_task, run_job

from .taggers import QUICK_SETTINGS, TINY, job, run
from .test_contextual import (  # noqa: F401  (fixtures)
    encoder_folder,
    flair_models,
    needs_encoder,
    needs_flair,
    needs_transformers,
    real_encoder,
)

EXPERIMENTS = Path(__file__).parents[1] / "trials" / "experiments"


# -- the recipe


def annealed(scores, **settings):
    """Learning rate after each of some dev scores."""
    recipe = conll.TaggerRecipe(resolve_settings(RETRAIN, settings))
    recipe.log = lambda *arguments: None
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    recipe.trainer = SimpleNamespace(optimizers=[optimizer], should_stop=False)
    rates = []
    for score in scores:
        recipe._anneal(score)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates, recipe


def test_the_learning_rate_falls_to_a_quarter_after_two_epochs_without_a_better_score():
    rates, _ = annealed([0.0, 0.0, 0.0, 50.0, 60.0, 59.0, 60.0, 61.0, 60.0, 60.0, 60.0, 60.0])
    quarter, sixteenth, next_one = 0.025, 0.00625, 0.0015625
    assert rates == pytest.approx([0.1] * 6 + [quarter] * 3 + [sixteenth] * 2 + [next_one])


def test_training_ends_when_the_learning_rate_is_spent():
    rates, recipe = annealed([50.0] * 11)
    assert rates[-1] < RETRAIN.least_learning_rate < rates[-3]
    assert recipe.trainer.should_stop
    rates, recipe = annealed([50.0] * 11, anneal_patience=0)
    assert rates == [0.1] * 11 and not recipe.trainer.should_stop


def test_the_count_of_stalled_epochs_survives_a_checkpoint():
    _, recipe = annealed([50.0, 49.0])
    fresh = conll.TaggerRecipe(RETRAIN)
    fresh.load_running_state(recipe.running_state(), torch.device("cpu"))
    assert (fresh._best, fresh._stalled) == (50.0, 1)


# -- whole trials


def test_the_runner_finds_the_task():
    task = load_task("conll")
    assert (task.METRIC, task.OPTIMIZE_MODE) == ("F1", "maximize")


@pytest.mark.parametrize("method", ["idarts", "darts"])
def test_a_search_yields_a_cell_that_a_retraining_takes(tmp_path, method):
    searched = run(tmp_path, "search", stage="search", method=method)
    assert searched.architecture is not None and searched.test is None
    searched.architecture.check_fits(TINY)
    assert [set(epoch) >= {"default", "validation", "train", "all f1"} for epoch in searched.history] == [True, True]
    retrained = run(tmp_path, "retrain", method=method, architecture=searched.architecture)
    assert 0.0 <= retrained.test <= 100.0


@pytest.mark.parametrize(("n", "combine"), [(1, "sum"), (2, "mean"), ("all", "mean"), (2, "weighted")])
def test_cells_of_one_two_and_all_edges_are_searched_and_retrained(tmp_path, n, combine):
    space = CellSpace(2, ("zeroize", "tanh", "relu"), edges_per_node=n, combine=combine)
    searched = run(tmp_path, "search", stage="search", method="idarts", space=space, epochs=1)
    expected = {1: [1, 1], 2: [2, 2], "all": [2, 4]}[n]
    assert [len(node) for node in searched.architecture.nodes] == expected
    retrained = run(tmp_path, "retrain", method="idarts", space=space, architecture=searched.architecture)
    assert retrained.history[-1]["train"] < retrained.history[0]["train"]


def test_a_step_with_sparse_gradients_is_the_one_with_dense_ones(tmp_path, monkeypatch):
    sparse = run(tmp_path, "sparse", gradient_clip=0.5)
    monkeypatch.setattr(conll, "tagger_data", lambda *arguments: tagger_data(*arguments[:4], sparse=False))
    dense = run(tmp_path, "dense", gradient_clip=0.5)
    losses = [[epoch["train"] for epoch in one.history] for one in (sparse, dense)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("method", ["idarts", "lstm"])
def test_trials_of_the_tiny_experiment_learn_context(tmp_path, method):
    arguments = yaml.safe_load((EXPERIMENTS / "conll_tiny.yaml").read_text())["tuner"]["classArgs"]
    space, cell = (CellSpace.from_yaml(EXPERIMENTS / "../../search_spaces/tiny.yaml"), None)
    if method == "idarts":
        search = Job("search", method, 1, space, None, arguments["search"], arguments["data"])
        cell = run_job(conll, search, tmp_path / "search", lambda metrics: None).architecture
    space = space if cell else None
    retrain = Job("retrain", method, 1, space, cell, arguments["retrain"], arguments["data"])
    outcome = run_job(conll, retrain, tmp_path / "retrain", lambda metrics: None)
    assert outcome.test > 80.0, "a lookup reaches less than 40"
    assert outcome.scores["test PER f1"] > 50.0 and "test PER precision" in outcome.scores
    assert outcome.validation == max(epoch["validation"] for epoch in outcome.history)


def test_the_test_set_is_read_once_at_the_end_by_the_weights_that_were_best(tmp_path):
    read, history = [], []

    class Watched(list):
        def __iter__(self):
            state = {name: value.clone() for name, value in module.state_dict().items()}
            read.append((len(history), state))  # at the first batch: the trainer asks for an iterator to see if it can
            yield from super().__iter__()

    def prepare(asked):
        nonlocal module
        workload = conll.prepare(asked)
        module = workload.module
        workload.test = Watched(workload.test)
        return workload

    module = None
    task = SimpleNamespace(prepare=prepare, METRIC=conll.METRIC, OPTIMIZE_MODE=conll.OPTIMIZE_MODE)
    outcome = run_job(task, job(epochs=4, learning_rate=2.0), tmp_path, history.append)
    ((epochs, weights),) = read
    assert epochs == 4
    best = load_plain(tmp_path / "best.ckpt")
    assert best["epoch"] == max(range(4), key=lambda index: outcome.history[index]["validation"])
    assert all(torch.equal(weights[name], value) for name, value in best["state_dict"].items())


@pytest.mark.parametrize("method", ["lstm", "random"])
def test_half_precision_trains(tmp_path, method):
    asked = job(method=method, **({"space": None, "architecture": None} if method == "lstm" else {}))
    outcome = run_job(conll, dataclasses.replace(asked, precision="bf16"), tmp_path, lambda metrics: None)
    assert outcome.history[-1]["train"] < outcome.history[0]["train"]


def test_a_resumed_retraining_equals_an_uninterrupted_one(tmp_path):
    class Stop(Exception):
        pass

    def stop_after_two(metrics):
        if metrics["epoch"] == 2:
            raise Stop

    whole = run(tmp_path, "whole", epochs=4)
    with pytest.raises(Stop):
        run(tmp_path, "parts", report=stop_after_two, epochs=4)
    resumed = run(tmp_path, "parts", epochs=4)
    keys = ("validation", "train", "learning_rate", "epoch")
    assert [[epoch[key] for key in keys] for epoch in resumed.history] == [
        [epoch[key] for key in keys] for epoch in whole.history
    ]
    assert resumed.test == whole.test


def check_a_second_run(tmp_path, monkeypatch, module, **features):
    """Run twice, the second time without the library, and expect the same numbers."""
    features = {"feature_cache": str(tmp_path / "cache"), "word_width": 0, **features}
    first = run(tmp_path, "first", **features)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    second = run(tmp_path, "second", **features)
    keys = ("validation", "train")
    assert [[epoch[key] for key in keys] for epoch in second.history] == [
        [epoch[key] for key in keys] for epoch in first.history
    ]
    assert second.test == first.test


@needs_transformers
def test_a_second_run_on_cached_features_of_an_encoder_scores_the_same(tmp_path, encoder_folder, monkeypatch):  # noqa: F811
    check_a_second_run(tmp_path, monkeypatch, "transformers", transformer=str(encoder_folder))


@needs_flair
def test_a_second_run_on_cached_features_of_flair_scores_the_same(tmp_path, flair_models, monkeypatch):  # noqa: F811
    names = ", ".join(map(str, flair_models))
    check_a_second_run(tmp_path, monkeypatch, "flair", flair=names, flair_pooling="mean")


@needs_flair
@needs_transformers
def test_all_that_can_stand_for_a_word_combines(tmp_path, flair_models, encoder_folder):  # noqa: F811
    (tmp_path / "glove").write_text("".join(f"{name.lower()} 1 {i} 0\n" for i, name in enumerate(entities.NAMES)))
    overrides = {
        "glove": str(tmp_path / "glove"), "flair": str(flair_models[0]), "transformer": str(encoder_folder),
        "feature_cache": str(tmp_path / "cache"), "characters": "lstm",
    }  # fmt: skip
    found = tagger_data("embedded", resolve_settings(QUICK_SETTINGS, overrides), ("train", "dev"))
    assert found.inputs.width == 8 + 8 + 3 + 2 * 6 + 8  # words, characters, vectors, flair and its pool, encoder
    outcome = run(tmp_path, **overrides)
    assert 0.0 <= outcome.test <= 100.0


@needs_encoder
def test_a_real_encoder_tells_entities_from_their_context(tmp_path, real_encoder):  # noqa: F811
    features = {"transformer": str(real_encoder), "feature_cache": str(tmp_path / "cache"), "word_width": 0,
                "characters": "none"}  # fmt: skip
    outcome = run(
        tmp_path, epochs=4, hidden_size=32, train_sentences=0, input_dropout=0.1, output_dropout=0.1, **features
    )
    assert outcome.test > 70.0, "a lookup of words, of which there are none here, reaches less than 40"


@pytest.mark.data
def test_the_real_corpus_is_learnt_from(tmp_path):
    folder = os.environ.get("IDARTS_CONLL")
    if not folder:
        pytest.skip("IDARTS_CONLL names no folder with CoNLL-2003")
    outcome = run(tmp_path, data=folder, train_sentences=1000, epochs=4, hidden_size=32, word_width=32)
    assert outcome.validation > 15.0
