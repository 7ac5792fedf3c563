"""Who can reach the manager of an experiment: from another network namespace, as from another machine."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from idarts_nni.loopback import node_options
from idarts_nni.manager import request
from tests.live import free_port, live_experiment, user_environment, write_experiment

SLOW_TRIAL = {"*": {"seconds": 120}}
ARGUMENTS = {"methods": ["lstm"], "data": "embedded"}
KNOCK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as link:
        link.sendall(b"GET /api/v1/nni/check-status HTTP/1.0\\r\\n\\r\\n")
        print("answered" if b"RUNNING" in link.makefile("rb").read() else "silent")
except ConnectionRefusedError:
    print("refused")
"""


def test_options_that_were_there_stay_and_ours_come_once():
    once = node_options("--no-warnings")
    assert once.startswith("--no-warnings --dns-result-order=ipv4first --require ") and "loopback.js" in once
    assert node_options(once) == once


def environment_of_the_shell(**variables):
    """Return NODE_OPTIONS in a shell after the line that the README shows."""
    script = f'eval "$({sys.executable} -m idarts_nni env)" && printf %s "$NODE_OPTIONS"'
    return subprocess.run(
        ["sh", "-c", script], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    ).stdout


def test_shell_takes_over_the_line_of_idarts_env():
    assert environment_of_the_shell(NODE_OPTIONS="--no-warnings") == node_options("--no-warnings")


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}; needs root and network namespaces")


@pytest.fixture
def neighbour():
    """Another network namespace that reaches this one by a pair of virtual cards; yields a function that knocks."""
    if shutil.which("ip") is None:
        pytest.skip("there is no program ip (package iproute2)")
    name, card, number = f"idarts{os.getpid()}", f"ida{os.getpid()}", os.getpid() % 250
    here, there = f"10.231.{number}.1", f"10.231.{number}.2"
    try:
        ip("netns", "add", name)
        ip("link", "add", card, "type", "veth", "peer", "name", "card", "netns", name)
        ip("address", "add", f"{here}/30", "dev", card)
        ip("link", "set", card, "up")
        ip("-n", name, "address", "add", f"{there}/30", "dev", "card")
        ip("-n", name, "link", "set", "card", "up")

        def knock(port: int) -> str:
            command = ["ip", "netns", "exec", name, sys.executable, "-c", KNOCK, here, str(port)]
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

        yield knock
    finally:
        subprocess.run(["ip", "link", "delete", card], capture_output=True)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def listening(pid: int) -> set[str]:
    """Return the addresses on which a process or one that it started listens."""
    manager = psutil.Process(pid)
    links = [link for process in [manager, *manager.children(recursive=True)] for link in process.net_connections()]
    return {link.laddr.ip for link in links if link.status == psutil.CONN_LISTEN}


def trial_runs(port: int) -> bool:
    try:
        jobs = request("GET", f"http://127.0.0.1:{port}/api/v1/nni/trial-jobs")
    except OSError:
        return False
    return any(job["status"] == "RUNNING" for job in jobs)


@contextmanager
def idarts_run(home, port):
    """Run ``idarts run`` until a trial runs; stop it as Ctrl-C does."""
    file = write_experiment(home, ARGUMENTS)
    command = [sys.executable, "-m", "idarts_nni", "run", str(file), "--port", str(port)]
    with open(home / "said.txt", "w") as said:
        process = subprocess.Popen(
            command,
            env=user_environment(home, SLOW_TRIAL),
            stdout=said,
            stderr=said,
            cwd=home,
            stdin=subprocess.DEVNULL,
        )
    try:
        deadline = time.monotonic() + 180
        while not trial_runs(port):
            assert process.poll() is None and time.monotonic() < deadline, (home / "said.txt").read_text()
            time.sleep(0.5)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def manager_on(port: int) -> int:
    found = [link.pid for link in psutil.net_connections("tcp") if link.status == "LISTEN" and link.laddr.port == port]
    return found[0]


@pytest.mark.slow
def test_idarts_run_opens_nothing_to_the_network(tmp_path, neighbour):
    port = free_port()
    with idarts_run(tmp_path, port):
        assert neighbour(port) == "refused"
        assert listening(manager_on(port)) == {"127.0.0.1"}
        with socket.create_connection(("localhost", port), timeout=10):
            pass


@pytest.mark.slow
def test_the_line_to_go_on_after_idarts_run_opens_nothing_either(tmp_path, neighbour):
    port = free_port()
    with idarts_run(tmp_path, port):
        pass
    line = re.search(r"To go on: (.*)", (tmp_path / "said.txt").read_text())[1]
    patient = line.replace(" nnictl ", f" {sys.executable} -m idarts_nni.patient_nnictl ")
    assert patient != line
    shell = {"env": user_environment(tmp_path, SLOW_TRIAL), "cwd": tmp_path, "timeout": 180}
    stop = [str(Path(sys.executable).parent / "nnictl"), "stop", line.split()[-1]]
    for _ in range(4):
        try:
            subprocess.run(["sh", "-c", f"{patient} --port {port}"], check=True, **shell)
            if ends_up_running(port):
                assert neighbour(port) == "refused"
                assert listening(manager_on(port)) == {"127.0.0.1"}
                return
        finally:
            subprocess.run(stop, **shell)
    raise AssertionError("the experiment did not go on")


def ends_up_running(port: int) -> bool:
    """Wait until a trial runs; on a busy machine NNI may have given its tuner up before that."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if trial_runs(port):
            return True
        if request("GET", f"http://127.0.0.1:{port}/api/v1/nni/check-status")["status"] == "ERROR":
            return False
        time.sleep(0.5)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("is_kept", [False, True], ids=["bare", "with idarts env"])
def test_bare_nnictl_is_open_to_the_network_unless_idarts_env_is_used(tmp_path, neighbour, is_kept):
    environment = {"NODE_OPTIONS": environment_of_the_shell(NODE_OPTIONS="") if is_kept else ""}
    with live_experiment(tmp_path, ARGUMENTS, behaviour=SLOW_TRIAL, environment=environment) as experiment:
        experiment.wait_until(lambda: trial_runs(experiment.port), "trial that runs", 120)
        assert neighbour(experiment.port) == ("refused" if is_kept else "answered")
        addresses = listening(experiment.manager_pid())
        assert addresses == {"127.0.0.1"} if is_kept else addresses & {"::", "0.0.0.0"}
