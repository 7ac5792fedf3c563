"""What a user sets for an experiment, and what a trial is asked to do: plain checked data, without NNI."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

BASELINES = ("lstm", "cnn")
"""Plain models without a cell, for text and for images: they are retrained and nothing is searched."""
METHODS = ("idarts", "darts", "random", *BASELINES)
"""``random`` draws its cells; where the space is the task's own (images), a search trial draws them."""
STAGES = ("search", "select", "retrain")
NO_CELL = "-"

SUMMARY = "mutation_summary"
"""Where a trial has this key, NNI's web page shows its contents in place of the parameters (it is made for NAS)."""
_SHOWN = ("stage", "method", "seed", "cell", "attempt")  # long JSON texts would cover the page's plots

_CHOICES = {"select_by": ("search", "validation"), "optimize_mode": ("minimize", "maximize")}


@dataclass(frozen=True)
class Settings:
    """The ``classArgs`` of :class:`idarts_nni.tuner.SearchThenRetrain`, checked.

    Raises
    ------
    ValueError
        If a value is impossible; the message names the argument, the value and what is allowed.
    """

    methods: Sequence[str] = ("idarts",)
    """What to compare: any of idarts, darts, random, lstm (text), cnn (images)."""
    search_seeds: Sequence[int] = (1,)
    """One search for each method and seed; one drawn cell for each seed of ``random``."""
    retrain_seeds: Sequence[int] = (1,)
    """One retraining for each kept cell and seed."""
    keep: int = 1
    """Best cells of each method that are retrained."""
    select_by: str = "search"
    """Rank cells by the score of their ``search``, or by a short ``validation`` training of each."""
    optimize_mode: str = "minimize"
    """Whether a low metric is good (perplexity: minimize) or a high one (F1: maximize)."""
    data: str | None = None
    """Folder of the corpus, or ``embedded``; without it the environment variable IDARTS_DATA is used."""
    search: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the task's settings in search trials."""
    select: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the task's settings in selection trials."""
    retrain: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the task's settings in retraining trials."""
    max_attempts: int = 2
    """Trials spent on one task before it counts as failed."""
    poll: float = 5.0
    """Seconds between two looks at the manager, beside those that NNI's events cause."""

    def __post_init__(self) -> None:
        _require_list("methods", self.methods, METHODS)
        for name in ("search_seeds", "retrain_seeds"):
            _require_list(name, getattr(self, name), None)
        for name in ("methods", "search_seeds", "retrain_seeds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("keep", "max_attempts"):
            _require_count(name, getattr(self, name))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: found {getattr(self, name)!r}; allowed: {', '.join(allowed)}.")
        if self.data is not None and (not isinstance(self.data, str) or not self.data.strip()):
            raise ValueError(
                f"data: found {self.data!r}; expected a folder or 'embedded'; leave it out for IDARTS_DATA."
            )
        for name in STAGES:
            _require_settings(name, getattr(self, name))
        if not is_number(self.poll) or self.poll <= 0:
            raise ValueError(f"poll: found {self.poll!r}; expected a number of seconds above 0.")

    @classmethod
    def from_class_args(cls, class_args: Mapping[str, Any]) -> Settings:
        """Check and take ``tuner.classArgs`` of an experiment file; an unknown name is a TypeError."""
        known = [entry.name for entry in fields(cls)]
        for name in class_args:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"unknown tuner argument {name!r}.{hint} Known arguments: {', '.join(known)}.")
        return cls(**class_args)

    def stage_settings(self, stage: str) -> str:
        """Return the overrides of one stage as the JSON text that a trial receives."""
        return json.dumps(dict(getattr(self, stage)), separators=(",", ":"), sort_keys=True)


@dataclass(frozen=True)
class TrialParameters:
    """What one trial is asked to do: flat values.

    Raises
    ------
    ValueError
        If a value has the wrong type or is not allowed.
    """

    key: str
    """Name of the task, the same for every attempt and after a resume."""
    stage: str
    """``search``, ``select`` or ``retrain``."""
    method: str
    seed: int
    cell: str = NO_CELL
    """Fingerprint of the cell, or ``-``."""
    architecture: str = ""
    """JSON of the cell, or nothing."""
    space: str = "{}"
    """JSON of the search space."""
    settings: str = "{}"
    """JSON of the overrides for this stage."""
    data: str = ""
    """Absolute folder of the corpus, ``embedded``, or nothing (the trial's own default)."""
    attempt: int = 1

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, expected = getattr(self, entry.name), int if entry.name in ("seed", "attempt") else str
            if type(value) is not expected:
                raise ValueError(f"{entry.name}: found {value!r}; expected {expected.__name__}.")
        for name, allowed in (("stage", STAGES), ("method", METHODS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: found {getattr(self, name)!r}; allowed: {', '.join(allowed)}.")
        if self.seed < 1 or self.attempt < 1 or not self.key:
            raise ValueError(f"key, seed, attempt: found {self.key!r}, {self.seed}, {self.attempt}; both count from 1.")

    def to_dict(self) -> dict[str, str | int]:
        """Return plain data that :meth:`from_dict` reads back."""
        return asdict(self)

    def to_nni(self) -> dict[str, Any]:
        """Return what NNI sends: all parameters, and the few of them that its web page is to show."""
        return {**asdict(self), SUMMARY: {name: getattr(self, name) for name in _SHOWN}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialParameters:
        """Check and build from plain data: all keys, and no others but the summary for the web page."""
        data = {name: value for name, value in data.items() if name != SUMMARY}
        known = [entry.name for entry in fields(cls)]
        if set(data) != set(known):
            missing, unknown = sorted(set(known) - set(data)), sorted(set(data) - set(known))
            raise ValueError(f"trial parameters: missing {missing}, unknown {unknown}; expected: {', '.join(known)}.")
        return cls(**data)


def _require_list(name: str, values: object, allowed: Sequence[str] | None) -> None:
    expected = ", ".join(allowed) if allowed else "whole numbers from 1"
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"{name}: found {values!r}; expected a list with one or more of: {expected}.")
    for value in values:
        is_seed = type(value) is int and value >= 1
        if not (value in allowed if allowed else is_seed):
            raise ValueError(f"{name}: found {value!r}; allowed: {expected}.")
    if len(set(values)) != len(values):
        raise ValueError(f"{name}: found {list(values)!r}, where one stands twice; name each once.")


def _require_count(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}: found {value!r}; expected a whole number from 1.")


def _require_settings(name: str, value: object) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name}: found {value!r}; expected a mapping such as {{epochs: 3}}.")
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: found {value!r}, which JSON cannot carry: {error}") from None


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
