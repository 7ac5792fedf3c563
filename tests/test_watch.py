import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idarts_nni.cli import main
from idarts_nni.experiment import Experiment, Snapshot, Trial
from idarts_nni.watch import Screen, task_rows, time_left, view

from .live import live_experiment

ROOT = Path(__file__).resolve().parents[1]


def trial(key="search-idarts-s1", status="RUNNING", epochs=2, seconds=20.0, total=5, metric=None, **parameters):
    settings = json.dumps({"epochs": total} if total else {})
    sent = {"key": key, "stage": key.partition("-")[0], "settings": settings, **parameters}
    return Trial(key[-4:], 0, sent, status, metric, epochs, 9.5 if epochs else None, seconds, Path("gone"))


def test_row_tells_epoch_metric_device_and_the_time_that_is_left():
    (row,) = task_rows(Snapshot("RUNNING", trials=(trial(),)), {"s-s1": "GPU-1.0", "ts-s1": "GPU-0.0"})
    assert (row.state, row.epoch, row.metric, row.left) == ("running", "2/5", "9.5", 30.0)
    (row,) = task_rows(Snapshot("RUNNING", trials=(trial(),)), {trial().id: "GPU-1.0"})
    assert row.device == "GPU-1.0"


def test_epochs_are_those_of_an_ended_trial_where_the_parameters_do_not_say():
    ended = trial("retrain-lstm-r1", "SUCCEEDED", 3, 30.0, 0, {"default": 8.0, "epochs": 3})
    rows = task_rows(Snapshot("RUNNING", trials=(ended, trial("retrain-lstm-r2", total=0))), {})
    assert [row.epoch for row in rows] == ["3/3", "2/3"] and rows[0].state == "done"
    assert task_rows(Snapshot("RUNNING", trials=(trial(total=0),)), {})[0].epoch == "2"


def test_tasks_of_the_plan_come_in_its_order_and_again_with_their_attempt():
    plan = {"retrain-lstm-r1": {"state": "todo"}, "search-idarts-s1": {"state": "busy"}}
    rows = task_rows(Snapshot("RUNNING", trials=(trial(attempt=2),), tasks=plan), {})
    assert [(row.key, row.state) for row in rows] == [
        ("search-idarts-s1", "running (attempt 2)"), ("retrain-lstm-r1", "waiting"),
    ]  # fmt: skip


def test_time_left_shares_waiting_tasks_among_the_places():
    ended = trial("search-idarts-s2", "SUCCEEDED", 5, 50.0, metric={"default": 1.0})
    plan = {f"search-idarts-s{seed}": {"state": "todo"} for seed in (1, 2, 3)}
    snapshot = Snapshot("RUNNING", trials=(trial(), ended), tasks=plan)
    assert time_left(snapshot, task_rows(snapshot, {})) == 30.0 + 50.0
    assert time_left(Snapshot("RUNNING", trials=(trial(epochs=0),)), task_rows(snapshot, {})[1:]) is None


def test_view_holds_no_sign_that_steers_a_terminal():
    snapshot = Snapshot("RUNNING", ("bad \x1b[2J",), (trial("search-\x1b[31m\n-s1"),), problem="\x07gone")
    for line in view(Experiment("abc", Path("gone"), 1), snapshot):
        assert line.isprintable() or not line


def test_narrow_terminal_loses_the_stage_and_nothing_that_is_not_in_the_key():
    plan = {f"retrain-random-0123abcd-n2-{combine}-r1": {"state": "todo"} for combine in ("sum", "mean")}
    snapshot = Snapshot("RUNNING", trials=(trial(),), tasks={"search-idarts-s1": {"state": "busy"}, **plan})
    wide, narrow = (view(Experiment("abc", Path("gone"), 1), snapshot, width) for width in (120, 80))
    assert wide[2].split() == ["stage", "task", "state", "epoch", "metric", "gone", "left"]
    assert narrow[2].split() == wide[2].split()[1:] and "00:30" in narrow[3]
    assert max(map(len, narrow)) < 80 < max(map(len, wide))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_terminal_is_written_in_place_and_never_wider_or_higher_than_it_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "6")
    screen, stream = None, Terminal()
    screen = Screen(stream)
    screen.show(["a" * 50] * 10)
    screen.show(["b"])
    text = stream.getvalue()
    assert text.startswith("\r\x1b[J" + "a" * 19 + "\n") and "... 6 more lines"[:19] in text
    assert text.endswith("\x1b[5A\r\x1b[Jb\n")


def test_without_a_terminal_only_events_are_printed():
    stream = io.StringIO()
    screen = Screen(stream)
    for epoch, state in ((1, "running"), (2, "running"), (2, "done")):
        screen.show(["head", "", f"search  {state}  {epoch}/5"])
    assert re.findall(r"running|done", stream.getvalue()) == ["running", "done"] and "\x1b" not in stream.getvalue()


def test_unknown_experiment_is_exit_code_2(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["watch", "NoSuchId", "--once"]) == 2
    assert "no experiment 'NoSuchId'" in capsys.readouterr().err


@pytest.mark.slow
def test_running_experiment_is_watched_and_left_alone_by_ctrl_c(tmp_path):
    settings = {"methods": ["idarts"], "data": "embedded"}
    with live_experiment(tmp_path, settings, behaviour={"*": {"seconds": 40}}) as experiment:
        experiment.wait_until(lambda: experiment.status() == "RUNNING", "a running experiment", 60)
        environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "idarts_nni", "watch", experiment.id]
        once = subprocess.run([*command, "--once"], env=environment, capture_output=True, text=True, timeout=60)
        assert once.returncode == 0 and "search-idarts-s1" in once.stdout and "RUNNING" in once.stdout, once.stderr
        watching = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(8)
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=30)
        assert watching.returncode == 130 and "goes on" in said
        assert experiment.status() == "RUNNING"
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode in (0, 1) and "does not run" in ended.stderr and "search-idarts-s1" in ended.stdout
