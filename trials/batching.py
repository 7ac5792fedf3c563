"""Words as numbers, and sentences as padded batches.

Axis letters: ``T`` words, ``B`` sentences, ``V`` vocabulary, ``W`` characters, ``F`` width of frozen features.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import torch
from torch import Tensor

from .tagging import Corpus

PADDING = 0
"""Number of the padding in every vocabulary."""

UNKNOWN = 1
"""Number of what a vocabulary does not hold."""

_DIGIT = re.compile(r"\d")


def normalised(word: str) -> str:
    """Return the form under which a word is looked up: lower case, each digit a 0. Characters keep the rest."""
    return _DIGIT.sub("0", word.lower())


class Vocabulary:
    """Numbers for words, characters or tags, from 2 up; 0 is padding and 1 is unknown.

    Parameters
    ----------
    counts
        How often each entry was seen. The more frequent gets the lower number, ties by name: the same on every run.
    least
        Entries seen less often are left out.
    """

    def __init__(self, counts: Mapping[str, int], least: int = 1) -> None:
        kept = sorted((entry for entry, count in counts.items() if count >= least), key=lambda one: (-counts[one], one))
        self.entries: tuple[str, ...] = ("<padding>", "<unknown>", *kept)
        self._numbers = {entry: number for number, entry in enumerate(kept, start=2)}
        self.singletons = torch.tensor([False, False, *(counts[entry] == 1 for entry in kept)])
        """True for the entries that were seen once, shape ``(len(self),)``."""

    def number(self, entry: str) -> int:
        """Return the number of an entry, 1 where there is none."""
        return self._numbers.get(entry, UNKNOWN)

    def __contains__(self, entry: str) -> bool:
        return entry in self._numbers

    def __len__(self) -> int:
        return len(self.entries)


def word_vocabulary(corpora: Iterable[Corpus], least: int = 1) -> Vocabulary:
    """Count the words of some corpora in the form under which they are looked up."""
    return Vocabulary(Counter(normalised(word) for corpus in corpora for word in _words(corpus)), least)


def form_vocabulary(corpora: Iterable[Corpus]) -> Vocabulary:
    """Count the words of some corpora as they are spelt: what characters and vectors that are not trained go by."""
    return Vocabulary(Counter(word for corpus in corpora for word in _words(corpus)))


def character_vocabulary(corpora: Iterable[Corpus], least: int = 1) -> Vocabulary:
    """Count the characters of some corpora, upper and lower case apart."""
    return Vocabulary(Counter(character for corpus in corpora for word in _words(corpus) for character in word), least)


def spellings(forms: Vocabulary, characters: Vocabulary, longest_word: int = 30) -> Tensor:
    """Return the characters of each word of a vocabulary, shape ``(V, W)``, padded to the longest word.

    Characters beyond the first half and the last half of ``longest_word`` are left out. An unknown word has one
    character, an unknown one.
    """
    rows = [[], [UNKNOWN]]
    rows += [[characters.number(one) for one in _cut(word, longest_word)] for word in forms.entries[2:]]
    widest = max(map(len, rows))
    return torch.tensor([row + [PADDING] * (widest - len(row)) for row in rows], dtype=torch.int32)


@dataclass(frozen=True)
class Example:
    """One sentence as numbers."""

    words: Tensor
    """Shape ``(T,)``."""
    forms: Tensor
    """The words as they are spelt, shape ``(T,)``."""
    tags: Tensor
    """Shape ``(T,)``."""
    features: tuple[Tensor, ...] = ()
    """Frozen features of the words, one tensor for each model, shape ``(T, F)``; kept apart, since they are views."""


@dataclass(frozen=True)
class Batch:
    """Sentences side by side, padded at their end."""

    words: Tensor
    """Shape ``(T, B)``; 0 at padding, as in the others."""
    forms: Tensor
    """Shape ``(T, B)``."""
    tags: Tensor
    """Shape ``(T, B)``."""
    mask: Tensor
    """True at words, shape ``(T, B)``."""
    features: Tensor | None = None
    """Shape ``(T, B, F)``."""

    @property
    def lengths(self) -> Tensor:
        """Number of words of each sentence, shape ``(B,)``."""
        return self.mask.sum(0)

    def part(self, columns: slice) -> Batch:
        """Return some of the sentences, padded as they were."""
        return replace(self, **{name: value[:, columns] for name, value in vars(self).items() if value is not None})

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device; Lightning calls this."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)


def encode(
    corpus: Corpus,
    words: Vocabulary,
    forms: Vocabulary,
    tags: Sequence[str],
    features: Sequence[Sequence[Tensor]] = (),
) -> list[Example]:
    """Turn a corpus, in the scheme of ``tags``, into numbers.

    Parameters
    ----------
    corpus
        What to encode; its entity types must be known (:meth:`~trials.tagging.Corpus.check_types`).
    words, forms
        The vocabularies.
    tags
        All tags; their numbers are their positions.
    features
        For each frozen model the features of each sentence, shape ``(T, F)``.
    """
    numbers = {tag: number for number, tag in enumerate(tags)}
    return [
        Example(
            torch.tensor([words.number(normalised(word)) for word in sentence.words]),
            torch.tensor([forms.number(word) for word in sentence.words]),
            torch.tensor([numbers[tag] for tag in sentence.tags]),
            tuple(of_model[index] for of_model in features),
        )
        for index, sentence in enumerate(corpus.sentences)
    ]


def collate(examples: Sequence[Example]) -> Batch:
    """Pad some sentences to the longest of them."""
    lengths = torch.tensor([len(example.words) for example in examples])
    mask = torch.arange(int(lengths.max()))[:, None] < lengths  # (T, B)
    # Where the words of one sentence after the other belong, counted row by row.
    place = mask.T.nonzero()[:, [1, 0]] @ torch.tensor([len(examples), 1])

    def padded(parts: Sequence[Tensor]) -> Tensor:
        filled = torch.cat(list(parts))
        whole = filled.new_zeros(mask.numel(), *filled.shape[1:])
        return whole.index_copy_(0, place, filled).view(*mask.shape, *filled.shape[1:])

    features = [torch.cat(example.features, dim=1) for example in examples if example.features]
    return Batch(
        padded([example.words for example in examples]),
        padded([example.forms for example in examples]),
        padded([example.tags for example in examples]),
        mask,
        padded(features) if features else None,
    )


class Batches:
    """Passes over sentences, in batches of similar length, so that little is padded.

    A pass shuffles the sentences, sorts them by length (neighbours are random among equals), cuts the row into batches
    and shuffles those. What a pass draws depends on the seed and on its number alone, so that a resumed run meets the
    same batches.

    Parameters
    ----------
    examples
        The sentences.
    batch_size
        Sentences in a batch at most.
    seed
        Seed of the draw; None draws nothing and gives the same batches in every pass, for evaluation.
    one_length
        Put only sentences of one length in a batch, two or more of them, so that nothing is padded: the batch
        normalisation of the search network would mix padding into its statistics. A sentence whose length no other has
        is left out.
    parts
        Into how many parts every batch will be cut, one for each process that trains; each gets a sentence or, where
        batches have one length, two.

    Raises
    ------
    ValueError
        If the batches are too small.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        seed: int | None = None,
        one_length: bool = False,
        parts: int = 1,
    ) -> None:
        self._fewest = (1 + one_length) * parts
        if batch_size < self._fewest:
            raise ValueError(f"batch_size: found {batch_size}; allowed: {self._fewest} or more.")
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self.one_length = one_length
        self._passes = 0
        batches = self.drawn(0)
        self._size = len(batches)
        smallest = min((len(batch) for batch in batches), default=0)
        if parts > 1 and smallest < self._fewest:
            raise ValueError(
                f"batch_size: found {batch_size}, which gives batches of {smallest} sentences; {parts} processes need "
                f"{self._fewest} or more in each. Use {2 * self._fewest} or more, or fewer devices."
            )

    def state_dict(self) -> dict[str, int]:
        """Return how many passes were begun."""
        return {"passes": self._passes}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with the pass that follows the ones begun."""
        self._passes = int(state["passes"])

    def __iter__(self) -> Iterator[Batch]:
        number, self._passes = self._passes, self._passes + 1
        for positions in self.drawn(number):
            yield collate([self.examples[position] for position in positions])

    def __len__(self) -> int:
        return self._size

    def drawn(self, number: int) -> list[list[int]]:
        """Return the batches of a pass, counted from 0, as positions of sentences."""
        generator = random.Random(f"{self.seed} {number}")
        order = list(range(len(self.examples)))
        if self.seed is not None:
            generator.shuffle(order)
        order.sort(key=lambda position: len(self.examples[position].words))
        batches = [batch for row in self._rows(order) for batch in self._cut(row)]
        if self.seed is not None:
            generator.shuffle(batches)
        return batches

    def _rows(self, order: list[int]) -> list[list[int]]:
        if not self.one_length:
            return [order]
        groups = groupby(order, key=lambda position: len(self.examples[position].words))
        return [row for row in (list(group) for _, group in groups) if len(row) >= self._fewest]

    def _cut(self, row: list[int]) -> list[list[int]]:
        count = -(-len(row) // self.batch_size)
        # Sizes that differ by one at most: no batch is left with a single sentence of its length.
        borders = [len(row) * index // count for index in range(count + 1)]
        return [row[start:stop] for start, stop in pairwise(borders)]


def _words(corpus: Corpus) -> Iterator[str]:
    return (word for sentence in corpus.sentences for word in sentence.words)


def _cut(word: str, longest: int) -> str:
    # Case is shown by the beginning and inflection by the end; an address of 200 characters need not widen its batch.
    return word if len(word) <= longest else word[: longest // 2] + word[-(longest - longest // 2) :]
