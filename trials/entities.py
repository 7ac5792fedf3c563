"""The embedded entity corpus: sentences whose entities the context decides and a lookup cannot.

Every name is a person, a place, an organisation or a title, depending on the words around it: ``Marlow signed a
contract``, ``the road to Marlow``, ``shares of Marlow fell``, ``the novel Marlow sold well``. What decides stands
before the name in some sentences, behind it in others, and up to five words away. Each name is drawn for each type
equally often, some names of the later files are not in the training file, and half of the words that names are made of
are ordinary words elsewhere. The sentences are made by rules and a fixed seed: nobody's work, the same on every
machine.
"""

from __future__ import annotations

import random

from .schemes import Entity, tags_of
from .tagging import Corpus, Sentence

SENTENCES = {"train": 1200, "dev": 300, "test": 300}
DOCUMENT_LENGTH = 20
"""Sentences in a document."""

TYPES = ("LOC", "MISC", "ORG", "PER")

NAMES = (
    "Marlow Hastings Selby Brandt Lindau Corvin Ashby Tarrant Velden Orsini Kessel Dunmore Halden Rivera Castel "
    "Moreau Harper Falk Winter Rose Hope May Brook"
).split()
UNSEEN_NAMES = "Almond Bergen Carver Delgado Ember Fuller".split()
"""Names that only the validation and test files hold, half of the time."""

SECOND_NAMES = "Hill Park North Field Stone March Young Long".split()
FILLERS = (
    "the long winter was hard on the field",
    "a young rose may hope for rain in march",
    "stone by stone the wall rose",
    "they hope that the brook may rise",
    "it rained for a long time",
)
"""Sentences without an entity; names stand in them as ordinary words."""

# A type letter in brackets is where a name goes. Pairs of lines differ only in what decides the type.
TEMPLATES = (
    "[P] signed a new contract on monday",
    "[O] signed up two hundred new customers on monday",
    "the singer [P] left early",
    "the company [O] left early the market",
    "the novel [M] sold well",
    "the region [L] voted early",
    "in [L] nobody was hurt",
    "[P] was hurt in the knee",
    "shares of [O] fell sharply",
    "the outskirts of [L] fell quiet",
    "readers of [M] fell asleep",
    "[O] , a maker of long pipes , closed",
    "[L] , a town on the coast , flooded",
    "[P] , a doctor by training , retired",
    "[M] , a play in three acts , flopped",
    "[L] lies north of [L]",
    "[P] married [P] in [L]",
    "[O] bought [O] for a small sum",
    "[P] wrote [M] as a young man",
    "[O] hired [P] away from [O]",
    "they drove from [L] to see [P]",
    "they drove for [O] without a break",
    "critics praised [M] and its printer",
    "critics praised [P] and his brother",
    "[P] [L] is what the ticket said",
    "after the storm [L] had no light",
    "after the trial [P] had no money",
    "after the merger [O] had no rival",
    "after the last page [M] had no meaning",
    "guests from [L] met [P] and [P]",
)

_TYPE_OF = {f"[{kind[0]}]": kind for kind in TYPES}


def corpus(split: str) -> Corpus:
    """Return the sentences of ``train``, ``dev`` or ``test``, tagged in ``bio``."""
    generator = random.Random(f"entities {split}")
    names = NAMES if split == "train" else NAMES + UNSEEN_NAMES
    sentences = tuple(_sentence(generator, names, number // DOCUMENT_LENGTH) for number in range(SENTENCES[split]))
    return Corpus(sentences, "bio", f"embedded {split} data")


def _sentence(generator: random.Random, names: list[str], document: int) -> Sentence:
    words: list[str] = []
    entities = []
    template = generator.choice(FILLERS if generator.random() < 0.1 else TEMPLATES)
    for word in template.split():
        if word not in _TYPE_OF:
            words.append(word)
            continue
        name = _name(generator, names)
        entities.append(Entity(len(words), len(words) + len(name), _TYPE_OF[word]))
        words += name
    if generator.random() < 0.5:
        words.append(".")
    return Sentence(tuple(words), tags_of(entities, len(words), "bio"), document)


def _name(generator: random.Random, names: list[str]) -> list[str]:
    name = [generator.choice(names)]
    return [*name, generator.choice(SECOND_NAMES)] if generator.random() < 0.3 else name
