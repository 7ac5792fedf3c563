"""Evolution on a space of recurrent cells: NNI's multi-trial strategies need nothing of this package but the cell.

Each trial trains a frozen cell for a moment to remember the first value of a sequence, and reports its error. In real
use leave out the config: NNI then runs every model as a trial of its own, with its web page.
"""

import nni
import torch
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.strategy import RegularizedEvolution
from torch import nn

from idarts_nni import CellSpace, RecurrentCell

SPACE = CellSpace(num_nodes=3, operations=("tanh", "relu", "sigmoid", "identity"))


class Memory(ModelSpace):
    """A recurrent cell and a linear read-out of its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = RecurrentCell(SPACE, input_size=1, hidden_size=8, label="cell")
        self.read_out = nn.Linear(8, 1)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """Return one value ``(B, 1)`` for each sequence of ``(T, B, 1)``."""
        return self.read_out(self.cell(sequences)[1])


def train_and_report(model: nn.Module) -> None:
    """Train a frozen model and report minus its error: NNI's strategies look for the highest metric."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        sequences = torch.rand(5, 32, 1)
        loss = nn.functional.mse_loss(model(sequences), sequences[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    nni.report_final_result(-loss.item())


if __name__ == "__main__":
    experiment = NasExperiment(
        Memory(),
        FunctionalEvaluator(train_and_report),
        RegularizedEvolution(population_size=6, sample_size=3),
        config=NasExperimentConfig("sequential", "raw", max_trial_number=12),
    )
    experiment.run()
    print(experiment.export_top_models(top_k=2, formatter="dict"))
