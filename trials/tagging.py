"""Column files of the CoNLL shared tasks: one word a line, its columns parted by blanks or tabs, the tag last.

An empty line ends a sentence and a ``-DOCSTART-`` line begins a document. Nothing depends on a language or a tag set.

References
----------
Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task: Language-Independent Named Entity
Recognition", CoNLL 2003.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .schemes import SCHEMES, Entity, check_scheme, convert_tags, entities_of, first_misfit, split_tag

DOCUMENT_START = "-DOCSTART-"

COLUMNS = (2, 4)
"""Column counts read by default: word and tag; or word, part of speech, chunk and tag."""

# Only blanks and tabs part columns: a word may hold a no-break space or another of Unicode's spaces.
_SEPARATOR = re.compile(r"[ \t]+")


@dataclass(frozen=True)
class Sentence:
    """One sentence with its tags, in the scheme of its corpus."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    document: int = 0
    """Which document of its file, counted from 0."""
    line: int = 0
    """Line of the file on which its first word stands, counted from 1; 0 where there is no file."""

    @property
    def entities(self) -> list[Entity]:
        """The entities that the tags mark."""
        return entities_of(self.tags)

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class Corpus:
    """The sentences of one file, all tagged in one scheme."""

    sentences: tuple[Sentence, ...]
    scheme: str
    origin: str
    """File name, or a few words on where the sentences are from; errors begin with it."""

    @property
    def num_tokens(self) -> int:
        """Number of words."""
        return sum(len(sentence) for sentence in self.sentences)

    @property
    def num_entities(self) -> int:
        """Number of entities."""
        return sum(len(sentence.entities) for sentence in self.sentences)

    @property
    def num_documents(self) -> int:
        """Number of documents that hold a sentence."""
        return len({sentence.document for sentence in self.sentences})

    @property
    def types(self) -> tuple[str, ...]:
        """The entity types that occur, sorted."""
        return tuple(sorted({entity.type for sentence in self.sentences for entity in sentence.entities}))

    def converted(self, scheme: str) -> Corpus:
        """Return the same corpus with its tags written in another scheme."""
        check_scheme(scheme)
        sentences = tuple(replace(one, tags=convert_tags(one.tags, scheme)) for one in self.sentences)
        return replace(self, sentences=sentences, scheme=scheme)

    def check_types(self, known: Sequence[str]) -> None:
        """Refuse an entity type that is not among those known, which are the training set's.

        Raises
        ------
        ValueError
            Naming the file, the line and the type.
        """
        for sentence in self.sentences:
            for entity in sentence.entities:
                if entity.type not in known:
                    raise ValueError(
                        f"{self.origin}, line {sentence.line + entity.start}: unknown entity type {entity.type!r}; "
                        f"the training set has {', '.join(known) or 'none'}."
                    )


def read_conll(
    path: str | os.PathLike[str],
    *,
    scheme: str = "auto",
    columns: Sequence[int] = COLUMNS,
    encoding: str = "utf-8",
) -> Corpus:
    """Read a column file.

    Parameters
    ----------
    path
        The file.
    scheme
        ``iob1``, ``bio`` or ``bioes``, or ``auto``: the scheme that would have written all tags of the file just as
        they stand. Where several would (no entities touch, for one), the earliest in
        :data:`~trials.schemes.SCHEMES` is taken; they mean the same then. ``loose`` takes any tags, reads them as
        the evaluation does (:func:`~trials.schemes.entities_of`) and writes them as ``bio``.
    columns
        Column counts that are right. All lines of a file must have the same number.
    encoding
        Of the file; the German part of CoNLL-2003 is ``latin-1``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is empty or not in that encoding, or a line has another number of columns, a tag of no scheme, or
        one that the scheme would not have written; the message names the file and the line.
    """
    origin = str(path)
    if scheme not in ("auto", "loose"):
        check_scheme(scheme)
    sentences = tuple(_sentences(_lines(Path(path), encoding), origin, tuple(columns)))
    if not sentences:
        raise ValueError(f"{origin}: there is no sentence in this file; expected lines such as 'Oslo NNP I-NP I-LOC'.")
    if scheme == "loose":
        return Corpus(sentences, "bio", origin).converted("bio")
    found = _fitting_scheme(sentences, origin) if scheme == "auto" else scheme
    _check_fit(sentences, found, origin)
    return Corpus(sentences, found, origin)


def write_conll(corpus: Corpus) -> str:
    """Return a corpus as the text of a two-column file that :func:`read_conll` reads back."""
    lines = []
    document = 0
    for sentence in corpus.sentences:
        if sentence.document != document:
            lines += [f"{DOCUMENT_START} O", ""]
            document = sentence.document
        lines += [f"{word} {tag}" for word, tag in zip(sentence.words, sentence.tags, strict=True)]
        lines.append("")
    return "\n".join(lines) + "\n"


def _lines(path: Path, encoding: str) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file (asked from {Path.cwd()}).")
    content = path.read_bytes()
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not {encoding} text. Name the file's encoding "
            f"in the settings (encoding: latin-1, for one), or convert it: iconv -f latin-1 -t utf-8."
        ) from None
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"{path}: cannot be read as {encoding!r}: {error}. Name another encoding.") from None
    # Not splitlines: it would also break at characters that may stand inside a word, such as U+0085.
    return text.removeprefix("\ufeff").split("\n")


def _sentences(lines: Sequence[str], origin: str, columns: tuple[int, ...]) -> Iterator[Sentence]:
    document, has_sentence = 0, False
    words: list[str] = []
    tags: list[str] = []
    width = 0
    for number, line in enumerate([*lines, ""], start=1):
        cells = _SEPARATOR.split(line.strip(" \t\r"))
        is_border = cells[0] == DOCUMENT_START
        if (is_border or cells == [""]) and words:
            yield Sentence(tuple(words), tuple(tags), document, number - len(words))
            words, tags, has_sentence = [], [], True
        if is_border:
            document += has_sentence
            has_sentence = False
        elif cells != [""]:
            width = width or len(cells)
            _check_cells(cells, width, columns, f"{origin}, line {number}")
            words.append(cells[0])
            tags.append(cells[-1])


def _check_cells(cells: list[str], width: int, columns: tuple[int, ...], place: str) -> None:
    if len(cells) not in columns:
        allowed = " or ".join(str(count) for count in columns)
        raise ValueError(
            f"{place}: found {len(cells)} column(s): {' '.join(cells)[:80]!r}; expected {allowed}. "
            f"The setting columns allows another number."
        )
    if len(cells) != width:
        raise ValueError(f"{place}: found {len(cells)} columns where the file's first line has {width}.")
    try:
        split_tag(cells[-1])
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _fitting_scheme(sentences: Sequence[Sentence], origin: str) -> str:
    misfits = {scheme: _first_misfit(sentences, scheme) for scheme in SCHEMES}
    for scheme, misfit in misfits.items():
        if misfit is None:
            return scheme
    places = "; ".join(f"{scheme} would not write {tag!r} on line {line}" for scheme, (line, tag) in _known(misfits))
    raise ValueError(
        f"{origin}: the tags follow no scheme throughout: {places}. "
        f"The setting file_scheme: loose reads them as the CoNLL-2003 evaluation would."
    )


def _check_fit(sentences: Sequence[Sentence], scheme: str, origin: str) -> None:
    misfit = _first_misfit(sentences, scheme)
    if misfit is not None:
        line, tag = misfit
        raise ValueError(f"{origin}, line {line}: {scheme} would not write the tag {tag!r} here; is it another scheme?")


def _first_misfit(sentences: Sequence[Sentence], scheme: str) -> tuple[int, str] | None:
    for sentence in sentences:
        position = first_misfit(sentence.tags, scheme)
        if position is not None:
            return sentence.line + position, sentence.tags[position]
    return None


def _known(misfits: dict[str, tuple[int, str] | None]) -> Iterator[tuple[str, tuple[int, str]]]:
    return ((scheme, misfit) for scheme, misfit in misfits.items() if misfit is not None)
