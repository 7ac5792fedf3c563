"""The plan of an experiment, tried without NNI: enumerated cases, and random orders of events."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idarts_nni.architecture import Architecture
from idarts_nni.found_cells import read_cell
from idarts_nni.parameters import BASELINES, METHODS, Settings, TrialParameters
from idarts_nni.plan import Job, Outcome, Plan, judge, read_space
from idarts_nni.space import CellSpace

SPACE = CellSpace(num_nodes=3, operations=("zeroize", "tanh", "relu"))
CELLS = [Architecture.random(SPACE, seed) for seed in range(40)]


def searched(score: float, cell: Architecture) -> Outcome:
    return Outcome("done", {"default": score, "architecture": cell.to_json()})


def advanced(plan: Plan, outcomes: Mapping[str, Outcome]) -> Plan:
    plan.advance(lambda key: outcomes.get(key, Outcome("todo")))
    return plan


def ready_keys(plan: Plan) -> list[str]:
    return [task.key for task in plan.ready]


def plan_for(**arguments: Any) -> Plan:
    return Plan(Settings(**arguments), SPACE, "embedded")


# How one task stands.

JOB_STATES = ["live", "succeeded", "ended", "refused", "cancelled", "lost"]


def job(state: str) -> Job:
    return Job("k", state, {"default": 1.0} if state == "succeeded" else None, reason=state)


@pytest.mark.parametrize("states", [s for n in range(4) for s in itertools.product(JOB_STATES, repeat=n)], ids="-".join)
def test_a_task_is_sent_again_only_if_nothing_of_it_lives_succeeded_or_ended_for_good(states):
    outcome = judge([job(state) for state in states], sent=len(states), max_attempts=2)
    tried = sum(state != "lost" for state in states)
    if "succeeded" in states:
        assert outcome.state == "done" and outcome.metric == {"default": 1.0}
    elif "live" in states:
        assert outcome.state == "busy"
    elif "cancelled" in states:
        assert outcome.state == "failed" and "cancelled by the user" in outcome.reason
    elif "refused" in states:
        assert outcome.state == "failed" and "not tried again: refused" in outcome.reason
    elif tried >= 2:
        assert outcome.state == "failed" and "2 attempt(s)" in outcome.reason or tried > 2
    else:
        assert outcome.state == "todo"


@pytest.mark.parametrize("states", [s for n in range(3) for s in itertools.product(JOB_STATES, repeat=n)], ids="-".join)
def test_a_task_that_was_sent_and_is_not_listed_yet_is_never_sent_again(states):
    assert judge([job(state) for state in states], sent=len(states) + 1, max_attempts=9).state in ("busy", "done")


# Which tasks there are.


def test_searches_of_searching_methods_and_retrainings_of_the_others_start_at_once():
    plan = advanced(plan_for(methods=METHODS, search_seeds=[1, 2], retrain_seeds=[1, 2], keep=2), {})
    drawn = [Architecture.random(SPACE, seed).fingerprint for seed in (1, 2)]
    assert ready_keys(plan) == [
        *(f"search-{method}-s{seed}" for method in ("idarts", "darts") for seed in (1, 2)),
        *(f"retrain-random-{cell}-r{seed}" for cell in drawn for seed in (1, 2)),
        *(f"retrain-{baseline}-r{seed}" for baseline in BASELINES for seed in (1, 2)),
    ]


def test_every_task_has_the_same_flat_parameters():
    plan = plan_for(methods=METHODS, select_by="validation", search_seeds=[1, 2], search={"epochs": 3, "nested": [1]})
    outcomes = {"search-idarts-s1": searched(5, CELLS[0]), "search-idarts-s2": searched(4, CELLS[1])}
    advanced(plan, outcomes)
    assert {task.stage for task in plan.tasks} == {"search", "select", "retrain"}
    for task in plan.tasks:
        sent = task.to_dict()
        assert TrialParameters.from_dict(json.loads(json.dumps(sent))) == task
        assert all(type(value) in (str, int) for value in sent.values())
        assert CellSpace.from_dict(json.loads(task.space)) == SPACE and task.data == "embedded"
    assert json.loads(plan.tasks[0].settings) == {"epochs": 3, "nested": [1]}


@pytest.mark.parametrize(("mode", "best"), [("minimize", 1), ("maximize", 0)])
def test_the_best_cells_by_search_score_are_retrained_with_every_seed(mode, best):
    plan = plan_for(methods=["idarts"], search_seeds=[1, 2], retrain_seeds=[3, 5], optimize_mode=mode)
    outcomes = {"search-idarts-s1": searched(9.0, CELLS[0]), "search-idarts-s2": searched(2.0, CELLS[1])}
    advanced(plan, outcomes)
    cell = CELLS[best]
    assert ready_keys(plan) == [f"retrain-idarts-{cell.fingerprint}-r{seed}" for seed in (3, 5)]
    assert plan.ready[0].architecture == cell.to_json() and plan.ready[0].seed == 3


def test_one_method_does_not_wait_for_another():
    plan = plan_for(methods=["idarts", "darts"])
    advanced(plan, {"search-idarts-s1": searched(3, CELLS[0]), "search-darts-s1": Outcome("busy")})
    assert ready_keys(plan) == [f"retrain-idarts-{CELLS[0].fingerprint}-r1"]


def test_a_cell_found_by_several_seeds_is_retrained_once_with_its_best_score():
    plan = plan_for(methods=["idarts"], search_seeds=[1, 2, 3], keep=2)
    found = [(7.0, CELLS[0]), (3.0, CELLS[1]), (1.0, CELLS[0])]
    advanced(plan, {f"search-idarts-s{seed}": searched(*one) for seed, one in enumerate(found, start=1)})
    assert [cell.fingerprint for cell in plan.kept["idarts"]] == [CELLS[0].fingerprint, CELLS[1].fingerprint]
    assert [cell.score for cell in plan.found["idarts"]] == [1.0, 3.0]


def test_selection_by_validation_tries_every_cell_with_one_seed_and_overrules_the_search():
    plan = plan_for(methods=["idarts"], search_seeds=[1, 2], retrain_seeds=[4, 5], select_by="validation")
    outcomes = {f"search-idarts-s{seed}": searched(float(seed), CELLS[seed]) for seed in (1, 2)}
    advanced(plan, outcomes)
    selections = [f"select-idarts-{CELLS[seed].fingerprint}-r4" for seed in (1, 2)]
    assert ready_keys(plan) == selections and {task.seed for task in plan.ready} == {4}
    outcomes |= {selections[0]: Outcome("done", {"default": 8.0}), selections[1]: Outcome("done", {"default": 6.0})}
    advanced(plan, outcomes)
    assert ready_keys(plan) == [f"retrain-idarts-{CELLS[2].fingerprint}-r{seed}" for seed in (4, 5)]


def test_a_cell_whose_selection_failed_is_not_kept():
    plan = plan_for(methods=["random"], search_seeds=[1, 2, 3], keep=2, select_by="validation")
    keys = ready_keys(advanced(plan, {}))
    outcomes = {keys[0]: Outcome("failed"), keys[1]: Outcome("done", {"default": 2.0}), keys[2]: Outcome("failed")}
    assert [task.cell for task in advanced(plan, outcomes).ready] == [Architecture.random(SPACE, 2).fingerprint]


def test_no_selection_is_run_where_all_cells_are_kept_anyway():
    plan = plan_for(methods=["idarts"], keep=1, select_by="validation")
    assert [task.stage for task in advanced(plan, {"search-idarts-s1": searched(3, CELLS[0])}).ready] == ["retrain"]


def test_drawn_cells_are_taken_in_the_order_of_the_seeds():
    plan = advanced(plan_for(methods=["random"], search_seeds=[7, 3, 5], keep=2), {})
    assert [task.cell for task in plan.ready] == [Architecture.random(SPACE, seed).fingerprint for seed in (7, 3)]


def test_the_attempt_counts_on():
    plan = advanced(plan_for(methods=["lstm"]), {"retrain-lstm-r1": Outcome("todo", attempts=1)})
    assert [task.attempt for task in plan.ready] == [2]


# What comes back from a search.


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        (None, "expected JSON text"),
        ("", "expected JSON text"),
        ("[1", "not valid YAML"),
        (Architecture.random(CellSpace(num_nodes=2, operations=("tanh",)), 1).to_json(), "has 2 nodes"),
    ],
)
def test_a_search_without_a_cell_of_the_space_has_failed_and_says_why(architecture, reason):
    plan = plan_for(methods=["idarts"])
    advanced(plan, {"search-idarts-s1": Outcome("done", {"default": 1.0, "architecture": architecture})})
    assert plan.is_settled
    assert plan.failure is not None and reason in plan.failure


def test_a_space_with_the_key_model_is_handed_on_and_its_cells_are_any_json():
    space = read_space({"model": "digits-darts"})
    plan = Plan(Settings(methods=["random"]), space)
    assert ready_keys(advanced(plan, {})) == ["search-random-s1"]
    assert json.loads(plan.ready[0].space) == {"model": "digits-darts"}
    metric = {"default": 0.5, "architecture": '{"b": 1, "a": [2]}'}
    advanced(plan, {"search-random-s1": Outcome("done", metric)})
    assert (
        plan.ready[0].architecture == '{"a":[2],"b":1}' and plan.ready[0].cell == read_cell(metric, space).fingerprint
    )


@pytest.mark.parametrize("space", [{}, None, [], "x"])
def test_an_empty_space_names_the_key_and_a_file(space):
    with pytest.raises(ValueError, match="searchSpaceFile: .*recurrent8.yaml"):
        read_space(space)


@pytest.mark.parametrize("space", [{"model": "x", "num_nodes": 3}, {"num_nodes": 0, "operations": ["tanh"]}])
def test_a_bad_space_is_refused(space):
    with pytest.raises(ValueError, match="search space: "):
        read_space(space)


# How it ends.


def test_a_plan_whose_searches_all_failed_says_why():
    plan = advanced(plan_for(methods=["idarts"]), {"search-idarts-s1": Outcome("failed", reason="out of memory")})
    assert plan.is_settled and plan.failure == "No retraining succeeded. search-idarts-s1: out of memory"


def test_failed_searches_do_not_spoil_the_baseline():
    plan = plan_for(methods=["idarts", "lstm"])
    outcomes = {"search-idarts-s1": Outcome("failed"), "retrain-lstm-r1": Outcome("done", {"default": 1.0})}
    advanced(plan, outcomes)
    assert plan.is_settled and plan.failure is None


def test_a_decision_stays_when_it_is_restored_from_disk():
    plan = plan_for(methods=["idarts"], search_seeds=[1, 2])
    outcomes = {f"search-idarts-s{seed}": searched(float(seed), CELLS[seed]) for seed in (1, 2)}
    saved = json.loads(json.dumps(advanced(plan, outcomes).to_dict()))
    again = plan_for(methods=["idarts"], search_seeds=[1, 2])
    again.restore(saved)
    outcomes["search-idarts-s2"] = searched(0.5, CELLS[2])
    assert ready_keys(advanced(again, outcomes)) == ready_keys(plan)
    assert again.kept == plan.kept


# Any order of events.


class Machine:
    """NNI as far as a plan can see it: a queue, running trials, ends in any order, stops and resumes."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.settings = Settings(**arguments)
        self.jobs: dict[str, list[dict[str, Any]]] = {}
        self.start_session()

    def start_session(self) -> None:
        saved = json.loads(json.dumps(self.plan.to_dict())) if hasattr(self, "plan") else None
        self.plan = Plan(self.settings, SPACE)
        if saved:
            self.plan.restore(saved)
        self.sent: dict[str, int] = {}
        self.queue: list[TrialParameters] = []

    def view(self, key: str) -> list[Job]:
        return [Job(key, one["state"], one.get("metric"), one.get("reason", "")) for one in self.jobs.get(key, [])]

    def wake(self, credits: int) -> None:
        def outcome_of(key: str) -> Outcome:
            self.sent[key] = max(self.sent.get(key, 0), len(self.jobs.get(key, [])))
            return judge(self.view(key), self.sent[key], self.settings.max_attempts)

        self.plan.advance(outcome_of)
        for task in self.plan.ready[:credits]:
            self.sent[task.key] += 1
            self.queue.append(task)

    def start_trial(self) -> None:
        if self.queue:
            task = self.queue.pop(0)
            self.jobs.setdefault(task.key, []).append({"state": "live", "task": task})
            self.check()

    def live(self) -> list[dict[str, Any]]:
        return [one for jobs in self.jobs.values() for one in jobs if one["state"] == "live"]

    def end_trial(self, which: int, how: str, score: int) -> None:
        running = self.live()
        if not running:
            return
        one = running[which % len(running)]
        metric = {"default": float(score)}
        if one["task"].stage == "search":
            metric["architecture"] = CELLS[score].to_json()
        one.update(state=how, metric=metric if how == "succeeded" else None, reason=how)

    def check(self) -> None:
        for key, jobs in self.jobs.items():
            states = [one["state"] for one in jobs]
            assert states.count("live") <= 1, f"two live trials of {key}"
            assert "succeeded" not in states[:-1], f"{key} ran again after it had succeeded: {states}"
            assert len([state for state in states if state != "lost"]) <= self.settings.max_attempts
            assert [one["task"].attempt for one in jobs] == list(range(1, len(jobs) + 1))


seeds = st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True)
arguments = st.fixed_dictionaries(
    {
        "methods": st.lists(st.sampled_from(METHODS), min_size=1, max_size=4, unique=True),
        "search_seeds": seeds,
        "retrain_seeds": seeds,
        "keep": st.integers(1, 3),
        "select_by": st.sampled_from(["search", "validation"]),
        "optimize_mode": st.sampled_from(["minimize", "maximize"]),
        "max_attempts": st.integers(1, 3),
    }
)
ends = st.sampled_from(["succeeded", "succeeded", "ended", "cancelled", "lost"])
events = st.lists(
    st.one_of(
        st.tuples(st.just("wake"), st.integers(0, 4)),
        st.tuples(st.just("start")),
        st.tuples(st.just("end"), st.integers(0, 9), ends, st.integers(0, 3)),
        st.tuples(st.just("restart")),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(arguments=arguments, events=events)
def test_in_any_order_of_events_every_task_ends_once_and_the_plan_finishes(arguments, events):
    machine = Machine(arguments)
    for event, *details in events:
        if event == "wake":
            machine.wake(*details)
        elif event == "start":
            machine.start_trial()
        elif event == "end":
            machine.end_trial(*details)
        else:  # the manager stops and resumes: its queue is gone, running trials go on under the same id
            machine.start_session()
        machine.check()
    for _ in range(500):
        machine.wake(2)
        if machine.plan.is_settled:
            break
        machine.start_trial()
        machine.end_trial(0, "succeeded", 1)
    assert machine.plan.is_settled
    assert not machine.live() and not machine.plan.ready
    assert set(machine.jobs) <= {task.key for task in machine.plan.tasks}
    succeeded = {key for key, jobs in machine.jobs.items() if jobs[-1]["state"] == "succeeded"}
    assert (machine.plan.failure is None) == any(key.startswith("retrain") for key in succeeded)
