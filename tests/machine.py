"""Another machine for tests: an SSH server with its own keys, its own HOME, and, where that is allowed, own network.

In a network of its own (a Linux network namespace, which root may make) nothing of this machine's loopback interface
can be reached, so that only what truly travels over SSH arrives.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.live import free_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_OURS, _THEIRS = "10.213.57.1", "10.213.57.2"


class OtherMachine:
    """A running SSH server.

    Parameters
    ----------
    folder
        Where its keys and its HOME lie.
    address
        Where it listens.
    port
        Its port.
    """

    def __init__(self, folder: Path, address: str, port: int) -> None:
        self.folder = folder
        self.address = address
        self.port = port
        self.home = folder / "home"

    @property
    def ssh_options(self) -> str:
        """What IDARTS_SSH_OPTIONS has to be: the machine's host key is known, and nothing of the user's is read."""
        return f"-F none -o UserKnownHostsFile={self.folder / 'known_hosts'}"

    def entry(self, **changes: Any) -> dict[str, Any]:
        """Return the entry of machineList."""
        return {
            "host": self.address,
            "port": self.port,
            "user": os.environ.get("USER") or "root",
            "sshKeyFile": str(self.folder / "user_key"),
            "pythonPath": str(Path(sys.executable).parent),
            **changes,
        }


@contextmanager
def other_machine(folder: Path, *, own_network: bool = False) -> Iterator[OtherMachine]:
    """Start an SSH server; on the loopback interface, or in a network of its own that a cable leads to."""
    assert SSHD is not None
    folder.mkdir(parents=True)
    (folder / "home").mkdir()
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    machine = OtherMachine(folder, _THEIRS if own_network else "127.0.0.1", free_port())
    host_key = (folder / "host_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[{machine.address}]:{machine.port} {host_key[0]} {host_key[1]}\n")
    (folder / "sshd_config").write_text(
        f"""\
Port {machine.port}
ListenAddress {machine.address}
HostKey {folder / "host_key"}
PidFile none
AuthorizedKeysFile {folder / "user_key.pub"}
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
SetEnv HOME={machine.home} PIP_NO_INDEX=1 OMP_NUM_THREADS=1
"""
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # which sshd wants to be there
    serve = [SSHD, "-f", str(folder / "sshd_config"), "-D", "-E", str(folder / "sshd.log")]
    if not own_network:
        process = subprocess.Popen(serve, start_new_session=True)
    else:
        up = f"ip link set lo up; until ip addr add {_THEIRS}/24 dev idarts1 2>/dev/null; do sleep 0.1; done"
        script = f"{up}; ip link set idarts1 up; exec {' '.join(serve)}"
        process = subprocess.Popen(["unshare", "--net", "sh", "-c", script], start_new_session=True)
    try:
        if own_network:
            time.sleep(0.5)  # until unshare has made the network
            _ip("link", "add", "idarts0", "type", "veth", "peer", "name", "idarts1", "netns", str(process.pid))
            _ip("addr", "add", f"{_OURS}/24", "dev", "idarts0")
            _ip("link", "set", "idarts0", "up")
        _wait_for(machine)
        yield machine
    finally:
        process.terminate()
        process.wait()
        if own_network:
            subprocess.run(["ip", "link", "delete", "idarts0"], capture_output=True)


def can_have_own_network() -> bool:
    """Tell whether a network namespace can be made and connected here."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    made = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True)
    linked = subprocess.run(["ip", "link", "add", "idarts2", "type", "veth"], capture_output=True)
    subprocess.run(["ip", "link", "delete", "idarts2"], capture_output=True)
    return made.returncode == 0 and linked.returncode == 0


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _wait_for(machine: OtherMachine) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection((machine.address, machine.port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    log = machine.folder / "sshd.log"
    raise AssertionError(f"sshd does not listen: {log.read_text() if log.is_file() else 'no log'}")
