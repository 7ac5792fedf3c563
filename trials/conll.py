"""Named entity recognition on CoNLL column files: the recipes of search and retraining.

The weights are trained on the training set and, in a search, the architecture on the development set, both by the
negative log-likelihood of the conditional random field. See README.md for the sources and the deviations.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor

from idarts_nni.shares import ALONE, Share, averaged, gathered

from .batching import Batch, Batches
from .conll_data import SPLITS, load_corpora, tagger_data
from .conll_settings import RETRAIN, SEARCH, Settings
from .layers import clip_gradients
from .spans import SpanScores, span_scores
from .tagger import Tagger
from .task import Job, Workload, resolve_settings

_logger = logging.getLogger(__name__)

METRIC = "F1"
OPTIMIZE_MODE = "maximize"
DATA_PARALLEL = True


def prepare(job: Job) -> Workload:
    """Make data, model and recipe for one stage; what :mod:`trials.run` calls."""
    searching = job.stage == "search"
    defaults = SEARCH if searching else RETRAIN
    if searching and job.space is not None and job.space.profile == "authors-code":
        defaults = dataclasses.replace(defaults, epochs=50, batch_size=128)
    settings = resolve_settings(defaults, job.overrides)
    # Only a retraining reads the test file, and only after training does its model see it.
    splits = SPLITS if job.stage == "retrain" else SPLITS[:2]
    # A GPU goes over all word vectors in no time, a search's own clipping knows no sparse gradients, and weight decay
    # changes every row.
    sparse = not searching and settings.weight_decay == 0.0 and job.device == "cpu" and job.share.count == 1
    data = tagger_data(job.data, settings, splits, job.device, sparse)
    model = Tagger(
        data.inputs,
        data.tags,
        settings.scheme if settings.constrained else None,
        None if job.method == "lstm" else job.space,
        job.architecture,
        settings.hidden_size,
        dropout=settings.dropout,
        word_dropout=settings.word_dropout,
        backend=job.backend,
    )
    examples, parts = data.examples, job.share.count
    evaluate = Batches(examples["dev"], settings.evaluation_batch_size)
    workload = Workload(
        model=model,
        module=TaggerRecipe(settings, job.share),
        train=Batches(examples["train"], settings.batch_size, job.seed, one_length=searching, parts=parts),
        validation=evaluate,
        settings=settings,
        epochs=settings.epochs,
        corpus=data.corpus,
        gradient_clip=settings.gradient_clip,
    )
    if searching:
        stream = Batches(examples["dev"], settings.batch_size, job.seed, one_length=True, parts=parts)
        workload.validation = {"search": stream, "evaluate": evaluate}
        workload.strategy = settings.strategy_arguments()
    elif "test" in examples:
        workload.test = Batches(examples["test"], settings.evaluation_batch_size)
    return workload


def check_data(data: str, settings: Mapping[str, Settings]) -> None:
    """Read the files of every stage."""
    for stage, own in settings.items():
        load_corpora(data, own, SPLITS if stage == "retrain" else SPLITS[:2])


class TaggerRecipe(LightningModule):
    """SGD with a learning rate that falls when the dev score stalls, and entity F1 by span.

    The paper lowers the learning rate by the test error; this looks at the dev score, or at the training loss where the
    dev set is trained on.

    Parameters
    ----------
    settings
        Learning rate, its schedule, and weight decay.
    share
        Which of the processes this is; each computes its own sentences of every batch.
    """

    def __init__(self, settings: Settings, share: Share = ALONE) -> None:
        super().__init__()
        self.settings = settings
        self.share = share
        self._losses: list[Tensor] = []
        self._true: list[list[str]] = []
        self._predicted: list[list[str]] = []
        self._best = -float("inf")
        self._stalled = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain SGD."""
        settings = self.settings
        return torch.optim.SGD(self.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss, in nats a sentence."""
        loss = self._shared_loss(batch) if self.share.count > 1 else self.model.loss(batch)
        if self.trainer.training:  # not where a search only measures
            self._losses.append(loss.detach())
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of all gradients, as the trainer would, but sparse ones too."""
        if gradient_clip_val:
            clip_gradients(self.parameters(), gradient_clip_val)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Tag a batch, or one's share of it."""
        # A search network normalises by the batch at hand: what it is judged by must not depend on the devices.
        if self.share.count > 1 and not self.model.is_searching:
            batch = batch.part(self.share.part(batch.words.shape[1]))
            if not batch.words.numel():
                return  # fewer sentences than processes
        self._true += self.model.tag_names(batch.tags, batch)
        self._predicted += self.model.decode(batch)

    test_step = validation_step

    def on_validation_epoch_start(self) -> None:
        """Forget the tags of an earlier pass."""
        self._true, self._predicted = [], []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log the F1 of the pass and of each type, and lower the learning rate if it is time."""
        scores = self._scores()
        self.log("validation", scores.f1)
        for name, value in _by_type(scores):
            self.log(name, value)
        if self._losses:
            loss = self._train_losses().mean().item()
            self._losses.clear()
            self.log("train", loss)
            self._anneal(scores.f1 if self.settings.train_on == "train" else -loss)

    def on_test_epoch_end(self) -> None:
        """Log the F1 of the test pass and of each type."""
        scores = self._scores()
        self.log("test", scores.f1)
        for name, value in _by_type(scores):
            self.log(f"test {name}", value)
        _logger.info("Test set, trained on %s:\n%s", self.settings.train_on, scores)

    def running_state(self) -> dict[str, Any]:
        """Return the losses of the running epoch and how long the score has stalled; the rate is the optimiser's."""
        losses = self._train_losses() if self._losses else None
        return {"losses": losses, "best": self._best, "stalled": self._stalled}

    def load_running_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Take up what :meth:`running_state` returned."""
        self._losses = [] if state["losses"] is None else list(state["losses"].to(device))
        self._best, self._stalled = state["best"], state["stalled"]

    def _shared_loss(self, batch: Batch) -> Tensor:
        """Return a loss of this process's sentences whose mean over the processes is that of the whole batch."""
        size = batch.words.shape[1]
        mine = batch.part(self.share.part(size))
        with self.share.drawing(size):
            return self.model.loss(mine) * (mine.words.shape[1] * self.share.count / size)

    def _train_losses(self) -> Tensor:
        (losses,) = averaged([torch.stack(self._losses)])
        assert losses is not None
        return losses

    def _scores(self) -> SpanScores:
        tags = gathered([self._true, self._predicted])
        if self.model.is_searching:
            tags = tags[:1]  # every process has tagged all of it
        return span_scores(*([sentence for some in tags for sentence in some[kind]] for kind in (0, 1)))

    def _anneal(self, score: float) -> None:
        settings = self.settings
        if not settings.anneal_patience:
            return
        # An F1 of 0 is no stall: the tagger has not begun to name anything.
        self._stalled = 0 if score > self._best or score == 0.0 else self._stalled + 1
        self._best = max(self._best, score)
        if self._stalled >= settings.anneal_patience:
            self._stalled = 0
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] *= settings.anneal_factor
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("learning_rate", rate)
        if rate < settings.least_learning_rate:
            self.trainer.should_stop = True


def _by_type(scores: SpanScores) -> Iterator[tuple[str, float]]:
    for kind, score in [("all", scores.overall), *scores.by_type.items()]:
        yield f"{kind} precision", score.precision
        yield f"{kind} recall", score.recall
        yield f"{kind} f1", score.f1
