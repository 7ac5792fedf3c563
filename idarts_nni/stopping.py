"""When a search has seen enough: two rules, on demand, each of which says why it stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

EIGENVALUE_WINDOW = 5
"""Epochs over which eigenvalues are averaged, and between the two averages that are compared (Zela et al. 2020)."""


@dataclass(frozen=True)
class Epoch:
    """What the rules look at, of one epoch."""

    changed: float
    """Edges that changed since the epoch before."""
    eigenvalue: float | None = None
    """Largest Hessian eigenvalue, where it was measured."""


@dataclass(frozen=True)
class Stop:
    """That a search is to stop."""

    reason: str
    epoch: int
    """The epoch, from 1, whose cell is the result."""


@dataclass(frozen=True)
class StoppingRules:
    """The rules that a search asked for.

    Raises
    ------
    ValueError
        If a value is impossible.
    """

    unchanged: int = 0
    """Stop when the cell has been the same for so many epochs in a row; 0 for never."""
    eigenvalue_ratio: float = 0.0
    """Stop when the average eigenvalue of five epochs ago is less than this part of the present one, and go back to
    that epoch's cell (0.75 in Zela et al. 2020); 0 for never."""
    warmup_epochs: int = 0
    """Epochs at the start in which the cell cannot change, and which do not count."""

    def __post_init__(self) -> None:
        if self.unchanged < 0:
            raise ValueError(f"stop_unchanged: found {self.unchanged}; expected a number of epochs, or 0 for never.")
        if not 0.0 <= self.eigenvalue_ratio <= 1.0:
            raise ValueError(f"stop_eigenvalue: found {self.eigenvalue_ratio}; expected a ratio such as 0.75, or 0.")

    def decide(self, epochs: Sequence[Epoch]) -> Stop | None:
        """Return whether to stop after these epochs, and why; None to go on."""
        counted = epochs[self.warmup_epochs :]
        if self.unchanged and len(counted) >= self.unchanged:
            if not any(epoch.changed for epoch in counted[-self.unchanged :]):
                reason = f"the cell has not changed for {self.unchanged} epochs (stop_unchanged: {self.unchanged})"
                return Stop(reason, len(epochs))
        if self.eigenvalue_ratio:
            return self._sharpened(epochs)
        return None

    def _sharpened(self, epochs: Sequence[Epoch]) -> Stop | None:
        if len(epochs) - self.warmup_epochs < 2 * EIGENVALUE_WINDOW or not _is_measured(epochs[-1]):
            return None
        now = _average(epochs[-EIGENVALUE_WINDOW:])
        before = _average(epochs[-2 * EIGENVALUE_WINDOW : -EIGENVALUE_WINDOW])
        if now is None or before is None or before <= 0.0 or not before < self.eigenvalue_ratio * now:
            return None
        reason = (
            f"the largest Hessian eigenvalue rose from {before:.4g} to {now:.4g} within {EIGENVALUE_WINDOW} epochs "
            f"(stop_eigenvalue: {self.eigenvalue_ratio:g})"
        )
        return Stop(reason, len(epochs) - EIGENVALUE_WINDOW)


def _is_measured(epoch: Epoch) -> bool:
    return epoch.eigenvalue is not None and math.isfinite(epoch.eigenvalue)


def _average(epochs: Sequence[Epoch]) -> float | None:
    values = [epoch.eigenvalue for epoch in epochs if epoch.eigenvalue is not None and math.isfinite(epoch.eigenvalue)]
    return math.fsum(values) / len(values) if values else None
