"""A one-epoch search on random data, for tests of search spaces."""

import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from nni.nas.experiment import NasExperiment
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Recipe(LightningModule):
    """Least squares on the mean over all features: any space of any output will do."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))  # a derived model may have no weights

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return nn.functional.mse_loss(self.scale * self.model(inputs).flatten(1).mean(1), targets)

    def validation_step(self, batch, batch_idx):
        self.log("validation", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def evaluator(*shape, size=8):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(size, *shape, generator=generator), torch.randn(size, generator=generator))
    loader = DataLoader(data, batch_size=4)
    trainer = Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0,
    )  # fmt: skip
    return Lightning(Recipe(), trainer, train_dataloaders=loader, val_dataloaders=loader)


def search(model, strategy, *shape):
    """Search a space on inputs of a shape; return the experiment."""
    torch.manual_seed(0)
    experiment = NasExperiment(model, evaluator(*shape), strategy)
    experiment.run()
    return experiment


def set_logits(logits, values):
    """Set the logits of one node; ``values`` holds a row for each source."""
    with torch.no_grad():
        logits.copy_(torch.tensor(values, dtype=logits.dtype))
