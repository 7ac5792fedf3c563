"""Tag schemes: entities as one tag a word, and the three ways in which corpora write them.

========  ==========================================================================================
``iob1``  ``I-`` for every word of an entity; ``B-`` only where an entity follows one of its own type
``bio``   ``B-`` on the first word of every entity, ``I-`` on the others (also called IOB2)
``bioes`` as ``bio``, with ``E-`` on the last word and ``S-`` on an entity of one word
========  ==========================================================================================

Each scheme writes a list of entities in exactly one way, so converting is lossless: tags, to entities, to tags.

References
----------
Ramshaw and Marcus, "Text Chunking using Transformation-Based Learning", 1995 (IOB1); Tjong Kim Sang and De Meulder,
"Introduction to the CoNLL-2003 Shared Task", CoNLL 2003.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

SCHEMES: dict[str, str] = {"iob1": "BI", "bio": "BI", "bioes": "BIES"}
"""Letters that each scheme puts before an entity's type; every other word has the tag ``O``."""

OUTSIDE = "O"


@dataclass(frozen=True, order=True)
class Entity:
    """Words ``start`` to ``stop - 1`` of a sentence, counted from 0, and what they name."""

    start: int
    stop: int
    type: str


@lru_cache(maxsize=4096)
def split_tag(tag: str) -> tuple[str, str]:
    """Split ``B-PER`` into its letter and its type; the type of ``O`` is empty.

    Raises
    ------
    ValueError
        If the text is no tag of any scheme.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    letter, dash, kind = tag.partition("-")
    if not dash or len(letter) != 1 or letter not in "BIES" or not kind:
        raise ValueError(f"found the tag {tag!r}; expected O, or one of B- I- E- S- and a type, such as B-PER.")
    return letter, kind


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that tags of any scheme mark, read as the CoNLL-2003 evaluation reads them.

    An entity starts at ``B-`` or ``S-``, after an ``E-`` or ``S-``, after an ``O`` and where the type changes. So
    sequences that no scheme would write (``O I-PER``, ``B-PER I-LOC``) have a meaning too.
    """
    entities = []
    start = 0
    last_letter, last_kind = OUTSIDE, ""
    for position, tag in enumerate([*tags, OUTSIDE]):
        letter, kind = split_tag(tag)
        continues = last_letter in "BI" and letter in "IE" and kind == last_kind
        if not continues:
            if last_letter != OUTSIDE:
                entities.append(Entity(start, position, last_kind))
            start = position
        last_letter, last_kind = letter, kind
    return entities


def tags_of(entities: Iterable[Entity], length: int, scheme: str) -> tuple[str, ...]:
    """Write entities, which must not overlap, as the tags of a sentence of ``length`` words.

    Raises
    ------
    ValueError
        If the scheme is unknown, or an entity overlaps another or leaves the sentence.
    """
    check_scheme(scheme)
    tags = [OUTSIDE] * length
    stop, kind = 0, ""
    for index, entity in enumerate(sorted(entities)):
        if not stop <= entity.start < entity.stop <= length:
            raise ValueError(f"{entity} overlaps its neighbour or leaves its sentence of {length} words.")
        tags[entity.start : entity.stop] = [f"I-{entity.type}"] * (entity.stop - entity.start)
        follows_its_like = index > 0 and entity.start == stop and entity.type == kind
        if scheme != "iob1" or follows_its_like:
            tags[entity.start] = f"B-{entity.type}"
        if scheme == "bioes":
            tags[entity.stop - 1] = f"{'S' if entity.stop - entity.start == 1 else 'E'}-{entity.type}"
        stop, kind = entity.stop, entity.type
    return tuple(tags)


def convert_tags(tags: Sequence[str], scheme: str) -> tuple[str, ...]:
    """Write the entities of ``tags``, of any scheme, in another scheme."""
    return tags_of(entities_of(tags), len(tags), scheme)


def first_misfit(tags: Sequence[str], scheme: str) -> int | None:
    """Return the position of the first tag that the scheme would not have written, or None where all fit."""
    for position, (found, canonical) in enumerate(zip(tags, convert_tags(tags, scheme), strict=True)):
        if found != canonical:
            return position
    return None


def check_scheme(scheme: str) -> None:
    """Refuse a name that is no scheme.

    Raises
    ------
    ValueError
        With the names that exist.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme: found {scheme!r}; allowed: {', '.join(SCHEMES)}.")


def tag_set(types: Iterable[str], scheme: str) -> tuple[str, ...]:
    """Return every tag of a scheme over some entity types, ``O`` first, in an order that depends on nothing else."""
    check_scheme(scheme)
    return (OUTSIDE, *(f"{letter}-{kind}" for kind in sorted(set(types)) for letter in SCHEMES[scheme]))


def may_follow(before: str, after: str, scheme: str) -> bool:
    """Tell whether a scheme can have tag ``after`` right behind tag ``before``.

    The border of a sentence is written as ``O``: what may not follow ``O`` may not begin a sentence, and what ``O``
    may not follow may not end one.
    """
    check_scheme(scheme)
    (letter, kind), (next_letter, next_kind) = split_tag(before), split_tag(after)
    is_same = kind == next_kind
    if scheme == "bioes":
        is_open = letter in "BI"
        return is_open == (next_letter in "IE") and (is_same or not is_open)
    if scheme == "bio":
        return next_letter != "I" or (letter != OUTSIDE and is_same)
    return next_letter != "B" or (letter != OUTSIDE and is_same)
