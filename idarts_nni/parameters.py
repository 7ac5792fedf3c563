"""What a user sets for an experiment, and what a trial is asked to do: plain checked data, without NNI."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .scales import ARGUMENTS as SCALE_ARGUMENTS
from .scales import FULL, scaled_arguments
from .space import ALL
from .space import CHOICES as SPACE_CHOICES

BASELINES = ("lstm", "cnn")
"""Plain models without a cell, for text and for images: they are retrained and nothing is searched."""
METHODS = ("idarts", "darts", "random", *BASELINES)
"""``random`` draws its cells; where the space is the task's own (images), a search trial draws them."""
STAGES = ("search", "select", "retrain")
NO_CELL = "-"

CELL_KEYS = ("architecture", "cells")
"""The keys of a search's report that hold text: the JSON of its cell, and that of a list of other cells."""
SUMMARY = "mutation_summary"
"""Where a trial has this key, NNI's web page shows its contents in place of the parameters (it is made for NAS)."""
_SHOWN = ("stage", "method", "seed", "cell", "epoch", "attempt")  # long JSON texts would cover the page's plots

_NUMBERS = ("seed", "epoch", "attempt")
_CHOICES = {"select_by": ("search", "validation"), "optimize_mode": ("minimize", "maximize")}


@dataclass(frozen=True)
class Derivation:
    """How many edges a derived cell keeps for each node, and how they join when it is retrained.

    Raises
    ------
    ValueError
        If a value is impossible.
    """

    edges_per_node: int | str
    """n of the paper, or ``all``."""
    combine: str | None = None
    """``sum``, ``mean`` or ``weighted``; None for the search space's own."""

    def __post_init__(self) -> None:
        if self.edges_per_node != ALL:
            _require_count("derivations: edges_per_node", self.edges_per_node, f" or {ALL!r}")
        allowed = SPACE_CHOICES["combine"]
        if self.combine is not None and self.combine not in allowed:
            raise ValueError(f"derivations: combine: found {self.combine!r}; allowed: {', '.join(allowed)}.")

    @classmethod
    def from_data(cls, data: object) -> Derivation:
        """Read one entry of ``derivations``."""
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping) or not {"edges_per_node"} <= set(data) <= {"edges_per_node", "combine"}:
            raise ValueError(
                f"derivations: found {data!r}; expected entries such as {{edges_per_node: 2, combine: mean}}, where "
                f"combine may be left out."
            )
        return cls(**data)


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
    derivations: Sequence[Derivation] = ()
    """How each found cell is derived and retrained: a list of ``{edges_per_node: 2, combine: mean}``. One search yields
    one cell for each; a draw likewise. DARTS keeps one edge for each node, so entries with ``edges_per_node: 1`` apply
    to it. Left out: the search space's own n and combine."""
    snapshots: Sequence[int] = ()
    """Search epochs whose cells are retrained too, beside the last: those of every search seed, so ``keep`` has to be
    at least the number of search seeds. Cells that are equal are retrained once."""
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
    scale: str = FULL
    """Name of the experiment's scale, which goes with every number; see :func:`idarts_nni.scales.scaled_arguments`."""
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
        self._check_derivations()
        self._check_snapshots()

    def _check_derivations(self) -> None:
        if not isinstance(self.derivations, (list, tuple)):
            raise ValueError(f"derivations: found {self.derivations!r}; expected a list of {{edges_per_node: ...}}.")
        derivations = tuple(Derivation.from_data(entry) for entry in self.derivations)
        if len(set(derivations)) != len(derivations):
            raise ValueError(f"derivations: found {self.derivations!r}, where one stands twice; name each once.")
        if derivations and "darts" in self.methods and all(entry.edges_per_node != 1 for entry in derivations):
            raise ValueError(
                "derivations: none applies to darts, which keeps one edge for each node. Add {edges_per_node: 1}, or "
                "take darts out of methods."
            )
        object.__setattr__(self, "derivations", derivations)

    def _check_snapshots(self) -> None:
        if not isinstance(self.snapshots, (list, tuple)):
            raise ValueError(f"snapshots: found {self.snapshots!r}; expected a list of search epochs, such as [1, 2].")
        object.__setattr__(self, "snapshots", tuple(self.snapshots))
        if not self.snapshots:
            return
        _require_list("snapshots", self.snapshots, None)
        if not {"idarts", "darts"} & set(self.methods):
            raise ValueError("snapshots: none of the methods searches by epochs; add idarts or darts, or leave it out.")
        epochs = self.search.get("epochs")
        if type(epochs) is int and max(self.snapshots) > epochs:
            raise ValueError(f"snapshots: found {max(self.snapshots)}; a search has {epochs} epochs here.")
        if self.keep < len(self.search_seeds):
            raise ValueError(
                f"keep: found {self.keep} beside snapshots and {len(self.search_seeds)} search seeds. A curve over the "
                f"search epochs needs the cells of every seed: set keep to {len(self.search_seeds)}."
            )

    @classmethod
    def from_class_args(cls, class_args: Mapping[str, Any]) -> Settings:
        """Check and take ``tuner.classArgs`` of an experiment file, in its scale; an unknown name is a TypeError."""
        class_args = scaled_arguments(class_args)
        known = [*(entry.name for entry in fields(cls)), *SCALE_ARGUMENTS[1:]]
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
    epoch: int = 0
    """Search epoch that the cell was taken at, where the plan has snapshots; 0 for the end of a search, or a draw."""
    origins: str = "[]"
    """JSON of ``[search seed, search epoch]`` of all searches and epochs that gave this cell."""
    derive: str = "{}"
    """JSON of what a search is to report beside its own cell: ``edges_per_node`` and ``snapshots``, two lists."""
    data: str = ""
    """Absolute folder of the corpus, ``embedded``, or nothing (the trial's own default)."""
    scale: str = FULL
    """Name of the experiment's scale."""
    attempt: int = 1

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, expected = getattr(self, entry.name), int if entry.name in _NUMBERS else str
            if type(value) is not expected:
                raise ValueError(f"{entry.name}: found {value!r}; expected {expected.__name__}.")
        for name, allowed in (("stage", STAGES), ("method", METHODS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: found {getattr(self, name)!r}; allowed: {', '.join(allowed)}.")
        if self.seed < 1 or self.attempt < 1 or not self.key:
            raise ValueError(f"key, seed, attempt: found {self.key!r}, {self.seed}, {self.attempt}; both count from 1.")
        if self.epoch < 0:
            raise ValueError(f"epoch: found {self.epoch}; a search epoch counts from 1, 0 is the end.")

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


def _require_count(name: str, value: object, alternative: str = "") -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}: found {value!r}; expected a whole number from 1{alternative}.")


def _require_settings(name: str, value: object) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name}: found {value!r}; expected a mapping such as {{epochs: 3}}.")
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: found {value!r}, which JSON cannot carry: {error}") from None


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number, and no truth value."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False
