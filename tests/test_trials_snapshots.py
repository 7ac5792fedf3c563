"""Real searches whose cells of several epochs and derivations the plan takes, and real retrainings of them."""

import json
from pathlib import Path

import pytest

from idarts_nni.architecture import Architecture
from idarts_nni.parameters import Settings, TrialParameters
from idarts_nni.plan import Outcome, Plan
from idarts_nni.space import CellSpace
from trials import ptb
from trials.run import _final_metric, _job, _parser
from trials.training import run_job

SPACE = CellSpace.from_yaml(Path(__file__).parents[1] / "search_spaces" / "tiny.yaml")
SMALL = {"hidden_size": 8, "batch_size": 64, "train_tokens": 3000, "evaluation_batch_size": 64}
PLAN = {
    "search": {**SMALL, "epochs": 2, "arc_learning_rate": 0.3},
    "retrain": {**SMALL, "epochs": 1, "test_batch_size": 64},
    "derivations": [{"edges_per_node": 1}, {"edges_per_node": 2, "combine": "mean"}],
    "snapshots": [1, 2],
}


def run_trial(task: TrialParameters, folder: Path):
    job = _job(task, _parser().parse_args(["ptb"]), "cpu")
    return run_job(ptb, job, folder / task.key, lambda metrics: None)


def test_the_cells_of_every_epoch_and_derivation_are_retrained_in_their_own_spaces(tmp_path):
    plan, outcomes, results = Plan(Settings(**PLAN), SPACE, "embedded"), {}, {}
    for _ in range(2):  # the search, then the retrainings
        plan.advance(lambda key: outcomes.get(key, Outcome("todo")))
        for task in plan.ready:
            results[task.key] = run_trial(task, tmp_path)
            outcomes[task.key] = Outcome("done", _final_metric(results[task.key]))
    plan.advance(lambda key: outcomes[key])
    assert plan.is_settled and plan.failure is None
    search = results["search-idarts-s1"]
    assert [(cell["epoch"], cell["edges_per_node"]) for cell in search.cells] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert search.cells[2]["architecture"] == search.architecture.to_dict()
    retrained = [task for task in plan.tasks if task.stage == "retrain"]
    covered = sorted(
        (json.loads(task.space)["edges_per_node"], *origin) for task in retrained for origin in json.loads(task.origins)
    )
    assert covered == [(1, 1, 1), (1, 1, 2), (2, 1, 1), (2, 1, 2)]
    reported = {
        (cell["edges_per_node"], cell["epoch"]): Architecture.from_dict(cell["architecture"]) for cell in search.cells
    }
    for task in retrained:
        assert results[task.key].test > 1.0
        n = json.loads(task.space)["edges_per_node"]
        assert {reported[n, epoch].fingerprint for _, epoch in json.loads(task.origins)} == {task.cell}


def test_a_snapshot_after_the_last_epoch_is_refused_before_training(tmp_path):
    plan = Plan(Settings(**{**PLAN, "snapshots": [1, 2]}), SPACE, "embedded")
    plan.advance(lambda key: Outcome("todo"))
    task = plan.ready[0]
    late = TrialParameters(**{**task.to_dict(), "derive": '{"edges_per_node":[1],"snapshots":[3]}'})
    with pytest.raises(ValueError, match="snapshots: epoch 3 is asked for; this search has 2"):
        run_trial(late, tmp_path)


def test_a_retraining_that_diverges_is_given_up_and_says_why(tmp_path):
    task = TrialParameters(
        key="retrain-lstm-r1",
        stage="retrain",
        method="lstm",
        seed=1,
        data="embedded",
        settings=json.dumps({**SMALL, "epochs": 50, "learning_rate": 1e30, "gradient_clip": 1e30}),
    )
    with pytest.raises(FloatingPointError, match="training diverged: .* epoch 1, also with steps of 0.5, 0.25, 0.125"):
        run_trial(task, tmp_path)
