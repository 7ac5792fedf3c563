"""Text for a language model: reading, vocabulary, and pieces in the order that truncated back-propagation needs.

A corpus is three text files, one sentence a line, words separated by blanks: ``ptb.train.txt``, ``ptb.valid.txt``,
``ptb.test.txt`` (the published names), or ``train.txt``, ``valid.txt``, ``test.txt``. Every line ends in ``<eos>``. A
folder with a single text file will do for a first look: its lines are cut 80 : 10 : 10.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

EOS = "<eos>"
UNKNOWN = "<unk>"
PENN_TREEBANK = (929_589, 73_760, 82_430)
"""Tokens of its training, validation and test text, ends of sentences among them."""
SPLITS = ("train", "valid", "test")
WHERE_TO_GET_IT = (
    "The preprocessed Penn Treebank is distributed with many language-model toolkits (T. Mikolov's simple-examples, "
    "data/ptb.*.txt). `data: embedded` needs no files."
)


@dataclass(frozen=True)
class Corpus:
    """A corpus as token numbers."""

    words: tuple[str, ...]
    """Word types in the order of their first appearance in the training text; V of them."""
    train: Tensor
    valid: Tensor
    test: Tensor

    @property
    def vocabulary(self) -> int:
        """Number of word types, V."""
        return len(self.words)


def corpus_name(corpus: Corpus) -> str:
    """Return what a corpus is called in records: the Penn Treebank by its name, another text by its size."""
    sizes = len(corpus.train), len(corpus.valid), len(corpus.test)
    if sizes == PENN_TREEBANK:
        return "Penn Treebank"
    return "text of {:,} + {:,} + {:,} words".format(*sizes)


def read_corpus(folder: str) -> Corpus:
    """Read a corpus from a folder: a file for each split, or a single text that is cut into the three.

    The vocabulary is that of the training text; a word that stands only elsewhere counts as ``<unk>``.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing; the message says what is expected and where to get it.
    ValueError
        If a file is empty or is not UTF-8 text.
    """
    single = _single_text(folder)
    if single is not None:
        return build_corpus(_cut(single))
    texts = {split: _read_lines(_find_split(folder, split)) for split in SPLITS}
    return build_corpus(texts)


def build_corpus(texts: dict[str, list[list[str]]]) -> Corpus:
    """Make a corpus of three texts, each a list of sentences (lists of words)."""
    numbers: dict[str, int] = {}
    streams: dict[str, list[int]] = {}
    for word in _words(texts["train"]):
        numbers.setdefault(word, len(numbers))
    for split in SPLITS:
        if any(word not in numbers for word in _words(texts[split])):
            numbers.setdefault(UNKNOWN, len(numbers))
    for split in SPLITS:
        streams[split] = [numbers[word] if word in numbers else numbers[UNKNOWN] for word in _words(texts[split])]
    return Corpus(tuple(numbers), *(torch.tensor(streams[split], dtype=torch.long) for split in SPLITS))


def batch_columns(stream: Tensor, batch_size: int) -> Tensor:
    """Cut a stream of tokens into ``B`` columns of equal length, shape ``(rows, B)``; what is left over is dropped.

    Raises
    ------
    ValueError
        If the text is too short to fill two rows.
    """
    rows = len(stream) // batch_size
    if rows < 2:
        raise ValueError(
            f"A text of {len(stream):,} tokens is too short for a batch of {batch_size}: every column needs 2 tokens "
            f"or more. Lower the batch size to {max(1, len(stream) // 2)} or less."
        )
    return stream[: rows * batch_size].view(batch_size, rows).t().contiguous()


class Segment(NamedTuple):
    """A piece of all columns, with what the recipe has to know of it."""

    tokens: Tensor
    """Shape ``(T, B)``."""
    targets: Tensor
    """The tokens that follow, shape ``(T, B)``."""
    stream: str
    """Which carried hidden state goes with it."""
    first: bool
    """Whether the hidden state starts anew."""


class Segments:
    """Passes over the columns of a text, in pieces of fixed or random length.

    The lengths of a pass depend on the seed and on the number of the pass alone, so that a resumed run meets the same
    pieces. It has no ``len``: how many pieces a pass has depends on what is drawn.

    Parameters
    ----------
    columns
        Tokens, shape ``(rows, B)``.
    bptt
        Usual length of a piece, in steps.
    stream
        Name of the hidden state that is carried along.
    seed
        Seed of the lengths; None cuts pieces of ``bptt`` steps.
    half_chance
        Chance that a piece has half the usual length.
    deviation, shortest, longest
        Lengths are drawn from a normal distribution round the usual length with this deviation, within these bounds.
    """

    def __init__(
        self,
        columns: Tensor,
        bptt: int,
        stream: str,
        *,
        seed: int | None = None,
        half_chance: float = 0.05,
        deviation: float = 0.0,
        shortest: int = 1,
        longest: int | None = None,
    ) -> None:
        self.columns = columns
        self.bptt = bptt
        self.stream = stream
        self.seed = seed
        self.half_chance = half_chance
        self.deviation = deviation
        self.shortest = shortest
        self.longest = longest
        self._passes = 0

    def state_dict(self) -> dict[str, Any]:
        """Return how many passes were begun."""
        return {"passes": self._passes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the pass that follows the ones begun."""
        self._passes = int(state["passes"])

    def __iter__(self) -> Iterator[Segment]:
        number, self._passes = self._passes, self._passes + 1
        position, rows = 0, len(self.columns)
        for length in self._lengths(number):
            if position >= rows - 1:
                return
            end = min(position + length, rows - 1)
            yield Segment(self.columns[position:end], self.columns[position + 1 : end + 1], self.stream, position == 0)
            position = end

    def _lengths(self, number: int) -> Iterator[int]:
        if self.seed is None:
            while True:
                yield self.bptt
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        while True:
            halved = torch.rand((), generator=generator).item() < self.half_chance
            mean = self.bptt / 2 if halved else float(self.bptt)
            drawn = torch.randn((), generator=generator).item()  # drawn even if unused: one stream of numbers
            length = max(self.shortest, int(mean + self.deviation * drawn))
            yield length if self.longest is None else min(length, self.longest)


def _find_split(folder: str, split: str) -> Path:
    names = (f"ptb.{split}.txt", f"{split}.txt")
    if not folder:
        raise FileNotFoundError(
            f"No data folder is named. Name one in the experiment file (data), by --data or in IDARTS_DATA: a folder "
            f"with {', '.join(f'ptb.{name}.txt' for name in SPLITS)}. {WHERE_TO_GET_IT}"
        )
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f"The data folder {folder!r} does not exist (asked from {Path.cwd()}). Expected a folder with "
            f"{', '.join(f'ptb.{name}.txt' for name in SPLITS)}; name it in the experiment file (data) or in "
            f"IDARTS_DATA. {WHERE_TO_GET_IT}"
        )
    for name in names:
        if (path / name).is_file():
            return path / name
    found = ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"{path}: expected {' or '.join(names)}, or a single .txt file; found {found}. {WHERE_TO_GET_IT}"
    )


def _single_text(folder: str) -> Path | None:
    """Return the only text file of a folder, if it has another name than those of a split."""
    texts = sorted(Path(folder).glob("*.txt")) if folder else []
    names = {name for split in SPLITS for name in (f"ptb.{split}.txt", f"{split}.txt")}
    return texts[0] if len(texts) == 1 and texts[0].name not in names else None


def _cut(path: Path) -> dict[str, list[list[str]]]:
    """Cut a text by lines, in their order: 80 % to train, 10 % each to validate and to test."""
    lines = _read_lines(path)
    if len(lines) < 10:
        raise ValueError(f"{path}: {len(lines)} lines; a single text needs 10 or more, one sentence a line, to be cut.")
    first, second = len(lines) * 8 // 10, len(lines) * 9 // 10
    return {"train": lines[:first], "valid": lines[first:second], "test": lines[second:]}


def _read_lines(path: Path) -> list[list[str]]:
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    while lines and not lines[-1]:
        lines.pop()  # blank lines at the end are no sentences
    if not lines:
        raise ValueError(f"{path}: the file is empty; expected one sentence a line.")
    return lines


def _words(sentences: list[list[str]]) -> Iterator[str]:
    for sentence in sentences:
        yield from sentence
        yield EOS
