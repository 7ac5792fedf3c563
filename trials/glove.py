"""Word vectors from text files, of which only the needed rows are kept.

References
----------
Pennington, Socher and Manning, "GloVe: Global Vectors for Word Representation", EMNLP 2014.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from .batching import PADDING, Vocabulary, normalised

_LONGEST_LINE = 1 << 20
"""Bytes; the longest line of a file of 1,000 numbers has some 25,000."""
_LARGEST = 1e30
"""Sums of such numbers still fit 32 bits."""


class PretrainedEmbedding(nn.Module):
    """Vectors of word forms, kept as they are.

    Parameters
    ----------
    vectors
        Shape ``(V, E)``, as :func:`read_vectors` returns them.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.width = vectors.shape[1]
        # Not persistent: the file holds them, and a checkpoint need not repeat them.
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self, forms: Tensor) -> Tensor:
        """Return vectors ``(T, B, E)`` for word forms ``(T, B)``."""
        return self.vectors[forms]


def read_vectors(path: str | os.PathLike[str], vocabulary: Vocabulary) -> Tensor:
    """Read the vectors of a vocabulary's words from a text file: on each line a word and its numbers.

    The file sets the width. A first line of two whole numbers (rows and width, as word2vec and fastText write) is taken
    as such. Of lines with one word the first counts. A word is looked up as it is spelt, then in lower case, then with
    each digit a 0; the rest, and the unknown word, get the mean of all vectors that were found.

    Parameters
    ----------
    path
        The file, UTF-8.
    vocabulary
        Words as they are spelt, V of them.

    Returns
    -------
    Shape ``(V, E)``; row 0, the padding, is 0.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line has another width than the first, a needed number cannot be read or is not finite,
        or no word of the vocabulary is there; the message names the file and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of word vectors (asked from {Path.cwd()}).")
    spellings = {entry: _spellings(entry) for entry in vocabulary.entries[2:]}
    wanted = {spelling.encode() for several in spellings.values() for spelling in several}
    rows = dict(_needed_rows(path, wanted))
    found = {entry: _first_row(several, rows) for entry, several in spellings.items()}
    known = [row for row in found.values() if row is not None]
    if not known:
        raise ValueError(f"{path}: holds none of the corpus's {len(found):,} words; is it of another language?")
    mean = torch.stack(known).mean(0)
    vectors = mean.repeat(len(vocabulary), 1)
    vectors[PADDING] = 0.0
    for number, row in enumerate(found.values(), start=2):
        if row is not None:
            vectors[number] = row
    return vectors


def _spellings(word: str) -> tuple[str, str, str]:
    return word, word.lower(), normalised(word)


def _first_row(spellings: tuple[str, ...], rows: dict[bytes, Tensor]) -> Tensor | None:
    return next((rows[one.encode()] for one in spellings if one.encode() in rows), None)


def _needed_rows(path: Path, wanted: set[bytes]) -> Iterator[tuple[bytes, Tensor]]:
    """Yield the wanted words with their vectors, each word once; check the width of every line."""
    width = 0
    wanted = set(wanted)
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
            if len(line) == _LONGEST_LINE:
                raise ValueError(f"{path}, line {number}: has {_LONGEST_LINE:,} bytes or more; is this word vectors?")
            cells = line.split()
            if not cells:
                continue
            if number == 1 and len(cells) == 2 and all(cell.isdigit() and len(cell) < 20 for cell in cells):
                width = int(cells[1])
                continue
            width = width or len(cells) - 1
            word = _word(cells, width, f"{path}, line {number}")
            if word in wanted:
                wanted.discard(word)
                yield word, _vector(cells[-width:], f"{path}, line {number}")


def _word(cells: list[bytes], width: int, place: str) -> bytes:
    # A few words of the largest GloVe file hold blanks: the cells too many are part of the word if they are no numbers.
    if width < 1 or len(cells) <= width or (len(cells) > width + 1 and _is_number(cells[-width - 1])):
        raise ValueError(f"{place}: found {len(cells) - 1} numbers; expected {width or 'some'}, as on the first line.")
    return b" ".join(cells[:-width])


def _vector(cells: list[bytes], place: str) -> Tensor:
    for cell in cells:
        if not _is_number(cell):
            raise ValueError(f"{place}: {cell.decode(errors='replace')!r} is not a finite number.")
    vector = torch.tensor([float(cell) for cell in cells])
    if not bool((vector.abs() < _LARGEST).all()):
        raise ValueError(f"{place}: a number is {_LARGEST:.0e} or larger; no word vector is.")
    return vector


def _is_number(cell: bytes) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
