"""NNI's multi-trial strategies on our spaces: the choices are ordinary mutables, so nothing special is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import nni
import pytest
import torch
from nni.mutable import frozen_context
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import model_context
from nni.nas.strategy import DARTS, TPE, GumbelDARTS, Random, RegularizedEvolution
from torch import nn

from idarts_nni import CellSpace, FixedNode, FixedRecurrentCell, MixedNode, MixedRecurrentCell, Node, RecurrentCell
from idarts_nni.choices import EdgeChoice
from tests.one_shot import search

ROOT = Path(__file__).resolve().parents[1]
SPACE = CellSpace(3, ("zeroize", "tanh", "relu", "identity"), edges_per_node=2, combine="mean")


class Space(ModelSpace):
    def __init__(self):
        super().__init__()
        self.cell = RecurrentCell(SPACE, 2, 4, label="cell")
        self.node = Node({"linear": lambda source: nn.Linear(4, 4), "tanh": nn.Tanh()}, 2, label="node")

    def extra_oneshot_hooks(self, strategy):
        return [MixedRecurrentCell.mutate, MixedNode.mutate]

    def forward(self, sequences):
        outputs, _ = self.cell(sequences.transpose(0, 1))
        return self.node([outputs[0], outputs[-1]])


def count_tanh(model):
    assert type(model.cell) is FixedRecurrentCell and type(model.node) is FixedNode
    model(torch.randn(2, 3, 2))
    nni.report_final_result(float(str(model.cell.architecture).count("tanh")))


@pytest.mark.parametrize("strategy", [
    lambda: Random(seed=1), lambda: RegularizedEvolution(population_size=4, sample_size=2), TPE,
], ids=["random", "evolution", "tpe"])  # fmt: skip
def test_a_multi_trial_strategy_tries_cells_and_lists_the_best(strategy):
    config = NasExperimentConfig("sequential", "raw", max_trial_number=6)
    experiment = NasExperiment(Space(), FunctionalEvaluator(count_tanh), strategy(), config=config)
    experiment.run()
    samples = experiment.export_top_models(top_k=6, formatter="dict")
    scores = []
    for sample in samples:
        assert set(sample) == {"cell/node_1", "cell/node_2", "cell/node_3", "node"}
        with model_context(sample):
            scores.append(str(Space().cell.architecture).count("tanh"))
    assert len(samples) == 6 and scores == sorted(scores, reverse=True)


def test_the_example_runs_and_lists_two_cells():
    done = subprocess.run(
        [sys.executable, "examples/multi_trial.py"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    found = ast.literal_eval(next(line for line in done.stdout.splitlines() if line.startswith("[{")))
    assert [set(sample) for sample in found] == [{"cell/node_1", "cell/node_2", "cell/node_3"}] * 2


@pytest.mark.parametrize("strategy", [DARTS, GumbelDARTS])
def test_nni_s_own_one_shot_strategies_search_the_same_space(strategy):
    experiment = search(Space(), strategy(), 3, 2)
    (sample,) = experiment.export_top_models(formatter="dict")
    assert set(sample) == {"cell/node_1", "cell/node_2", "cell/node_3", "node"}
    with model_context(sample):
        assert Space()(torch.randn(2, 3, 2)).shape == (2, 4)


def test_a_tuner_sees_one_choice_among_all_sets_of_edges():
    with frozen_context():
        choice = EdgeChoice(["a 0", "b 0", "a 1"], n_chosen=2, label="x")
    assert choice.as_legacy_dict() == {"_type": "choice", "_value": [["a 0", "b 0"], ["a 0", "a 1"], ["b 0", "a 1"]]}


def test_a_choice_with_too_many_sets_says_so_instead_of_filling_the_memory():
    choice = EdgeChoice([f"tanh {source}" for source in range(60)], n_chosen=8, label="x")
    with pytest.raises(ValueError, match="x: 8 of 60 edges can be chosen in 2,558,620,845 ways"):
        choice.as_legacy_dict()
