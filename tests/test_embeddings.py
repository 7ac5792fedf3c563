"""What stands for a word: trained vectors, characters, vectors from files, frozen features and their cache."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from trials.batching import PADDING, UNKNOWN, Vocabulary
from trials.contextual import PooledFlairFeatures, TransformerFeatures, split_features
from trials.embeddings import CHARACTER_MODELS, CharacterLSTM, WordEmbedding
from trials.feature_cache import cache_key, cached_features
from trials.glove import PretrainedEmbedding, read_vectors

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
needs_flair = pytest.mark.skipif(importlib.util.find_spec("flair") is None, reason="flair is not installed")

VOCABULARY = Vocabulary({letter: 2 for letter in "abcdef"})


def spelled(*words: str, width: int) -> torch.Tensor:
    """Characters of some words, shape (T, 1, W)."""
    rows = [[VOCABULARY.number(letter) for letter in word] + [PADDING] * (width - len(word)) for word in words]
    return torch.tensor(rows)[:, None]


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
    model = CHARACTER_MODELS[kind](VOCABULARY, 6)
    together = model(spelled("a", "abc", "fedcba", "abc", width=9))
    for row, word in enumerate(["a", "abc", "fedcba", "abc"]):
        alone = model(spelled(word, width=len(word)))
        torch.testing.assert_close(together[row], alone[0])
    assert not torch.allclose(together[1], model(spelled("cba", width=3))[0])


@pytest.mark.parametrize("kind", CHARACTER_MODELS)
def test_character_features_of_padding_are_zero_and_have_no_gradient(kind):
    model = CHARACTER_MODELS[kind](VOCABULARY, 6)
    features = model(spelled("", "ab", width=4))
    assert not features[0].any()
    features.sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
    assert not model.embedding.weight.grad[PADDING].any()


def test_an_odd_width_for_two_directions_is_refused():
    with pytest.raises(ValueError, match="character_width: found 7"):
        CharacterLSTM(VOCABULARY, 7)


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


# -- frozen models


@pytest.fixture
def encoder_folder(tmp_path):
    """A small BERT with random weights, saved as a user's would be."""
    transformers = pytest.importorskip("transformers")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "oslo", "##s", "rain", "##ing", "in", "it", "is", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=True)
    config = transformers.BertConfig(
        vocab_size=len(pieces),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
    )
    torch.manual_seed(0)
    folder = tmp_path / "encoder"
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@needs_transformers
def test_a_word_of_several_pieces_gets_their_mean(encoder_folder):
    import transformers

    features = np.concatenate(list(TransformerFeatures(encoder_folder).features([("It", "is", "raining", ".")])))
    model = transformers.AutoModel.from_pretrained(encoder_folder).eval()
    with torch.no_grad():
        # [CLS] it is rain ##ing . [SEP]
        states = model(torch.tensor([[2, 9, 10, 6, 7, 11, 3]])).last_hidden_state[0]
    expected = torch.stack([states[1], states[2], (states[3] + states[4]) / 2, states[5]])
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)


@needs_transformers
def test_features_of_a_sentence_do_not_depend_on_its_neighbours(encoder_folder):
    model = TransformerFeatures(encoder_folder)
    one, other = ("Oslo",), ("it", "is", "raining", "in", "Oslo")
    together = np.concatenate(list(model.features([one, other])))
    np.testing.assert_allclose(together[:1], next(model.features([one])), atol=1e-5)
    np.testing.assert_allclose(together[1:], next(model.features([other])), atol=1e-5)


@needs_transformers
def test_a_sentence_that_is_too_long_is_cut_between_words(encoder_folder):
    model = TransformerFeatures(encoder_folder)
    words = ("it", "is", "raining", "in", "Oslo", ".", "it", "is", "raining", ".")
    features = np.concatenate(list(model.features([words])))
    parts = [np.concatenate(list(model.features([part]))) for part in (words[:5], words[5:])]
    np.testing.assert_allclose(features, np.concatenate(parts), atol=1e-5)


@needs_transformers
def test_a_word_without_any_piece_gets_zeros(encoder_folder):
    features = np.concatenate(list(TransformerFeatures(encoder_folder).features([("it", "\u200d\u0000", ".")])))
    assert features.shape == (3, 8)
    assert not features[1].any()
    assert features[2].any()


@needs_transformers
def test_other_weights_are_another_model(encoder_folder):
    import transformers

    before = TransformerFeatures(encoder_folder).identity
    assert TransformerFeatures(encoder_folder).identity == before
    model = transformers.AutoModel.from_pretrained(encoder_folder)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(encoder_folder)
    assert TransformerFeatures(encoder_folder).identity != before


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        TransformerFeatures(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed")
def test_without_transformers_the_error_names_what_to_install(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'idarts-nni\[transformers\]'"):
        TransformerFeatures(tmp_path)


@pytest.fixture(scope="module")
def flair_models(tmp_path_factory):
    """A forward and a backward character model, trained for a moment and saved by flair."""
    flair_models = pytest.importorskip("flair.models")
    data = pytest.importorskip("flair.data")
    trainer_module = pytest.importorskip("flair.trainers.language_model_trainer")
    folder = tmp_path_factory.mktemp("flair")
    corpus = folder / "corpus"
    (corpus / "train").mkdir(parents=True)
    text = "it is raining in Oslo . Oslo is grey . is it raining ? \n" * 20
    for name in ("train/split_1", "valid.txt", "test.txt"):
        (corpus / name).write_text(text)
    characters = data.Dictionary()
    for character in sorted(set(text)):
        characters.add_item(character)
    paths = []
    for is_forward in (True, False):
        texts = trainer_module.TextCorpus(corpus, characters, is_forward, character_level=True)
        model = flair_models.LanguageModel(characters, is_forward, hidden_size=6, nlayers=1)
        trainer = trainer_module.LanguageModelTrainer(model, texts)
        trainer.train(folder / str(is_forward), sequence_length=10, mini_batch_size=4, max_epochs=2)
        paths.append(folder / str(is_forward) / "best-lm.pt")
    return paths


FLAIR_SENTENCES = [("Oslo", "is", "grey"), ("it", "is", "raining", "in", "Oslo"), ("is", "it", "?")]


@needs_flair
def test_pooled_features_join_a_words_features_with_the_pool_of_those_before(flair_models):
    rows = np.concatenate(list(PooledFlairFeatures(flair_models).features(FLAIR_SENTENCES)))
    words = [word for sentence in FLAIR_SENTENCES for word in sentence]
    assert rows.shape == (len(words), 2 * 2 * 6)
    for start in (0, 12):  # forward, backward: each the features themselves and the pool
        own, pooled = rows[:, start : start + 6], rows[:, start + 6 : start + 12]
        for index, word in enumerate(words):
            earlier = [own[i] for i in range(index + 1) if words[i] == word]
            np.testing.assert_allclose(pooled[index], np.min(earlier, axis=0), atol=1e-6)


@needs_flair
def test_pooled_features_do_not_depend_on_how_often_the_data_were_read(flair_models, tmp_path):
    model = PooledFlairFeatures(flair_models)
    first = np.concatenate(list(model.features(FLAIR_SENTENCES)))
    np.testing.assert_array_equal(first, np.concatenate(list(model.features(FLAIR_SENTENCES))))
    np.testing.assert_allclose(first[:3], np.concatenate(list(model.features(FLAIR_SENTENCES[:1]))), atol=1e-6)
    splits = {"train": FLAIR_SENTENCES[:2], "dev": FLAIR_SENTENCES[2:]}
    cached = split_features(model, splits, tmp_path)
    np.testing.assert_allclose(torch.cat(cached["train"] + cached["dev"]).numpy(), first, atol=1e-3)


def test_a_missing_flair_model_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a language model saved by flair"):
        PooledFlairFeatures([tmp_path / "none.pt"])
