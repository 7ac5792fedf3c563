"""What a task file offers to the runner.

A task is one module in this folder with

* ``METRIC``: the name of its validation metric, such as ``perplexity``;
* ``OPTIMIZE_MODE``: ``minimize`` or ``maximize``;
* ``prepare(job)``: data, model and recipe for one stage, as a :class:`Workload`.

With two more, mistakes are told before an experiment starts:

* ``SEARCH`` and ``RETRAIN``: the default settings of a search and of a retraining, two dataclasses;
* ``check_data(data, settings)``: raise ValueError or FileNotFoundError if the data cannot be used with these settings
  (one for each stage), in seconds and without a model.

A task on NNI's own model spaces (images) has two names more: ``SPACE = "model"``, since its search space is a mapping
with the key ``model`` in place of a recurrent cell's, and ``BASELINE``, the method of its plain model (``lstm`` where
it has none).

``DATA_PARALLEL = True`` says that the task computes its share (``job.share``, :mod:`idarts_nni.shares`) of every
training batch where several processes train one model: a loss whose mean over the processes is that of the whole batch,
metrics of all the data, a running state that is the whole batch's, and random numbers by ``own_columns``.

Its Lightning module logs the metric under the name ``validation`` in each validation pass and ``test`` in the test.
What it carries from one step to the next (hidden states, sums of the running epoch) it hands over by the two methods of
:class:`idarts_nni.checkpoint.RunningState`, so that a run goes on from any step. A pass over its training data depends
on the number of the pass alone (:class:`idarts_nni.checkpoint.Resumable`).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nni.nas.evaluator.pytorch import LightningModule
from pytorch_lightning import Callback
from torch import nn

from idarts_nni.architecture import Architecture
from idarts_nni.model_architecture import ModelArchitecture
from idarts_nni.shares import ALONE, Share
from idarts_nni.space import CellSpace

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Job:
    """What one trial has to do, checked."""

    stage: str
    """``search``, ``select`` (a short retrain, to choose between cells) or ``retrain``."""
    method: str
    """``idarts``, ``darts``, ``random``, ``lstm`` or ``cnn``."""
    seed: int
    space: CellSpace | None
    """None for a task whose space is not a recurrent cell."""
    architecture: Architecture | ModelArchitecture | None
    """The cell to retrain; None when searching, and for a baseline."""
    overrides: dict[str, Any]
    """Settings that differ from the task's own."""
    data: str
    """Folder of the corpus, or ``embedded``."""
    device: str = "cpu"
    precision: str = "fp32"
    backend: str = "auto"
    derive: Mapping[str, Any] = field(default_factory=dict)
    """What a search reports beside its own cell: ``edges_per_node`` and ``snapshots`` (search epochs), two lists."""
    model_space: Mapping[str, Any] = field(default_factory=dict)
    """What stands under ``model`` in the search space of such a task."""
    share: Share = ALONE
    """Which of the processes this is, where several train one model."""


@dataclass
class Workload:
    """What the runner trains."""

    model: nn.Module
    """An NNI model space when searching, a plain module otherwise."""
    module: LightningModule
    """The recipe: losses, optimiser, metrics."""
    train: Iterable[Any]
    validation: Any
    """A loader, or a dict of two (``search``, ``evaluate``); see :class:`idarts_nni.strategy.IDARTS`."""
    settings: Any
    """The resolved settings, a dataclass; they stand in the record."""
    epochs: int
    corpus: str = ""
    """What the data are: a name, or their size; results on different data are never averaged."""
    test: Iterable[Any] | None = None
    gradient_clip: float | None = None
    strategy: dict[str, Any] = field(default_factory=dict)
    """Arguments of :class:`idarts_nni.strategy.IDARTS`, when searching."""
    callbacks: list[Callback] = field(default_factory=list)


def resolve_settings(defaults: Settings, overrides: Mapping[str, Any]) -> Settings:
    """Return the defaults with some fields replaced.

    Raises
    ------
    ValueError
        If a key is unknown or a value has another type than its default; the message names what is allowed.
    """
    fields = {item.name: getattr(defaults, item.name) for item in dataclasses.fields(defaults)}  # type: ignore[arg-type]
    for key, value in overrides.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown setting {key!r} (value {value!r}).{hint} Allowed: {', '.join(fields)}.")
        default = fields[key]
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if default is not None and type(value) is not type(default):
            raise ValueError(
                f"Setting {key!r}: found {value!r} of type {type(value).__name__}; "
                f"expected {type(default).__name__}, such as {default!r}."
            )
        fields[key] = value
    return type(defaults)(**fields)
