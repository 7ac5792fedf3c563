"""Frozen contextual features: a Hugging Face encoder from a local folder, and pooled flair embeddings.

Both are optional (``pip install idarts-nni[transformers]``, ``idarts-nni[flair]``); neither is trained or downloaded.
Their features are computed once, by :mod:`trials.feature_cache`; where they are cached, nothing is loaded.

References
----------
Akbik, Bergmann and Vollgraf, "Pooled Contextualized Embeddings for Named Entity Recognition", NAACL 2019.
"""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .feature_cache import Words, cache_key, cached_features, files_digest

SENTENCES_AT_ONCE = 32


class FrozenModel(Protocol):
    """A model whose features of words do not change."""

    reads_alone: bool
    """Whether the features of a sentence depend on it alone, not on those that the model read before."""

    @property
    def identity(self) -> str:
        """All on which its features depend."""

    def features(self, sentences: Words) -> Iterator[NDArray[Any]]:
        """Yield the features of the sentences' words in order, arrays of shape ``(words, F)``."""


class TransformerFeatures:
    """The last layer of an encoder; a word of several pieces gets their mean.

    Every sentence is encoded alone, so its features do not depend on its neighbours. A sentence that is longer than the
    encoder can read is cut between words.

    Parameters
    ----------
    folder
        Local folder as ``save_pretrained`` writes it: configuration, weights, and a fast tokenizer.
    device
        Where to compute.

    Raises
    ------
    FileNotFoundError
        If the folder holds no model.
    ModuleNotFoundError
        When features are computed, if ``transformers`` is not installed.
    ValueError
        When features are computed, if the tokenizer is not a fast one, which says which piece is of which word, or a
        single word is longer than what the encoder can read.
    """

    reads_alone = True

    def __init__(self, folder: str | os.PathLike[str], device: str = "cpu") -> None:
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder}: holds no config.json; expected a folder that save_pretrained wrote.")
        self.device = device
        self._tokenizer: Any = None
        self._model: Any = None

    @cached_property
    def identity(self) -> str:
        """The content of the model's files."""
        kinds = (".json", ".safetensors", ".bin", ".txt", ".model")
        return f"transformer last-layer mean {files_digest(p for p in self.folder.iterdir() if p.suffix in kinds)}"

    def features(self, sentences: Words) -> Iterator[NDArray[Any]]:
        """Yield the features of some sentences at a time, shape ``(words, F)``."""
        self._load()
        pieces = [piece for words in sentences for piece in self._readable(list(words))]
        for start in range(0, len(pieces), SENTENCES_AT_ONCE):
            yield self._encode(pieces[start : start + SENTENCES_AT_ONCE])

    def _load(self) -> None:
        """Load tokenizer and model, unless they are loaded."""
        if self._model is not None:
            return
        transformers = _needed("transformers", "transformers")
        # add_prefix_space: byte-level tokenizers spell a word differently without the blank before it.
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(self.folder), local_files_only=True, add_prefix_space=True
        )
        if not self._tokenizer.is_fast:
            raise ValueError(f"{self.folder}: has no fast tokenizer (tokenizer.json); save the model with one.")
        model = transformers.AutoModel.from_pretrained(str(self.folder), local_files_only=True)
        self._model = model.to(self.device).eval().requires_grad_(False)

    def _readable(self, words: list[str]) -> Iterator[list[str]]:
        """Cut a sentence, where needed, into pieces that the encoder can read."""
        limit = self._limit()
        if self._length(words) <= limit:
            yield words
        elif len(words) == 1:
            raise ValueError(f"The word {words[0][:60]!r} is longer than the {limit} pieces that the encoder reads.")
        else:
            half = len(words) // 2
            yield from self._readable(words[:half])
            yield from self._readable(words[half:])

    def _limit(self) -> int:
        positions = getattr(self._model.config, "max_position_embeddings", 512)
        # Two positions fewer: RoBERTa counts its positions from 2.
        return min(positions - 2, self._tokenizer.model_max_length)

    def _length(self, words: list[str]) -> int:
        return len(self._tokenizer(words, is_split_into_words=True, verbose=False)["input_ids"])

    @torch.no_grad()
    def _encode(self, sentences: list[list[str]]) -> NDArray[Any]:
        encoded = self._tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
        states = self._model(**encoded.to(self.device)).last_hidden_state.float()  # (sentences, pieces, F)
        rows = [
            _word_means(state, encoded.word_ids(index), len(words))
            for index, (state, words) in enumerate(zip(states, sentences, strict=True))
        ]
        return torch.cat(rows).cpu().numpy()


class PooledFlairFeatures:
    """Contextual string embeddings, each joined with a pool of those that its word had before.

    The pool makes features depend on what was read earlier, so the order is part of the definition: the memory is empty
    at the start, sentences are read in the order of the files, and nothing is read twice.

    flair's files are pickled: load only such as you trust.

    Parameters
    ----------
    models
        Local files of flair language models, such as a forward and a backward one.
    pooling
        ``min``, ``max`` or ``mean``.
    device
        Where to compute.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ModuleNotFoundError
        When features are computed, if ``flair`` is not installed.
    """

    reads_alone = False

    def __init__(self, models: Sequence[str | os.PathLike[str]], pooling: str = "min", device: str = "cpu") -> None:
        self.paths = [Path(model) for model in models]
        for path in self.paths:
            if not path.is_file():
                raise FileNotFoundError(f"{path}: there is no such file; expected a language model saved by flair.")
        self.pooling = pooling
        self.device = device

    @cached_property
    def identity(self) -> str:
        """The content of the models' files, in their order, and the pooling."""
        return f"pooled flair {self.pooling} {' '.join(files_digest([path]) for path in self.paths)}"

    def features(self, sentences: Words) -> Iterator[NDArray[Any]]:
        """Yield the features of each sentence, shape ``(words, F)``, starting from an empty memory."""
        _needed("flair", "flair").device = torch.device(self.device)
        embeddings, data = _needed("flair.embeddings", "flair"), _needed("flair.data", "flair")
        parts = [embeddings.PooledFlairEmbeddings(str(path), pooling=self.pooling) for path in self.paths]
        for part in parts:
            part.eval()
        for start in range(0, len(sentences), SENTENCES_AT_ONCE):
            several = [data.Sentence(list(words)) for words in sentences[start : start + SENTENCES_AT_ONCE]]
            columns = [torch.cat(list(self._pooled(part, several))) for part in parts]
            yield torch.cat(columns, dim=1).float().cpu().numpy()

    def _pooled(self, part: Any, sentences: Sequence[Any]) -> Iterator[Tensor]:
        # The language model reads many sentences at once; flair keeps what it finds on the sentence. The pool must
        # then take one at a time: given several, it would show each the words of those behind it.
        part.context_embeddings.embed(list(sentences))
        for sentence in sentences:
            part.embed(sentence)
            # flair puts them in the order of their names: a word's own features, then its pool.
            yield torch.stack([token.get_embedding(part.get_names()) for token in sentence])
            # Two models may have one name, and the second would find the first one's features.
            sentence.clear_embeddings()


def split_features(
    model: FrozenModel, splits: Mapping[str, Words], folder: str | os.PathLike[str]
) -> dict[str, list[Tensor]]:
    """Return the features of every sentence of some splits, from the cache where it has them.

    Parameters
    ----------
    model
        The frozen model.
    splits
        Sentences by split, in the order in which the model reads them: training first, so that no feature of a training
        sentence depends on the others, and a pool knows nothing of the test set but what it has just read.
    folder
        Where caches lie.

    Returns
    -------
    For each split its sentences' features, shape ``(T, F)`` each: views of the mapped file, in half precision.
    """
    if model.reads_alone and len(splits) > 1:
        # One cache for each split, so that a run without the test set and one with it share what they can.
        return {name: split_features(model, {name: split}, folder)[name] for name, split in splits.items()}
    sentences = [words for split in splits.values() for words in split]
    key = cache_key(model.identity, splits.values())
    with _same_random_numbers_after():
        table = cached_features(folder, key, sum(map(len, sentences)), lambda: model.features(sentences))
    parts = iter(torch.from_numpy(table).split([len(words) for words in sentences]))
    return {name: [next(parts) for _ in split] for name, split in splits.items()}


@contextmanager
def _same_random_numbers_after() -> Iterator[None]:
    """Put all generators back: loading a model draws numbers, and a run that finds a cache is to draw the same."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _needed(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise ModuleNotFoundError(
            f"These features need {module}, which is not installed: pip install 'idarts-nni[{extra}]'.", name=error.name
        ) from None


def _word_means(state: Tensor, word_ids: Sequence[int | None], num_words: int) -> Tensor:
    """Average the pieces ``(pieces, F)`` of each word; shape ``(words, F)``."""
    pieces = [piece for piece, word in enumerate(word_ids) if word is not None]
    words = torch.tensor([word_ids[piece] for piece in pieces], dtype=torch.long, device=state.device)
    sums = state.new_zeros(num_words, state.shape[1]).index_add_(0, words, state[pieces])
    counts = state.new_zeros(num_words).index_add_(0, words, torch.ones_like(words, dtype=state.dtype))
    # A word of which the tokenizer keeps nothing (control characters, for one) has no piece and gets zeros.
    return sums / counts.clamp(min=1.0)[:, None]
