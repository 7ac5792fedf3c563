"""How much a cell may multiply its state, and when it is warned of."""

import dataclasses
import logging

import pytest

from idarts_nni.architecture import Architecture
from idarts_nni.gain import gain_warning, node_gains, safe_openness, step_gain
from idarts_nni.space import CellSpace
from trials import ptb
from trials.task import Job
from trials.training import run_job

SPACE = CellSpace(8, ("zeroize", "tanh", "relu", "sigmoid", "identity"))


def cell_of(*nodes):
    return Architecture.from_dict(
        {"nodes": [[{"source": source, "operation": name} for source, name in edges] for edges in nodes]}
    )


CHAIN = cell_of([(0, "tanh")], [(1, "relu")])
DOUBLE = cell_of([(0, "tanh"), (0, "relu")], [(0, "tanh"), (1, "relu")])


def space(n=1, combine="sum", **kwargs):
    return dataclasses.replace(SPACE, num_nodes=2, edges_per_node=n, combine=combine, **kwargs)


def test_gains_follow_the_carry_along_the_edges():
    assert node_gains(CHAIN, space(), 0.0) == [1.0, 1.0, 1.0]
    # Half open: state 0 carries 1/2, node 1 half of that, node 2 half of that.
    assert node_gains(CHAIN, space(), 0.5) == [0.5, 0.25, 0.125]
    assert step_gain(CHAIN, space(), 0.5) == pytest.approx((0.25 + 0.125) / 2)
    # Two edges into node 1 double it; node 2 adds it to state 0.
    assert node_gains(DOUBLE, space(2), 0.0) == [1.0, 2.0, 3.0]
    assert node_gains(DOUBLE, space(2, "mean"), 0.0) == [1.0, 1.0, 1.0]
    assert node_gains(DOUBLE, space(2), 0.5) == [0.5, 0.5, 0.5]


def test_the_safe_openness_is_where_the_gain_is_one():
    found = safe_openness(DOUBLE, space(2))
    assert 0.0 < found < 0.5
    assert step_gain(DOUBLE, space(2), found) == pytest.approx(1.0)
    assert safe_openness(DOUBLE, space(2, "mean")) == safe_openness(CHAIN, space()) == 0.0


@pytest.mark.parametrize("n", [1, 2, 3, "all"])
@pytest.mark.parametrize("combine", ["sum", "mean", "weighted"])
def test_only_sums_of_several_edges_are_warned_of(n, combine):
    searched = dataclasses.replace(SPACE, edges_per_node=n, combine=combine)
    for seed in range(5):
        cell = Architecture.random(searched, seed)
        weighed = Architecture(
            tuple(
                tuple(dataclasses.replace(edge, weight=round(1 / len(edges), 6)) for edge in edges)
                for edges in cell.nodes
            )
        )
        warning = gain_warning(weighed, searched)
        assert bool(warning) is (combine == "sum" and n != 1)
        if warning:
            assert "combine: mean or combine: weighted" in warning


def test_without_a_gate_nothing_is_carried():
    assert gain_warning(DOUBLE, space(2, gate="none")) == ""


@pytest.mark.parametrize(("combine", "warned"), [("sum", True), ("mean", False)])
def test_a_retraining_is_warned_of_before_it_starts(tmp_path, caplog, combine, warned):
    settings = {"epochs": 1, "hidden_size": 4, "batch_size": 256, "train_tokens": 9000, "test_batch_size": 100}
    job = Job("retrain", "random", 1, space(2, combine), DOUBLE, settings, "embedded")
    with caplog.at_level(logging.WARNING, "trials.training"):
        run_job(ptb, job, tmp_path, lambda metrics: None)
    assert any("can grow 2.5-fold in each step" in record.message for record in caplog.records) is warned
