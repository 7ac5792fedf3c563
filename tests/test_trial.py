"""What a trial needs of NNI, without NNI: what it refuses, where it writes, which device it takes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nni
import numpy as np
import pytest
from nni.nas.execution.sequential import SequentialExecutionEngine, SequentialTrialCommandChannel
from nni.runtime.trial_command_channel import get_default_trial_command_channel, set_default_trial_command_channel

from idarts_nni import devices, trial
from idarts_nni.devices import DeviceLease, device_lease, visible_devices
from idarts_nni.parameters import SUMMARY, TrialParameters
from idarts_nni.trial import (
    output_directory,
    receive_parameters,
    refuse_serialised_objects,
    report_epoch,
    report_final,
    report_record,
    task_directory,
)
from tests.live import ROOT

PARAMETERS = TrialParameters(key="search-idarts-s1", stage="search", method="idarts", seed=1)


@pytest.fixture(autouse=True)
def no_experiment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("NNI_", "IDARTS_", "CUDA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IDARTS_LOCKS", str(tmp_path / "locks"))


# Parameters.


def test_parameters_survive_the_way_through_nni():
    sent = json.loads(json.dumps(PARAMETERS.to_nni()))
    refuse_serialised_objects(sent)
    assert TrialParameters.from_dict(sent) == PARAMETERS
    # What the page shows is short; what the trial reads is flat.
    assert sent[SUMMARY] == {"stage": "search", "method": "idarts", "seed": 1, "cell": "-", "epoch": 0, "attempt": 1}
    assert all(type(value) in (str, int) for key, value in sent.items() if key != SUMMARY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "train"}, "stage: found 'train'; allowed: search, select, retrain"),
        ({"method": "enas"}, "method: found 'enas'"),
        ({"seed": 0}, "both count from 1"),
        ({"seed": True}, "seed: found True; expected int"),
        ({"cell": None}, "cell: found None; expected str"),
        ({"extra": 1}, "unknown \\['extra'\\]"),
    ],
)
def test_parameters_of_another_form_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrialParameters.from_dict({**PARAMETERS.to_dict(), **change})


MARKERS = ["__instance_type__", "__nni_type__", "__ndarray__", "_nni_symbol", "__pickle__", "__symbol__"]


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"space": x}, lambda x: [{"a": [x]}], json.dumps], ids=range(4)
)
def test_a_serialised_object_is_refused_wherever_it_hides(marker, wrap):
    crafted = {**PARAMETERS.to_dict(), "settings": wrap({marker: ["os", "system"]})}
    with pytest.raises(ValueError, match=f"{marker}.*serialised Python object"):
        refuse_serialised_objects(crafted)


def test_outside_an_experiment_there_are_no_parameters():
    with pytest.raises(RuntimeError, match="not a trial: start it by nnictl create"):
        receive_parameters()


def test_a_manager_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("NNI_TRIAL_COMMAND_CHANNEL", "http://localhost:9/env/local-env/abcde")
    with pytest.raises(RuntimeError, match="no record of this trial at http://localhost:9/api/v1/nni/trial-jobs/abcde"):
        trial._own_record(os.environ["NNI_TRIAL_COMMAND_CHANNEL"], patience=0.3)


@pytest.fixture
def manager(monkeypatch):
    """A server that answers like NNI's manager to trial abcde, whose parameter id is 7, and keeps what it is sent."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            record = {"parameter_id": 7, "parameters": PARAMETERS.to_nni()}
            self.answer(json.dumps({"hyperParameters": [json.dumps(record)]}))

        def do_PUT(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer("")

        def answer(self, text):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/env/local-env/abcde"
    for name, value in {"NNI_TRIAL_COMMAND_CHANNEL": address, "NNI_TRIAL_JOB_ID": "abcde"}.items():
        monkeypatch.setenv(name, value)
    before, parameters = get_default_trial_command_channel(), nni.trial._params
    yield received
    set_default_trial_command_channel(before)
    nni.trial._params = parameters
    server.shutdown()
    server.server_close()


def test_reports_reach_the_manager_under_the_trial_s_own_id_while_a_strategy_trains(manager):
    assert receive_parameters() == PARAMETERS
    # What NNI's engine does for as long as a one-shot strategy runs in this process.
    set_default_trial_command_channel(SequentialTrialCommandChannel(SequentialExecutionEngine(), None))
    nni.get_next_parameter()
    report_epoch({"default": 5.0}, epoch=1)
    report_epoch({"default": 4.0}, epoch=2)
    report_final({"default": 4.0, "architecture": '{"nodes": []}'})
    metrics = [json.loads(command["metric"]) for command in manager if command["type"] == "metric"]
    assert [(metric["type"], metric["sequence"], json.loads(metric["value"])["default"]) for metric in metrics] == [
        ("PERIODICAL", 0, 5.0), ("PERIODICAL", 1, 4.0), ("PERIODICAL", 1, 4.0), ("FINAL", 0, 4.0),
    ]  # fmt: skip
    assert {(metric["parameter_id"], metric["trial_job_id"]) for metric in metrics} == {(7, "abcde")}


def test_on_another_machine_the_keeper_tells_where_the_manager_is(manager, monkeypatch, tmp_path):
    address = os.environ["NNI_TRIAL_COMMAND_CHANNEL"].partition("/env/")[0]
    environment = tmp_path / "environments" / "remote-worker1"
    monkeypatch.setenv("NNI_PLATFORM", "remote")
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(environment / "trials" / "abcde"))
    with pytest.raises(RuntimeError, match="NNI's keeper left no launcher_config.json"):
        receive_parameters()
    for number, name in enumerate(["trial_keeper", "trial_keeper_1"]):  # the second after a resume
        config = environment / name / "launcher_config.json"
        config.parent.mkdir()
        port = address.replace("http://", "ws://") if number else "ws://127.0.0.1:9"
        config.write_text(json.dumps({"managerCommandChannel": f"{port}/platform/remote/1"}))
        os.utime(config, (number, number))
    assert receive_parameters() == PARAMETERS
    report_epoch({"default": 4.0})
    report_record({"key": "search-idarts-s1", "history": [{"default": 4.0}]})
    sent = json.loads(json.loads(manager[-1]["metric"])["value"])
    assert sent["default"] == 4.0
    assert json.loads(sent["record"]) == {"key": "search-idarts-s1", "history": [{"default": 4.0}]}


def test_on_this_machine_the_record_stays_a_file(manager, monkeypatch):
    monkeypatch.setenv("NNI_PLATFORM", "local")
    receive_parameters()
    report_record({"key": "search-idarts-s1"})
    assert not [command for command in manager if command["type"] == "metric"]


# Metrics.


@pytest.mark.parametrize("report", [report_epoch, report_final])
@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"loss": 1.0}, "'default' is missing; found the keys loss"),
        ({"default": float("nan")}, "default: found nan"),
        ({"default": float("inf")}, "default: found inf"),
        ({"default": "1"}, "default: found '1' of type str; expected a finite number"),
        ({"default": True}, "default: found True"),
        ({"default": 1, "best": {"a": 1}}, "best: found {'a': 1} of type dict"),
        ({"default": 1, "curve": [1, 2]}, "curve: found"),
        ({"default": 1, "test": None}, "test: found None"),
    ],
)
def test_a_metric_that_the_page_cannot_show_is_refused(report, metrics, message):
    with pytest.raises(ValueError, match=message):
        report(metrics)


def test_numbers_of_numpy_are_numbers():
    report_epoch({"default": np.float32(1.5), "count": np.int64(3)})
    report_final({"default": 2, "validation": np.float64(3)})


@pytest.mark.parametrize("cell", [None, "", "[1]", "{", {"nodes": []}])
def test_a_cell_that_is_no_json_text_is_refused(cell):
    with pytest.raises(ValueError, match="architecture: found .*expected the JSON text of a cell"):
        report_final({"default": 1.0, "architecture": cell})


@pytest.mark.parametrize("cells", [None, "", "{}", "[", []])
def test_cells_that_are_no_json_list_are_refused(cells):
    with pytest.raises(ValueError, match="cells: found .*expected the JSON text of a list of cells"):
        report_final({"default": 1.0, "architecture": "{}", "cells": cells})


# Folders.


def test_checkpoints_of_a_task_outlast_the_trial(monkeypatch, tmp_path):
    for name in ("aaaaa", "bbbbb"):
        output = tmp_path / "exp12345" / "environments" / "local-env" / "trials" / name
        monkeypatch.setenv("NNI_OUTPUT_DIR", str(output))
        monkeypatch.setenv("NNI_EXP_ID", "exp12345")
        assert trial._tasks_root() == tmp_path / "exp12345" / "tasks"
        assert output_directory() == output and output.is_dir()
    monkeypatch.setenv("IDARTS_CHECKPOINTS", str(tmp_path / "elsewhere"))
    assert task_directory("search-idarts-s1") == tmp_path / "elsewhere" / "exp12345" / "search-idarts-s1"


def test_a_key_never_leaves_the_folder_of_the_tasks(monkeypatch, tmp_path):
    monkeypatch.setenv("IDARTS_CHECKPOINTS", str(tmp_path / "tasks"))
    assert task_directory("../../etc/passwd").parent == tmp_path / "tasks"


def test_outside_an_experiment_everything_goes_to_outputs(tmp_path):
    assert output_directory() == tmp_path / "outputs"
    assert task_directory("k") == tmp_path / "outputs" / "tasks" / "k"


HOLD = "import sys, time; from idarts_nni.trial import task_directory; task_directory('k'); print('held', flush=True)"


def start(script: str, **environment: str) -> subprocess.Popen[str]:
    # Bounded, so that a fault cannot take the machine with it.
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))

    variables = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True, preexec_fn=limit)


def test_two_processes_never_work_on_one_task_and_a_killed_one_frees_it():
    with start(f"{HOLD}; time.sleep(60)") as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match="Another process still works on task 'k'"):
            task_directory("k", patience=0.3)
        holder.kill()
    assert task_directory("k").is_dir()


WAIT_FOR_RECORD = """
import sys
from idarts_nni.trial import receive_parameters
print("trial", flush=True)
receive_parameters()
"""


def test_a_trial_ends_with_the_manager_that_started_it():
    names = {"NNI_PLATFORM": "local", "NNI_TRIAL_JOB_ID": "abcde"}
    names["NNI_TRIAL_COMMAND_CHANNEL"] = "http://127.0.0.1:9/env/local-env/abcde"  # where nothing answers for a minute
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAIT_FOR_RECORD!r}])"
    with start(script, **names) as manager:
        assert manager.stdout.readline() == "trial\n"
        time.sleep(1.0)
        manager.kill()
        begun = time.monotonic()
        manager.stdout.read()  # until the trial has closed it, too
        assert time.monotonic() - begun < 20


def test_leaving_by_a_signal_is_not_an_exit_code():
    script = "import signal; from idarts_nni.trial import leave_by_signal; leave_by_signal(signal.SIGINT)"
    with start(script) as process:
        assert process.wait(30) == -signal.SIGINT


# Devices.


def test_the_cpu_is_taken_where_there_is_no_gpu_and_hides_what_might_appear():
    with device_lease("auto", devices=[]) as lease:
        assert lease == DeviceLease("cpu") and os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_the_cpu_is_taken_where_it_is_asked_for():
    with device_lease("cpu", devices=["GPU-a"]) as lease:
        assert lease.device == "cpu" and os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_cuda_without_a_gpu_is_an_error_that_says_what_was_found(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(RuntimeError, match="cuda was requested and there is no GPU \\(CUDA_VISIBLE_DEVICES is '-1'\\)"):
        with device_lease("cuda"):
            pass


@pytest.mark.parametrize(("arguments", "message"), [(("gpu",), "device: found 'gpu'"), (("auto", 0), "slots_per_gpu")])
def test_an_impossible_request_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        with device_lease(*arguments):
            pass


@pytest.mark.parametrize(
    ("chosen", "visible"),
    [("", []), ("-1", []), ("0", ["0"]), ("1, 0", ["1", "0"]), ("GPU-a,-1,GPU-b", ["GPU-a"]), ("2,,3", ["2"])],
)
def test_gpus_that_the_environment_hides_are_left_alone(monkeypatch, chosen, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_devices() == visible


def test_every_gpu_gets_one_trial_before_any_gets_two_and_the_environment_is_restored(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    taken = []
    leases = [device_lease("auto", 2) for _ in range(4)]
    for lease in leases:
        taken.append(lease.__enter__())
        os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-a,GPU-b"
    assert [(one.name, one.slot) for one in taken] == [("GPU-a", 0), ("GPU-b", 0), ("GPU-a", 1), ("GPU-b", 1)]
    for lease in leases:
        lease.__exit__(None, None, None)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def test_a_gpu_has_one_lock_by_number_and_by_name(monkeypatch):
    monkeypatch.setattr(devices, "_installed_devices", lambda: ["GPU-a", "GPU-b"])
    with device_lease("cuda", devices=["1"]) as by_number:
        assert by_number.name == "1"
        with device_lease("cuda", devices=["GPU-b", "GPU-c"]) as by_name:
            assert by_name.name == "GPU-c"


LEASE = """
import os, sys, time
from idarts_nni.devices import device_lease
with device_lease("cuda", slots_per_gpu={slots}, devices=["GPU-a", "GPU-b"]) as lease:
    print(lease.name, lease.slot, os.environ["CUDA_VISIBLE_DEVICES"], "torch" in sys.modules, flush=True)
    time.sleep({seconds})
    print("end", time.monotonic(), flush=True)
"""


def test_processes_share_the_gpus_and_the_one_too_many_waits():
    processes = [start(LEASE.format(slots=1, seconds=1.5)) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert all(output[0] == output[2] and output[3] == "False" for output in outputs)
    names = [output[0] for output in outputs]
    assert sorted(names) in (["GPU-a", "GPU-a", "GPU-b"], ["GPU-a", "GPU-b", "GPU-b"])
    # The two that had the same GPU had it one after the other.
    shared = max(set(names), key=names.count)
    ends = sorted(float(output[5]) for output in outputs if output[0] == shared)
    assert ends[1] - ends[0] >= 1.5


def test_a_killed_process_frees_its_gpu(caplog):
    with start(LEASE.format(slots=1, seconds=60)) as holder:
        assert holder.stdout.readline().startswith("GPU-a 0")
        with device_lease("cuda", devices=["GPU-a", "GPU-b"]) as other:
            assert other.name == "GPU-b"
            killer = start(f"import os, time; time.sleep(1); os.kill({holder.pid}, 9)")
            begun = time.monotonic()
            with device_lease("cuda", devices=["GPU-a", "GPU-b"]) as freed:
                assert freed.name == "GPU-a" and time.monotonic() - begun > 0.5
            killer.wait(10)
    assert "waits for a GPU" in caplog.text and str(holder.pid) in caplog.text


SHARE = """
import os, time
from idarts_nni.devices import device_lease
with device_lease("cuda", slots_per_gpu=2) as lease:
    begun = time.monotonic()
    time.sleep(1)
    print(lease.name, lease.slot, begun, time.monotonic(), flush=True)
"""


def test_trials_of_two_experiments_share_a_gpu_in_as_many_slots_as_asked_for():
    # One experiment sees all GPUs of the machine, the other was given this one by CUDA_VISIBLE_DEVICES.
    names = [{"NNI_EXP_ID": f"experiment{number % 2}", "CUDA_VISIBLE_DEVICES": "GPU-a"} for number in range(5)]
    processes = [start(SHARE, **environment) for environment in names]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 5
    assert {output[0] for output in outputs} == {"GPU-a"} and {output[1] for output in outputs} == {"0", "1"}
    times = [(float(output[2]), float(output[3])) for output in outputs]
    at_once = [sum(begun <= moment < end for begun, end in times) for moment, _ in times]
    assert max(at_once) == 2


def test_a_killed_trial_frees_its_gpu_although_a_process_that_it_started_lives_on():
    script = LEASE.format(slots=1, seconds=60).replace(
        "    print(lease",
        "    import subprocess; child = subprocess.Popen(['sleep', '30'])\n    print(child.pid, lease",
    )
    with start(script) as holder:
        child, name, _ = holder.stdout.readline().split()[:3]
        holder.kill()
        holder.wait(10)
        try:
            os.kill(int(child), 0)
            with device_lease("cuda", devices=["GPU-a", "GPU-b"]) as freed:
                assert name == freed.name == "GPU-a"
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_locks_in_a_folder_of_another_user_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(RuntimeError, match="belongs to another user; name your own folder in IDARTS_LOCKS"):
        with device_lease("cuda", devices=["GPU-a"]):
            pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_around_the_locks_must_be_ours_as_well(monkeypatch, tmp_path):
    monkeypatch.delenv("IDARTS_LOCKS")
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "idarts_nni-0" / "gpu").mkdir(parents=True)
    os.chown(tmp_path / "idarts_nni-0", 12345, 12345)
    with pytest.raises(RuntimeError, match="idarts_nni-0 belongs to another user"):
        devices._locks_folder()


def test_trials_find_the_locks_of_other_experiments_without_being_told(monkeypatch):
    monkeypatch.delenv("IDARTS_LOCKS")
    first = devices._locks_folder()
    monkeypatch.setenv("NNI_EXP_ID", "other")
    monkeypatch.setenv("HOME", "/nowhere")
    assert devices._locks_folder() == first and Path(first).is_dir()
