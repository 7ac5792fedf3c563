"""The embedded corpus: generated text with a structure that a recurrent cell can learn and a unigram cannot.

Each sentence has a subject, often with a clause or a phrase between it and its verb. The verb agrees with the subject
in number and in topic, so the word to predict depends on one that stands up to eight words earlier; the object's topic
depends on the verb. Word frequencies alone know nothing of this. The text is made by rules and a fixed seed: nobody's
work, the same on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "sea": (
        ("ship", "sailor", "gull", "harbour", "captain", "whale", "storm", "anchor"),
        ("sail", "drift", "moor", "rig", "row"),
        ("salty", "grey", "windy", "deep"),
    ),
    "farm": (
        ("farmer", "cow", "field", "barn", "goose", "tractor", "orchard", "shepherd"),
        ("plough", "milk", "harvest", "graze", "sow"),
        ("green", "muddy", "ripe", "quiet"),
    ),
    "court": (
        ("judge", "lawyer", "witness", "clerk", "thief", "trial", "verdict", "jury"),
        ("accuse", "acquit", "summon", "question", "sentence"),
        ("stern", "guilty", "honest", "solemn"),
    ),
    "kitchen": (
        ("cook", "oven", "baker", "knife", "soup", "kettle", "pan", "waiter"),
        ("fry", "bake", "stir", "serve", "season"),
        ("hot", "sweet", "burnt", "fresh"),
    ),
    "music": (
        ("singer", "violin", "choir", "drum", "pianist", "song", "flute", "conductor"),
        ("play", "tune", "hum", "rehearse", "compose"),
        ("loud", "gentle", "bright", "slow"),
    ),
}
"""Topic -> nouns, verbs, adjectives; the plural adds an s to the noun, the singular one to the verb."""

SENTENCES = {"train": 6000, "valid": 600, "test": 600}


def sentences(split: str) -> list[list[str]]:
    """Return the sentences of ``train``, ``valid`` or ``test``, each a list of words."""
    generator = random.Random(f"miniature {split}")
    return [list(_sentence(generator)) for _ in range(SENTENCES[split])]


def _sentence(generator: random.Random) -> Iterator[str]:
    topic = generator.choice(list(TOPICS))
    plural = generator.random() < 0.5
    yield from _noun_phrase(generator, topic, plural)
    if generator.random() < 0.4:
        yield from _clause(generator, topic)
    yield _verb(generator, topic, plural)
    yield from _noun_phrase(generator, topic, generator.random() < 0.5)
    if generator.random() < 0.3:
        yield "near"
        yield from _noun_phrase(generator, generator.choice(list(TOPICS)), generator.random() < 0.5)


def _clause(generator: random.Random, topic: str) -> Iterator[str]:
    """Put a noun of another number, or of another topic, between the subject and its verb."""
    if generator.random() < 0.5:
        yield "near"
        yield from _noun_phrase(generator, generator.choice(list(TOPICS)), generator.random() < 0.5)
        return
    inner = generator.random() < 0.5
    yield "that"
    yield from _noun_phrase(generator, topic, inner)
    yield _verb(generator, topic, inner)


def _noun_phrase(generator: random.Random, topic: str, plural: bool) -> Iterator[str]:
    nouns, _, adjectives = TOPICS[topic]
    yield generator.choice(("the", "some")) if plural else generator.choice(("the", "a"))
    if generator.random() < 0.4:
        yield generator.choice(adjectives)
    noun = generator.choice(nouns)
    yield f"{noun}s" if plural else noun


def _verb(generator: random.Random, topic: str, plural: bool) -> str:
    verb = generator.choice(TOPICS[topic][1])
    return verb if plural else f"{verb}s"
