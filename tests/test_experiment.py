import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from idarts_nni import experiment as nni
from idarts_nni.outcome import collect_records, describe_failures
from idarts_nni.preflight import CheckedExperiment
from idarts_nni.progress import Progress
from idarts_nni.remote import Machine

LOCAL = CheckedExperiment(Path("a.yaml"), "a", "ptb", Path("/experiments"), True, "full", "minimize")
HOOK = Path(nni.__file__).with_name("loopback.js")


def trial(number=0, key="search-idarts-s1", status="RUNNING", metric=None, folder=Path("/none"), **changes):
    parameters = {"key": key, "stage": key.partition("-")[0], "method": "idarts", "seed": 1, "attempt": 1}
    fields = {"epochs": 2, "latest": 123.456, "seconds": 7.0, **changes}
    return nni.Trial(f"T{number}", number, parameters, status, metric, folder=folder, **fields)


def test_port_that_something_listens_on_is_passed_over():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not nni.is_free(port)
        assert nni.free_port(port) > port


def test_our_interpreter_leads_the_path_and_data_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    monkeypatch.setenv("IDARTS_DATA", "corpus")
    monkeypatch.setenv("NO_PROXY", "example.org")
    found = nni.environment(LOCAL)
    assert found["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert found["IDARTS_DATA"] == str(tmp_path / "corpus")
    assert found["NO_PROXY"] == "example.org,localhost,127.0.0.1"


def test_manager_is_kept_on_loopback_unless_an_address_for_other_machines_is_named(monkeypatch):
    monkeypatch.setenv("NODE_OPTIONS", "--no-warnings")
    cluster = replace(LOCAL, is_local=False)  # whose pods reach the manager in a way of their own
    behind_ssh = replace(cluster, machines=(Machine("gpu1.example.org", "alice"),))
    assert nni.environment(LOCAL)["NODE_OPTIONS"].startswith("--no-warnings ")
    assert nni.environment(behind_ssh)["NODE_OPTIONS"] == nni.environment(LOCAL)["NODE_OPTIONS"]
    for reachable in (cluster, replace(behind_ssh, manager_address="192.0.2.1")):
        assert nni.environment(reachable)["NODE_OPTIONS"] == "--no-warnings"


@pytest.mark.parametrize(
    "call, expected",
    [
        ("listen(0)", "127.0.0.1"),
        ("listen('0')", "127.0.0.1"),
        ("listen(0, () => 0)", "127.0.0.1"),
        ("listen(0, 511)", "127.0.0.1"),
        ("listen(0, undefined, 511)", "127.0.0.1"),
        ("listen({port: 0})", "127.0.0.1"),
        ("listen(0, '0.0.0.0')", "0.0.0.0"),
        ("listen({port: 0, host: '0.0.0.0'})", "0.0.0.0"),
    ],
)
def test_server_that_names_no_host_listens_on_loopback_only(call, expected, tmp_path):
    import nni_node

    copy = tmp_path / 'a "b" folder' / "loopback.js"  # a path that needs quoting
    copy.parent.mkdir()
    copy.write_text(HOOK.read_text())
    program = f"const s = require('http').createServer(); s.on('listening', () => {{ console.log(s.address().address); s.close(); }}); s.{call}"  # noqa: E501
    node = str(Path(nni_node.__path__[0]) / "node")
    found = subprocess.run([node, "--require", str(copy), "-e", program], capture_output=True, text=True, timeout=30)
    assert found.stdout.strip() == expected, found.stderr


def test_experiment_is_found_in_the_list_of_nni(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere" / "AbC12345").mkdir(parents=True)
    (tmp_path / "nni-experiments").mkdir()
    known = {"AbC12345": {"logDir": str(tmp_path / "elsewhere")}, "Gone1234": {"logDir": str(tmp_path)}}
    (tmp_path / "nni-experiments" / ".experiment").write_text(json.dumps(known))
    assert nni.find_experiment("AbC12345") == tmp_path / "elsewhere" / "AbC12345"
    with pytest.raises(nni.ExperimentError, match="is gone"):
        nni.find_experiment("Gone1234")
    with pytest.raises(nni.ExperimentError, match="no experiment 'Other'.*AbC12345"):
        nni.find_experiment("Other")


def test_task_state_follows_its_trials_before_the_plan():
    trials = (
        trial(0, "search-idarts-s1", "FAILED"),
        trial(1, "search-idarts-s1", "SUCCEEDED", {"default": 3.0}),
        trial(2, "search-darts-s1", "FAILED"),
        trial(3, "retrain-lstm-r1", "RUNNING"),
        trial(4, "other", "SUCCEEDED", None),
    )
    tasks = {"search-idarts-s1": {"state": "busy"}, "search-darts-s1": {"state": "todo"}, "later": {"state": "todo"}}
    assert nni.Snapshot("RUNNING", (), trials, tasks).task_states() == {
        "search-idarts-s1": "done",
        "search-darts-s1": "todo",
        "later": "todo",
        "retrain-lstm-r1": "busy",
        "other": "failed",
    }


def test_reason_of_a_failure_ends_with_the_last_words_of_the_trial(tmp_path):
    (tmp_path / "trial.stderr").write_text("Traceback\nValueError: the corpus is empty\n\n")
    tasks = {"search-idarts-s1": {"state": "failed", "reason": "2 attempt(s), the last: FAILED; see trial.stderr in x"}}
    snapshot = nni.Snapshot("DONE", (), (trial(status="FAILED", folder=tmp_path),), tasks)
    records = collect_records(snapshot, experiment="a", task="ptb")
    lines = describe_failures(snapshot, records, tmp_path / "log")
    assert "2 attempt(s), the last: FAILED; its last words: ValueError: the corpus is empty" in lines[0]
    assert str(tmp_path / "trial.stderr") in lines[0]


def test_experiment_that_ended_badly_is_no_success_even_without_failed_tasks(tmp_path):
    for status in ("ERROR", "STOPPED", "GONE"):
        assert status in describe_failures(nni.Snapshot(status), [], tmp_path)[0]
    assert describe_failures(nni.Snapshot("DONE"), [], tmp_path)  # nothing was tried


def test_reason_of_the_tuner_stands_before_that_of_nni(tmp_path):
    snapshot = nni.Snapshot("ERROR", ("Dispatcher stream error",), problem="tuner.classArgs: keep: found 0")
    lines = describe_failures(snapshot, [], tmp_path)
    assert "tuner.classArgs: keep: found 0" in lines and not any("Dispatcher" in line for line in lines)


class Terminal:
    """A stream that keeps what was written."""

    def __init__(self, is_live: bool) -> None:
        self.text, self.is_live = "", is_live

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        """Do nothing."""

    def isatty(self) -> bool:
        return self.is_live


STEPS = [
    nni.Snapshot("RUNNING", (), (trial(),), {"retrain-idarts-x-r1": {"state": "todo"}}),
    nni.Snapshot("RUNNING", (), (trial(epochs=3),)),
    nni.Snapshot("DONE", (), (trial(status="SUCCEEDED", metric={"default": 98.5}),)),
]


def test_log_file_gets_one_line_per_event():
    stream = Terminal(False)
    progress = Progress(stream=stream)
    for step in STEPS:
        progress.show(step)
    progress.close()
    lines = [line.partition("] ")[2] for line in stream.text.splitlines()]
    assert lines == ["search-idarts-s1 started", "search-idarts-s1 done in 7 s: 98.5"]
    assert "\r" not in stream.text and "\x1b" not in stream.text


def test_terminal_keeps_one_line_up_to_date_and_leaves_none_behind():
    stream = Terminal(True)
    progress = Progress(stream=stream)
    for step in STEPS:
        progress.show(step)
    progress.close()
    assert "epoch 2, 123.456" in stream.text and "epoch 3" in stream.text
    assert stream.text.endswith("\r\x1b[2K")


def test_summary_counts_tasks_by_stage_and_names_the_best():
    trials = (
        trial(0, "search-idarts-s1", "SUCCEEDED", {"default": 5.0}),
        trial(1, "search-idarts-s2", "SUCCEEDED", {"default": 4.0}),
        trial(2, "search-idarts-s3", "FAILED"),
    )
    tasks = {"search-idarts-s3": {"state": "failed"}, "retrain-idarts-x-r1": {"state": "todo"}}
    snapshot = nni.Snapshot("RUNNING", (), trials, tasks)
    assert "search 2/3 (1 failed) | retrain 0/1 | best search 4 (search-idarts-s2)" in Progress().summary(snapshot)
    assert "best search 5 (search-idarts-s1)" in Progress("maximize").summary(snapshot)


@pytest.mark.parametrize("says, calls", [("WARNING: Timeout, retry...", 3), ("ERROR: Create experiment failed", 1)])
def test_manager_that_a_busy_machine_starts_too_slowly_is_started_again(says, calls, monkeypatch, tmp_path):
    stand_in = tmp_path / "nnictl"
    stand_in.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\necho '{says}'\nexit 1\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(nni, "patient_nnictl", lambda: [str(stand_in)])
    with pytest.raises(nni.ExperimentError, match="too busy" if calls > 1 else "Create experiment failed"):
        nni.start(LOCAL, 8080)
    assert (tmp_path / "calls").read_text().count("called") == calls
