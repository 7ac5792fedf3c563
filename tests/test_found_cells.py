"""Several derivations of one search, and cells of its earlier epochs: from real searches, through the plan, to
retrainings."""

import json

import pytest

from idarts_nni.architecture import Architecture
from idarts_nni.found_cells import derivations_of, draw_cell, read_cells
from idarts_nni.parameters import Derivation, Settings
from idarts_nni.plan import Outcome, Plan
from idarts_nni.space import CellSpace

SPACE = CellSpace(num_nodes=3, operations=("zeroize", "tanh", "relu"))
TWO = CellSpace(num_nodes=3, operations=("zeroize", "tanh", "relu"), edges_per_node=2)
DERIVATIONS = [{"edges_per_node": 1}, {"edges_per_node": 2, "combine": "mean"}, {"edges_per_node": 2}]
ONE_EDGE = [Architecture.random(SPACE, seed) for seed in range(9)]
TWO_EDGES = [Architecture.random(TWO, seed) for seed in range(9)]


def searched(score: float, by_epoch: dict[int, tuple[int, int]]) -> Outcome:
    """Return what a search reports whose epochs gave the so-many-eth cells with one edge, and with two."""
    cells = [
        {"epoch": epoch, "edges_per_node": n, "architecture": kind[number].to_dict()}
        for epoch, numbers in by_epoch.items()
        for n, kind, number in ((1, ONE_EDGE, numbers[0]), (2, TWO_EDGES, numbers[1]))
    ]
    last = max(by_epoch)
    architecture = ONE_EDGE[by_epoch[last][0]].to_json()
    metric = {"default": score, "epochs": last, "architecture": architecture, "cells": json.dumps(cells)}
    return Outcome("done", metric)


def advanced(outcomes: dict[str, Outcome], **arguments) -> Plan:
    plan = Plan(Settings(**arguments), SPACE)
    plan.advance(lambda key: outcomes.get(key, Outcome("todo")))
    return plan


def origins(plan: Plan) -> dict[str, list[list[int]]]:
    return {task.key: json.loads(task.origins) for task in plan.ready}


def test_one_search_yields_a_cell_for_each_derivation_and_its_space_says_which():
    outcomes = {"search-idarts-s1": searched(5.0, {3: (0, 1)})}
    plan = advanced(outcomes, methods=["idarts"], derivations=DERIVATIONS)
    one, two = ONE_EDGE[0].fingerprint, TWO_EDGES[1].fingerprint
    assert [task.key for task in plan.ready] == [
        f"retrain-idarts-{one}-n1-sum-r1",
        f"retrain-idarts-{two}-n2-mean-r1",
        f"retrain-idarts-{two}-n2-sum-r1",
    ]
    spaces = [CellSpace.from_dict(json.loads(task.space)) for task in plan.ready]
    assert [(space.edges_per_node, space.combine) for space in spaces] == [(1, "sum"), (2, "mean"), (2, "sum")]
    assert [task.architecture for task in plan.ready[1:]] == [TWO_EDGES[1].to_json()] * 2
    search = plan.tasks[0]
    assert json.loads(search.derive) == {"edges_per_node": [1, 2], "snapshots": []}
    assert CellSpace.from_dict(json.loads(search.space)) == SPACE


def test_the_best_cells_are_kept_for_each_derivation():
    outcomes = {
        "search-idarts-s1": searched(5.0, {3: (0, 1)}),
        "search-idarts-s2": searched(4.0, {3: (2, 3)}),
        "search-idarts-s3": searched(3.0, {3: (2, 4)}),
    }
    plan = advanced(outcomes, methods=["idarts"], search_seeds=[1, 2, 3], keep=2, derivations=DERIVATIONS[:2])
    kept = [(cell.edges_per_node, cell.fingerprint, cell.origins) for cell in plan.kept["idarts"]]
    assert kept == [
        (1, ONE_EDGE[2].fingerprint, ((3, 0),)),  # found twice; it stands for the better search
        (1, ONE_EDGE[0].fingerprint, ((1, 0),)),
        (2, TWO_EDGES[4].fingerprint, ((3, 0),)),
        (2, TWO_EDGES[3].fingerprint, ((2, 0),)),
    ]


def test_darts_takes_the_derivations_with_one_edge_for_each_node():
    plan = advanced({"search-darts-s1": searched(5.0, {3: (0, 1)})}, methods=["darts"], derivations=DERIVATIONS)
    assert [task.key for task in plan.ready] == [f"retrain-darts-{ONE_EDGE[0].fingerprint}-n1-sum-r1"]
    assert derivations_of(plan.settings, SPACE, "idarts") == [
        Derivation(1, "sum"),
        Derivation(2, "mean"),
        Derivation(2, "sum"),
    ]


def test_random_draws_with_the_n_of_each_derivation():
    plan = advanced({}, methods=["random"], search_seeds=[3], derivations=[*DERIVATIONS, {"edges_per_node": "all"}])
    cells = [Architecture.from_json(task.architecture) for task in plan.ready]
    assert [cell.fingerprint for cell in cells[:3]] == [
        Architecture.random(SPACE, 3).fingerprint, *[Architecture.random(TWO, 3).fingerprint] * 2
    ]  # fmt: skip
    assert [len(edges) for edges in cells[3].nodes] == [2, 4, 6]
    assert set(map(str, origins(plan).values())) == {"[[3, 0]]"}


def test_a_drawn_cell_that_is_to_be_weighted_has_equal_weights():
    cell = Architecture.from_json(draw_cell(SPACE, Derivation(2, "weighted"), 1).architecture)
    assert [[edge.weight for edge in edges] for edges in cell.nodes] == [[0.5, 0.5]] * 3


def test_cells_of_earlier_epochs_are_retrained_once_each_and_tell_where_they_come_from():
    outcomes = {
        "search-idarts-s1": searched(5.0, {1: (0, 0), 2: (1, 0), 4: (1, 2)}),
        "search-idarts-s2": searched(4.0, {1: (0, 5), 2: (2, 6), 4: (1, 7)}),
    }
    plan = advanced(
        outcomes, methods=["idarts"], search_seeds=[1, 2], keep=2, snapshots=[1, 2], derivations=DERIVATIONS[:1]
    )
    assert origins(plan) == {
        f"retrain-idarts-{ONE_EDGE[1].fingerprint}-n1-sum-r1": [[1, 2], [1, 4], [2, 4]],
        f"retrain-idarts-{ONE_EDGE[0].fingerprint}-n1-sum-r1": [[1, 1], [2, 1]],
        f"retrain-idarts-{ONE_EDGE[2].fingerprint}-n1-sum-r1": [[2, 2]],
    }
    assert [task.epoch for task in plan.ready] == [2, 1, 2]
    again = Plan(plan.settings, SPACE)
    again.restore(json.loads(json.dumps(plan.to_dict())))
    again.advance(lambda key: outcomes.get(key, Outcome("todo")))
    assert again.ready == plan.ready


def test_a_search_that_stopped_early_has_no_cells_of_later_epochs():
    metric = searched(5.0, {1: (0, 0), 2: (1, 1)}).metric or {}
    ends, earlier = read_cells(metric, SPACE, [Derivation(2, "mean")], [1, 2, 4], seed=7)
    assert [cell.origins for cell in ends] == [((7, 2),)] and [cell.origins for cell in earlier] == [((7, 1),)]


def test_cells_with_the_same_edges_and_other_weights_are_others_only_where_weights_count():
    heavy, light = (
        Architecture.from_dict({"nodes": [[{"source": 0, "operation": "tanh", "weight": one},
                                           {"source": 0, "operation": "relu", "weight": 1 - one}]]})
        for one in (0.75, 0.5)
    )  # fmt: skip
    space = CellSpace(num_nodes=1, operations=("tanh", "relu"), edges_per_node=2)
    cells = [
        {"epoch": epoch, "edges_per_node": 2, "architecture": cell.to_dict()}
        for epoch, cell in ((1, heavy), (2, light))
    ]
    metric = {"default": 1.0, "epochs": 2, "architecture": light.to_json(), "cells": json.dumps(cells)}
    counts = {}
    for combine in ("mean", "weighted"):
        plan = Plan(Settings(snapshots=[1], derivations=[{"edges_per_node": 2, "combine": combine}]), space)
        plan.advance(lambda key: Outcome("done", metric) if key.startswith("search") else Outcome("todo"))
        counts[combine] = len(plan.ready)
    assert counts == {"mean": 1, "weighted": 2}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cells": "[]"}, "no cell of epoch 1 with edges_per_node: 2"),
        ({"cells": "[{}]"}, "damaged cells"),
        ({"cells": "{"}, "damaged cells"),
        ({"epochs": None}, "does not tell its epochs"),
    ],
)
def test_a_search_that_lacks_a_cell_that_the_plan_needs_has_failed_and_says_why(changes, reason):
    metric = {**(searched(5.0, {1: (0, 0), 2: (1, 1)}).metric or {}), **changes}
    plan = advanced({"search-idarts-s1": Outcome("done", metric)}, snapshots=[1], derivations=DERIVATIONS[1:2])
    assert plan.is_settled and reason in str(plan.failure)


@pytest.mark.parametrize("arguments", [{"derivations": DERIVATIONS}, {"snapshots": [1]}])
def test_a_space_of_the_task_has_neither_derivations_nor_snapshots(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}: such a plan needs a space of recurrent cells"):
        derivations_of(Settings(**arguments), {"model": {"width": 4}}, "idarts")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"derivations": 2}, "derivations: found 2; expected a list"),
        ({"derivations": [2]}, "derivations: found 2; expected entries such as"),
        ({"derivations": [{"n": 2}]}, "derivations: found {'n': 2}; expected entries"),
        ({"derivations": [{"edges_per_node": 0}]}, "edges_per_node: found 0; expected a whole number from 1 or 'all'"),
        ({"derivations": [{"edges_per_node": 2, "combine": "max"}]}, "combine: found 'max'; allowed: sum, mean"),
        ({"derivations": [{"edges_per_node": 2}] * 2}, "one stands twice"),
        ({"methods": ["darts"], "derivations": [{"edges_per_node": 2}]}, "none applies to darts"),
        ({"snapshots": 3}, "snapshots: found 3; expected a list"),
        ({"snapshots": [0]}, "snapshots: found 0; allowed: whole numbers from 1"),
        ({"snapshots": [5], "search": {"epochs": 4}}, "snapshots: found 5; a search has 4 epochs"),
        (
            {"snapshots": [1], "search_seeds": [1, 2]},
            "keep: found 1 beside snapshots and 2 search seeds.*set keep to 2",
        ),
        ({"snapshots": [1], "methods": ["random"]}, "snapshots: none of the methods searches by epochs"),
    ],
)
def test_an_impossible_plan_is_refused_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        Settings(**arguments)
