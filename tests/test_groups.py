import statistics

import pytest

from idarts_nni.experiment import Snapshot, Trial
from idarts_nni.groups import by_budget, group_runs, summary_frame
from idarts_nni.outcome import collect_records, experiment_markdown

from .test_report import failed, record


def test_group_has_mean_and_sample_standard_deviation():
    values = [100.0, 104.0, 111.0]
    (group,) = group_runs([record(seed=seed, validation=value) for seed, value in enumerate(values, 1)])
    assert group.mean("validation") == pytest.approx(statistics.mean(values))
    assert group.spread("validation") == pytest.approx(statistics.stdev(values))
    assert group.seeds == (1, 2, 3) and group.failed == 0


@pytest.mark.parametrize("changes", [
    {"n": "2"}, {"combine": "mean"}, {"scale": "small"}, {"settings": {"epochs": 9}}, {"search_epoch": 3},
    {"task": "conll"}, {"corpus": "text of 9 + 1 + 1 words"}, {"precision": "bf16"}, {"space": {"transform": "source"}},
], ids=str)  # fmt: skip
def test_runs_that_differ_in_more_than_seed_and_cell_are_not_averaged(changes):
    base = record(settings={"epochs": 3})
    assert len(group_runs([base, {**base, **changes}])) == 2


def test_run_without_a_result_joins_the_group_of_its_method():
    base = record(n="2", combine="mean", settings={"epochs": 3})
    groups = group_runs([base, failed()])
    assert len(groups) == 1 and groups[0].failed == 1 and len(groups[0].runs) == 2


def test_rows_of_two_experiments_in_results_files_are_not_averaged():
    rows = [{**record(experiment=name), "settings": None} for name in ("small", "large")]
    assert len(group_runs(rows)) == 2


def test_rows_by_hand_of_two_results_files_are_not_averaged():
    rows = [{**record(experiment="-"), "settings": None, "source": name} for name in ("one.csv", "two.csv")]
    assert len(group_runs(rows)) == 2
    assert [names for names, _ in by_budget(rows)] == ["one.csv", "two.csv"]


def test_tables_by_budget_hold_every_record_once_and_gaps_where_they_belong():
    base = record(settings={"epochs": 3}, origins=[[1, 0], [2, 0]])
    other = record(settings={"epochs": 9}, experiment="large")
    found = by_budget([base, other, failed(), record(stage="search")])
    assert found == [("small", [base, failed()]), ("large", [other])]


def test_run_that_may_still_end_well_has_not_failed():
    (group,) = group_runs([record(n="2", combine="mean"), failed(), failed(seed=8, state="busy")])
    assert (len(group.runs), group.failed, group.unfinished) == (3, 1, 1)
    text = experiment_markdown([record(n="2", combine="mean"), failed(), failed(seed=8, state="todo")])
    assert "2 (1 failed)" in text.partition("By method")[2] and "not run" in text


def test_every_task_has_tables_of_its_own_with_its_metric():
    text = experiment_markdown([record(validation=90.0, task="conll", metric="F1"), record(validation=300.0)])
    conll, ptb = text.partition("Results on ptb")[::2]
    assert "validation F1" in conll and "90.00" in conll and "300.00" not in conll
    assert "validation perplexity" in ptb.partition("By method")[0] and "Results on conll" in conll


def test_end_of_a_search_is_no_epoch_of_its_own():
    assert len(group_runs([record(search_epoch=None), record(seed=2, search_epoch=0)])) == 1


def test_summary_has_one_row_for_each_group():
    frame = summary_frame(group_runs([record(), record(seed=2), record("lstm"), failed("darts")]))
    assert list(frame["method"]) == ["idarts", "darts", "lstm"] and list(frame["runs"]) == [2, 1, 1]
    assert frame["validation_std"][0] == 0 and frame["validation"].isna()[1]


def test_run_that_stands_for_several_epochs_counts_for_each():
    groups = group_runs([record(origins=[[1, 2], [1, 4], [2, 0]])])
    assert [group.search_epoch for group in groups] == [None, 2, 4]


@pytest.mark.parametrize(("reason", "expected"), [
    ("not tried again: too large.", "not tried again: too large. [{}]"),
    ("it failed twice; see trial.stderr", "it failed twice; its last words: error: too large. [{}]"),
], ids=str)  # fmt: skip
def test_reason_of_a_failure_says_everything_once_and_where_the_rest_stands(tmp_path, reason, expected):
    (tmp_path / "trial.stderr").write_text("Traceback\nerror: too large.\n")
    trial = Trial("t", 0, {"key": "retrain-lstm-r1", "stage": "retrain"}, "FAILED", None, 0, None, 1.0, tmp_path)
    tasks = {"retrain-lstm-r1": {"state": "failed", "reason": reason}}
    (gap,) = collect_records(Snapshot("DONE", trials=(trial,), tasks=tasks), experiment="x", task="ptb")
    assert gap["failure"] == expected.format(tmp_path / "trial.stderr")
