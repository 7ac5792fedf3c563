"""The data of the entity tagger: files or the embedded corpus, as numbers, with what stands for a word."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from . import entities
from .batching import Example, Vocabulary, character_vocabulary, encode, form_vocabulary, spellings, word_vocabulary
from .conll_settings import Settings
from .contextual import FrozenModel, PooledFlairFeatures, TransformerFeatures, split_features
from .embeddings import CHARACTER_MODELS, WordEmbedding
from .glove import PretrainedEmbedding, read_vectors
from .schemes import tag_set
from .tagger import WordInput
from .tagging import COLUMNS, Corpus, read_conll

SPLITS = ("train", "dev", "test")

CONLL_2003 = (203_621, 51_362)
"""Words of its training and development file."""

FILE_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("eng.train", "train.txt", "train.conll"),
    "dev": ("eng.testa", "dev.txt", "dev.conll", "valid.txt"),
    "test": ("eng.testb", "test.txt", "test.conll"),
}
"""Names under which the files of a corpus are looked for."""

WHERE_TO_GET_IT = (
    "CoNLL-2003 is distributed by its organisers (https://www.clips.uantwerpen.be/conll2003/ner/); the text is "
    "Reuters's. `data: embedded` needs no files."
)


@dataclass(frozen=True)
class TaggerData:
    """All that a stage needs of its data."""

    examples: dict[str, list[Example]]
    """By split."""
    tags: tuple[str, ...]
    corpus: str
    """What the data are called in records."""
    inputs: WordInput
    """What stands for a word: the modules whose vocabularies fit the examples."""


def load_corpora(data: str, settings: Settings, splits: tuple[str, ...] = SPLITS) -> dict[str, Corpus]:
    """Read some splits of the corpus in a folder, or make the embedded one, in the scheme of the settings.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing; the message says what is expected and where to get it.
    ValueError
        If a file is malformed, or has an entity type that the training file lacks.
    """
    if data == "embedded":
        corpora = {split: entities.corpus(split) for split in splits}
    else:
        names = {"train": settings.train_file, "dev": settings.dev_file, "test": settings.test_file}
        columns = (settings.columns,) if settings.columns else COLUMNS
        reading = {"scheme": settings.file_scheme, "columns": columns, "encoding": settings.encoding}
        corpora = {split: read_conll(_find(data, split, names[split]), **reading) for split in splits}
    known = corpora["train"].types
    for corpus in corpora.values():
        corpus.check_types(known)
    return {split: corpus.converted(settings.scheme) for split, corpus in corpora.items()}


def tagger_data(
    data: str, settings: Settings, splits: tuple[str, ...] = SPLITS, device: str = "cpu", sparse: bool = False
) -> TaggerData:
    """Read some splits, the first of them ``train``, and make all that stands for their words.

    The trained vocabularies hold the words and characters of what is trained on. Only vectors that are not trained are
    looked up, and only frozen features computed, for words of the other splits. With ``sparse`` the gradient of the
    trained word vectors has only the rows of a batch; plain SGD without weight decay takes that.
    """
    corpora = load_corpora(data, settings, splits)
    tags = tag_set(corpora["train"].types, settings.scheme)
    name = "embedded" if data == "embedded" else _corpus_name(corpora)
    if settings.train_sentences:
        kept = corpora["train"].sentences[: settings.train_sentences]
        corpora["train"] = replace(corpora["train"], sentences=kept)
    trained = [corpora["train"], *([corpora["dev"]] if settings.train_on == "train+dev" else [])]
    words, characters, forms = (
        word_vocabulary(trained),
        character_vocabulary(trained),
        form_vocabulary(corpora.values()),
    )
    features = _frozen_features(corpora, settings, device)
    examples = {
        split: encode(corpus, words, forms, tags, [of_model[split] for of_model in features])
        for split, corpus in corpora.items()
    }
    if settings.train_on == "train+dev":
        examples["train"] = examples["train"] + examples["dev"]
    width = sum(one.shape[1] for one in examples["train"][0].features)
    return TaggerData(examples, tags, name, _word_input(settings, words, characters, forms, width, sparse))


def _corpus_name(corpora: Mapping[str, Corpus]) -> str:
    """Name a corpus by what every stage reads of it: the training and the development file."""
    sizes = tuple(sum(len(sentence.words) for sentence in corpora[split].sentences) for split in SPLITS[:2])
    if sizes == CONLL_2003:
        return "CoNLL-2003"
    return "tagged text of {:,} + {:,} words".format(*sizes)


def _word_input(
    settings: Settings,
    words: Vocabulary,
    characters: Vocabulary,
    forms: Vocabulary,
    feature_width: int,
    sparse: bool,
) -> WordInput:
    model = CHARACTER_MODELS.get(settings.characters)
    return WordInput(
        WordEmbedding(words, settings.word_width, settings.unknown_rate, sparse) if settings.word_width else None,
        model(characters, spellings(forms, characters), settings.character_width) if model else None,
        PretrainedEmbedding(read_vectors(_expanded(settings.glove), forms)) if settings.glove else None,
        feature_width,
    )


def _frozen_features(corpora: Mapping[str, Corpus], settings: Settings, device: str) -> list[dict[str, list[Tensor]]]:
    models: list[FrozenModel] = []
    if settings.transformer:
        models.append(TransformerFeatures(_expanded(settings.transformer), device))
    if settings.flair:
        files = [_expanded(name.strip()) for name in settings.flair.split(",")]
        models.append(PooledFlairFeatures(files, settings.flair_pooling, device))
    words = {split: [sentence.words for sentence in corpus.sentences] for split, corpus in corpora.items()}
    folder = _expanded(settings.feature_cache) if settings.feature_cache else _cache_folder()
    return [split_features(model, words, folder) for model in models]


def _expanded(path: str) -> Path:
    """Replace ``~`` and ``$NAME`` in a path from an experiment file, whose trials run in a folder of NNI's."""
    return Path(os.path.expandvars(path)).expanduser()


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "idarts_nni" / "features"


def _find(folder: str, split: str, name: str) -> Path:
    path = Path(folder)
    names = (name,) if name else FILE_NAMES[split]
    if not folder or not path.is_dir():
        raise FileNotFoundError(
            f"The data folder {folder!r} does not exist (asked from {Path.cwd()}). Name a folder with "
            f"{', '.join(several[0] for several in FILE_NAMES.values())} in the experiment file (data) or in "
            f"IDARTS_DATA. {WHERE_TO_GET_IT}"
        )
    for one in names:
        if (path / one).is_file():
            return path / one
    found = ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"{folder} has no file {' or '.join(names)}; found {found}. Another name goes into the setting {split}_file. "
        f"{WHERE_TO_GET_IT}"
    )
