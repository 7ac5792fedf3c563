"""Machines that NNI's remote training service reaches by SSH: a way back to the manager, and what trials left there.

NNI starts a keeper on each machine, and the keeper opens a connection to the manager. The manager has no password, so
its port stays on this machine's loopback interface, and an SSH tunnel (``ssh -R``) makes it reachable on that of each
machine. This module uses the ``ssh`` of the system, which, unlike NNI, checks host keys.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import ipaddress
import json
import os
import select
import shlex
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

OPTIONS_VARIABLE = "IDARTS_SSH_OPTIONS"
"""More options of ``ssh``, such as ``-o UserKnownHostsFile=FILE``."""
OLDEST_TORCH = (2, 10)
_CONNECT_SECONDS = 20.0
_READY = b"tunnel is open"
_VERSIONS = """\
import importlib.metadata as m, json, sys
found = {"python": sys.executable}
for name in ("nni", "torch", "pytorch-lightning"):
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


class RemoteError(RuntimeError):
    """A machine that cannot be reached, or on which trials could not run."""


@dataclass(frozen=True)
class Machine:
    """One entry of ``machineList``."""

    host: str
    user: str
    port: int = 22
    key_file: str | None = None
    python_path: str | None = None
    """Folder that leads PATH there."""
    has_password: bool = False

    @property
    def is_this_one(self) -> bool:
        """Whether it is reached over the loopback interface, so that the manager's port is there without a tunnel."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def ssh(self, command: str, *options: str) -> list[str]:
        """Return the call of ``ssh`` that runs a shell command there, without ever asking for a password."""
        more = shlex.split(os.environ.get(OPTIONS_VARIABLE, ""))
        key = ["-i", self.key_file] if self.key_file else []
        quiet = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS:.0f}"]
        return ["ssh", *quiet, *more, *options, "-p", str(self.port), *key, "-l", self.user, "--", self.host, command]

    def with_path(self, command: str) -> str:
        """Return a shell command with the PATH that trials have there."""
        return f'PATH={shlex.quote(self.python_path)}:"$PATH" {command}' if self.python_path else command

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


def read_machines(service: Mapping[str, Any]) -> tuple[Machine, ...]:
    """Return the machines of a training service (as NNI keeps it in its database); none if it is not ``remote``."""
    if service.get("platform") != "remote":
        return ()
    return tuple(
        Machine(
            host=str(entry["host"]),
            user=str(entry["user"]),
            port=int(entry.get("port") or 22),
            key_file=str(entry["sshKeyFile"]) if entry.get("sshKeyFile") else None,
            python_path=entry.get("pythonPath"),
            has_password=entry.get("password") is not None,
        )
        for entry in service.get("machineList") or []
    )


def check_machine(machine: Machine, python: str = "python") -> None:
    """Check that trials could run on a machine: it can be reached, and its Python has what they import.

    NNI would otherwise install its newest version into whatever Python it finds there.

    Parameters
    ----------
    machine
        Where to look.
    python
        The interpreter that the trial command names.

    Raises
    ------
    RemoteError
        If ``ssh`` fails, or a package is missing or of a version that does not fit.
    """
    if machine.has_password:
        raise RemoteError(f"{machine}: password is set. Use sshKeyFile: NNI's web page would show the password.")
    command = machine.ssh(machine.with_path(f"{shlex.quote(python)} -c {shlex.quote(_VERSIONS)}"))
    done = _run(command, machine)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    if done.returncode == 255:
        raise RemoteError(
            f"{machine}: ssh cannot log in: {lines[-1]}. Try by hand: {shlex.join(machine.ssh('true'))} "
            f"(a first connection asks to confirm the host's key; leave BatchMode out for it)."
        )
    if done.returncode != 0:
        raise RemoteError(
            f"{machine}: {python!r} does not run there: {lines[-1]}. Set pythonPath of the machine to the folder of an "
            f"environment in which this project is installed."
        )
    _check_versions(machine, json.loads(done.stdout.strip().splitlines()[-1]))


def _check_versions(machine: Machine, found: Mapping[str, str | None]) -> None:
    missing = [name for name, version in found.items() if version is None]
    if missing:
        raise RemoteError(
            f"{machine}: {found['python']} lacks {', '.join(missing)}. Install this project there (make setup), and "
            f"set pythonPath of the machine to the folder of that python."
        )
    here = importlib.metadata.version("nni")
    if found["nni"] != here:
        raise RemoteError(f"{machine}: {found['python']} has NNI {found['nni']}; the manager's is {here}.")
    torch = str(found["torch"])
    if tuple(int(part) for part in torch.split(".")[:2]) < OLDEST_TORCH:
        raise RemoteError(f"{machine}: {found['python']} has torch {torch}; trials need {OLDEST_TORCH[0]}.10 or newer.")


class Tunnel:
    """Makes a port of this machine's loopback interface reachable on that of another; opened again when it breaks.

    Parameters
    ----------
    machine
        Where the port shall be reachable.
    port
        Its number, the same on both sides.
    """

    def __init__(self, machine: Machine, port: int) -> None:
        self.machine = machine
        self.port = port
        self._closed = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Open it, and watch over it from then on.

        Raises
        ------
        RemoteError
            If ``ssh`` cannot log in, or the port is taken there.
        """
        self._process = self._connect()
        threading.Thread(target=self._watch, name=f"tunnel to {self.machine}", daemon=True).start()

    def close(self) -> None:
        """Close it for good."""
        self._closed.set()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _connect(self) -> subprocess.Popen[bytes]:
        # cat ends when this process does, whatever way, and the tunnel with it.
        command = self.machine.ssh(
            f"echo {_READY.decode()}; exec cat >/dev/null",
            *("-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15"),
            *("-R", f"localhost:{self.port}:127.0.0.1:{self.port}"),
        )
        try:
            # A session of its own: Ctrl-C must not cut the trials off before the experiment is stopped.
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise RemoteError("There is no ssh on this machine; install OpenSSH's client.") from None
        assert process.stdout is not None and process.stderr is not None
        ready, _, _ = select.select([process.stdout], [], [], _CONNECT_SECONDS)
        if ready and process.stdout.readline().strip() == _READY:
            return process
        process.terminate()
        said = process.communicate()[1].decode(errors="replace").strip().splitlines() or ["no answer"]
        raise RemoteError(
            f"{self.machine}: no tunnel to port {self.port}: {said[-1]}. If the port is taken there, choose another "
            f"with --port; the server has to allow forwarding (AllowTcpForwarding)."
        )

    def _watch(self) -> None:
        assert self._process is not None
        while not self._closed.is_set():
            self._process.wait()
            # The keeper there tries for 15 seconds to find its manager again.
            while not self._closed.wait(0.5):
                with contextlib.suppress(RemoteError):
                    self._process = self._connect()
                    break
        self._process.terminate()


@contextlib.contextmanager
def tunnels(machines: Sequence[Machine], port: int) -> Iterator[None]:
    """Keep the manager's port reachable on each of the machines."""
    opened = [Tunnel(machine, port) for machine in dict.fromkeys(machines) if not machine.is_this_one]
    try:
        for tunnel in opened:
            tunnel.open()
        yield
    finally:
        for tunnel in opened:
            tunnel.close()


def fetch(machine: Machine, experiment_id: str, folder: Path, *, everything: bool = False) -> list[Path]:
    """Copy what the trials of an experiment left on a machine into the experiment's folder here, by SSH.

    Parameters
    ----------
    machine
        Where they ran.
    experiment_id
        NNI's name of the experiment.
    folder
        Its folder here; the files keep their places within it.
    everything
        Also the checkpoints that only a resumed trial needs; else the best weights of retrained models alone.

    Returns
    -------
    The files that were written.

    Raises
    ------
    RemoteError
        If ``ssh`` fails or what arrives is not what was asked for.
    """
    place = f'"${{HOME}}"/nni-experiments/{shlex.quote(experiment_id)}'
    weights = "tasks" if everything else "tasks/retrain-*/best.ckpt tasks/retrain-*/job.json"
    wanted = f"environments/*/trials trials {weights}"
    # Patterns without a match stay as they are, and ls leaves them out.
    script = f"cd {place} && ls -d {wanted} 2>/dev/null | tar -cf - -T -"
    process = subprocess.Popen(machine.ssh(f"sh -c {shlex.quote(script)}"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    problem: object = None
    written: list[Path] = []
    try:
        written = _unpack(process.stdout, folder)
    except (tarfile.TarError, OSError) as error:
        problem = error
    finally:
        process.stdout.close()
        code = process.wait()
    if code != 0 or problem:
        raise RemoteError(
            f"{machine}: the files of experiment {experiment_id} could not be copied: {problem or 'ssh'} (exit code "
            f"{code})."
        )
    return written


def _unpack(stream: IO[bytes], folder: Path) -> list[Path]:
    written: list[Path] = []
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            # The other machine is not trusted with anything outside of this folder, nor with links.
            if member.isfile() and not os.path.basename(member.name).endswith(".lock"):
                archive.extract(member, folder, filter="data")
                written.append(folder / member.name)
    return written


def _run(command: Sequence[str], machine: Machine) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise RemoteError("There is no ssh on this machine; install OpenSSH's client.") from None
    except subprocess.TimeoutExpired:
        raise RemoteError(f"{machine}: no answer within two minutes.") from None
