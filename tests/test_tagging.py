"""Column files, tag schemes, vocabularies and batches."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trials import entities
from trials.batching import (
    PADDING,
    UNKNOWN,
    Batches,
    Example,
    Vocabulary,
    character_vocabulary,
    collate,
    encode,
    form_vocabulary,
    spellings,
    word_vocabulary,
)
from trials.schemes import SCHEMES, Entity, convert_tags, entities_of, first_misfit, may_follow, tag_set, tags_of
from trials.spans import span_scores
from trials.tagging import read_conll, write_conll

FOUR_COLUMNS = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- O O

BRUSSELS NNP I-NP I-LOC
Paris NNP I-NP B-LOC
"""


@st.composite
def sentences_of_entities(draw) -> tuple[list[Entity], int]:
    """Some entities that do not overlap, often touching, and the length of their sentence."""
    found, position = [], 0
    for _ in range(draw(st.integers(0, 4))):
        start = position + draw(st.integers(0, 2))
        position = start + draw(st.integers(1, 3))
        found.append(Entity(start, position, draw(st.sampled_from(["PER", "LOC"]))))
    return found, position + draw(st.integers(0, 2))


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# -- schemes


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("iob1", "I-PER I-PER B-PER O I-LOC I-PER"),
        ("bio", "B-PER I-PER B-PER O B-LOC B-PER"),
        ("bioes", "B-PER E-PER S-PER O S-LOC S-PER"),
    ],
)
def test_each_scheme_writes_the_same_entities_its_own_way(scheme, tags):
    wanted = [Entity(0, 2, "PER"), Entity(2, 3, "PER"), Entity(4, 5, "LOC"), Entity(5, 6, "PER")]
    assert tags_of(wanted, 6, scheme) == tuple(tags.split())
    assert entities_of(tags.split()) == wanted


@given(sentences_of_entities(), st.permutations(list(SCHEMES)))
@settings(deadline=None)
def test_conversion_through_all_schemes_loses_nothing(sentence, order):
    wanted, length = sentence
    tags = tags_of(wanted, length, order[0])
    assert entities_of(tags) == wanted
    there = convert_tags(convert_tags(tags, order[1]), order[2])
    assert entities_of(there) == wanted
    assert convert_tags(there, order[0]) == tags


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_transition_rule_allows_just_the_sequences_that_the_scheme_writes(scheme):
    tags = tag_set(["PER", "LOC"], scheme)
    for length in (1, 2, 3):
        for path in itertools.product(tags, repeat=length):
            allowed = all(may_follow(a, b, scheme) for a, b in itertools.pairwise(["O", *path, "O"]))
            assert allowed == (first_misfit(path, scheme) is None), path


@pytest.mark.parametrize("tag", ["PER", "B", "B-", "X-PER", "BB-PER", "", "o"])
def test_text_that_is_no_tag_is_refused(tag):
    with pytest.raises(ValueError, match="expected O, or one of"):
        entities_of([tag])


@pytest.mark.parametrize(
    "wrong", [[Entity(0, 3, "PER")], [Entity(0, 2, "PER"), Entity(1, 2, "LOC")], [Entity(1, 1, "PER")]]
)
def test_entities_that_overlap_or_leave_the_sentence_are_refused(wrong):
    with pytest.raises(ValueError, match="overlaps its neighbour or leaves"):
        tags_of(wrong, 2, "bio")


def test_an_unknown_scheme_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="found 'iob2'; allowed: iob1, bio, bioes"):
        tags_of([], 1, "iob2")


# -- files


def test_four_columns_documents_and_lines_are_read(tmp_path):
    corpus = read_conll(written(tmp_path / "a", FOUR_COLUMNS))
    assert [sentence.words for sentence in corpus.sentences] == [
        ("EU", "rejects", "German"),
        ("Peter", "Blackburn"),
        ("BRUSSELS", "Paris"),
    ]
    assert [sentence.document for sentence in corpus.sentences] == [0, 0, 1]
    assert [sentence.line for sentence in corpus.sentences] == [3, 7, 12]
    assert corpus.scheme == "iob1"
    assert corpus.sentences[2].entities == [Entity(0, 1, "LOC"), Entity(1, 2, "LOC")]
    assert (corpus.num_tokens, corpus.num_entities, corpus.num_documents) == (7, 5, 2)
    assert corpus.types == ("LOC", "MISC", "ORG", "PER")


@pytest.mark.parametrize("separator", [" ", "\t", "  ", " \t "])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_any_blanks_and_tabs_part_two_columns(tmp_path, separator, newline):
    lines = [f"Zürich{separator}B-LOC ", f"no\u00a0break\u0085{separator}O", "", "", f"Ötzi{separator}B-PER"]
    corpus = read_conll(written(tmp_path / "a", newline.join(lines)))
    assert [sentence.words for sentence in corpus.sentences] == [("Zürich", "no\u00a0break\u0085"), ("Ötzi",)]
    assert corpus.sentences[0].tags == ("B-LOC", "O")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_written_is_read_back_in_its_scheme(tmp_path, scheme):
    corpus = read_conll(written(tmp_path / "a", FOUR_COLUMNS)).converted(scheme)
    again = read_conll(written(tmp_path / "b", write_conll(corpus)), scheme=scheme)
    assert [(one.words, one.tags, one.document) for one in again.sentences] == [
        (one.words, one.tags, one.document) for one in corpus.sentences
    ]
    assert read_conll(tmp_path / "b").scheme == scheme


def test_other_languages_and_tag_sets_need_no_change(tmp_path):
    text = "Das O\nFahrzeug B-fahrzeug.teil\n\nΑθήνα B-ΤΟΠΟΣ\n東京 B-地名\n"
    corpus = read_conll(written(tmp_path / "a", text))
    assert corpus.types == ("fahrzeug.teil", "ΤΟΠΟΣ", "地名")


def test_a_file_of_another_encoding_is_read_when_its_encoding_is_named(tmp_path):
    path = written(tmp_path / "a", "München B-LOC\n".encode("latin-1"))
    assert read_conll(path, encoding="latin-1").sentences[0].words == ("München",)


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    assert read_conll(written(tmp_path / "a", "\ufeffOslo B-LOC\n")).sentences[0].words == ("Oslo",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Oslo NNP I-LOC\n", r"a, line 1: found 3 column\(s\): 'Oslo NNP I-LOC'; expected 2 or 4"),
        ("Oslo\n", r"a, line 1: found 1 column\(s\)"),
        ("Oslo I-LOC\n\nRome NNP I-NP I-LOC\n", "a, line 3: found 4 columns where the file's first line has 2"),
        ("Oslo I-LOC\nRome LOC\n", "a, line 2: found the tag 'LOC'"),
        ("Oslo I-LOC\nRome Z-LOC\n", "a, line 2: found the tag 'Z-LOC'"),
        ("", "a: there is no sentence in this file"),
        ("\n \n-DOCSTART- O\n\n", "a: there is no sentence in this file"),
        ("Oslo B-LOC\nM\xfcnchen B-LOC\n".encode("latin-1"), "a, line 2: byte 0xfc is not utf-8 text.*latin-1"),
        (
            "Oslo B-LOC\n\nUtah I-LOC\nRome S-LOC\n",
            "no scheme throughout: iob1 would not write 'B-LOC' on line 1; bio .*line 3",
        ),
    ],
)
def test_malformed_files_are_refused_with_file_and_line(tmp_path, content, message):
    path = written(tmp_path / "a", content)
    with pytest.raises(ValueError, match=message):
        read_conll(path)


def test_a_missing_file_is_an_error_that_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such file"):
        read_conll(tmp_path / "nowhere")


def test_tags_that_do_not_fit_the_named_scheme_are_refused(tmp_path):
    path = written(tmp_path / "a", FOUR_COLUMNS)
    with pytest.raises(ValueError, match="line 3: bio would not write the tag 'I-ORG' here"):
        read_conll(path, scheme="bio")


def test_loose_reading_takes_tags_of_no_scheme_as_the_evaluation_would(tmp_path):
    corpus = read_conll(written(tmp_path / "a", "a B-PER\nb I-LOC\nc O\nd E-LOC\n"), scheme="loose")
    assert corpus.scheme == "bio"
    assert corpus.sentences[0].tags == ("B-PER", "B-LOC", "O", "B-LOC")


def test_other_column_counts_are_read_on_demand(tmp_path):
    path = written(tmp_path / "a", "Oslo Oslo NE I-NC I-LOC\n")
    assert read_conll(path, columns=(5,)).sentences[0].tags == ("I-LOC",)


def test_an_entity_type_that_training_lacks_is_an_error_with_its_line(tmp_path):
    corpus = read_conll(written(tmp_path / "a", FOUR_COLUMNS))
    corpus.check_types(["LOC", "MISC", "ORG", "PER"])
    with pytest.raises(ValueError, match="a, line 5: unknown entity type 'MISC'; the training set has LOC, ORG, PER"):
        corpus.check_types(["LOC", "ORG", "PER"])


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "sentences", "tokens", "spans"),
    [
        ("eng.train", 14_041, 203_621, 23_499),
        ("eng.testa", 3_250, 51_362, 5_942),
        ("eng.testb", 3_453, 46_435, 5_648),
    ],
)
def test_counts_of_the_real_corpus_are_exact(name, sentences, tokens, spans):
    folder = os.environ.get("IDARTS_CONLL")
    if not folder:
        pytest.skip("IDARTS_CONLL names no folder with CoNLL-2003")
    corpus = read_conll(Path(folder) / name)
    assert (len(corpus.sentences), corpus.num_tokens, corpus.num_entities) == (sentences, tokens, spans)
    assert corpus.scheme == "iob1"
    assert corpus.converted("bioes").converted("bio").converted("iob1") == corpus


# -- the embedded corpus


def test_embedded_entities_cannot_be_looked_up():
    train, dev = entities.corpus("train"), entities.corpus("dev")
    seen: dict[str, dict[str, int]] = {}
    for sentence in train.sentences:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            counts = seen.setdefault(word, {})
            counts[tag] = counts.get(tag, 0) + 1
    looked_up = [[max(seen[w], key=seen[w].get) if w in seen else "O" for w in one.words] for one in dev.sentences]
    assert span_scores([one.tags for one in dev.sentences], looked_up).f1 < 40.0


def test_embedded_entities_are_decided_by_context():
    # With every name hidden behind a mark, equal sentences have entities of equal types.
    first_names = {*entities.NAMES, *entities.UNSEEN_NAMES}
    types_by_context: dict[tuple[str, ...], list[str]] = {}
    for split in entities.SENTENCES:
        for sentence in entities.corpus(split).sentences:
            words = [word for word in sentence.words if word not in entities.SECOND_NAMES]
            context = tuple("#" if word in first_names else word for word in words)
            types = [entity.type for entity in sentence.entities]
            assert context.count("#") == len(types)
            assert types_by_context.setdefault(context, types) == types


def test_embedded_splits_differ_and_are_always_the_same():
    train, test = entities.corpus("train"), entities.corpus("test")
    assert entities.corpus("train") == train
    assert {word for one in test.sentences for word in one.words} - {
        word for one in train.sentences for word in one.words
    }
    assert set(train.types) == {"LOC", "MISC", "ORG", "PER"}
    assert all(first_misfit(sentence.tags, "bio") is None for sentence in train.sentences)


# -- vocabularies and batches


def test_the_more_frequent_word_gets_the_lower_number_and_ties_break_by_name():
    vocabulary = Vocabulary({"b": 2, "a": 2, "c": 5, "d": 1})
    assert vocabulary.entries[2:] == ("c", "a", "b", "d")
    assert [vocabulary.number(entry) for entry in ("c", "a", "b", "d", "e")] == [2, 3, 4, 5, UNKNOWN]
    assert vocabulary.singletons.tolist() == [False, False, False, False, False, True]
    assert Vocabulary({"b": 2, "d": 1}, least=2).entries[2:] == ("b",)


def examples_of_lengths(lengths: list[int]) -> list[Example]:
    return [
        Example(torch.full((n,), i + 2), torch.full((n,), i + 2), torch.ones(n).long()) for i, n in enumerate(lengths)
    ]


def test_a_batch_holds_its_sentences_and_nothing_else():
    corpus = entities.corpus("dev")
    words, forms, characters = word_vocabulary([corpus]), form_vocabulary([corpus]), character_vocabulary([corpus])
    tags = tag_set(corpus.types, "bio")
    examples = encode(corpus, words, forms, tags)
    table = spellings(forms, characters)
    batch = collate(examples[:5])
    for column, sentence in enumerate(corpus.sentences[:5]):
        length = len(sentence)
        assert batch.lengths[column] == length
        assert [words.entries[n] for n in batch.words[:length, column]] == [word.lower() for word in sentence.words]
        assert [forms.entries[n] for n in batch.forms[:length, column]] == list(sentence.words)
        assert [tags[n] for n in batch.tags[:length, column]] == list(sentence.tags)
        spelled = ["".join(characters.entries[n] for n in row if n) for row in table[batch.forms[:length, column]]]
        assert spelled == list(sentence.words)
        for padded in (batch.words, batch.forms, batch.tags, batch.mask):
            assert not padded[length:, column].any()


def test_every_pass_has_every_sentence_once_in_batches_of_similar_length():
    lengths = [1 + (7 * i) % 12 for i in range(103)]
    batches = Batches(examples_of_lengths(lengths), 8, seed=1)
    drawn = batches.drawn(0)
    assert sorted(position for batch in drawn for position in batch) == list(range(103))
    assert len(drawn) == len(batches) == 13
    assert max(len(batch) for batch in drawn) == 8
    assert all(max(lengths[p] for p in batch) - min(lengths[p] for p in batch) <= 1 for batch in drawn)
    assert drawn != batches.drawn(1)
    assert drawn == Batches(examples_of_lengths(lengths), 8, seed=1).drawn(0)
    assert drawn != Batches(examples_of_lengths(lengths), 8, seed=2).drawn(0)


def test_passes_go_on_where_a_saved_run_stopped():
    batches, again = (Batches(examples_of_lengths([1, 2, 3, 4, 5, 6]), 2, seed=1) for _ in range(2))
    list(batches), list(batches)
    again.load_state_dict(batches.state_dict())
    assert [one.words.tolist() for one in again] == [one.words.tolist() for one in batches]


def test_batches_of_one_length_are_never_padded_and_never_of_one_sentence():
    lengths = [3] * 9 + [4] * 5 + [5] * 2 + [6]
    batches = Batches(examples_of_lengths(lengths), 4, seed=1, one_length=True)
    sizes = sorted(batch.mask.shape[::-1] for batch in batches)
    assert sizes == [(2, 4), (2, 5), (3, 3), (3, 3), (3, 3), (3, 4)]
    assert all(batch.mask.all() for batch in batches)


def test_long_words_are_cut_in_the_middle():
    corpus = entities.corpus("dev")
    sentence = corpus.sentences[0]
    long = type(corpus)((type(sentence)(("a" * 40 + "z",), ("O",)),), "bio", "here")
    vocabulary = character_vocabulary([long])
    table = spellings(form_vocabulary([long]), vocabulary, longest_word=5)
    assert "".join(vocabulary.entries[n] for n in table[-1]) == "aaaaz"


def test_an_unknown_form_is_spelt_with_one_unknown_character():
    table = spellings(Vocabulary({"ab": 1}), Vocabulary({"a": 1}))
    assert table.tolist() == [[PADDING, PADDING], [UNKNOWN, PADDING], [2, UNKNOWN]]
