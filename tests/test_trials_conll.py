"""The entity task: the model's use of padding, its recipes, and searches and retrainings on miniature data."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from idarts_nni.architecture import Architecture
from idarts_nni.checkpoint import load_plain
from idarts_nni.space import CellSpace
from trials import conll, entities
from trials.batching import Batches, collate
from trials.chain import reverse_words
from trials.conll_data import load_corpora, tagger_data
from trials.conll_settings import RETRAIN, SEARCH, Settings
from trials.schemes import first_misfit
from trials.tagger import BidirectionalLayer, Tagger, WordInput
from trials.tagging import write_conll
from trials.task import Job, resolve_settings
from trials.training import load_task, run_job

from .test_contextual import (  # noqa: F401  (fixtures)
    encoder_folder,
    flair_models,
    needs_encoder,
    needs_flair,
    needs_transformers,
    real_encoder,
)

EXPERIMENTS = Path(__file__).parents[1] / "trials" / "experiments"
TINY = CellSpace(2, ("zeroize", "tanh", "relu"))
CELL = Architecture.random(TINY, 1)
PAPER = CellSpace(8, ("zeroize", "tanh", "relu", "sigmoid", "identity"))
QUICK = {
    "epochs": 2, "hidden_size": 8, "batch_size": 16, "word_width": 8, "character_width": 8, "train_sentences": 200,
    "learning_rate": 0.5, "gradient_clip": 5.0,
}  # fmt: skip
QUICK_SETTINGS = resolve_settings(RETRAIN, QUICK)


def job(stage="retrain", method="random", seed=1, space=TINY, architecture=CELL, data="embedded", **overrides):
    if stage == "search":
        architecture = None
    return Job(stage, method, seed, space, architecture, {**QUICK, **overrides}, data)


def run(tmp_path, name="run", report=lambda metrics: None, **kwargs):
    return run_job(conll, job(**kwargs), tmp_path / name, report)


@pytest.fixture(scope="module")
def data():
    return tagger_data("embedded", QUICK_SETTINGS, ("train", "dev"))


def tagger(data, space=TINY, architecture=CELL, hidden_size=8, **kwargs) -> Tagger:
    torch.manual_seed(0)
    return Tagger(data.inputs, data.tags, "bioes", space, architecture, hidden_size, **kwargs)


def of_different_lengths(data, count=6):
    by_length = {len(example.words): example for example in data.examples["dev"]}
    return list(by_length.values())[:count]


# -- the model


def test_reversal_stays_within_the_length_and_undoes_itself():
    sequence = torch.arange(1, 11).view(5, 2, 1)
    reversed_words = reverse_words(sequence, torch.tensor([3, 5]))
    assert reversed_words[:, 0, 0].tolist() == [5, 3, 1, 7, 9]
    assert reversed_words[:, 1, 0].tolist() == [10, 8, 6, 4, 2]
    assert torch.equal(reverse_words(reversed_words, torch.tensor([3, 5])), sequence)


@pytest.mark.parametrize("cell", ["fixed", "to search", "lstm"])
def test_a_sentence_is_tagged_alike_alone_and_beside_longer_ones(data, cell):
    space, architecture = {"fixed": (TINY, CELL), "to search": (TINY, None), "lstm": (None, None)}[cell]
    model = tagger(data, space, architecture).eval()
    examples = of_different_lengths(data)
    together = collate(examples)
    assert len(set(together.lengths.tolist())) > 3
    scores = model(together)
    likelihoods = model.crf.log_likelihood(scores, together.tags, together.mask)
    decoded = model.decode(together)
    for column, example in enumerate(examples):
        alone = collate([example])
        torch.testing.assert_close(scores[: len(example.words), column], model(alone)[:, 0])
        torch.testing.assert_close(likelihoods[column], -model.loss(alone))
        assert decoded[column] == model.decode(alone)[0]


def test_what_stands_in_the_padding_changes_no_score_and_no_gradient(data):
    model = tagger(data)
    batch = collate(of_different_lengths(data))
    noisy = dataclasses.replace(
        batch,
        words=torch.where(batch.mask, batch.words, 5),
        forms=torch.where(batch.mask, batch.forms, 5),
        tags=torch.where(batch.mask, batch.tags, 3),
    )
    model.inputs.words.unknown_rate = 0.0
    grads = []
    for one in (batch, noisy):
        model.zero_grad()
        model.loss(one).backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(model(batch)[batch.mask], model(noisy)[batch.mask])


def test_both_directions_equal_a_layer_run_by_hand_on_each_sentence():
    torch.manual_seed(0)
    layer = BidirectionalLayer(TINY, CELL, 3, 4)
    inputs, lengths = torch.randn(5, 2, 3), torch.tensor([5, 3])
    outputs = layer(inputs, lengths)
    for column, length in enumerate(lengths.tolist()):
        sentence = inputs[:length, column : column + 1]
        onward, _ = layer.onward(sentence)
        backward, _ = layer.backward_reading(sentence.flip(0))
        expected = torch.cat([onward, backward.flip(0)], dim=-1)
        torch.testing.assert_close(outputs[:length, column], expected[:, 0])


def test_directions_share_the_architecture_and_not_the_weights(data):
    from idarts_nni.mutator import MixedRecurrentCell
    from idarts_nni.strategy import IDARTS

    model = tagger(data, TINY, None)
    strategy = IDARTS()
    supernet = strategy.mutate_model(model)
    cells = [module for module in supernet.modules() if isinstance(module, MixedRecurrentCell)]
    assert len(cells) == 2
    assert cells[0].logits is cells[1].logits
    assert cells[0].derive() == cells[1].derive()
    assert not torch.equal(cells[0].input_weight, cells[1].input_weight)


def test_the_search_network_refuses_padding_while_it_is_trained(data):
    model = tagger(data, TINY, None)
    padded = collate(of_different_lengths(data))
    with pytest.raises(ValueError, match="needs batches without padding"):
        model(padded)
    model.eval()(padded)
    even = next(iter(Batches(data.examples["dev"], 4, 1, one_length=True)))
    assert model.train()(even).shape[:2] == even.mask.shape


def test_decoded_tags_always_follow_the_scheme(data):
    model = tagger(data).eval()
    for batch in Batches(data.examples["dev"], 64):
        assert all(first_misfit(tags, "bioes") is None for tags in model.decode(batch))


def test_dropped_words_lose_all_of_their_input(data):
    seen = []
    model = tagger(data, word_dropout=0.5)
    model.layer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    batch = next(iter(Batches(data.examples["dev"], 64)))
    model(batch)
    dropped = (seen[0] == 0).all(-1)
    assert 0.4 < dropped.float().mean() < 0.6


def test_nothing_to_stand_for_a_word_is_an_error():
    with pytest.raises(ValueError, match="turn on word_width, characters, glove, transformer or flair"):
        WordInput()


# -- data and settings


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


# -- the recipe


def annealed(scores, **settings):
    """Learning rate after each of some dev scores."""
    recipe = conll.TaggerRecipe(resolve_settings(RETRAIN, settings))
    recipe.log = lambda *arguments: None
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    recipe.trainer = SimpleNamespace(optimizers=[optimizer], should_stop=False)
    rates = []
    for score in scores:
        recipe._anneal(score)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates, recipe


def test_the_learning_rate_falls_to_a_quarter_after_two_epochs_without_a_better_score():
    rates, _ = annealed([0.0, 0.0, 0.0, 50.0, 60.0, 59.0, 60.0, 61.0, 60.0, 60.0, 60.0, 60.0])
    quarter, sixteenth, next_one = 0.025, 0.00625, 0.0015625
    assert rates == pytest.approx([0.1] * 6 + [quarter] * 3 + [sixteenth] * 2 + [next_one])


def test_training_ends_when_the_learning_rate_is_spent():
    rates, recipe = annealed([50.0] * 11)
    assert rates[-1] < RETRAIN.least_learning_rate < rates[-3]
    assert recipe.trainer.should_stop
    rates, recipe = annealed([50.0] * 11, anneal_patience=0)
    assert rates == [0.1] * 11 and not recipe.trainer.should_stop


def test_the_count_of_stalled_epochs_survives_a_checkpoint():
    _, recipe = annealed([50.0, 49.0])
    fresh = conll.TaggerRecipe(RETRAIN)
    fresh.load_running_state(recipe.running_state(), torch.device("cpu"))
    assert (fresh._best, fresh._stalled) == (50.0, 1)


# -- whole trials


def test_the_runner_finds_the_task():
    task = load_task("conll")
    assert (task.METRIC, task.OPTIMIZE_MODE) == ("F1", "maximize")


@pytest.mark.parametrize("method", ["idarts", "darts"])
def test_a_search_yields_a_cell_that_a_retraining_takes(tmp_path, method):
    searched = run(tmp_path, "search", stage="search", method=method)
    assert searched.architecture is not None and searched.test is None
    searched.architecture.check_fits(TINY)
    assert [set(epoch) >= {"default", "validation", "train", "all f1"} for epoch in searched.history] == [True, True]
    retrained = run(tmp_path, "retrain", method=method, architecture=searched.architecture)
    assert 0.0 <= retrained.test <= 100.0


@pytest.mark.parametrize(("n", "combine"), [(1, "sum"), (2, "mean"), ("all", "mean"), (2, "weighted")])
def test_cells_of_one_two_and_all_edges_are_searched_and_retrained(tmp_path, n, combine):
    space = CellSpace(2, ("zeroize", "tanh", "relu"), edges_per_node=n, combine=combine)
    searched = run(tmp_path, "search", stage="search", method="idarts", space=space, epochs=1)
    expected = {1: [1, 1], 2: [2, 2], "all": [2, 4]}[n]
    assert [len(node) for node in searched.architecture.nodes] == expected
    retrained = run(tmp_path, "retrain", method="idarts", space=space, architecture=searched.architecture)
    assert retrained.history[-1]["train"] < retrained.history[0]["train"]


def test_a_step_with_sparse_gradients_is_the_one_with_dense_ones(tmp_path, monkeypatch):
    sparse = run(tmp_path, "sparse", gradient_clip=0.5)
    monkeypatch.setattr(conll, "tagger_data", lambda *arguments: tagger_data(*arguments[:4], sparse=False))
    dense = run(tmp_path, "dense", gradient_clip=0.5)
    losses = [[epoch["train"] for epoch in one.history] for one in (sparse, dense)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("method", ["idarts", "lstm"])
def test_trials_of_the_tiny_experiment_learn_context(tmp_path, method):
    arguments = yaml.safe_load((EXPERIMENTS / "conll_tiny.yaml").read_text())["tuner"]["classArgs"]
    space, cell = (CellSpace.from_yaml(EXPERIMENTS / "../../search_spaces/tiny.yaml"), None)
    if method == "idarts":
        search = Job("search", method, 1, space, None, arguments["search"], arguments["data"])
        cell = run_job(conll, search, tmp_path / "search", lambda metrics: None).architecture
    space = space if cell else None
    retrain = Job("retrain", method, 1, space, cell, arguments["retrain"], arguments["data"])
    outcome = run_job(conll, retrain, tmp_path / "retrain", lambda metrics: None)
    assert outcome.test > 80.0, "a lookup reaches less than 40"
    assert outcome.scores["test PER f1"] > 50.0 and "test PER precision" in outcome.scores
    assert outcome.validation == max(epoch["validation"] for epoch in outcome.history)


def test_the_test_set_is_read_once_at_the_end_by_the_weights_that_were_best(tmp_path):
    read, history = [], []

    class Watched(list):
        def __iter__(self):
            state = {name: value.clone() for name, value in module.state_dict().items()}
            read.append((len(history), state))  # at the first batch: the trainer asks for an iterator to see if it can
            yield from super().__iter__()

    def prepare(asked):
        nonlocal module
        workload = conll.prepare(asked)
        module = workload.module
        workload.test = Watched(workload.test)
        return workload

    module = None
    task = SimpleNamespace(prepare=prepare, METRIC=conll.METRIC, OPTIMIZE_MODE=conll.OPTIMIZE_MODE)
    outcome = run_job(task, job(epochs=4, learning_rate=2.0), tmp_path, history.append)
    ((epochs, weights),) = read
    assert epochs == 4
    best = load_plain(tmp_path / "best.ckpt")
    assert best["epoch"] == max(range(4), key=lambda index: outcome.history[index]["validation"])
    assert all(torch.equal(weights[name], value) for name, value in best["state_dict"].items())


@pytest.mark.parametrize("method", ["lstm", "random"])
def test_half_precision_trains(tmp_path, method):
    asked = job(method=method, **({"space": None, "architecture": None} if method == "lstm" else {}))
    outcome = run_job(conll, dataclasses.replace(asked, precision="bf16"), tmp_path, lambda metrics: None)
    assert outcome.history[-1]["train"] < outcome.history[0]["train"]


def test_a_resumed_retraining_equals_an_uninterrupted_one(tmp_path):
    class Stop(Exception):
        pass

    def stop_after_two(metrics):
        if metrics["epoch"] == 2:
            raise Stop

    whole = run(tmp_path, "whole", epochs=4)
    with pytest.raises(Stop):
        run(tmp_path, "parts", report=stop_after_two, epochs=4)
    resumed = run(tmp_path, "parts", epochs=4)
    keys = ("validation", "train", "learning_rate", "epoch")
    assert [[epoch[key] for key in keys] for epoch in resumed.history] == [
        [epoch[key] for key in keys] for epoch in whole.history
    ]
    assert resumed.test == whole.test


def check_a_second_run(tmp_path, monkeypatch, module, **features):
    """Run twice, the second time without the library, and expect the same numbers."""
    features = {"feature_cache": str(tmp_path / "cache"), "word_width": 0, **features}
    first = run(tmp_path, "first", **features)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    second = run(tmp_path, "second", **features)
    keys = ("validation", "train")
    assert [[epoch[key] for key in keys] for epoch in second.history] == [
        [epoch[key] for key in keys] for epoch in first.history
    ]
    assert second.test == first.test


@needs_transformers
def test_a_second_run_on_cached_features_of_an_encoder_scores_the_same(tmp_path, encoder_folder, monkeypatch):  # noqa: F811
    check_a_second_run(tmp_path, monkeypatch, "transformers", transformer=str(encoder_folder))


@needs_flair
def test_a_second_run_on_cached_features_of_flair_scores_the_same(tmp_path, flair_models, monkeypatch):  # noqa: F811
    names = ", ".join(map(str, flair_models))
    check_a_second_run(tmp_path, monkeypatch, "flair", flair=names, flair_pooling="mean")


@needs_flair
@needs_transformers
def test_all_that_can_stand_for_a_word_combines(tmp_path, flair_models, encoder_folder):  # noqa: F811
    (tmp_path / "glove").write_text("".join(f"{name.lower()} 1 {i} 0\n" for i, name in enumerate(entities.NAMES)))
    overrides = {
        "glove": str(tmp_path / "glove"), "flair": str(flair_models[0]), "transformer": str(encoder_folder),
        "feature_cache": str(tmp_path / "cache"), "characters": "lstm",
    }  # fmt: skip
    found = tagger_data("embedded", resolve_settings(QUICK_SETTINGS, overrides), ("train", "dev"))
    assert found.inputs.width == 8 + 8 + 3 + 2 * 6 + 8  # words, characters, vectors, flair and its pool, encoder
    outcome = run(tmp_path, **overrides)
    assert 0.0 <= outcome.test <= 100.0


@needs_encoder
def test_a_real_encoder_tells_entities_from_their_context(tmp_path, real_encoder):  # noqa: F811
    features = {"transformer": str(real_encoder), "feature_cache": str(tmp_path / "cache"), "word_width": 0,
                "characters": "none"}  # fmt: skip
    outcome = run(
        tmp_path, epochs=4, hidden_size=32, train_sentences=0, input_dropout=0.1, output_dropout=0.1, **features
    )
    assert outcome.test > 70.0, "a lookup of words, of which there are none here, reaches less than 40"


@pytest.mark.data
def test_the_real_corpus_is_learnt_from(tmp_path):
    folder = os.environ.get("IDARTS_CONLL")
    if not folder:
        pytest.skip("IDARTS_CONLL names no folder with CoNLL-2003")
    outcome = run(tmp_path, data=folder, train_sentences=1000, epochs=4, hidden_size=32, word_width=32)
    assert outcome.validation > 15.0
