"""GPUs for one trial, taken under file locks that all experiments of a user on this machine share.

NNI 3.0's own GPU scheduler can loop without end, so trials take a GPU by themselves. The lock belongs to the process:
the operating system frees it even when the process is killed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

_logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
LOCKS_VARIABLE = "IDARTS_LOCKS"
REQUESTS = ("auto", "cpu", "cuda")
_POLL_SECONDS = 0.5
_LOG_SECONDS = 60.0


class NoDeviceError(RuntimeError):
    """A GPU was insisted on, and there is none."""


@dataclass(frozen=True)
class DeviceLease:
    """A device that this process may use while the lease lasts."""

    device: str
    """``cpu`` or ``cuda``, as torch spells it; the leased GPU is the only one that torch will see."""
    name: str = ""
    """The GPU as CUDA_VISIBLE_DEVICES names it."""
    slot: int = 0
    others: tuple[str, ...] = ()
    """GPUs of the other processes of a trial that uses several."""


@contextmanager
def device_lease(
    requested: str = "auto", slots_per_gpu: int = 1, devices: Sequence[str] | None = None, count: int = 1
) -> Iterator[DeviceLease]:
    """Take a GPU slot, or the CPU, and set CUDA_VISIBLE_DEVICES; enter it before torch is imported.

    Waits while all slots are taken. GPUs that an existing CUDA_VISIBLE_DEVICES hides are left alone. Several GPUs are
    taken all at once or not at all, so that no two trials wait for what the other holds; trials that need fewer may go
    first.

    Parameters
    ----------
    requested
        ``auto`` takes a GPU where there is one, ``cuda`` insists on one, ``cpu`` hides them all.
    slots_per_gpu
        Trials that may share one GPU. All experiments on a machine should use the same number.
    devices
        GPUs to choose from, as CUDA_VISIBLE_DEVICES names them; by default those that this process may see.
    count
        Different GPUs to take, where GPUs are taken. This process sees the first.

    Raises
    ------
    ValueError
        If ``requested``, ``slots_per_gpu`` or ``count`` is impossible.
    NoDeviceError
        If ``cuda`` is requested and there is no GPU, or there are GPUs and fewer than ``count``.
    RuntimeError
        If torch has started CUDA already.
    """
    if requested not in REQUESTS:
        raise ValueError(f"device: found {requested!r}; allowed: {', '.join(REQUESTS)}.")
    if type(slots_per_gpu) is not int or slots_per_gpu < 1:
        raise ValueError(f"slots_per_gpu: found {slots_per_gpu!r}; expected a whole number from 1.")
    if type(count) is not int or count < 1:
        raise ValueError(f"devices: found {count!r}; expected a whole number from 1.")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("torch has started CUDA already; take the device lease before.")
    gpus = [] if requested == "cpu" else list(visible_devices() if devices is None else devices)
    if requested == "cuda" and not gpus:
        found = os.environ.get(VISIBLE)
        hint = f"{VISIBLE} is {found!r}" if found is not None else "NVML finds none"
        raise NoDeviceError(f"device: cuda was requested and there is no GPU ({hint}). Use auto or cpu.")
    if gpus and len(set(gpus)) < count:
        raise NoDeviceError(
            f"devices: {count} GPUs were requested and {len(set(gpus))} can be used ({', '.join(gpus)}). Ask for "
            f"fewer, or use --device cpu."
        )
    before = os.environ.get(VISIBLE)
    lease, locks = _take_slots(gpus, slots_per_gpu, count) if gpus else (DeviceLease("cpu"), [])
    os.environ[VISIBLE] = lease.name
    _logger.info("Device: %s %s", lease.device, " ".join([lease.name, *lease.others]))
    try:
        yield lease
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before
        for lock in locks:
            lock.release()


def visible_devices() -> list[str]:
    """List the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return _installed_devices()
    names = [name.strip() for name in chosen.split(",")]
    # CUDA ignores everything from the first name on that is no device; -1 is the usual one.
    valid = next((index for index, name in enumerate(names) if not name or name.startswith("-")), len(names))
    return names[:valid]


def _installed_devices() -> list[str]:
    try:
        import pynvml  # type: ignore[import-untyped]  # ships no type information

        pynvml.nvmlInit()
    except Exception as error:  # no driver, no library, or no access to it: all mean that no GPU can be used
        _logger.debug("No GPU: %s", error)
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        # By UUID, because the order of NVML and the order of CUDA can differ.
        names = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        return [name.decode() if isinstance(name, bytes) else name for name in names]
    finally:
        pynvml.nvmlShutdown()


def _take_slots(gpus: Sequence[str], slots_per_gpu: int, count: int) -> tuple[DeviceLease, list[FileLock]]:
    folder = _locks_folder()
    # CUDA_VISIBLE_DEVICES may say 0 in one experiment and nothing in another: both must find the same lock.
    installed = _installed_devices() if any(gpu.isdigit() for gpu in gpus) else []
    identities = {gpu: installed[int(gpu)] if gpu.isdigit() and int(gpu) < len(installed) else gpu for gpu in gpus}
    names = {gpu: re.sub(r"[^A-Za-z0-9-]", "_", identity) for gpu, identity in identities.items()}
    # Every GPU gets one trial before any gets two.
    slots = [(gpu, slot, folder / f"{names[gpu]}.{slot}.lock") for slot in range(slots_per_gpu) for gpu in gpus]
    last_log = -_LOG_SECONDS
    while True:
        # One at a time where several are taken: two that gather at once could take turns at getting a part for ever.
        with FileLock(folder / "several.lock") if count > 1 else nullcontext():
            taken = _take_free(slots, count)
        if taken:
            (name, slot), *others = taken
            return DeviceLease("cuda", name, slot, tuple(gpu for gpu, _ in others)), list(taken.values())
        if time.monotonic() - last_log >= _LOG_SECONDS:
            last_log = time.monotonic()
            what = "a GPU" if count == 1 else f"{count} GPUs at once"
            _logger.warning("Process %d waits for %s; taken: %s", os.getpid(), what, "; ".join(_holders(folder)))
        time.sleep(_POLL_SECONDS)


def _take_free(slots: Sequence[tuple[str, int, Path]], count: int) -> dict[tuple[str, int], FileLock]:
    """Lock free slots of so many different GPUs, or none; (GPU, slot) -> lock."""
    taken: dict[tuple[str, int], FileLock] = {}
    locked: set[str] = set()
    for gpu, slot, path in slots:
        # Two names of one GPU, its number and its UUID, have one lock.
        if path.name.rpartition(f".{slot}.")[0] in locked:
            continue
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        taken[gpu, slot] = lock
        locked.add(path.name.rpartition(f".{slot}.")[0])
        if len(taken) == count:
            for lock in taken.values():
                _note_holder(Path(lock.lock_file))
            return taken
    for lock in taken.values():
        lock.release()
    return {}


def _locks_folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else 0
    chosen = os.environ.get(LOCKS_VARIABLE)
    shared = Path(tempfile.gettempdir()) / f"idarts_nni-{user}"
    # Of the folder that everybody can write to, another user may have made either.
    folders = [Path(chosen)] if chosen else [shared, shared / "gpu"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid") and folder.stat().st_uid != user:
            raise RuntimeError(f"{folder} belongs to another user; name your own folder in {LOCKS_VARIABLE}.")
    return folders[-1]


def _note_holder(lock: Path) -> None:
    # Beside the lock, because taking a lock empties its file.
    trial = os.environ.get("NNI_TRIAL_JOB_ID", "")
    note = {"pid": os.getpid(), "experiment": os.environ.get("NNI_EXP_ID", ""), "trial": trial}
    lock.with_suffix(".holder").write_text(json.dumps(note), encoding="utf-8")


def _holders(folder: Path) -> list[str]:
    return [f"{path.stem} by {path.read_text(encoding='utf-8')}" for path in sorted(folder.glob("*.holder"))]


def lease_holders() -> dict[str, str]:
    """Return which trial holds which GPUs on this machine: trial id -> names of the GPUs' slots."""
    found: dict[str, str] = {}
    for path in sorted(_locks_folder().glob("*.holder")):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # written at this moment
        if isinstance(note, dict) and note.get("trial"):
            trial = str(note["trial"])
            found[trial] = f"{found[trial]}, {path.stem}" if trial in found else path.stem
    return found
