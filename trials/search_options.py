"""What a search can be asked for, whatever its task: settings that the text tasks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from idarts_nni.sampling import EdgeWeights
from idarts_nni.selection import SELECTIONS
from idarts_nni.stopping import StoppingRules


@dataclass(frozen=True)
class SearchOptions:
    """Settings of a search on a recurrent cell; a retraining takes no notice of them.

    Raises
    ------
    ValueError
        If a value is impossible; the message names it and what is allowed.
    """

    arc_learning_rate: float = 3e-3
    arc_weight_decay: float = 1e-3
    warmup_epochs: int = 0
    """Epochs at the start in which only the weights are trained."""
    second_order: bool = False
    """Architecture gradient through a virtual weight step, as in DARTS; first order is the recipe for text."""
    sampling: str = "softmax"
    """``softmax``, ``gumbel`` (SNAS) or ``gumbel-hard`` (GDAS); see :class:`idarts_nni.sampling.EdgeWeights`."""
    temperature_start: float = 10.0
    """Of the Gumbel samples, in the first epoch; it falls linearly."""
    temperature_end: float = 0.1
    smoothing: float = 0.0
    """Largest uniform noise on the edges' weights in the weight step (SmoothDARTS); 0 for none."""
    selection: str = "probability"
    """How the last network becomes a cell: by ``probability`` (top n), or by ``perturbation`` (Wang et al. 2021)."""
    selection_batches: int = 10
    """Validation batches that each edge's removal is judged by; 0 for all."""
    hessian_every: int = 0
    """Measure the largest Hessian eigenvalue every so many epochs; 0 for never."""
    stop_unchanged: int = 0
    """Stop when the cell has been the same for so many epochs; 0 for never."""
    stop_eigenvalue: float = 0.0
    """Stop when the eigenvalue of five epochs ago is below this part of the present one (0.75); 0 for never."""
    gap_epochs: int = 0
    """At the end, measure what deriving the cell costs, with so many epochs of short training; 0 for not at all."""

    def __post_init__(self) -> None:
        for name in ("warmup_epochs", "selection_batches", "hessian_every", "gap_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: found {getattr(self, name)}; expected 0 or more.")
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection: found {self.selection!r}; allowed: {', '.join(SELECTIONS)}.")
        if self.stop_eigenvalue and not self.hessian_every:
            raise ValueError("stop_eigenvalue needs the eigenvalue: set hessian_every, such as hessian_every: 1.")
        if self.stop_eigenvalue and self.selection == "perturbation":
            raise ValueError(
                "stop_eigenvalue goes back to an earlier epoch's cell, and selection: perturbation needs the network "
                "of that epoch, which is gone. Use selection: probability, or no stop_eigenvalue."
            )
        EdgeWeights(self.sampling, self.temperature_start, self.temperature_end, self.smoothing)
        self.stopping_rules()

    def stopping_rules(self) -> StoppingRules:
        """Return when the search is to stop."""
        return StoppingRules(self.stop_unchanged, self.stop_eigenvalue, self.warmup_epochs)

    def strategy_arguments(self) -> dict[str, Any]:
        """Return the arguments of :class:`idarts_nni.strategy.IDARTS` among these settings."""
        names = (
            "arc_learning_rate", "arc_weight_decay", "warmup_epochs", "second_order", "sampling", "temperature_start",
            "temperature_end", "smoothing",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}
