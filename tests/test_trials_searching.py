"""Options of a search trial: what they change in its result, and that a resumed search equals an uninterrupted one."""

import dataclasses
import math

import pytest
import torch

from idarts_nni.architecture import Architecture
from idarts_nni.space import CellSpace
from trials import conll, ptb
from trials.conll_settings import Settings as TaggerSettings
from trials.search_options import SearchOptions
from trials.task import Job
from trials.training import run_job

TINY = CellSpace(2, ("zeroize", "tanh", "identity"))
QUICK = {
    "epochs": 2, "hidden_size": 8, "batch_size": 256, "evaluation_batch_size": 100, "train_tokens": 9000,
    "arc_learning_rate": 0.3,
}  # fmt: skip


def job(method="idarts", space=TINY, derive=None, **overrides):
    return Job("search", method, 1, space, None, {**QUICK, **overrides}, "embedded", derive=derive or {})


def search(folder, report=lambda metrics: None, **kwargs):
    return run_job(ptb, job(**kwargs), folder, report)


def test_every_option_is_off_by_default_and_known_to_both_text_tasks():
    for settings in (ptb.Settings(), TaggerSettings()):
        assert isinstance(settings, SearchOptions)
        assert settings.strategy_arguments() == {
            "arc_learning_rate": 3e-3, "arc_weight_decay": 1e-3, "warmup_epochs": 0, "second_order": False,
            "sampling": "softmax", "temperature_start": 10.0, "temperature_end": 0.1, "smoothing": 0.0,
        }  # fmt: skip
        assert (settings.selection, settings.hessian_every, settings.gap_epochs) == ("probability", 0, 0)


OPTIONS = {
    "second_order": True, "sampling": "gumbel", "smoothing": 0.1, "hessian_every": 2, "gap_epochs": 1,
    "warmup_epochs": 1, "selection": "perturbation", "selection_batches": 2,
}  # fmt: skip


def test_a_search_with_all_options_resumes_as_if_uninterrupted(tmp_path):
    class Stopped(Exception):
        pass

    def stop(metrics):
        if metrics["epoch"] == 2:
            raise Stopped

    options = {**OPTIONS, "epochs": 3}
    whole = search(tmp_path / "whole", **options)
    with pytest.raises(Stopped):
        search(tmp_path / "parts", stop, **options)
    resumed = search(tmp_path / "parts", **options)
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert [("eigenvalue" in epoch) for epoch in whole.history] == [False, True, False]
    assert math.isfinite(whole.history[1]["eigenvalue"])
    assert (whole.trajectory, whole.architecture, whole.gap) == (resumed.trajectory, resumed.architecture, resumed.gap)
    again = search(tmp_path / "parts", **options)  # interrupted before its record was written
    assert (again.architecture, again.gap) == (whole.architecture, whole.gap)
    assert set(whole.gap) == {"supernet", "derived", "trained", "epochs"}
    assert whole.gap["supernet"] == pytest.approx(whole.validation, rel=1e-6)
    assert all(math.isfinite(value) for value in whole.gap.values())
    one, other = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts"))
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name


def test_measuring_changes_nothing_in_the_search(tmp_path):
    plain = search(tmp_path / "plain")
    measured = search(tmp_path / "measured", hessian_every=1, gap_epochs=1)
    assert plain.trajectory == measured.trajectory and plain.gap is None
    for one, other in zip(plain.history, measured.history, strict=True):
        assert {**one, "seconds": 0, "eigenvalue": 0} == {**other, "seconds": 0, "eigenvalue": 0}


# Rows are the pairs (0, 1), (0, 2), (1, 2). Under DARTS each has a softmax: what is not kept has to be zeroize.
ONE_HOT = {"idarts": ([0, 2], [1, 2]), "darts": ([0, 1, 2], [1, 0, 2])}


@pytest.mark.parametrize("method", ONE_HOT)
def test_with_one_hot_alphas_the_network_and_its_derived_cell_are_one(tmp_path, monkeypatch, method):
    from idarts_nni.mutator import MixedRecurrentCell

    class OneHot(MixedRecurrentCell):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            with torch.no_grad():  # a fixed choice, which the small steps of this search cannot move
                self.logits.fill_(-1e4)
                self.logits[ONE_HOT[method]] = 1e4

    monkeypatch.setattr("trials.ptb.MixedRecurrentCell", OneHot)
    outcome = search(tmp_path, method=method, epochs=1, gap_epochs=1, arc_learning_rate=1e-3)
    assert str(outcome.architecture) == "1: tanh 0; 2: identity 1"
    assert outcome.gap["derived"] == pytest.approx(outcome.gap["supernet"], rel=1e-6)
    assert outcome.gap["trained"] < outcome.gap["derived"]


def test_an_undecided_search_shows_a_gap(tmp_path):
    gap = search(tmp_path, epochs=1, gap_epochs=2, arc_learning_rate=1e-3).gap
    assert gap["derived"] != pytest.approx(gap["supernet"], rel=1e-4)
    assert gap["trained"] < gap["derived"]


def test_an_unchanged_cell_ends_the_search_and_says_why_once_and_for_all(tmp_path):
    settings = {"epochs": 9, "stop_unchanged": 2, "arc_learning_rate": 1e-6, "arc_weight_decay": 0.0}
    outcome = search(tmp_path, **settings)
    assert len(outcome.history) == outcome.stopped["epoch"] < 9
    assert outcome.stopped["reason"] == "the cell has not changed for 2 epochs (stop_unchanged: 2)"
    again = search(tmp_path, **settings)
    assert len(again.history) == len(outcome.history), "a stopped search does not go on when it is resumed"
    assert again.stopped == outcome.stopped and again.architecture == outcome.architecture


def test_a_risen_eigenvalue_gives_an_earlier_epoch_s_cell_and_score(tmp_path, monkeypatch):
    measured = iter([1.0] * 5 + [2.0] * 5)
    monkeypatch.setattr("idarts_nni.monitor.largest_eigenvalue", lambda gradient, parameters: next(measured))
    outcome = search(tmp_path, epochs=12, hessian_every=1, stop_eigenvalue=0.75)
    assert len(outcome.history) == 10 and outcome.stopped["epoch"] == 5
    assert "rose from 1 to 2" in outcome.stopped["reason"]
    assert outcome.architecture == Architecture.from_dict(outcome.trajectory[4]["architecture"])
    assert outcome.validation == outcome.history[4]["validation"]


def test_the_tagger_searches_with_all_options_too(tmp_path):
    small = {
        "epochs": 1,
        "hidden_size": 6,
        "batch_size": 64,
        "train_sentences": 300,
        "word_width": 8,
        "characters": "none",
    }
    asked = Job("search", "idarts", 1, TINY, None, {**small, **OPTIONS, "hessian_every": 1}, "embedded")
    outcome = run_job(conll, asked, tmp_path, lambda metrics: None)
    outcome.architecture.check_fits(TINY)
    assert math.isfinite(outcome.history[0]["eigenvalue"]) and set(outcome.gap) >= {"supernet", "derived", "trained"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "soft"}, "sampling: found 'soft'; allowed: softmax, gumbel, gumbel-hard"),
        ({"selection": "best"}, "selection: found 'best'; allowed: probability, perturbation"),
        ({"stop_eigenvalue": 0.75}, "set hessian_every"),
        ({"stop_eigenvalue": 0.75, "hessian_every": 1, "selection": "perturbation"}, "goes back to an earlier epoch"),
        ({"stop_unchanged": -1}, "stop_unchanged: found -1"),
        ({"gap_epochs": -1}, "gap_epochs: found -1"),
    ],
)
def test_impossible_options_are_refused_before_anything_runs(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ptb.SEARCH, **options)


def test_cells_that_a_plan_wants_and_such_a_search_cannot_give_are_refused(tmp_path):
    derive = {"edges_per_node": [1], "snapshots": [1]}
    with pytest.raises(ValueError, match="derivations and snapshots"):
        search(tmp_path, derive=derive, selection="perturbation")
    with pytest.raises(ValueError, match="snapshots want all epochs"):
        search(tmp_path, derive=derive, stop_unchanged=3)
