import json
import statistics

import pytest

from idarts_nni.report import (
    COLUMNS,
    failed_record,
    load_records,
    scores_markdown,
    sort_records,
    summary_markdown,
    summary_table,
    to_markdown,
    trial_table,
    trials_markdown,
)
from idarts_nni.results import merge_results, read_results

SPACE = '{"num_nodes": 3, "operations": ["tanh"], "edges_per_node": 2, "combine": "mean"}'


def record(method="idarts", seed=1, validation=100.0, stage="retrain", **changes):
    return {
        "experiment": "small", "task": "ptb", "method": method, "n": "-" if method == "lstm" else "1",
        "combine": "-" if method == "lstm" else "sum", "seed": seed, "validation": validation,
        "test": validation - 2 if stage == "retrain" else None, "parameters": 1000, "epochs": 3, "seconds": 12.345678,
        "device": "cpu", "precision": "fp32", "commit": "abc1234", "date": "2026-01-02T03:04:05",
        "key": f"{stage}-{method}-r{seed}", "stage": stage, "cell": "-", "architecture": None, "metric": "perplexity",
        "search_epoch": None, "search_seed": None, "scale": "full", "origins": [],
        "settings": {}, "history": [], "versions": {}, **changes,
    }  # fmt: skip


def failed(method="idarts", seed=9, state="failed"):
    task = {"method": method, "seed": seed, "key": f"retrain-{method}-r{seed}", "stage": "retrain", "cell": "-"}
    gap = failed_record({**task, "space": SPACE}, state=state, reason="out of memory")
    return {**gap, "experiment": "small", "task": "ptb"}


def test_columns_are_those_that_the_results_files_promise():
    assert ",".join(COLUMNS) == (
        "experiment,task,method,n,combine,seed,validation,test,parameters,epochs,seconds,device,precision,commit,date,"
        "search_epoch,search_seed,scale,corpus"
    )


def test_records_are_found_in_an_experiment_and_outside_one(tmp_path):
    places = ["environments/local-env/trials/AbCdE", "environments/local-env/trials/FgHiJ/output", "own"]
    for seed, place in enumerate(places, start=1):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "record.json").write_text(json.dumps(record(seed=seed)))
    (tmp_path / "environments/local-env/trials/none").mkdir()
    assert [one["seed"] for one in load_records(tmp_path)] == [1, 2, 3]
    with pytest.raises(FileNotFoundError, match="gone"):
        load_records(tmp_path / "gone")


@pytest.mark.parametrize("text, words", [
    ("{", "not a record in JSON"), ("[1]", "found list"), ('{"key": 1}', "lacks experiment, task"),
    ("[" * 100_000, "not a record in JSON"),
], ids=["cut", "list", "keys", "deep"])  # fmt: skip
def test_unreadable_record_is_an_error_that_names_its_file(tmp_path, text, words):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        load_records(tmp_path)
    assert str(tmp_path / "record.json") in str(caught.value)


def test_order_is_stage_method_seed():
    retrained = [record("lstm"), record("zzz"), record("darts", 2), record("darts", 1), record("idarts")]
    found = sort_records([*retrained, record("lstm", stage="search")])
    assert [f"{one['stage']} {one['method']} {one['seed']}" for one in found] == [
        "search lstm 1",
        "retrain idarts 1",
        "retrain darts 1",
        "retrain darts 2",
        "retrain lstm 1",
        "retrain zzz 1",
    ]


def test_summary_is_mean_and_sample_standard_deviation():
    values = [100.0, 104.0, 111.0]
    summary = summary_table(trial_table([record(seed=seed, validation=value) for seed, value in enumerate(values, 1)]))
    row = summary.iloc[0]
    assert (row["runs"], row["failed"], row["seeds"]) == (3, 0, "1, 2, 3")
    assert row["validation"] == pytest.approx(statistics.mean(values))
    assert row["validation_std"] == pytest.approx(statistics.stdev(values))
    assert row["test_std"] == pytest.approx(statistics.stdev(values))
    assert row["seconds"] == pytest.approx(12.345678)


def test_failed_seed_stays_visible_and_out_of_the_mean():
    table = trial_table([record(n="2", combine="mean"), failed(seed=2)])
    text = summary_markdown(summary_table(table))
    assert len(summary_table(table)) == 1
    assert "2 (1 failed)" in text and "1, 2" in text and "100.00" in text and "±" not in text


def test_method_that_failed_altogether_has_its_row():
    text = summary_markdown(summary_table(trial_table([record(), failed("darts")])))
    assert "| darts " in text and "1 (1 failed)" in text


def test_precisions_are_kept_apart_and_a_failed_run_counts_with_its_kind():
    dense = [record(seed=seed, n="2", combine="mean") for seed in (1, 2)]
    records = [{**one, "precision": precision} for one in dense for precision in ("fp32", "bf16")]
    text = summary_markdown(summary_table(trial_table(records)))
    assert [line.count("| bf16 ") + line.count("| fp32 ") for line in text.splitlines()] == [0, 0, 1, 1]
    text = summary_markdown(summary_table(trial_table([*records[::2], failed(seed=3), failed("darts")])))
    assert "3 (1 failed)" in text and "precision" not in text


def test_methods_and_n_are_kept_apart():
    records = [record(), record(n="2", combine="mean"), record(n="2", combine="sum"), record("lstm")]
    assert len(summary_table(trial_table(records))) == 4


@pytest.mark.parametrize("state, word", [("failed", "failed"), ("todo", "not run"), ("busy", "unfinished")])
def test_table_by_trial_shows_what_a_task_without_result_lacks(state, word):
    text = trials_markdown([record(), failed(state=state)])
    assert f"| {word} " in text and len(text.splitlines()) == 4


def test_failed_task_keeps_what_its_space_says():
    assert (failed()["n"], failed()["combine"]) == ("2", "mean")
    assert (failed("lstm")["n"], failed("lstm")["combine"]) == ("-", "-")


def test_search_shows_the_cell_that_it_found():
    cell = {"nodes": [[{"source": 0, "operation": "tanh"}]]}
    text = trials_markdown([record(stage="search", architecture=cell)])
    from idarts_nni.architecture import Architecture

    assert Architecture.from_dict(cell).fingerprint in text


def test_markdown_lines_up_and_escapes_its_own_signs():
    text = to_markdown(["name", "value"], [["a|b", "1.50"], ["long\nname", "–"]])
    assert text == ("| name      | value |\n| --------- | ----: |\n| a\\|b      |  1.50 |\n| long name |     – |\n")
    assert len(set(map(len, text.splitlines()))) == 1


def snapshot_record(origins, **changes):
    (seed, epoch), *_ = origins
    return record(origins=origins, search_seed=seed, search_epoch=epoch, scale="small", **changes)


def test_a_cell_of_several_searches_and_epochs_counts_for_each_of_them(tmp_path):
    records = [
        snapshot_record([[1, 1], [2, 1], [2, 2]], validation=110.0),
        snapshot_record([[1, 2]], validation=100.0),
        record("lstm", validation=90.0, scale="small"),
    ]
    summary = summary_table(trial_table(records))
    found = [
        (row["method"], row["search_epoch"], row["search_seeds"], row["runs"]) for row in summary.to_dict("records")
    ]
    assert found == [("idarts", 1, "1, 2", 2), ("idarts", 2, "1, 2", 2), ("lstm", "", "", 1)]
    assert list(summary["validation"]) == [110.0, 105.0, 90.0]
    text = summary_markdown(summary)
    assert "| search epoch |" in text and "| scale " in text and "| small" in text
    assert "1 (epoch 1), 2 (epochs 1, 2)" in trials_markdown(records)
    merge_results(tmp_path / "a.csv", records)
    rows = read_results(tmp_path / "a.csv")
    assert list(rows["search_epoch"]) == ["1", "1", "2", "2", ""] and set(rows["scale"]) == {"small"}
    assert summary_markdown(summary_table(rows)) == text


def test_scale_stands_beside_every_result_that_is_not_at_full_scale():
    lines = trials_markdown([record(scale="small"), record("lstm")]).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:5]] == ["method", "n", "scale", "seed"]
    assert "small" in lines[2] and "full" in lines[3] and "scale" not in trials_markdown([record()])


def test_columns_that_say_nothing_are_not_shown():
    text = summary_markdown(summary_table(trial_table([record(), record("lstm")])))
    assert not any(word in text for word in ("scale", "search"))


def test_a_record_of_an_earlier_version_is_read(tmp_path):
    old = {
        name: value
        for name, value in record().items()
        if name not in ("search_epoch", "search_seed", "scale", "origins")
    }
    (tmp_path / "record.json").write_text(json.dumps(old))
    assert [(one["scale"], one["search_epoch"]) for one in load_records(tmp_path)] == [("full", None)]


def test_a_failed_task_keeps_its_search_and_its_scale():
    parameters = {"method": "idarts", "seed": 1, "key": "k", "stage": "retrain", "cell": "-", "space": SPACE}
    gap = failed_record(
        {**parameters, "origins": "[[3,2]]", "epoch": 2, "scale": "small"}, state="failed", reason="NaN"
    )
    assert (gap["search_seed"], gap["search_epoch"], gap["scale"]) == (3, 2, "small")


def test_scores_by_type_have_a_line_for_each_type_and_none_without():
    scores = {"test LOC precision": 90.0, "test LOC recall": 80.0, "test LOC f1": 84.7, "other": 1.0}
    record = {"method": "lstm", "n": "-", "seed": 2, "cell": "-", "scores": scores}
    lines = scores_markdown([record, {**record, "scores": {}}]).splitlines()
    assert len(lines) == 3 and "LOC" in lines[2] and "90.00" in lines[2] and "84.70" in lines[2]
    assert scores_markdown([{**record, "scores": None}]) == ""


def test_runs_trained_on_more_are_told_apart_and_so_are_those_that_failed():
    label = "full, trained on train+dev"
    task = {"method": "lstm", "seed": 2, "key": "retrain-lstm-s2", "stage": "retrain", "cell": "-", "scale": "full"}
    gap = failed_record({**task, "settings": '{"train_on": "train+dev"}'}, state="failed", reason="out of memory")
    gap = {**gap, "experiment": "small", "task": "ptb"}
    summary = summary_table(trial_table([record("lstm"), record("lstm", scale=label), gap]))
    assert [(row["scale"], row["runs"], row["failed"]) for row in summary.to_dict("records")] == [
        ("full", 1, 0), (label, 2, 1)
    ]  # fmt: skip
    assert label in summary_markdown(summary)
