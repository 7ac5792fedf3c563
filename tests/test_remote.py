"""Trials on another machine: a real SSH server, NNI's remote training service, and nothing shared between the two."""

import json
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from nni.experiment.config import ExperimentConfig

from idarts_nni.preflight import ExperimentFileError, check_experiment
from idarts_nni.remote import OPTIONS_VARIABLE, RemoteError, Tunnel, check_machine, fetch, read_machines
from tests.live import ROOT, free_port
from tests.machine import SSHD, can_have_own_network, other_machine

FILE = ROOT / "trials" / "experiments" / "ptb_remote.yaml"
IDARTS = [sys.executable, "-m", "idarts_nni"]
needs_sshd = pytest.mark.skipif(SSHD is None, reason="there is no sshd: install openssh-server")


def remote_service(**entry):
    return {"platform": "remote", "machineList": [{"host": "127.0.0.1", "user": "nobody", **entry}]}


def test_only_the_remote_service_has_machines():
    assert read_machines({"platform": "local"}) == ()
    (machine,) = read_machines(remote_service(port=None, sshKeyFile="/k", pythonPath="/a b/bin"))
    assert (machine.port, machine.is_this_one, str(machine)) == (22, True, "nobody@127.0.0.1:22")
    assert machine.with_path("python -V") == "PATH='/a b/bin':\"$PATH\" python -V"
    assert machine.ssh("true")[-5:] == ["-l", "nobody", "--", "127.0.0.1", "true"]


def test_a_machine_by_name_needs_a_tunnel():
    (machine,) = read_machines(remote_service(host="gpu1.example.org"))
    assert not machine.is_this_one


def test_a_password_is_refused_since_the_web_page_would_show_it():
    (machine,) = read_machines(remote_service(password="secret"))
    with pytest.raises(RemoteError, match="Use sshKeyFile") as caught:
        check_machine(machine)
    assert "secret" not in str(caught.value)


def test_a_machine_that_does_not_answer_is_named_with_the_command_to_try():
    (machine,) = read_machines(remote_service(port=free_port()))
    with pytest.raises(RemoteError, match=r"nobody@127.0.0.1:\d+: ssh cannot log in: .*refused.*Try by hand: ssh "):
        check_machine(machine)


def experiment_file(folder, machine, **changes):
    """Write a short form of the shipped experiment file for a machine, and return its path."""
    content = yaml.safe_load(FILE.read_text())
    class_args = content["tuner"]["classArgs"]
    for stage in ("search", "retrain"):
        class_args[stage].update(epochs=2, hidden_size=16, train_tokens=3000)
    class_args.update(methods=["idarts", "lstm"], poll=1)
    content.update(
        searchSpaceFile=str(ROOT / "search_spaces" / "tiny.yaml"),
        trialCodeDirectory=str(ROOT),
        experimentWorkingDirectory=str(folder / "experiments"),
        trainingService={"platform": "remote", "machineList": [machine.entry()]},
    )
    content["tuner"]["codeDirectory"] = str(ROOT)
    content.update(changes)
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_check_does_not_repeat_nnis_doubt_about_an_address_that_tunnels_make_needless(tmp_path):
    (tmp_path / "key").touch()
    (there,) = remote_service(port=free_port(), sshKeyFile=str(tmp_path / "key"))["machineList"]
    path = experiment_file(tmp_path, SimpleNamespace(entry=lambda: there))
    heard, handler, logger = [], logging.Handler(), logging.getLogger("nni.experiment.config")
    handler.emit = lambda entry: heard.append(entry.getMessage())
    logger.addHandler(handler)
    try:
        with pytest.raises(ExperimentFileError, match="ssh cannot log in"):
            check_experiment(path)
        assert heard == []
        ExperimentConfig.load(path).canonical_copy()
        assert "nni_manager_ip is not set" in heard[0]  # so NNI still has that doubt
    finally:
        logger.removeHandler(handler)


@pytest.fixture(params=["same network", "own network"])
def machine(request, tmp_path, monkeypatch):
    own = request.param == "own network"
    if own and not can_have_own_network():
        pytest.skip("a network of its own needs root and Linux")
    with other_machine(tmp_path / "machine", own_network=own) as started:
        monkeypatch.setenv(OPTIONS_VARIABLE, started.ssh_options)
        monkeypatch.setenv("HOME", str(tmp_path))  # where nnictl lists experiments
        for name in [name for name in os.environ if name.startswith("NNI_")]:
            monkeypatch.delenv(name)
        yield started


@needs_sshd
@pytest.mark.remote
def test_what_a_machine_lacks_is_told_before_anything_starts(machine, tmp_path):
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(empty)], check=True)
    (there,) = read_machines(remote_service(**machine.entry(pythonPath=str(empty / "bin"))))
    with pytest.raises(RemoteError, match="lacks nni, torch, pytorch-lightning. Install this project there"):
        check_machine(there)
    (there,) = read_machines(remote_service(**machine.entry()))
    with pytest.raises(RemoteError, match="'python9' does not run there.*Set pythonPath"):
        check_machine(there, "python9")
    path = experiment_file(tmp_path, machine)
    checked = check_experiment(path)
    assert checked.is_closed and checked.machines == (there,)
    (machine.folder / "known_hosts").write_text("")
    with pytest.raises(ExperimentFileError, match="Host key verification failed"):
        check_experiment(path)


@needs_sshd
@pytest.mark.remote
def test_a_tunnel_carries_a_port_there_until_it_is_closed_and_heals(machine):
    (there,) = read_machines(remote_service(**machine.entry()))
    if there.is_this_one:
        pytest.skip("the port is there already")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        connect = f"python3 -c 'import socket; socket.create_connection((\"localhost\", {port}), 2)'"

        def reaches():
            return subprocess.run(there.ssh(connect), capture_output=True).returncode == 0

        assert not reaches()
        tunnel = Tunnel(there, port)
        tunnel.open()
        assert reaches()
        with pytest.raises(RemoteError, match=f"no tunnel to port {port}"):
            Tunnel(there, port).open()  # taken there
        os.kill(tunnel._process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while not reaches():
            assert time.monotonic() < deadline
        tunnel.close()
        assert not reaches()


@needs_sshd
@pytest.mark.remote
def test_experiment_on_another_machine_comes_back_whole(machine, tmp_path):
    path = experiment_file(tmp_path, machine)
    port = free_port()
    command = [*IDARTS, "run", str(path), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with ExitStack() as stack:
        stack.callback(_end, process)
        printed, progress = process.communicate(timeout=1800)
    said = printed + progress
    assert process.returncode == 0, said
    folder = Path(re.search(r"^Folder: (.*)$", said, re.M)[1])
    # The trials ran there, in a HOME of its own.
    theirs = machine.home / "nni-experiments" / folder.name
    assert sorted(path.name for path in (theirs / "tasks").iterdir())[-1].startswith("search-idarts-s1")
    # Their records, cells and weights are here.
    (places,) = folder.glob("environments/remote-*/trials")
    records = [json.loads(file.read_text()) for file in places.glob("*/record.json")]
    assert {(record["stage"], record["method"]) for record in records} == {
        ("search", "idarts"), ("retrain", "idarts"), ("retrain", "lstm"),
    }  # fmt: skip
    assert all(len(record["history"]) == 2 for record in records)
    (found,) = places.glob("*/architecture.yaml")
    assert yaml.safe_load(found.read_text())["nodes"]
    assert len(list(folder.glob("tasks/retrain-*/best.ckpt"))) == 2 and not list(folder.glob("tasks/search-*"))
    assert list(folder.glob("idarts/cells/idarts-*.png"))
    # What the manager sent under an id is what the trial with that id did.
    for trial, sent in _sent(folder).items():
        assert json.loads((places / trial / "record.json").read_text())["key"] == sent["key"]
    # The records alone travel through NNI: without the files the tables are the same.
    for file in places.glob("*/record.json"):
        file.unlink()
    again = subprocess.run([*IDARTS, "report", str(folder)], capture_output=True, text=True, timeout=100)
    assert again.returncode == 0, again.stderr
    assert again.stdout.partition("Tables:")[0].strip() == printed.partition("Tables:")[0].strip()
    fetched = subprocess.run([*IDARTS, "fetch", str(folder), "--all"], capture_output=True, text=True, timeout=100)
    assert fetched.returncode == 0 and list(folder.glob("tasks/search-*/last.ckpt")), fetched.stderr
    assert not [line for line in _listeners() if line.endswith(f":{port}")]


@needs_sshd
@pytest.mark.remote
def test_manager_of_a_remote_experiment_is_closed_to_the_network_and_trials_go_on_after_a_resume(machine, tmp_path):
    path = experiment_file(tmp_path, machine, trialConcurrency=1)
    content = yaml.safe_load(path.read_text())
    content["tuner"]["classArgs"]["retrain"]["epochs"] = 2000
    content["tuner"]["classArgs"].update(methods=["lstm"])
    path.write_text(yaml.safe_dump(content))
    port = free_port()
    command = [*IDARTS, "run", str(path), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with ExitStack() as stack:
        stack.callback(_end, process)
        checkpoint = _wait(lambda: next(machine.home.glob("nni-experiments/*/tasks/retrain-*/last.ckpt"), None))
        assert [line for line in _listeners() if line.endswith(f":{port}")] == [f"127.0.0.1:{port}"]
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    folder = Path(re.search(r"^Folder: (.*)$", said, re.M)[1])
    epochs = _epochs(folder)
    assert epochs and checkpoint.is_file()
    # Nothing of it runs there any more.
    _wait(lambda: not _processes_in(machine.home))
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    nnictl = str(Path(sys.executable).parent / "nnictl")
    (there,) = read_machines(remote_service(**machine.entry()))
    with ExitStack() as stack:
        if not there.is_this_one:
            tunnel = Tunnel(there, port)
            tunnel.open()
            stack.callback(tunnel.close)
        # With more patience than the 3 seconds that nnictl gives a manager: on a busy machine it needs more.
        patient = [sys.executable, "-m", "idarts_nni.patient_nnictl", "resume", folder.name, "--port", str(port)]
        subprocess.run(patient, env=variables, check=True, timeout=150)
        stack.callback(subprocess.run, [nnictl, "stop", folder.name], env=variables, timeout=90)
        _wait(lambda: max(_epochs(folder)) > max(epochs))
    fetch(there, folder.name, folder, everything=True)
    history = _epochs(folder)
    # Gone on from the checkpoint: no epoch was trained twice under another number, none is missing.
    assert sorted(set(history)) == list(range(max(history) + 1))


def _end(process):
    """Let idarts run stop its experiment, whatever has happened to the test."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(150)
        except subprocess.TimeoutExpired:
            process.kill()


def _listeners():
    listing = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True).stdout.splitlines()
    return [line.split()[3] for line in listing]


def _processes_in(folder):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append(process.name)
        except OSError:
            pass
    return found


def _sent(folder):
    with closing(sqlite3.connect(f"file:{folder}/db/nni.sqlite?mode=ro", uri=True, timeout=60)) as database:
        rows = database.execute("select trialJobId, data from TrialJobEvent where data like '%parameter_id%'")
        return {trial: json.loads(data)["parameters"] for trial, data in rows}


def _epochs(folder):
    with closing(sqlite3.connect(f"file:{folder}/db/nni.sqlite?mode=ro", uri=True, timeout=60)) as database:
        return [row[0] for row in database.execute("select sequence from MetricData where type = 'PERIODICAL'")]


def _wait(look, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return found
