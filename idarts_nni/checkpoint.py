"""What Lightning's own checkpoint leaves out: random states, the place in the data, and a write that cannot be cut."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from .files import write_atomically


@runtime_checkable
class Resumable(Protocol):
    """A data loader that can say where it is, and go on from there."""

    def state_dict(self) -> dict[str, Any]:
        """Return the place as plain data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place."""
        ...


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and renames it; reads tensors and plain data only, never code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; a crash leaves the old file or the new one, never a part of either."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(path, buffer.getvalue())

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
    """Read a file of tensors and plain data; see :meth:`AtomicCheckpointIO.load_checkpoint`."""
    try:
        loaded: dict[str, Any] = torch.load(Path(path), map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises a dozen types here, from the zip reader and from the unpickler
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a checkpoint that can be read ({reason}). Delete it to start anew.") from error
    return loaded


class ExactResume(Callback):
    """Keeps in the checkpoint what makes a resumed run equal an uninterrupted one, bit for bit on a CPU.

    Parameters
    ----------
    loaders
        Those of the training data; their places are saved if they are :class:`Resumable`.
    """

    def __init__(self, loaders: Iterable[object]) -> None:
        self._loaders = [loader for loader in loaders if isinstance(loader, Resumable)]
        self._pending: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return random states and places; called by Lightning when it writes a checkpoint."""
        return {"random": random_states(), "places": [loader.state_dict() for loader in self._loaders]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the loaders back at once; called by Lightning before training starts."""
        for loader, place in zip(self._loaders, state_dict["places"], strict=True):
            loader.load_state_dict(place)
        self._pending = state_dict["random"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the random states back at the last moment, after all else that draws numbers while setting up."""
        if self._pending is not None:
            restore_random_states(self._pending)
            self._pending = None


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
