"""What a search tells after each epoch: the figures, the trajectory, and the same after a resume."""

import pytest

from idarts_nni.architecture import Architecture
from idarts_nni.health import changed_edges, health_figures, normalised_entropy
from idarts_nni.space import CellSpace
from trials import digits, ptb
from trials.task import Job
from trials.training import run_job

TINY = CellSpace(2, ("zeroize", "tanh", "identity"))
QUICK = {
    "epochs": 3, "hidden_size": 8, "batch_size": 256, "evaluation_batch_size": 100, "train_tokens": 20000,
    "arc_learning_rate": 0.3,
}  # fmt: skip


def search(folder, method="idarts", space=TINY, report=lambda metrics: None, **overrides):
    return run_job(ptb, Job("search", method, 1, space, None, {**QUICK, **overrides}, "embedded"), folder, report)


@pytest.mark.parametrize(("method", "relaxation"), [("idarts", "node"), ("darts", "edge")])
def test_every_epoch_has_its_figures_and_its_cell(tmp_path, method, relaxation):
    reports = []
    outcome = search(tmp_path, method, report=reports.append)
    assert [entry["epoch"] for entry in outcome.trajectory] == [1, 2, 3]
    cells = [Architecture.from_dict(entry["architecture"]) for entry in outcome.trajectory]
    assert cells[-1] == outcome.architecture
    for number, (entry, epoch) in enumerate(zip(outcome.trajectory, outcome.history, strict=True)):
        rows = entry["probabilities"]
        assert [len(row) for row in rows] == [3, 6]
        assert [sum(row) for row in rows] == pytest.approx([1.0, 1.0] if relaxation == "node" else [1.0, 2.0])
        before = cells[number - 1] if number else cells[0]
        figures = health_figures(rows, TINY.operations, relaxation, cells[number], before)
        if number == 0:  # compared with the cell of the first logits, which the trajectory does not hold
            del figures["changed edges"]
        assert {name: epoch[name] for name in figures} == pytest.approx(figures, abs=1e-6)
    assert [report["entropy"] for report in reports] == [epoch["entropy"] for epoch in outcome.history]
    assert outcome.history[0]["entropy"] > outcome.history[-1]["entropy"], "the search made up its mind"
    assert any(changed_edges(one, other) for one, other in zip(cells, cells[1:], strict=False)), (
        "else this shows little"
    )


def test_a_resumed_search_has_the_whole_trajectory(tmp_path):
    class Stopped(Exception):
        pass

    def stop(metrics):
        if metrics["epoch"] == 2:
            raise Stopped

    whole = search(tmp_path / "whole")
    with pytest.raises(Stopped):
        search(tmp_path / "parts", report=stop)
    resumed = search(tmp_path / "parts")
    assert resumed.trajectory == whole.trajectory
    assert [{**epoch, "seconds": 0} for epoch in resumed.history] == [
        {**epoch, "seconds": 0} for epoch in whole.history
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["idarts", "darts"])
def test_an_image_search_tells_the_mean_entropy_of_its_choices_and_no_more(tmp_path, method):
    space = {"space": "DARTS", "width": 4, "num_cells": 3}
    job = Job("search", method, 1, None, None, {"epochs": 1, "batch_size": 360}, "", model_space=space)
    outcome = run_job(digits, job, tmp_path, lambda metrics: None)
    assert outcome.trajectory == []
    assert "margin" not in outcome.history[0]
    assert 0.5 < outcome.history[0]["entropy"] <= 1.0 + 1e-6, "two architecture steps leave it nearly uniform"


def test_the_entropy_of_a_uniform_choice_is_one():
    assert normalised_entropy([0.25] * 4) == pytest.approx(1.0)
