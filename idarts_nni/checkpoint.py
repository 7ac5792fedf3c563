"""What Lightning's own checkpoint leaves out: random states, the place in the data, and a file that proves itself.

A checkpoint is a file of torch (a zip archive) whose comment is the SHA-256 of all before it, so that
``torch.load(path, weights_only=True)`` reads it as any other.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import random
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from .files import write_atomically

_logger = logging.getLogger(__name__)

PREVIOUS = "previous"
"""Storage option of :class:`AtomicCheckpointIO`: where the file goes that a new one replaces."""
PLACE = "place"
"""Key of a checkpoint: how many epochs were finished, and how many batches of the next one."""
_CHECKSUM = b"sha256:"
_CHECKSUM_BYTES = len(_CHECKSUM) + 64


@runtime_checkable
class Resumable(Protocol):
    """A data loader that can say how many passes it began, and whose next pass depends on that number alone."""

    def state_dict(self) -> dict[str, Any]:
        """Return the place as plain data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place."""
        ...


@runtime_checkable
class RunningState(Protocol):
    """A recipe that carries something from one step to the next, such as hidden states or the sums of an epoch."""

    def running_state(self) -> dict[str, Any]:
        """Return tensors and plain data."""
        ...

    def load_running_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Take up what was returned before, on a device."""
        ...


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and renames it; reads tensors and plain data only, never code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; a crash leaves the old file or the new one, never a part of either.

        With the storage option ``previous`` (a path) the old file is kept there.

        Raises
        ------
        OSError
            If the disk is full or cannot be written; the old files are as they were.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        _add_checksum(buffer)
        write_atomically(path, buffer.getbuffer(), previous=(storage_options or {}).get(PREVIOUS))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises
        ------
        ValueError
            If the file is cut short, damaged, or holds anything but tensors and plain data.
        """
        return load_plain(path, map_location)


def load_plain(path: Any, map_location: Any | None = "cpu") -> dict[str, Any]:
    """Read a checkpoint that :class:`AtomicCheckpointIO` wrote; errors as in its ``load_checkpoint``."""
    content = memoryview(Path(path).read_bytes())
    body, found = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if found != _checksum(body):
        kind = (
            "its checksum differs"
            if bytes(found).startswith(_CHECKSUM)
            else "it was cut short, or is another kind of file"
        )
        raise ValueError(f"{path}: not a checkpoint that can be read ({kind}). Delete it to start anew.")
    try:
        _check_unfolds_to_its_size(content)
        loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises a dozen types here, from the zip reader and from the unpickler
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a checkpoint that can be read ({reason}). Delete it to start anew.") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: not a checkpoint that can be read (it holds {type(loaded).__name__}).")
    return loaded


def _check_unfolds_to_its_size(content: memoryview) -> None:
    """Refuse an archive that holds more than its own size: torch compresses nothing, so somebody made it to burst."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        held = sum(entry.file_size for entry in archive.infolist())
    if held > len(content):
        raise ValueError(f"{len(content):,} bytes that unfold to {held:,}")


def first_intact(paths: Iterable[Path], before_epoch: int | None = None) -> Path | None:
    """Return the first of some checkpoints that is there and undamaged; None where there is none.

    A damaged one is renamed to ``NAME.damaged``: the next save would put it in the place of the one before it, and a
    crash at that moment would leave nothing else.

    Parameters
    ----------
    paths
        Where to look, the best choice first.
    before_epoch
        Take only one that holds no step of this epoch (counted from 0) or of a later one.
    """
    for path in paths:
        if not path.is_file():
            continue
        try:
            place = load_plain(path).get(PLACE)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise  # such as a folder that cannot be reached now: the file may be whole
            _logger.error("A damaged checkpoint is passed over; the one before it serves. %s", error)
            os.replace(path, f"{path}.damaged")
            continue
        if before_epoch is None:
            return path
        if place is not None and (place["epochs"], place["batches"]) <= (before_epoch, 0):
            return path
    return None


class ExactResume(Callback):
    """Keeps in the checkpoint what makes a resumed run equal an uninterrupted one, bit for bit on a CPU.

    A checkpoint may be written after any batch but the last of an epoch (whose validation Lightning would skip), and
    at the end of an epoch.

    Parameters
    ----------
    loaders
        Those of the training data; their places are saved if they are :class:`Resumable`.
    recipe
        The module that computes the losses; what it carries is saved if it is a :class:`RunningState`.
    """

    def __init__(self, loaders: Iterable[object], recipe: object = None) -> None:
        self._loaders = [loader for loader in loaders if isinstance(loader, Resumable)]
        self._recipe = recipe if isinstance(recipe, RunningState) else None
        self._places = self._where()
        self._batches = 0
        self._pending: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return random states, the place and what the recipe carries; Lightning calls it when it saves."""
        running = self._recipe.running_state() if self._recipe is not None else {}
        return {"random": random_states(), "places": self._places, "batches": self._batches, "running": running}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the loaders back to the beginning of the pass; called by Lightning before training starts."""
        self._places = [dict(place) for place in state_dict["places"]]
        self._batches = int(state_dict["batches"])
        self._rewind()
        self._pending = state_dict

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the place where anybody can read it."""
        checkpoint[PLACE] = {"epochs": finished_epochs(trainer), "batches": self._batches}
        # Lightning's own note of the loaders is of the batch that was fetched, one ahead of the batch that was trained.
        checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go to the batch that comes next, by way of all that come before it in this pass."""
        if self._pending is None:
            return
        if self._recipe is not None:
            self._recipe.load_running_state(self._pending["running"], pl_module.device)
        fetcher = trainer.fit_loop._data_fetcher
        if self._batches and fetcher is not None:
            self._rewind()
            iter(fetcher)
            for _ in range(self._batches):
                next(fetcher)
            fetcher.fetched = 0  # Lightning adds the batches of before itself

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the random states back at the last moment, after all else that draws numbers while setting up."""
        self._restore()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the random states back in the middle of an epoch, which has no start to do it at."""
        self._restore()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count."""
        self._batches = batch_idx + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turn to the next pass."""
        self._places, self._batches = self._where(), 0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Undo what Lightning fetched for a run that had ended before: whoever reads on meets the next pass."""
        if self._pending is not None:
            self._rewind()

    def _restore(self) -> None:
        if self._pending is not None:
            restore_random_states(self._pending["random"])
            self._pending = None

    def _where(self) -> list[dict[str, Any]]:
        return [loader.state_dict() for loader in self._loaders]

    def _rewind(self) -> None:
        for loader, place in zip(self._loaders, self._places, strict=True):
            loader.load_state_dict(place)


def finished_epochs(trainer: Trainer) -> int:
    """Return how many epochs are done, the one that is just ending included; ``current_epoch`` leaves it out."""
    return int(trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]  # of a subclass


def random_states() -> dict[str, Any]:
    """Return the states of all random number generators in use, as plain data and tensors."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.from_numpy(numpy.asarray(keys).astype(numpy.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put back what :func:`random_states` returned."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    numpy.random.set_state((kind, keys.numpy().astype(numpy.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


def _add_checksum(archive: io.BytesIO) -> None:
    """Put the checksum into the comment of a zip archive, which its last two bytes give the length of."""
    archive.seek(-2, os.SEEK_END)
    archive.write(_CHECKSUM_BYTES.to_bytes(2, "little"))
    archive.write(_checksum(archive.getbuffer()))


def _checksum(content: bytes | memoryview) -> bytes:
    return _CHECKSUM + hashlib.sha256(content).hexdigest().encode()
