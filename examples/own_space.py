import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.experiment import NasExperiment
from nni.nas.nn.pytorch import ModelSpace
from torch import nn
from idarts_nni import IDARTS, Node


class TwoViews(ModelSpace):
    def __init__(self):
        super().__init__()
        linear = lambda source: nn.Linear((8, 3)[source], 2)
        operations = {"zeroize": None, "linear": linear, "mean": nn.AdaptiveAvgPool1d(2)}
        self.node = Node(operations, num_sources=2, num_edges=2, label="join")

    def forward(self, inputs):
        return self.node([inputs, inputs[:, :3]])


inputs = torch.randn(256, 8)
data = DataLoader(list(zip(inputs, (inputs[:, 0] > 0).long())), batch_size=32)
trainer = Classification(num_classes=2, max_epochs=5, train_dataloaders=data, val_dataloaders=data)
experiment = NasExperiment(TwoViews(), trainer, IDARTS(arc_learning_rate=0.05))
experiment.run()
print(experiment.export_top_models(top_k=3, formatter="dict"))
