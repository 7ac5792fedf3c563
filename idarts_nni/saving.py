"""When a run is saved: every few minutes, at the end of an epoch, and when it is asked to stop."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from .checkpoint import PREVIOUS, finished_epochs, load_plain
from .files import sync_folder

_logger = logging.getLogger(__name__)

LAST = "last.ckpt"
BEFORE_LAST = "before_last.ckpt"
EPOCH = "epoch.ckpt"
"""The last one that was saved at the end of an epoch; the same file as one of the others, where links are possible."""
BEST = "best.ckpt"
COST_FACTOR = 50.0
"""A checkpoint is not written before this many times its own cost has passed, so that saving takes 2 % at most."""
MINUTES = 5.0


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return where the checkpoints of a run lie, the newest first; not all need be there."""
    return [folder / name for name in (LAST, BEFORE_LAST, EPOCH)]


class StoppedBySignal(BaseException):
    """Training was asked to stop, and its state has been saved.

    Not a ``KeyboardInterrupt``, which Lightning turns into an exit code.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


class BestLost(OSError):
    """The weights of the best epoch cannot be read any more."""


class BestEpoch(ModelCheckpoint):
    """Keeps ``best.ckpt``, the weights of the best epoch, and finds it again where the whole folder was moved.

    Parameters
    ----------
    folder
        Where to write.
    mode
        ``minimize`` or ``maximize`` the validation metric.
    """

    def __init__(self, folder: Path, mode: str) -> None:
        super().__init__(
            dirpath=folder,
            filename=Path(BEST).stem,
            monitor="validation",
            mode={"minimize": "min", "maximize": "max"}[mode],
            # After the epoch's bookkeeping, so that a resumed run starts with the next epoch.
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best score; Lightning forgets it where the folder has another name than before."""
        folder = str(self.dirpath)

        def here(path: str) -> str:
            return os.path.join(folder, os.path.basename(path)) if path else path

        models = {here(path): score for path, score in state_dict["best_k_models"].items()}
        paths = {name: here(state_dict[name]) for name in state_dict if name.endswith("_model_path")}
        super().load_state_dict({**state_dict, **paths, "dirpath": folder, "best_k_models": models})

    def best_weights(self) -> dict[str, Any]:
        """Return the weights of the best epoch.

        Raises
        ------
        BestLost
            If their file is damaged or gone.
        """
        try:
            weights: dict[str, Any] = load_plain(self.best_model_path)["state_dict"]
        except (ValueError, FileNotFoundError) as error:
            raise BestLost(f"The weights of the best epoch are lost: {error}") from error
        return weights


class TimedCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` and keeps the one before it.

    Parameters
    ----------
    folder
        Where to write.
    minutes
        Longest time between two checkpoints, as far as their cost (:data:`COST_FACTOR`) and a validation pass allow.
    every_steps
        Save after every so many steps as well, whatever it costs.

    Raises
    ------
    ValueError
        If ``minutes`` or ``every_steps`` is not positive.
    """

    def __init__(self, folder: Path, minutes: float = MINUTES, every_steps: int | None = None) -> None:
        if not minutes > 0.0:
            raise ValueError(f"checkpoint minutes: found {minutes}; expected a number above 0.")
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"checkpoint steps: found {every_steps}; expected a whole number from 1.")
        self._folder = folder
        self._seconds = 60.0 * minutes
        self._every_steps = every_steps
        self._saved_at = time.monotonic()
        self._cost = 0.0
        self._signal: int | None = None
        self._training = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Know again that training had decided to end early."""
        trainer.should_stop = bool(checkpoint.get("should_stop"))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note whether training has decided to end early."""
        checkpoint["should_stop"] = trainer.should_stop

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._training, self._saved_at = True, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, or if the process is to stop."""
        # After its last batch an epoch wants its validation, which Lightning leaves out when it goes on from there.
        if trainer.is_last_batch:
            return
        stop = self._is_asked_to_stop(trainer)
        by_count = self._every_steps is not None and (batch_idx + 1) % self._every_steps == 0
        if stop or by_count or self._is_due(trainer, self._seconds):
            self._save(trainer)
        if stop:
            raise StoppedBySignal(self._signal or signal.SIGTERM)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless the epoch was so short that it would cost too much; always after the last one."""
        stop = self._is_asked_to_stop(trainer)
        ends = trainer.should_stop or finished_epochs(trainer) >= (trainer.max_epochs or 0)
        if stop or ends or self._every_steps is not None or self._is_due(trainer, 0.0):
            self._save(trainer)
            if trainer.is_global_zero:
                _keep_as(self._folder / LAST, self._folder / EPOCH)
        if stop:
            raise StoppedBySignal(self._signal or signal.SIGTERM)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals alone again."""
        self._training = False

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end training after the step at hand, saved; a second one ends it at once.

        Raises
        ------
        KeyboardInterrupt
            With the number of the signal, whenever one has ended the block.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # Python takes signals in its main thread only
            return
        before = {number: signal.signal(number, self._note_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except StoppedBySignal as stopped:
            raise KeyboardInterrupt(stopped.number) from None
        except SystemExit:  # what Lightning makes of a KeyboardInterrupt
            raise KeyboardInterrupt(self._signal or signal.SIGINT) from None
        finally:
            self._training = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        is_second = self._signal is not None
        self._signal = number
        if is_second or not self._training:
            raise KeyboardInterrupt(number)
        _logger.warning("Asked to stop: the step at hand is finished and saved first. A second signal stops at once.")

    def _is_asked_to_stop(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)

    def _is_due(self, trainer: Trainer, seconds: float) -> bool:
        due = time.monotonic() - self._saved_at >= max(seconds, COST_FACTOR * self._cost)
        # All processes of a run save together, or none does.
        return trainer.strategy.reduce_boolean_decision(due, all=False)

    def _save(self, trainer: Trainer) -> None:
        begun = time.monotonic()
        trainer.save_checkpoint(
            self._folder / LAST, weights_only=False, storage_options={PREVIOUS: self._folder / BEFORE_LAST}
        )
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - begun
        _logger.debug("Saved %s in %.3f s", self._folder / LAST, self._cost)


def _keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, or copy it where that is impossible."""
    temporary = other.with_name(f".{other.name}.{os.getpid()}.tmp")
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, other)
        sync_folder(other.parent)
    finally:
        temporary.unlink(missing_ok=True)
