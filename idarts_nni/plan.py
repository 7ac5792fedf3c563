"""What an experiment still has to do: its tasks, how they ended, and which cells are kept.

Pure logic, without NNI and without input or output, so that every order of events can be tried in a test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .found_cells import Cell, Space, derivations_of, draw_cell, merge_equal, read_cells
from .parameters import BASELINES, NO_CELL, STAGES, Settings, TrialParameters
from .space import CellSpace

MODEL = "model"
"""A search space that has this single key belongs to the task: it is handed on as it is."""
# Dimensions of the web page. It draws no axis for the types it does not know, or one from the trials' own values.
_PUBLISHED = {"stage": "choice", "method": "choice", "seed": "choice", "cell": "fingerprint", "space": "json"}


@dataclass(frozen=True)
class Job:
    """One trial as NNI's manager knows it."""

    key: str
    state: str
    """``live``, ``succeeded`` (with a metric), ``ended`` (without), ``refused`` (its input, which another attempt would
    meet again), ``cancelled`` (by the user), or ``lost``."""
    metric: Mapping[str, Any] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """Where a task stands: ``todo``, ``busy``, ``done`` (with a metric) or ``failed`` (with a reason)."""

    state: str
    metric: Mapping[str, Any] | None = None
    reason: str = ""
    attempts: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether nothing will happen to the task any more."""
        return self.state in ("done", "failed")


def judge(jobs: Sequence[Job], sent: int, max_attempts: int) -> Outcome:
    """Tell where a task stands.

    Parameters
    ----------
    jobs
        Its trials that the manager knows, oldest first.
    sent
        Trials that were sent for it; one that the manager does not show yet keeps the task busy, so that no task
        is ever sent twice at a time.
    max_attempts
        Trials after which it counts as failed; those that NNI lost are not counted.
    """
    for job in jobs:
        if job.state == "succeeded":
            return Outcome("done", job.metric, attempts=len(jobs))
    if sent > len(jobs) or any(job.state == "live" for job in jobs):
        return Outcome("busy", attempts=len(jobs))
    if any(job.state == "cancelled" for job in jobs):
        return Outcome("failed", reason="cancelled by the user", attempts=len(jobs))
    refusal = next((job.reason for job in jobs if job.state == "refused"), None)
    if refusal is not None:
        return Outcome("failed", reason=f"not tried again: {refusal}", attempts=len(jobs))
    tried = [job for job in jobs if job.state != "lost"]
    if len(tried) >= max_attempts:
        return Outcome("failed", reason=f"{len(tried)} attempt(s), the last: {tried[-1].reason}", attempts=len(jobs))
    return Outcome("todo", attempts=len(jobs))


def read_space(data: object) -> Space:
    """Check the search space of an experiment.

    A mapping with the single key ``model`` belongs to the task and is handed on unread; anything else is a
    :class:`CellSpace`.

    Raises
    ------
    ValueError
        If it is neither.
    """
    example = "searchSpaceFile: ../../search_spaces/recurrent8.yaml"
    if isinstance(data, Mapping) and set(data) == set(_PUBLISHED):
        data = _read_published(data)
    if not isinstance(data, Mapping) or not data:
        raise ValueError(
            f"The search space is empty: found {data!r}. Name one in the experiment file, such as {example}"
        )
    if set(data) == {MODEL}:
        return dict(data)
    return CellSpace.from_dict(data)


def published_space(space: Space, settings: Settings) -> dict[str, Any]:
    """Return a search space in the form in which NNI's web page can show an experiment.

    The page takes every entry of a search space for a dimension with ``_type`` and ``_value``, and goes blank where
    there is none. So the tuner publishes what its trials' parameters can be; :func:`read_space` reads the space back.
    """
    seeds = sorted({*settings.search_seeds, *settings.retrain_seeds})
    values = {"stage": STAGES, "method": settings.methods, "seed": seeds, "cell": [NO_CELL], "space": [_json(space)]}
    return {name: {"_type": kind, "_value": list(values[name])} for name, kind in _PUBLISHED.items()}


def _read_published(data: Mapping[str, Any]) -> object:
    try:
        return json.loads(data["space"]["_value"][0])
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"The published search space is damaged: {data!r} ({error!r}).") from None


class Plan:
    """All tasks of an experiment, as far as they are known.

    Each method goes its own way: when its searches have settled, the distinct cells found are ranked, the best
    ``keep`` are retrained; where there are several derivations, of each. With ``select_by: validation`` every found
    cell first gets a short training, unless there are no more cells than are kept anyway. With snapshots the cells of
    those search epochs are retrained too. A decision, once taken, stays; :meth:`to_dict` is what must survive.
    """

    def __init__(self, settings: Settings, space: Space, data: str = "") -> None:
        self.settings = settings
        self.space = space
        self.data = data
        self.found: dict[str, list[Cell]] = {}
        """Distinct cells of each method whose searches have settled: by derivation, best first."""
        self.snapshots: dict[str, list[Cell]] = {}
        """Cells of earlier search epochs, which are retrained as well."""
        self.kept: dict[str, list[Cell]] = {}
        """Those to be retrained, for each method that got so far."""
        self.outcomes: dict[str, Outcome] = {}
        """Where each known task stands, as of the last :meth:`advance`."""
        self._tasks: dict[str, TrialParameters] = {}

    def advance(self, outcome_of: Callable[[str], Outcome]) -> None:
        """Take every decision that the outcomes allow.

        Parameters
        ----------
        outcome_of
            Gives the outcome of a task by its key.
        """
        stages: dict[str, list[TrialParameters]] = {stage: [] for stage in STAGES}
        self.outcomes = {}
        for method in self.settings.methods:
            stages["search"] += self._follow(self._searches(method), outcome_of)
            self._find(method)
            stages["select"] += self._follow(self._selections(method), outcome_of)
            self._keep(method)
            stages["retrain"] += self._follow(self._retrains(method), outcome_of)
        self._tasks = {task.key: task for stage in STAGES for task in stages[stage]}

    @property
    def tasks(self) -> list[TrialParameters]:
        """The known tasks: searches first, then selections, then retrainings."""
        return list(self._tasks.values())

    @property
    def ready(self) -> list[TrialParameters]:
        """The tasks that may be sent now, each with the number of its next attempt."""
        waiting = [task for task in self.tasks if self.outcomes[task.key].state == "todo"]
        return [replace(task, attempt=self.outcomes[task.key].attempts + 1) for task in waiting]

    @property
    def is_settled(self) -> bool:
        """Whether no task is left to run and none can appear."""
        return set(self.kept) == set(self.settings.methods) and all(
            outcome.is_settled for outcome in self.outcomes.values()
        )

    @property
    def failure(self) -> str | None:
        """Why a settled plan has no result at all; ``None`` if a retraining succeeded."""
        if any(task.stage == "retrain" and self.outcomes[task.key].state == "done" for task in self.tasks):
            return None
        reasons = [f"{key}: {outcome.reason}" for key, outcome in self.outcomes.items() if outcome.state == "failed"]
        return f"No retraining succeeded. {'; '.join(reasons)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the decisions taken and the state of every task, fit for JSON."""
        return {
            "data": self.data,
            "found": {method: [asdict(cell) for cell in cells] for method, cells in self.found.items()},
            "snapshots": {method: [asdict(cell) for cell in cells] for method, cells in self.snapshots.items()},
            "kept": {method: [asdict(cell) for cell in cells] for method, cells in self.kept.items()},
            "tasks": {
                key: {"state": outcome.state, "reason": outcome.reason, "attempts": outcome.attempts}
                for key, outcome in self.outcomes.items()
            },
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over the decisions of an earlier session, as :meth:`to_dict` gave them."""
        for name in ("found", "snapshots", "kept"):
            # A plan of an earlier version has no snapshots.
            found = saved.get(name, {}) if name == "snapshots" else saved[name]
            cells = {method: [Cell(**cell) for cell in cells] for method, cells in found.items()}
            setattr(self, name, {method: cells[method] for method in self.settings.methods if method in cells})

    def _follow(self, tasks: list[TrialParameters], outcome_of: Callable[[str], Outcome]) -> list[TrialParameters]:
        for task in tasks:
            outcome = outcome_of(task.key)
            if task.stage == "search" and outcome.metric is not None:
                try:
                    self._cells_of(task, outcome)
                except ValueError as error:
                    # The same search would end in the same way, so there is no second attempt.
                    outcome = Outcome("failed", reason=str(error), attempts=outcome.attempts)
            self.outcomes[task.key] = outcome
        return tasks

    def _task(self, stage: str, method: str, seed: int, key: str, cell: Cell | None = None) -> TrialParameters:
        origins = cell.origins if cell else ()
        return TrialParameters(
            key=key,
            stage=stage,
            method=method,
            seed=seed,
            cell=cell.fingerprint if cell else NO_CELL,
            architecture=cell.architecture if cell else "",
            space=_json(cell.space(self.space) if cell else self.space),
            settings=self.settings.stage_settings(stage),
            epoch=origins[0][1] if origins else 0,
            origins=json.dumps(origins, separators=(",", ":")),
            derive=self._derive(method) if stage == "search" else "{}",
            data=self.data,
            scale=self.settings.scale,
        )

    def _derive(self, method: str) -> str:
        """Return what a search has to report beside the cell that it derives by the space's own n."""
        derivations = [one for one in derivations_of(self.settings, self.space, method) if one is not None]
        edges = list(dict.fromkeys(one.edges_per_node for one in derivations))
        if not edges and self.settings.snapshots and isinstance(self.space, CellSpace):
            edges = [self.space.edges_per_node]
        if not edges:
            return "{}"
        wanted = {"edges_per_node": edges, "snapshots": list(self.settings.snapshots)}
        return json.dumps(wanted, separators=(",", ":"))

    def _searches(self, method: str) -> list[TrialParameters]:
        drawn_here = method == "random" and isinstance(self.space, CellSpace)
        if method in BASELINES or drawn_here:
            return []
        return [self._task("search", method, seed, f"search-{method}-s{seed}") for seed in self.settings.search_seeds]

    def _cells_of(self, search: TrialParameters, outcome: Outcome) -> tuple[list[Cell], list[Cell]]:
        derivations = derivations_of(self.settings, self.space, search.method)
        return read_cells(outcome.metric or {}, self.space, derivations, self.settings.snapshots, search.seed)

    def _find(self, method: str) -> None:
        searches = self._searches(method)
        outcomes = [self.outcomes[task.key] for task in searches]
        if method in self.found or not all(outcome.is_settled for outcome in outcomes):
            return
        derivations = derivations_of(self.settings, self.space, method)
        ends: list[Cell] = []
        earlier: list[Cell] = []
        for search, outcome in zip(searches, outcomes, strict=True):
            if outcome.metric is not None:
                at_end, before = self._cells_of(search, outcome)
                ends, earlier = ends + at_end, earlier + before
        if method == "random" and isinstance(self.space, CellSpace):
            seeds = self.settings.search_seeds
            ends = [draw_cell(self.space, derivation, seed) for derivation in derivations for seed in seeds]
        order = [None if one is None else (one.edges_per_node, one.combine) for one in derivations]
        ends.sort(key=lambda cell: (order.index(_derivation(cell)), self._rank(cell.score)))
        distinct = merge_equal(ends, self.space)
        if not self.settings.snapshots:
            # A cell found by several searches stands for the best of them.
            best = {cell.label(self.space): cell.origins for cell in reversed(ends)}
            distinct = [replace(cell, origins=best[cell.label(self.space)]) for cell in distinct]
        self.found[method] = distinct
        self.snapshots[method] = merge_equal(earlier, self.space)

    def _selections(self, method: str) -> list[TrialParameters]:
        if self.settings.select_by != "validation":
            return []
        # One seed for all: the cells shall differ, not the luck.
        seed = self.settings.retrain_seeds[0]
        return [
            self._task("select", method, seed, f"select-{method}-{cell.label(self.space)}-r{seed}", cell)
            for cells in self._by_derivation(method)
            for cell in cells
            if len(cells) > self.settings.keep
        ]

    def _keep(self, method: str) -> None:
        outcomes = {task.key: self.outcomes[task.key] for task in self._selections(method)}
        if method in self.kept or method not in self.found:
            return
        if not all(outcome.is_settled for outcome in outcomes.values()):
            return
        seed = self.settings.retrain_seeds[0]
        kept: list[Cell] = []
        for cells in self._by_derivation(method):
            if len(cells) > self.settings.keep and self.settings.select_by == "validation":
                keys = [f"select-{method}-{cell.label(self.space)}-r{seed}" for cell in cells]
                tried = [(outcomes[key], cell) for key, cell in zip(keys, cells, strict=True) if outcomes[key].metric]
                tried.sort(key=lambda pair: self._rank(float((pair[0].metric or {})["default"])))
                cells = [cell for _, cell in tried]
            kept += cells[: self.settings.keep]
        self.kept[method] = merge_equal([*kept, *self.snapshots.get(method, [])], self.space)

    def _by_derivation(self, method: str) -> list[list[Cell]]:
        groups: dict[object, list[Cell]] = {}
        for cell in self.found.get(method, []):
            groups.setdefault(_derivation(cell), []).append(cell)
        return list(groups.values())

    def _retrains(self, method: str) -> list[TrialParameters]:
        seeds = self.settings.retrain_seeds
        if method in BASELINES:
            return [self._task("retrain", method, seed, f"retrain-{method}-r{seed}") for seed in seeds]
        return [
            self._task("retrain", method, seed, f"retrain-{method}-{cell.label(self.space)}-r{seed}", cell)
            for cell in self.kept.get(method, [])
            for seed in seeds
        ]

    def _rank(self, score: float | None) -> float:
        if score is None:  # a drawn cell: the order of the seeds stays
            return 0.0
        return score if self.settings.optimize_mode == "minimize" else -score


def _derivation(cell: Cell) -> tuple[int | str, str | None] | None:
    return None if cell.edges_per_node is None else (cell.edges_per_node, cell.combine)


def _json(space: Space) -> str:
    plain = space.to_dict() if isinstance(space, CellSpace) else dict(space)
    return json.dumps(plain, separators=(",", ":"))
