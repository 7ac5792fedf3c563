"""The entry to a trial, by hand: what it writes, what it refuses, and how it goes on."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from trials.run import main

ROOT = Path(__file__).parents[1]
SEARCH = ("--stage", "search", "--space", "search_spaces/tiny.yaml", "--data", "embedded")
SMALL = ("--set", "hidden_size=8", "--set", "batch_size=256", "--set", "train_tokens=20000")


def command(*arguments):
    return [sys.executable, "-m", "trials.run", *map(str, arguments)]


def run(*arguments, data=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NNI_", "IDARTS_"))}
    environment |= {} if data is None else {"IDARTS_DATA": data}
    return subprocess.run(command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_search_by_hand_writes_its_cell_and_its_record_and_the_cell_retrains(tmp_path):
    searched = run("ptb", *SEARCH, *SMALL, "--set", "epochs=1", "--output", tmp_path)
    assert searched.returncode == 0, searched.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["stage"], record["method"], record["epochs"], record["test"]) == ("search", "idarts", 1, None)
    assert record["settings"]["hidden_size"] == 8 and len(record["history"]) == 1
    assert (record["scale"], record["corpus"]) == ("by hand", "embedded")
    retrained = run(
        "ptb", "--stage", "retrain", "--space", "search_spaces/tiny.yaml", "--data", "embedded", *SMALL,
        "--architecture", tmp_path / "architecture.yaml", "--set", "epochs=1", "--set", "test_batch_size=100",
        "--output", tmp_path,
    )  # fmt: skip
    assert retrained.returncode == 0, retrained.stderr
    again = json.loads((tmp_path / "record.json").read_text())
    assert again["cell"] == record["cell"] and again["test"] > 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ptbb", *SEARCH), "no task 'ptbb'; tasks: conll, digits, ptb"),
        (("ptb", "--stage", "search"), "Name the search space"),
        (("ptb", *SEARCH, "--set", "epoch=1"), "Unknown setting 'epoch'"),
        (("ptb", *SEARCH, "--checkpoint-minutes", "0"), "checkpoint minutes: found 0.0; expected a number above 0"),
        (("ptb", *SEARCH, "--checkpoint-steps", "0"), "checkpoint steps: found 0; expected a whole number from 1"),
        (("ptb", *SEARCH, "--data", "/no/such"), "'/no/such' does not exist"),
        (("ptb", *SEARCH, "--data", ""), "No data folder is named"),
        (("ptb", "--stage", "retrain", "--space", "search_spaces/tiny.yaml"), "Name the cell to retrain"),
    ],
)
def test_bad_input_ends_with_exit_code_2_and_says_what_would_work(tmp_path, arguments, message):
    done = run(*arguments, "--output", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "record.json").exists()


TAGGER = ("conll", "--stage", "retrain", "--method", "lstm", "--set", "epochs=1", "--set", "hidden_size=8")


def test_a_tagger_trained_on_the_development_set_too_is_labelled_so(tmp_path):
    done = run(*TAGGER, "--data", "embedded", "--set", "train_on=train+dev", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["scale"] == "by hand, trained on train+dev" and record["settings"]["train_on"] == "train+dev"


def test_malformed_entity_data_ends_a_trial_with_file_and_line(tmp_path):
    for split in ("train.txt", "dev.txt", "test.txt"):
        (tmp_path / split).write_text("Oslo B-LOC\nis O\n")
    (tmp_path / "test.txt").write_text("Oslo B-LOC\nRome B-CITY\n")
    done = run(*TAGGER, "--data", tmp_path, "--output", tmp_path)
    assert done.returncode == 2, done.stderr
    assert "test.txt, line 2: unknown entity type 'CITY'" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "record.json").exists()


def test_task_of_ones_own_without_a_check_has_no_problem(monkeypatch, capsys):
    monkeypatch.setattr("trials.training.load_task", lambda name: types.ModuleType(name))
    monkeypatch.setattr("sys.stdin", io.StringIO('{"data": "", "settings": {"search": {"mine": 1}}}'))
    assert main(["mine", "--check"]) == 0 and capsys.readouterr().out == "[]\n"


UNKNOWN = "retrain: Unknown setting 'hiden_size' (value 2). Did you mean 'hidden_size'?"


@pytest.mark.parametrize(("task", "data", "settings", "messages"), [
    ("ptb", "embedded", {"search": {"epochs": 2}, "retrain": {}}, []),
    ("ptb", "embedded", {"search": {"epochs": "x"}, "retrain": {"hiden_size": 2}}, ["'epochs': found 'x'", UNKNOWN]),
    ("ptb", "empty", {"retrain": {}}, ["expected ptb.train.txt or train.txt, or a single .txt file; found nothing"]),
    ("ptb", "short", {"search": {}}, ["too short for a batch of 256"]),
    ("ptb", "short", {"retrain": {"batch_size": 9, "evaluation_batch_size": 2, "test_batch_size": 9}}, ["batch of 9"]),
    ("conll", "embedded", {"search": {}, "retrain": {}}, []),
    ("conll", "short", {"retrain": {}}, ["no file eng.train or train.txt or train.conll; found all.txt"]),
    ("digits", "", {"search": {}, "retrain": {"hiden_size": 2}}, ["Unknown setting 'hiden_size'"]),
    ("nope", "embedded", {}, ["There is no task 'nope'; tasks: conll, digits, ptb"]),
], ids=str)  # fmt: skip
def test_check_tells_what_is_wrong_with_data_and_settings(
    tmp_path, monkeypatch, capsys, task, data, settings, messages
):
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "all.txt").write_text("one two three\n" * 20)
    (tmp_path / "empty").mkdir()
    place = str(tmp_path / data) if data in ("short", "empty") else data
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"data": place, "settings": settings})))
    assert main([task, "--check"]) == (2 if messages else 0)
    problems = json.loads(capsys.readouterr().out)
    assert len(problems) == len(messages), problems
    for problem, message in zip(problems, messages, strict=True):
        assert message in problem


def test_ctrl_c_leaves_by_the_signal_and_the_same_command_goes_on(tmp_path):
    arguments = ("ptb", *SEARCH, *SMALL, "--set", "epochs=60", "--output", tmp_path)
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    last = tmp_path / "tasks" / "search-idarts-s1" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, said
    assert b"the same command goes on" in said
    other = run(*arguments, "--set", "hidden_size=16")
    assert other.returncode == 2 and "checkpoints of another job" in other.stderr
    resumed = run(*arguments)
    assert resumed.returncode == 0, resumed.stderr
    history = json.loads((tmp_path / "record.json").read_text())["history"]
    assert [epoch["epoch"] for epoch in history] == [float(number) for number in range(1, 61)]
    assert "epoch 1:" not in resumed.stdout
