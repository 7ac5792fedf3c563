"""What stands for a word: trained vectors, characters, vectors from files, and the cache of frozen features."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from trials.batching import PADDING, UNKNOWN, Vocabulary, spellings
from trials.contextual import split_features
from trials.embeddings import CHARACTER_MODELS, CharacterCNN, CharacterLSTM, CharacterModel, WordEmbedding
from trials.feature_cache import cache_key, cached_features
from trials.glove import PretrainedEmbedding, read_vectors
from trials.layers import clip_gradients

VOCABULARY = Vocabulary({letter: 2 for letter in "abcdef"})


FORMS = Vocabulary({word: 1 for word in ("a", "aab", "abc", "cba", "eeee", "fedcba")})


def forms(*words: str) -> torch.Tensor:
    """Numbers of some words, 0 for none, shape (T, 1)."""
    return torch.tensor([FORMS.number(word) if word else PADDING for word in words])[:, None]


def character_model(kind: str) -> CharacterModel:
    return CHARACTER_MODELS[kind](VOCABULARY, spellings(FORMS, VOCABULARY), 6)


# -- trained


def test_unknown_and_rare_words_share_a_vector_that_training_learns():
    torch.manual_seed(0)
    vocabulary = Vocabulary({"often": 9, "once": 1})
    embedding = WordEmbedding(vocabulary, 4, unknown_rate=1.0)
    words = torch.tensor([[vocabulary.number(word) for word in ("often", "once", "never")]])
    trained = embedding(words)[0]
    assert torch.equal(trained[1], trained[2])
    assert torch.equal(trained[0], embedding.embedding.weight[vocabulary.number("often")])
    trained.sum().backward()
    assert embedding.embedding.weight.grad[UNKNOWN].abs().sum() > 0
    evaluated = embedding.eval()(words)[0]
    assert not torch.equal(evaluated[1], evaluated[2])


def test_rare_words_are_hidden_at_the_rate_that_was_asked_for():
    torch.manual_seed(0)
    vocabulary = Vocabulary({"once": 1})
    embedding = WordEmbedding(vocabulary, 2, unknown_rate=0.3)
    vectors = embedding(torch.full((100, 100), vocabulary.number("once")))
    hidden = (vectors == embedding.embedding.weight[UNKNOWN]).all(-1).float().mean()
    assert hidden.item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("kind", CHARACTER_MODELS)
def test_character_features_depend_on_the_word_alone(kind):
    torch.manual_seed(0)
    model = character_model(kind)
    together = model(forms("a", "abc", "fedcba", "abc"))
    for row, word in enumerate(["a", "abc", "fedcba", "abc"]):
        torch.testing.assert_close(together[row], model(forms(word))[0])
    assert not torch.allclose(together[1], model(forms("cba"))[0])


def naive_convolution(model: CharacterCNN, word: str) -> torch.Tensor:
    """Answers of the filters at every window of a word, written out; the strongest of each filter."""
    padded = [PADDING, *(VOCABULARY.number(letter) for letter in word), PADDING]
    answers = []
    for place in range(len(word)):
        window = model.embedding(torch.tensor(padded[place : place + 3]))  # (3, width of a character)
        answers.append(model.filters(window.T.flatten()))
    return torch.stack(answers).amax(0)


def naive_reading(model: CharacterLSTM, word: str) -> torch.Tensor:
    vectors = model.embedding(torch.tensor([[VOCABULARY.number(letter) for letter in word]]))
    outputs, _ = model.lstm(vectors)
    half = model.width // 2
    return torch.cat([outputs[0, -1, :half], outputs[0, 0, half:]])


@pytest.mark.parametrize(("kind", "naive"), [("cnn", naive_convolution), ("lstm", naive_reading)])
def test_character_features_and_gradients_equal_those_of_each_word_by_itself(kind, naive):
    torch.manual_seed(0)
    model = character_model(kind).double()
    words = ["abc", "", "fedcba", "a", "abc", "aab", "eeee"]
    expected = torch.stack([naive(model, word) if word else torch.zeros(6).double() for word in words])
    actual = model(forms(*words))[:, 0]
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((one * weights).sum(), list(model.parameters())) for one in (actual, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", CHARACTER_MODELS)
def test_character_features_of_padding_are_zero_and_have_no_gradient(kind):
    model = character_model(kind)
    features = model(forms("", "ab"))
    assert not features[0].any()
    features.sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
    assert not model.embedding.weight.grad[PADDING].any()


@pytest.mark.parametrize("kind", CHARACTER_MODELS)
def test_weights_that_are_not_numbers_give_features_that_are_none(kind):
    model = character_model(kind)
    with torch.no_grad():
        model.embedding.weight[VOCABULARY.number("c")] = float("nan")
    features = model(forms("fedcba", "a", "abc", "cba"))
    assert features[[0, 2, 3]].isnan().all() and features[1].isfinite().all()


def test_an_odd_width_for_two_directions_is_refused():
    with pytest.raises(ValueError, match="character_width: found 7"):
        CharacterLSTM(VOCABULARY, spellings(FORMS, VOCABULARY), 7)


def test_sparse_gradients_train_the_same_vectors_as_dense_ones():
    vocabulary = Vocabulary({letter: 2 for letter in "abcdef"})
    trained = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(WordEmbedding(vocabulary, 4, 0.0, sparse), torch.nn.Linear(4, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        # A word twice in a batch, and gradients that are cut at first and later are not.
        for words, size in (([2, 3, 3, 5], 10.0), ([0, 2, 7, 4], 0.01), ([3, 3, 3, 3], 3.0)):
            optimizer.zero_grad()
            (size * model(torch.tensor([words])).sin()).sum().backward()
            assert model[0].embedding.weight.grad.is_sparse == sparse
            if sparse:
                clip_gradients(model.parameters(), 1.0)
            else:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        trained.append(list(model.parameters()))
    torch.testing.assert_close(*trained)


# -- vectors from a file


def vector_file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_vectors_are_looked_up_as_spelt_then_lower_then_with_digits_as_zeros(tmp_path):
    path = vector_file(tmp_path / "v", "us 1 0\nUS 2 0\noslo 3 0\n00-km 4 0\n00-km 9 9\nother 8 8\n")
    vocabulary = Vocabulary({word: 1 for word in ("US", "us", "Oslo", "12-KM", "new")})
    vectors = read_vectors(path, vocabulary)
    rows = {word: vectors[vocabulary.number(word)].tolist() for word in vocabulary.entries[2:]}
    mean = [2.5, 0.0]  # of the four rows that were found
    assert rows == {"US": [2, 0], "us": [1, 0], "Oslo": [3, 0], "12-KM": [4, 0], "new": mean}
    assert vectors[UNKNOWN].tolist() == mean
    assert vectors[PADDING].tolist() == [0, 0]
    embedded = PretrainedEmbedding(vectors)
    assert embedded.width == 2
    assert not list(embedded.parameters())
    assert embedded(torch.tensor([[PADDING]])).tolist() == [[[0, 0]]]


@pytest.mark.parametrize("width", [1, 50, 300])
def test_vectors_of_any_width_are_read_with_or_without_a_first_line_of_counts(tmp_path, width):
    row = " ".join(["0.5"] * width)
    for head in ("", f"1 {width}\n"):
        path = vector_file(tmp_path / "v", f"{head}a {row}\n")
        assert read_vectors(path, VOCABULARY).shape == (len(VOCABULARY), width)


def test_words_with_blanks_in_a_file_are_passed_over(tmp_path):
    path = vector_file(tmp_path / "v", "a 1 2\nat name@domain 3 4\n. . . 5 6\n")
    assert read_vectors(path, VOCABULARY)[VOCABULARY.number("a")].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 1 2\nb 1\n", "v, line 2: found 1 numbers; expected 2"),
        ("a 1 2\nz 1 2 3\n", "v, line 2: found 3 numbers; expected 2"),
        ("a 1 2\nb 1 x\n", "v, line 2: 'x' is not a finite number"),
        ("a 1 nan\n", "v, line 1: 'nan' is not a finite number"),
        ("a\n", "v, line 1: found 0 numbers"),
        ("zebra 1 2\n", "v: holds none of the corpus's 6 words"),
        ("", "v: holds none"),
    ],
)
def test_malformed_vector_files_are_refused_with_file_and_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_vectors(vector_file(tmp_path / "v", content), VOCABULARY)


def test_a_missing_vector_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file of word vectors"):
        read_vectors(tmp_path / "v", VOCABULARY)


# -- the cache


class Counted:
    """Features that say how often they were computed."""

    reads_alone = True
    identity = "counted"

    def __init__(self) -> None:
        self.calls = 0

    def features(self, sentences):
        self.calls += 1
        for words in sentences:
            yield np.array([[len(word), ord(word[0])] for word in words], dtype=np.float32)


SPLITS = {"train": [("ab", "c"), ("d",)], "dev": [("efg",)]}


def test_a_second_run_reads_the_same_features_without_computing_them(tmp_path):
    model = Counted()
    first = split_features(model, SPLITS, tmp_path)
    assert model.calls == 2  # once for each split
    second = split_features(model, SPLITS, tmp_path)
    assert model.calls == 2
    assert [one.tolist() for one in first["train"]] == [[[2, 97], [1, 99]], [[1, 100]]]
    for name in SPLITS:
        assert all(torch.equal(one, other) for one, other in zip(first[name], second[name], strict=True))
    assert first["train"][0].dtype == torch.float16


def test_computing_features_leaves_all_random_numbers_as_a_cache_does(tmp_path):
    class Drawing(Counted):
        def features(self, sentences):
            for part in super().features(sentences):
                yield part + 0.0 * (random.random() + np.random.rand() + torch.rand(1).item())

    drawn = []
    for _ in range(2):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        split_features(Drawing(), SPLITS, tmp_path)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]


def test_a_run_without_the_test_set_shares_the_cache_of_one_with_it(tmp_path):
    model = Counted()
    split_features(model, {"train": SPLITS["train"]}, tmp_path)
    split_features(model, SPLITS, tmp_path)
    assert model.calls == 2


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def damage_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_cut, damage_byte, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_cache_is_computed_anew(tmp_path, damage, suffix, caplog):
    model = Counted()
    sound = split_features(model, SPLITS, tmp_path)
    expected = [one.tolist() for one in sound["train"]]
    for path in tmp_path.glob(f"*{suffix}"):
        damage(path)
    with caplog.at_level(logging.INFO):
        again = split_features(model, SPLITS, tmp_path)
    assert [one.tolist() for one in again["train"]] == expected
    assert model.calls == 4, caplog.text


def test_a_description_of_another_cache_is_not_believed(tmp_path):
    model = Counted()
    split_features(model, SPLITS, tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "shape": [99, 2]}))
    split_features(model, SPLITS, tmp_path)
    assert model.calls == 4


def test_an_interrupted_computation_leaves_nothing_that_looks_whole(tmp_path):
    class Interrupted(Counted):
        def features(self, sentences):
            yield next(super().features(sentences))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split_features(Interrupted(), SPLITS, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    model = Counted()
    split_features(model, SPLITS, tmp_path)
    assert model.calls == 2


def test_of_several_that_ask_at_once_one_computes(tmp_path):
    started = threading.Barrier(4)

    class Slow(Counted):
        def features(self, sentences):
            for part in super().features(sentences):
                time.sleep(0.02)
                yield part

    model = Slow()
    found = [None] * 4

    def ask(number):
        started.wait(10)
        found[number] = split_features(model, SPLITS, tmp_path)["train"][0].tolist()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert model.calls == 2  # once for each split
    assert found == [[[2.0, 97.0], [1.0, 99.0]]] * 4


def test_the_key_tells_models_words_sentence_borders_and_splits_apart():
    keys = [
        cache_key("one", [[("a", "b")]]),
        cache_key("other", [[("a", "b")]]),
        cache_key("one", [[("ab",)]]),
        cache_key("one", [[("a",), ("b",)]]),
        cache_key("one", [[("a",)], [("b",)]]),
        cache_key("one", [[("a b",)]]),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key("one", [[["a", "b"]]]) == keys[0]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([np.ones((2, 3))], "of 2 words, not of 3"),
        ([np.ones((2, 3)), np.ones((2, 3))], "of more than the 3 words"),
        ([np.array([[1.0], [np.nan], [1.0]])], "not finite"),
        ([np.full((3, 1), 1e6)], "too large for float16"),
        ([], "of 0 words, not of 3"),
    ],
)
def test_features_that_do_not_fit_the_words_are_refused(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message):
        cached_features(tmp_path, "key", 3, lambda: iter(parts))
