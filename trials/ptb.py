"""Penn Treebank language model: the model, and the recipes of search and retraining.

Axis letters: ``T`` steps, ``B`` batch, ``H`` hidden width, ``V`` vocabulary. Every setting is that of the paper or of
the DARTS code, which the paper follows; see README.md for the sources and for the few deviations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from idarts_nni.architecture import Architecture
from idarts_nni.dropped_head import dropped_linear_cross_entropy
from idarts_nni.head import linear_cross_entropy, linear_nll_sum
from idarts_nni.mutator import MixedRecurrentCell
from idarts_nni.shares import ALONE, Share, averaged, summed
from idarts_nni.space import CellSpace

from . import miniature
from .averaging import NonMonotoneAveraging
from .corpus import SPLITS, Corpus, Segment, Segments, batch_columns, build_corpus, corpus_name, read_corpus
from .layers import (
    detached,
    embed,
    joined_state,
    locked_dropout,
    locked_mask,
    moved,
    own_state,
    recurrent_layer,
)
from .search_options import SearchOptions
from .task import Job, Workload, resolve_settings

METRIC = "perplexity"
OPTIMIZE_MODE = "minimize"
DATA_PARALLEL = True
EMBEDDING_RANGE = 0.04


@dataclass(frozen=True)
class Settings(SearchOptions):
    """A recipe; the defaults are those of retraining."""

    epochs: int = 3000
    hidden_size: int = 850
    """H; the embeddings have the same width, since input and output share them."""
    batch_size: int = 64
    bptt: int = 35
    """Usual length of a piece, in steps; the learning rate is for this length and scales with it."""
    bptt_deviation: float = 5.0
    bptt_shortest: int = 5
    bptt_longest: int = 55
    learning_rate: float = 20.0
    weight_decay: float = 8e-7
    gradient_clip: float = 0.25
    output_dropout: float = 0.75
    hidden_dropout: float = 0.25
    input_dropout: float = 0.75
    embedding_dropout: float = 0.2
    """On the embedded words, the same features at every step."""
    word_dropout: float = 0.1
    """On whole word types of the embedding."""
    activation_change: float = 1e-3
    """Temporal activation regularisation: weight of the mean squared change of the hidden state."""
    averaging_patience: int = 5
    """Weights are averaged once the validation loss has not beaten the best of all but the last so many epochs."""
    evaluation_batch_size: int = 10
    test_batch_size: int = 1
    train_tokens: int = 0
    """Train on the first so many tokens only; 0 for all."""


RETRAIN = Settings()
SEARCH = Settings(
    epochs=40,
    hidden_size=300,
    batch_size=256,
    bptt_deviation=0.0,
    bptt_shortest=1,
    bptt_longest=35,
    weight_decay=5e-7,
    word_dropout=0.0,
    averaging_patience=0,
    # The search network normalises by the batch at hand, and ten columns give poor statistics.
    evaluation_batch_size=64,
)


def prepare(job: Job) -> Workload:
    """Make data, model and recipe for one stage; what :mod:`trials.run` calls."""
    searching = job.stage == "search"
    defaults = SEARCH if searching else RETRAIN
    if searching and job.space is not None and job.space.profile == "authors-code":
        defaults = dataclasses.replace(defaults, epochs=50, batch_size=128)
    settings = resolve_settings(defaults, job.overrides)
    job.share.check_equal_parts(settings.batch_size, "batch_size")
    corpus = load_corpus(job.data)
    model = LanguageModel(corpus.vocabulary, job.space, job.architecture, settings, job.backend)
    # An epoch needs no more training text than asked for; evaluation always reads all of its text.
    train = corpus.train[: settings.train_tokens or None]
    evaluate = _segments(corpus.valid, settings.evaluation_batch_size, settings, "validation", job)
    workload = Workload(
        model=model,
        module=LanguageModelRecipe(settings, job.share),
        train=_segments(train, settings.batch_size, settings, "train", job),
        validation=evaluate,
        settings=settings,
        epochs=settings.epochs,
        corpus="embedded" if job.data == "embedded" else corpus_name(corpus),
        gradient_clip=settings.gradient_clip,
    )
    if searching:
        stream = _segments(corpus.valid, settings.batch_size, settings, "search", job)
        workload.validation = {"search": stream, "evaluate": evaluate}
        workload.strategy = settings.strategy_arguments()
        return workload
    workload.test = _segments(corpus.test, settings.test_batch_size, settings, "test", job)
    if settings.averaging_patience:
        workload.callbacks.append(NonMonotoneAveraging(settings.averaging_patience))
    return workload


def check_data(data: str, settings: Mapping[str, Settings]) -> None:
    """Read the corpus and see that each stage's batches fit its texts."""
    corpus = load_corpus(data)
    for stage, own in settings.items():
        batch_columns(corpus.train[: own.train_tokens or None], own.batch_size)
        batch_columns(corpus.valid, max(own.evaluation_batch_size, own.batch_size if stage == "search" else 0))
        if stage != "search":
            batch_columns(corpus.test, own.test_batch_size)


def load_corpus(data: str) -> Corpus:
    """Read the corpus in a folder, or make the embedded one."""
    if data == "embedded":
        return build_corpus({split: miniature.sentences(split) for split in SPLITS})
    return read_corpus(data)


def _segments(stream: Tensor, batch_size: int, settings: Settings, name: str, job: Job) -> Segments:
    columns = batch_columns(stream, batch_size)
    # A search network normalises by the batch at hand: what it is judged by must not depend on the devices.
    if not (job.stage == "search" and name == "validation"):
        columns = job.share.columns(columns, 1)
    # The whole text goes to the device once: a piece is then a view, and no step waits for a copy.
    columns = columns.to(job.device)
    if name in ("validation", "test"):
        return Segments(columns, settings.bptt, name)
    return Segments(
        columns,
        settings.bptt,
        name,
        seed=job.seed,
        deviation=settings.bptt_deviation,
        shortest=settings.bptt_shortest,
        longest=settings.bptt_longest,
    )


class LanguageModel(ModelSpace):
    """Word embedding, one recurrent layer, and a decoder that shares the embedding's weights.

    Parameters
    ----------
    vocabulary
        Number of word types, V.
    space
        Space of the cell; None for the LSTM baseline.
    architecture
        The found cell; None to search one.
    settings
        Widths and dropout rates.
    backend
        How the cell is computed.
    """

    def __init__(
        self,
        vocabulary: int,
        space: CellSpace | None,
        architecture: Architecture | None,
        settings: Settings,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.settings = settings
        width = settings.hidden_size
        self.embedding = nn.Parameter(torch.empty(vocabulary, width).uniform_(-EMBEDDING_RANGE, EMBEDDING_RANGE))
        self.layer = recurrent_layer(
            space,
            architecture,
            width,
            width,
            input_dropout=settings.input_dropout,
            hidden_dropout=settings.hidden_dropout,
            backend=backend,
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def extra_oneshot_hooks(self, strategy: Any) -> list[Any]:
        """Let NNI's own DARTS search this space too, with its own softmax."""
        return [MixedRecurrentCell.mutate]

    def forward(self, tokens: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Return all hidden states ``(T, B, H)`` for tokens ``(T, B)``, and the last state."""
        settings = self.settings
        embedded = embed(tokens, self.embedding, settings.word_dropout, self.training)
        return self.layer(locked_dropout(embedded, settings.embedding_dropout, self.training), hidden)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of targets ``(T, B)`` in nats, to train by."""
        if not self.training or self.settings.output_dropout == 0.0:
            return linear_cross_entropy(outputs.flatten(0, 1), self.embedding, self.bias, targets.flatten())
        mask = locked_mask(outputs, self.settings.output_dropout)[0]
        return dropped_linear_cross_entropy(outputs, mask, self.embedding, self.bias, targets)

    def summed_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the negative log-likelihood of targets ``(T, B)`` in nats, for evaluation."""
        return linear_nll_sum(outputs.flatten(0, 1), self.embedding, self.bias, targets.flatten())


class LanguageModelRecipe(LightningModule):
    """Truncated back-propagation with a learning rate in proportion to the length, and exact perplexity.

    Parameters
    ----------
    settings
        Learning rate, weight decay and regularisation.
    share
        Which of the processes this is; each computes its own columns.
    """

    def __init__(self, settings: Settings, share: Share = ALONE) -> None:
        super().__init__()
        self.settings = settings
        self.share = share
        self._carried: dict[str, Any] = {}
        self._sums: dict[str, list[Tensor]] = {}
        self._predicted = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain SGD; averaging, when it starts, is the callback's."""
        settings = self.settings
        return torch.optim.SGD(self.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def training_step(self, batch: Segment, batch_idx: int) -> Tensor:
        """Return the regularised loss of one piece, and set the learning rate for its length."""
        with self.share.drawing(batch.tokens.shape[1] * self.share.count):
            outputs = self._run(batch)
            loss = self.model.loss(outputs, batch.targets)
        if batch.stream == "train":
            self._sums.setdefault("train", []).append(loss.detach())
            # SGD reads its rate when it steps, which is after this and before the next piece.
            group = self.trainer.optimizers[0].param_groups[0]
            group["lr"] = self.settings.learning_rate * len(batch.tokens) / self.settings.bptt
        if self.settings.activation_change and len(outputs) > 1:
            loss = loss + self.settings.activation_change * (outputs[1:] - outputs[:-1]).pow(2).mean()
        return loss

    def validation_step(self, batch: Segment, batch_idx: int) -> None:
        """Add up the negative log-likelihood; every predicted token counts once."""
        self._add_up(batch)

    def test_step(self, batch: Segment, batch_idx: int) -> None:
        """As in validation."""
        self._add_up(batch)

    def on_train_epoch_start(self) -> None:
        """Start every pass from an empty state."""
        self._carried.clear()
        self._sums.pop("train", None)

    def on_validation_epoch_start(self) -> None:
        """Forget what an earlier evaluation added up."""
        self._sums["evaluation"], self._predicted = [], 0

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log the perplexity of the pass, and that of training."""
        self.log("validation", self._perplexity())
        if self._sums.get("train"):
            mean = self._train_losses().float().mean().item()
            self.log("train", _perplexity(mean))

    def on_test_epoch_end(self) -> None:
        """Log the perplexity of the test pass."""
        self.log("test", self._perplexity())

    def running_state(self) -> dict[str, Any]:
        """Return the carried hidden states, and the losses of the running epoch."""
        losses = self._train_losses() if self._sums.get("train") else None
        carried = {stream: moved(joined_state(hidden), torch.device("cpu")) for stream, hidden in self._kept().items()}
        return {"carried": carried, "train": losses}

    def load_running_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Take up what :meth:`running_state` returned."""
        self._carried = {
            stream: moved(own_state(hidden, self.share), device) for stream, hidden in state["carried"].items()
        }
        if state["train"] is not None:
            self._sums["train"] = list(state["train"].to(device))

    def _kept(self) -> dict[str, Any]:
        if self.share.count == 1:
            return self._carried
        # An evaluation begins anew each time, and its columns need not be the same in number everywhere.
        return {stream: hidden for stream, hidden in self._carried.items() if stream in ("train", "search")}

    def _train_losses(self) -> Tensor:
        """Return the loss of each step of the running epoch, over all columns."""
        (losses,) = averaged([torch.stack(self._sums["train"])])
        assert losses is not None
        return losses

    def _run(self, batch: Segment) -> Tensor:
        hidden = None if batch.first else self._carried.get(batch.stream)
        outputs, last = self.model(batch.tokens, hidden)
        self._carried[batch.stream] = detached(last)
        return outputs

    def _add_up(self, batch: Segment) -> None:
        if not batch.targets.numel():
            return  # fewer columns than processes
        self._sums["evaluation"].append(self.model.summed_loss(self._run(batch), batch.targets).double())
        self._predicted += batch.targets.numel()

    def _perplexity(self) -> float:
        losses = self._sums["evaluation"]
        total = torch.stack(losses).sum().item() if losses else 0.0
        if self.share.count > 1:
            total, self._predicted = summed(torch.tensor([total, self._predicted], dtype=torch.float64)).tolist()
        return _perplexity(total / self._predicted)


def _perplexity(nats: float) -> float:
    """Return e to the power of the loss; infinity, not an error, for a model that has diverged."""
    return math.exp(nats) if nats < 700.0 else math.inf
