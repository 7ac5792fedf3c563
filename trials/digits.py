"""Handwritten digits: NNI's own image spaces under the same strategy, on data that scikit-learn ships.

Axis letters: ``B`` images of 8 x 8 pixels, ``C`` channels. The search space of an experiment names a space of NNI's
hub: ``model: {space: DARTS, width: 8, num_cells: 3}``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.hub.pytorch import nasnet
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import model_context
from sklearn.datasets import load_digits
from torch import Tensor, nn

from idarts_nni.model_architecture import ModelArchitecture

from .task import Job, Workload, resolve_settings

METRIC = "accuracy"
OPTIMIZE_MODE = "maximize"
SPACE = "model"
BASELINE = "cnn"

SPACES = ("DARTS", "NASNet", "ENAS", "AmoebaNet", "PNAS")
CLASSES = 10
HELD_OUT = 360
"""Images for validation, and as many for the test; the other 1,077 are for training."""
SPLIT_SEED = 0
"""The split is the same in every run, whatever the trial's seed."""
BRIGHTEST = 16.0


@dataclass(frozen=True)
class Settings:
    """A recipe; the defaults are those of retraining."""

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 0.05
    """At the start; it falls to zero along a cosine."""
    momentum: float = 0.9
    weight_decay: float = 3e-4
    gradient_clip: float = 5.0
    cnn_width: int = 10
    """Channels of the plain network's first layer; 10 gives it as many weights as a found network of 4 channels."""
    arc_learning_rate: float = 0.02
    arc_weight_decay: float = 1e-3


RETRAIN = Settings()
SEARCH = Settings(epochs=12)


def check_data(data: str, settings: Mapping[str, Settings]) -> None:
    """There is nothing to check: the data come with scikit-learn."""


def prepare(job: Job) -> Workload:
    """Make data, model and recipe for one stage; what :mod:`trials.run` calls."""
    searching = job.stage == "search"
    settings = resolve_settings(SEARCH if searching else RETRAIN, job.overrides)
    parts = split_digits()
    evaluate = Batches(*parts["validation"], HELD_OUT)
    workload = Workload(
        model=make_model(job, settings),
        module=DigitsRecipe(settings),
        train=Batches(*parts["train"], settings.batch_size, job.seed),
        validation=evaluate,
        settings=settings,
        epochs=settings.epochs,
        corpus="scikit-learn's digits",
        gradient_clip=settings.gradient_clip,
    )
    if searching:
        stream = Batches(*parts["validation"], settings.batch_size, job.seed)
        workload.validation = {"search": stream, "evaluate": evaluate}
        workload.strategy = {
            "arc_learning_rate": settings.arc_learning_rate,
            "arc_weight_decay": settings.arc_weight_decay,
        }
        return workload
    workload.test = Batches(*parts["test"], HELD_OUT)
    return workload


def split_digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Return images ``(B, 3, 8, 8)`` in -1..1 and labels ``(B,)`` of the three parts.

    NNI's spaces begin with a layer for colours, so grey stands in all three channels.
    """
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / BRIGHTEST * 2.0 - 1.0
    labels = torch.tensor(digits.target, dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    places = {
        "test": order[:HELD_OUT],
        "validation": order[HELD_OUT : 2 * HELD_OUT],
        "train": order[2 * HELD_OUT :],
    }
    return {
        part: (images[chosen].unsqueeze(1).expand(-1, 3, -1, -1), labels[chosen]) for part, chosen in places.items()
    }


class Batches:
    """Passes over images; what a pass draws depends on the seed and on its number alone, so that runs can be resumed.

    Parameters
    ----------
    images, labels
        Shapes ``(B, 3, 8, 8)`` and ``(B,)``.
    batch_size
        Images in a batch. With a seed, what is left over waits for another pass: a batch of one cannot be normalised.
    seed
        Seed of the shuffling; None keeps the order and every image, for evaluation.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, seed: int | None = None) -> None:
        if not 2 <= batch_size <= len(labels):
            raise ValueError(f"batch_size: found {batch_size}; allowed: 2 to {len(labels)}.")
        self.images, self.labels = images, labels
        self.batch_size = batch_size
        self.seed = seed
        self._passes = 0

    def state_dict(self) -> dict[str, int]:
        """Return how many passes were begun."""
        return {"passes": self._passes}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with the pass that follows the ones begun."""
        self._passes = int(state["passes"])

    def __len__(self) -> int:
        whole, rest = divmod(len(self.labels), self.batch_size)
        return whole + bool(rest and self.seed is None)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = list(range(len(self.labels)))
        if self.seed is not None:
            random.Random(f"{self.seed} {self._passes}").shuffle(order)
        self._passes += 1
        for number in range(len(self)):
            chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield self.images[chosen], self.labels[chosen]


def make_model(job: Job, settings: Settings) -> nn.Module:
    """Make the space to search, the model of a found architecture, or the plain network.

    Raises
    ------
    ValueError
        If the search space names no space of this task, or the architecture does not belong to it.
    """
    if job.method == BASELINE:
        return PlainNetwork(settings.cnn_width)
    if job.stage == "search":
        return hub_space(job.model_space)
    if not isinstance(job.architecture, ModelArchitecture):
        raise ValueError(f"The architecture to retrain is {job.architecture!r}; expected choices of an image space.")
    with model_context(job.architecture.sample(hub_space(job.model_space).simplify())):
        return hub_space(job.model_space)


def hub_space(description: Mapping[str, Any]) -> ModelSpace:
    """Make a space of NNI's hub from plain data: ``space``, ``width`` and ``num_cells`` (numbers, or lists of them)."""
    if not isinstance(description, Mapping):
        raise ValueError(f"search space, model: found {description!r}; expected space, width and num_cells.")
    expected = {"space": str, "width": (int, list), "num_cells": (int, list)}
    for key, kinds in expected.items():
        if not isinstance(description.get(key), kinds):
            raise ValueError(
                f"search space, model.{key}: found {description.get(key)!r}; expected a text or numbers, "
                f"such as model: {{space: DARTS, width: 8, num_cells: 3}}."
            )
    if set(description) != set(expected) or description["space"] not in SPACES:
        raise ValueError(
            f"search space, model: found {dict(description)!r}; keys: {', '.join(expected)}; "
            f"spaces: {', '.join(SPACES)}."
        )
    return getattr(nasnet, description["space"])(
        width=description["width"], num_cells=description["num_cells"], dataset="cifar"
    )


class PlainNetwork(nn.Module):
    """Three convolutions and a mean over the pixels: what a found network has to beat.

    Parameters
    ----------
    width
        Channels of the first convolution; the others have two and four times as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if outputs < 4 * width else []
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, 10)`` of images ``(B, 3, 8, 8)``."""
        return self.layers(images)


class DigitsRecipe(LightningModule):
    """Cross-entropy, SGD with a cosine, and exact accuracy in per cent.

    Parameters
    ----------
    settings
        Learning rate, momentum, weight decay and number of epochs.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self._right: list[Tensor] = []

    def configure_optimizers(self) -> Any:
        """Return SGD with momentum, its rate falling along a cosine."""
        settings = self.settings
        optimizer = torch.optim.SGD(
            self.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
        )
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy of one batch in nats."""
        images, labels = batch
        return nn.functional.cross_entropy(self.model(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Note which images are told rightly."""
        images, labels = batch
        self._right.append((self.model(images).argmax(-1) == labels).float().cpu())

    test_step = validation_step

    def on_validation_epoch_start(self) -> None:
        """Forget what an earlier evaluation noted."""
        self._right.clear()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy of the pass."""
        self.log("validation", self._accuracy())

    def on_test_epoch_end(self) -> None:
        """Log the accuracy of the test pass."""
        self.log("test", self._accuracy())

    def _accuracy(self) -> float:
        return 100.0 * torch.cat(self._right).mean().item()
