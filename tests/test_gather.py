import json
import sqlite3

import pytest

from idarts_nni.gather import all_records, experiment_settings, gather, read_config, read_curves
from idarts_nni.report import COLUMNS

from .test_report import record

HEAD = ",".join(COLUMNS)


def write_record(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record(**changes)))


@pytest.fixture
def storage(tmp_path):
    """Make a folder with a database such as NNI 3.0 writes."""
    (tmp_path / "nni" / "db").mkdir(parents=True)
    connection = sqlite3.connect(tmp_path / "nni" / "db" / "nni.sqlite")
    connection.execute("create table ExperimentProfile (params text, revision integer)")
    connection.execute("create table MetricData (timestamp integer, trialJobId text, type text, sequence integer, "
                       "data text)")  # fmt: skip
    connection.execute("create table TrialJobEvent (timestamp integer, trialJobId text, event text, data text, "
                       "sequenceId integer)")  # fmt: skip
    params = [({"experimentName": "old"}, 1), ({"experimentName": "small", "trialConcurrency": 2}, 2)]
    connection.executemany("insert into ExperimentProfile values (?, ?)", [(json.dumps(p), r) for p, r in params])
    sent = json.dumps(json.dumps({"parameter_id": 0, "parameters": {"key": "search-idarts-s1", "stage": "search",
                                                                    "method": "idarts", "seed": 1}}))  # fmt: skip
    connection.execute("insert into TrialJobEvent values (1000, 'Abc', 'WAITING', ?, 0)", [sent])
    connection.execute("insert into TrialJobEvent values (2000, 'Abc', 'RUNNING', null, 0)")
    for sequence, value in ((0, 9.0), (1, 8.0), (1, 7.5)):
        data = json.dumps(json.dumps({"default": value, "architecture": "{}"}))
        connection.execute("insert into MetricData values (?, 'Abc', 'PERIODICAL', ?, ?)", [sequence, sequence, data])
    connection.commit()
    connection.close()
    return tmp_path / "nni"


def test_experiment_that_runs_shows_the_curves_of_its_trials(storage):
    (source,) = gather([str(storage)])
    assert source.title == "small" and source.config["trialConcurrency"] == 2
    (running,) = source.records
    assert running["key"] == "search-idarts-s1" and running["state"] == "busy"
    assert running["history"] == [{"epoch": 1, "default": 9.0}, {"epoch": 2, "default": 7.5}]


def test_storage_gives_the_latest_configuration_and_report(storage):
    assert read_config(storage)["experimentName"] == "small"
    assert read_curves(storage)["Abc"][1]["default"] == 7.5


def test_folders_and_results_files_come_together_without_repetition(tmp_path):
    write_record(tmp_path / "a" / "r1", experiment="one")
    given = {"task": "ptb", "method": "idarts", "n": "1", "combine": "sum", "seed": "2", "validation": "101.5",
             "search_epoch": "4"}  # fmt: skip
    rows = [",".join({**dict.fromkeys(COLUMNS, ""), **given, "experiment": name}.values()) for name in ("one", "two")]
    (tmp_path / "more.csv").write_text("\n".join([HEAD, *rows, ""]))
    sources = gather([str(tmp_path / "a"), str(tmp_path / "more.csv")])
    assert [record["experiment"] for record in all_records(sources)] == ["one", "two"]
    row = sources[1].records[0]
    assert (row["seed"], row["validation"], row["stage"], row["search_epoch"]) == (2, 101.5, "retrain", 4)


def test_results_file_with_a_word_for_a_number_is_an_error_that_names_the_line(tmp_path):
    (tmp_path / "bad.csv").write_text(f"{HEAD}\na,ptb,idarts,1,sum,1,many,,,,,,,,\n")
    with pytest.raises(ValueError, match="bad.csv, line 2: validation is 'many'"):
        gather([str(tmp_path / "bad.csv")])


def test_row_without_a_result_is_a_failure_and_files_of_earlier_versions_lack_the_corpus(tmp_path):
    head, _, last = HEAD.rpartition(",")
    assert last == "corpus"
    (tmp_path / "old.csv").write_text(f"{head}\n-,conll,idarts,2,sum,1,,,,,,,,,,,,small\n")
    (row,) = gather([str(tmp_path / "old.csv")])[0].records
    assert "it has no result" in row["failure"] and row["corpus"] is None
    assert (row["metric"], row["source"]) == ("F1", "old.csv")


def test_folder_without_a_record_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no record of a trial"):
        gather([str(tmp_path)])


def test_settings_of_an_experiment_leave_the_machine_out():
    search = {"epochs": 2, "sampling": "softmax"}
    arguments = {"keep": 2, "data": "/home/me", "search": search, "methods": ["x", "y"], "scales": {"tiny": search}}
    shown = experiment_settings({"trialCommand": "python x", "tuner": {"classArgs": arguments}})
    assert shown == {
        "trialCommand": "python x", "tuner.keep": "2", "tuner.search": "epochs: 2, sampling: softmax",
        "tuner.methods": "x, y", "tuner.scales": '{"tiny": {"epochs": 2, "sampling": "softmax"}}',
    }  # fmt: skip
    assert experiment_settings({}) == {}
