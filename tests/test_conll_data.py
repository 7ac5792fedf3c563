"""Settings and data of the entity task: what is refused, which files are read when, and what stands for a word."""

from __future__ import annotations

import dataclasses

import pytest

from trials import conll, entities
from trials.batching import collate
from trials.conll_data import load_corpora, tagger_data
from trials.conll_settings import RETRAIN, SEARCH, Settings
from trials.tagging import write_conll
from trials.task import resolve_settings

from .taggers import QUICK_SETTINGS, job, tagger


@pytest.fixture(scope="module")
def data():
    return tagger_data("embedded", QUICK_SETTINGS, ("train", "dev"))


def test_recipes_are_the_paper_s():
    for settings, expected in (
        (RETRAIN, {"hidden_size": 512, "learning_rate": 0.1, "gradient_clip": 5.0, "batch_size": 32,
                   "anneal_factor": 0.25, "anneal_patience": 2}),
        (SEARCH, {"hidden_size": 256, "learning_rate": 0.1, "batch_size": 256, "epochs": 40,
                  "hidden_dropout": 0.25, "arc_learning_rate": 3e-3, "arc_weight_decay": 1e-3}),
    ):  # fmt: skip
        found = dataclasses.asdict(settings)
        assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"scheme": "iob2"}, "scheme: found 'iob2'"),
        ({"characters": "gru"}, "characters: found 'gru'; allowed: cnn, lstm, none"),
        ({"train_on": "dev"}, "train_on: found 'dev'"),
        ({"flair_pooling": "sum"}, "flair_pooling: found 'sum'"),
        ({"file_scheme": "iob2"}, "file_scheme: found 'iob2'; allowed: auto, loose, iob1, bio, bioes"),
        ({"input_dropout": 1.0}, "input_dropout: found 1.0; expected 0 or more, and below 1"),
        ({"word_dropout": -0.1}, "word_dropout: found -0.1"),
        ({"hidden_size": 0}, "hidden_size: found 0; expected 1 or more"),
        ({"word_width": -1}, "word_width: found -1; expected 0 or more"),
        ({"columns": 1}, "columns: found 1; expected 0, or 2 or more"),
        ({"learning_rate": 0.0}, "learning_rate: found 0.0; expected more than 0"),
        ({"hidden": 3}, "Unknown setting 'hidden'"),
    ],
)
def test_impossible_settings_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        resolve_settings(RETRAIN, override)


def write_files(folder, names=("eng.train", "eng.testa", "eng.testb"), splits=("train", "dev", "test")):
    for name, split in zip(names, splits, strict=True):
        (folder / name).write_text(write_conll(entities.corpus(split)))
    return str(folder)


@pytest.mark.parametrize(
    "names", [("eng.train", "eng.testa", "eng.testb"), ("train.txt", "dev.txt", "test.txt")], ids=str
)
def test_a_folder_gives_the_same_corpora_as_the_embedded_data(tmp_path, names):
    read = load_corpora(write_files(tmp_path, names), Settings())
    embedded = load_corpora("embedded", Settings())
    for split, corpus in embedded.items():
        assert corpus.scheme == "bioes"
        assert [one.tags for one in read[split].sentences] == [one.tags for one in corpus.sentences]


def test_files_of_other_names_are_named_in_the_settings(tmp_path):
    folder = write_files(tmp_path, ("a", "b", "c"))
    with pytest.raises(FileNotFoundError, match="no file eng.train or .*; found a, b, c.*setting train_file"):
        load_corpora(folder, Settings())
    corpora = load_corpora(folder, Settings(train_file="a", dev_file="b", test_file="c"))
    assert corpora["test"].num_entities == entities.corpus("test").num_entities


def test_a_missing_folder_says_what_is_expected_and_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*eng.train, eng.testa, eng.testb.*IDARTS_DATA.*conll2003"):
        load_corpora(str(tmp_path / "nowhere"), Settings())


@pytest.mark.parametrize("name", ["eng.testa", "eng.testb"])
def test_a_type_that_only_a_later_file_has_is_refused_with_its_line(tmp_path, name):
    folder = write_files(tmp_path)
    (tmp_path / name).write_text("it O\n\nin O\nOslo B-CITY\n")
    with pytest.raises(ValueError, match=rf"{name}, line 4: unknown entity type 'CITY'"):
        load_corpora(folder, Settings())


def test_files_of_other_columns_schemes_and_encodings_are_read_as_the_settings_say(tmp_path):
    for name in ("train.txt", "dev.txt", "test.txt"):
        (tmp_path / name).write_bytes("Köln Köln NE I-NC I-LOC\nam an APPR O I-LOC\n".encode("latin-1"))
    with pytest.raises(ValueError, match="train.txt, line 1: byte 0xf6 is not utf-8 text"):
        load_corpora(str(tmp_path), Settings())
    with pytest.raises(ValueError, match=r"line 1: found 5 column\(s\).*The setting columns allows another number"):
        load_corpora(str(tmp_path), Settings(encoding="latin-1"))
    settings = Settings(encoding="latin-1", columns=5, file_scheme="loose")
    assert load_corpora(str(tmp_path), settings)["dev"].sentences[0].tags == ("B-LOC", "E-LOC")


def test_vocabularies_hold_the_words_of_what_is_trained_on(data):
    both = tagger_data("embedded", resolve_settings(QUICK_SETTINGS, {"train_on": "train+dev"}), ("train", "dev"))
    assert len(both.examples["train"]) == 200 + len(entities.corpus("dev").sentences)
    width = both.inputs.words.embedding.num_embeddings
    assert width > data.inputs.words.embedding.num_embeddings


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dev.txt", b"Oslo NNP I-LOC\n", r"dev.txt, line 1: found 3 column\(s\)"),
        ("train.txt", b"Oslo B-LOC\nis X-LOC\n", "train.txt, line 2: found the tag 'X-LOC'"),
        ("test.txt", b"", "test.txt: there is no sentence in this file"),
        ("train.txt", b"Oslo B-LOC\nK\xf6ln B-LOC\n", "train.txt, line 2: byte 0xf6 is not utf-8 text"),
        ("glove", b"oslo 1 2\nrome 1\n", "glove, line 2: found 1 numbers; expected 2"),
    ],
)
def test_malformed_files_stop_a_trial_before_it_trains(tmp_path, name, content, message):
    for split in ("train.txt", "dev.txt", "test.txt"):
        (tmp_path / split).write_bytes(b"Oslo B-LOC\nis O\n")
    (tmp_path / "glove").write_bytes(b"oslo 1 2\n")
    conll.prepare(job(data=str(tmp_path), glove=str(tmp_path / "glove")))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        conll.prepare(job(data=str(tmp_path), glove=str(tmp_path / "glove")))


def test_only_a_retraining_reads_the_test_file(tmp_path):
    folder = write_files(tmp_path)
    (tmp_path / "eng.testb").unlink()
    for stage in ("search", "select"):
        assert conll.prepare(job(stage, data=folder)).test is None
    with pytest.raises(FileNotFoundError, match="eng.testb"):
        conll.prepare(job("retrain", data=folder))


def test_file_vectors_characters_and_no_trained_words_combine(tmp_path):
    (tmp_path / "glove").write_text("".join(f"{name.lower()} 1 {i} 0\n" for i, name in enumerate(entities.NAMES)))
    settings = resolve_settings(
        QUICK_SETTINGS, {"glove": str(tmp_path / "glove"), "word_width": 0, "characters": "lstm"}
    )
    found = tagger_data("embedded", settings, ("train", "dev"))
    assert found.inputs.width == 3 + 8
    assert tagger(found).loss(collate(found.examples["dev"][:3])).isfinite()


@pytest.mark.parametrize("word_width", [0, 8])
@pytest.mark.parametrize("characters", ["none", "cnn", "lstm"])
@pytest.mark.parametrize("glove", [False, True])
def test_each_part_that_stands_for_a_word_can_be_left_out(tmp_path, word_width, characters, glove):
    (tmp_path / "glove").write_text("marlow 1 2 3\n")
    overrides = {"word_width": word_width, "characters": characters, "glove": str(tmp_path / "glove") if glove else ""}
    width = word_width + 8 * (characters != "none") + 3 * glove
    if not width:
        with pytest.raises(ValueError, match="Nothing stands for a word"):
            tagger_data("embedded", resolve_settings(QUICK_SETTINGS, overrides), ("train", "dev"))
        return
    found = tagger_data("embedded", resolve_settings(QUICK_SETTINGS, overrides), ("train", "dev"))
    assert found.inputs.width == width
    tagger(found).loss(collate(found.examples["dev"][:5])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in found.inputs.parameters())
