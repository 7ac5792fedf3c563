"""Cells of one edge for each node and of many, by every way of joining, from one search through to a retraining."""

import dataclasses
import itertools
import math

import pytest
import torch

from idarts_nni.architecture import Architecture
from idarts_nni.space import CellSpace
from trials import ptb
from trials.task import Job
from trials.training import Precautions, run_job

SPACE = CellSpace(3, ("zeroize", "tanh", "relu", "identity"))
QUICK = {
    "epochs": 1, "hidden_size": 8, "batch_size": 32, "evaluation_batch_size": 100, "test_batch_size": 100,
    "train_tokens": 9000,
}  # fmt: skip
KEPT = {1: [1, 1, 1], 2: [2, 2, 2], 3: [3, 3, 3], "all": [3, 6, 9]}
COMBINES = ("sum", "mean", "weighted")


def trained(job, folder):
    return run_job(ptb, job, folder, lambda metrics: None, Precautions(reductions=0))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return n -> the cell that one search derives with it."""
    derive = {"edges_per_node": list(KEPT)}
    job = Job("search", "idarts", 1, SPACE, None, {**QUICK, "arc_learning_rate": 0.3}, "embedded", derive=derive)
    outcome = trained(job, tmp_path_factory.mktemp("search"))
    return {cell["edges_per_node"]: Architecture.from_dict(cell["architecture"]) for cell in outcome.cells}


@pytest.mark.parametrize("n", KEPT)
def test_a_search_s_cell_of_every_n_retrains_by_every_way_of_joining(n, found, tmp_path):
    cell = found[n]
    assert [len(edges) for edges in cell.nodes] == KEPT[n]
    weights = []
    for combine in COMBINES:
        space = dataclasses.replace(SPACE, edges_per_node=n, combine=combine)
        job = Job("retrain", "idarts", 1, space, cell, QUICK, "embedded")
        if combine == "sum" and n in (3, "all"):  # so many edges let the state grow through half-open gates
            with pytest.raises(FloatingPointError, match="use combine: mean or weighted"):
                trained(job, tmp_path / combine)
            continue
        outcome = trained(job, tmp_path / combine)
        assert math.isfinite(outcome.validation) and math.isfinite(outcome.test)
        state = torch.load(tmp_path / combine / "best.ckpt", weights_only=True)["state_dict"]
        weights += [value for name, value in state.items() if name.endswith("node_weights")]
    pairs = [torch.equal(*pair) for pair in itertools.combinations(weights, 2)]
    # One edge has nothing to join; of several the learnt weights are neither equal nor a sum.
    assert pairs and set(pairs) == {n == 1}
