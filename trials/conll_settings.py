"""The settings of the entity tagger, checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .embeddings import CHARACTER_MODELS
from .schemes import SCHEMES, check_scheme
from .search_options import SearchOptions


def _check(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field}: found {value!r}; allowed: {', '.join(allowed)}.")


def _check_range(field: str, value: float, is_inside: bool, allowed: str) -> None:
    if not is_inside:
        raise ValueError(f"{field}: found {value}; expected {allowed}.")


@dataclass(frozen=True)
class Settings(SearchOptions):
    """A recipe; the defaults are those of retraining.

    Raises
    ------
    ValueError
        If a choice is unknown; the message names it and what is allowed.
    """

    epochs: int = 150
    """At most; training ends sooner where the learning rate falls below ``least_learning_rate``."""
    hidden_size: int = 512
    """H, of each direction."""
    batch_size: int = 32
    """Sentences."""
    learning_rate: float = 0.1
    anneal_factor: float = 0.25
    anneal_patience: int = 2
    """The learning rate is multiplied by the factor after so many epochs without a better score; 0 keeps it."""
    least_learning_rate: float = 1e-4
    weight_decay: float = 0.0
    gradient_clip: float = 5.0
    input_dropout: float = 0.5
    """On the layer's input, the same features at every word."""
    hidden_dropout: float = 0.0
    """On every state of the cell before its matrix product."""
    output_dropout: float = 0.5
    """On the layer's output, the same features at every word."""
    word_dropout: float = 0.05
    """On all of a word's input."""
    evaluation_batch_size: int = 64
    scheme: str = "bioes"
    """In which the tagger predicts: ``iob1``, ``bio`` or ``bioes``. Scores do not depend on it."""
    constrained: bool = True
    """Exclude the transitions that the scheme never writes."""
    word_width: int = 100
    """Width of the trained word vectors; 0 for none."""
    unknown_rate: float = 0.5
    """How often a word that the training set has once is taken for unknown."""
    characters: str = "cnn"
    """``cnn``, ``lstm`` or ``none``."""
    character_width: int = 50
    """Width of what the characters say of a word."""
    glove: str = ""
    """Text file of word vectors; empty for none. In this and other paths ``~`` and ``$NAME`` are filled in."""
    transformer: str = ""
    """Local folder of a Hugging Face encoder; empty for none."""
    flair: str = ""
    """Local files of flair language models, separated by commas; empty for none."""
    flair_pooling: str = "min"
    """``min``, ``max`` or ``mean``."""
    feature_cache: str = ""
    """Folder of the features of frozen models; by default ``idarts_nni/features`` in the user's cache folder."""
    train_on: str = "train"
    """``train``, or ``train+dev``: then the dev score, which still chooses the epoch, is one on training data."""
    train_sentences: int = 0
    """Train on the first so many sentences only; 0 for all."""
    train_file: str = ""
    """Name in the data folder, where it is none of the usual ones."""
    dev_file: str = ""
    test_file: str = ""
    file_scheme: str = "auto"
    """In which the files are tagged: a scheme, ``auto`` or ``loose``; see :func:`~trials.tagging.read_conll`."""
    columns: int = 0
    """Columns of the files, the word first and the tag last; 0 for two or four."""
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scheme(self.scheme)
        _check("characters", self.characters, (*CHARACTER_MODELS, "none"))
        _check("train_on", self.train_on, ("train", "train+dev"))
        _check("flair_pooling", self.flair_pooling, ("min", "max", "mean"))
        _check("file_scheme", self.file_scheme, ("auto", "loose", *SCHEMES))
        for name in ("input_dropout", "hidden_dropout", "output_dropout", "word_dropout"):
            _check_range(name, getattr(self, name), 0.0 <= getattr(self, name) < 1.0, "0 or more, and below 1")
        for name in ("hidden_size", "character_width"):
            _check_range(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("word_width", "train_sentences", "anneal_patience"):
            _check_range(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _check_range("learning_rate", self.learning_rate, self.learning_rate > 0.0, "more than 0")
        _check_range("columns", self.columns, self.columns == 0 or self.columns >= 2, "0, or 2 or more")

    @property
    def dropout(self) -> tuple[float, float, float]:
        """Rates on the layer's input, in the cell, and on the layer's output."""
        return self.input_dropout, self.hidden_dropout, self.output_dropout


RETRAIN = Settings()
# As in the search on Penn Treebank, with the learning rate and the width that the paper gives for entities.
SEARCH = dataclasses.replace(
    RETRAIN,
    epochs=40,
    hidden_size=256,
    batch_size=256,
    anneal_patience=0,
    weight_decay=5e-7,
    gradient_clip=0.25,
    input_dropout=0.75,
    hidden_dropout=0.25,
    output_dropout=0.75,
)
