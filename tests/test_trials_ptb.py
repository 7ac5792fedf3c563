"""The language-model task: corpus, exact perplexity, recipes, counts, and resumed runs."""

import dataclasses
import math
import os
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from idarts_nni.architecture import Architecture
from idarts_nni.space import CellSpace
from trials import miniature, ptb
from trials.averaging import NonMonotoneAveraging
from trials.corpus import Segments, batch_columns, build_corpus, read_corpus
from trials.layers import LSTMLayer, embed, locked_dropout
from trials.task import Job, resolve_settings
from trials.training import load_task, run_job

PAPER = CellSpace(8, ("zeroize", "tanh", "relu", "sigmoid", "identity"))
TINY = CellSpace(2, ("zeroize", "tanh", "relu"))
QUICK = {
    "epochs": 2, "hidden_size": 8, "batch_size": 256, "evaluation_batch_size": 100, "train_tokens": 20000,
}  # fmt: skip


def job(stage="search", method="idarts", seed=1, space=TINY, architecture=None, data="embedded", **overrides):
    return Job(stage, method, seed, space, architecture, {**QUICK, **overrides}, data)


def run(tmp_path, name="run", report=lambda metrics: None, **kwargs):
    return run_job(ptb, job(**kwargs), tmp_path / name, report)


# -- corpus


def test_a_single_text_is_cut_by_lines_in_their_order(tmp_path):
    (tmp_path / "notes.md").write_text("not a text of the corpus")
    text = tmp_path / "novel.txt"
    text.write_text("".join(f"w{line} end\n" for line in range(20)))
    corpus = read_corpus(str(tmp_path))
    assert [len(split) for split in (corpus.train, corpus.valid, corpus.test)] == [48, 6, 6]  # <eos> included
    assert corpus.words[corpus.train[0]] == "w0" and corpus.words[corpus.test[0]] == "<unk>"
    text.write_text("one line\n")
    with pytest.raises(ValueError, match="1 lines; a single text needs 10 or more"):
        read_corpus(str(tmp_path))


def write_corpus(folder, names="ptb.{}.txt", train="a b c\nb a\n", valid="a d\n", test="b\n"):
    for split, text in (("train", train), ("valid", valid), ("test", test)):
        (folder / names.format(split)).write_text(text)
    return str(folder)


@pytest.mark.parametrize("names", ["ptb.{}.txt", "{}.txt"])
def test_a_corpus_is_read_with_an_end_after_every_line(tmp_path, names):
    corpus = read_corpus(write_corpus(tmp_path, names))
    assert corpus.words == ("a", "b", "c", "<eos>", "<unk>")
    assert corpus.train.tolist() == [0, 1, 2, 3, 1, 0, 3]
    assert corpus.valid.tolist() == [0, 4, 3], "a word that training never saw counts as <unk>"


def test_missing_data_say_what_is_expected_and_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*IDARTS_DATA.*Penn Treebank"):
        read_corpus(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="No data folder is named.*IDARTS_DATA"):
        read_corpus("")
    for name in ("one.txt", "other.txt"):  # a single text would be cut into three
        (tmp_path / name).write_text("x")
    with pytest.raises(FileNotFoundError, match="ptb.train.txt or train.txt, or a single .txt file; found .*other.txt"):
        read_corpus(str(tmp_path))


def test_an_empty_or_foreign_file_is_refused_by_name(tmp_path):
    folder = write_corpus(tmp_path, valid="\n\n")
    with pytest.raises(ValueError, match="ptb.valid.txt: the file is empty"):
        read_corpus(folder)
    (tmp_path / "ptb.valid.txt").write_bytes("é\n".encode("latin-1"))
    with pytest.raises(ValueError, match="ptb.valid.txt: not UTF-8"):
        read_corpus(folder)


def test_columns_hold_the_text_in_order():
    columns = batch_columns(torch.arange(11), 3)
    assert columns.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    with pytest.raises(ValueError, match="too short for a batch of 8"):
        batch_columns(torch.arange(11), 8)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_pieces_cover_every_prediction_once(seed):
    columns = batch_columns(torch.arange(400), 4)
    pieces = list(Segments(columns, 7, "train", seed=seed, deviation=2.0, shortest=2, longest=11))
    assert torch.equal(torch.cat([piece.tokens for piece in pieces]), columns[:-1])
    assert torch.equal(torch.cat([piece.targets for piece in pieces]), columns[1:])
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    lengths = {len(piece.tokens) for piece in pieces[:-1]}
    assert lengths == {7} if seed is None else min(lengths) >= 2 and max(lengths) <= 11 and len(lengths) > 1


def test_lengths_depend_on_seed_and_pass_alone():
    def lengths(segments):
        return [len(piece.tokens) for piece in segments]

    columns = batch_columns(torch.arange(4000), 4)
    one = Segments(columns, 7, "train", seed=1, deviation=2.0)
    first, second = lengths(one), lengths(one)
    assert first != second
    again = Segments(columns, 7, "train", seed=1, deviation=2.0)
    again.load_state_dict({"passes": 1})
    assert lengths(again) == second
    assert lengths(Segments(columns, 7, "train", seed=2, deviation=2.0)) != first


def test_the_embedded_corpus_is_fixed_and_has_long_agreement():
    texts = {split: miniature.sentences(split) for split in ("train", "valid", "test")}
    corpus = build_corpus(texts)
    assert (corpus.vocabulary, len(corpus.train)) == (156, 56408), "changing the text changes every number in README"
    assert "<unk>" not in corpus.words
    verbs = {form: form.endswith("s") for _, verbs, _ in miniature.TOPICS.values() for verb in verbs
             for form in (verb, f"{verb}s")}  # fmt: skip
    for sentence in texts["valid"]:
        if sentence[0] == "some":
            main = [word for word in sentence if word in verbs][-1]
            assert not verbs[main], f"a plural subject takes the plural verb: {sentence}"


# -- layers


def test_locked_dropout_drops_the_same_features_at_every_step():
    torch.manual_seed(0)
    dropped = locked_dropout(torch.ones(5, 3, 40), 0.5, training=True)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(locked_dropout(torch.ones(2, 2, 2), 0.5, training=False), torch.ones(2, 2, 2))


def test_word_dropout_drops_a_word_everywhere_or_nowhere():
    torch.manual_seed(0)
    tokens, weight = torch.randint(0, 20, (30, 4)), torch.ones(20, 3)
    embedded = embed(tokens, weight, 0.5, training=True)
    for word in range(20):
        values = embedded[tokens == word].unique()
        assert len(values) <= 1 and set(values.tolist()) <= {0.0, 2.0}


# -- recipe


def test_parameter_counts_are_the_published_ones():
    search = ptb.LanguageModel(10000, PAPER, None, ptb.SEARCH)
    assert sum(parameter.numel() for parameter in search.parameters()) == 4_810_000
    retrain = ptb.LanguageModel(10000, PAPER, Architecture.random(PAPER, 1), ptb.RETRAIN)
    assert sum(parameter.numel() for parameter in retrain.parameters()) == 22_960_000


def test_recipes_are_the_paper_s():
    search = dataclasses.asdict(ptb.SEARCH)
    for name, value in {
        "epochs": 40, "hidden_size": 300, "batch_size": 256, "bptt": 35, "learning_rate": 20.0, "weight_decay": 5e-7,
        "gradient_clip": 0.25, "output_dropout": 0.75, "hidden_dropout": 0.25, "input_dropout": 0.75,
        "embedding_dropout": 0.2, "word_dropout": 0.0, "activation_change": 1e-3, "arc_learning_rate": 3e-3,
        "arc_weight_decay": 1e-3, "bptt_deviation": 0.0,
    }.items():  # fmt: skip
        assert search[name] == value, name
    retrain = dataclasses.asdict(ptb.RETRAIN)
    for name, value in {
        "epochs": 3000, "hidden_size": 850, "batch_size": 64, "weight_decay": 8e-7, "word_dropout": 0.1,
        "bptt_deviation": 5.0, "bptt_shortest": 5, "bptt_longest": 55, "evaluation_batch_size": 10,
        "test_batch_size": 1, "averaging_patience": 5, "learning_rate": 20.0, "gradient_clip": 0.25,
    }.items():  # fmt: skip
        assert retrain[name] == value, name


def test_the_authors_profile_brings_its_own_epochs_and_batch():
    space = dataclasses.replace(TINY, profile="authors-code")
    workload = ptb.prepare(Job("search", "idarts", 1, space, None, {"hidden_size": 8}, "embedded"))
    assert (workload.settings.epochs, workload.settings.batch_size) == (50, 128)


def test_perplexity_is_the_exact_mean_over_predicted_tokens(tmp_path):
    outcome = run(tmp_path, stage="retrain", architecture=Architecture.random(TINY, 1), epochs=1)
    corpus = ptb.load_corpus("embedded")
    model = ptb.LanguageModel(corpus.vocabulary, TINY, Architecture.random(TINY, 1), outcome.settings)
    state = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["state_dict"]
    model.load_state_dict({name.removeprefix("_model."): value for name, value in state.items()})
    model.eval()
    columns = batch_columns(corpus.valid, 100)
    with torch.no_grad():
        outputs, _ = model(columns[:-1])
        logits = outputs @ model.embedding.t() + model.bias
        nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), columns[1:].flatten())
    assert outcome.validation == pytest.approx(math.exp(nats.item()), rel=1e-5)


def test_the_learning_rate_of_a_piece_is_in_proportion_to_its_length(tmp_path):
    seen = []

    class Recipe(ptb.LanguageModelRecipe):
        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])

        def training_step(self, batch, batch_idx):
            lengths.append(len(batch.tokens))
            return super().training_step(batch, batch_idx)

    lengths = []
    task_prepare = ptb.prepare

    def prepare(asked):
        workload = task_prepare(asked)
        workload.module = Recipe(workload.settings)
        return workload

    task = SimpleNamespace(OPTIMIZE_MODE="minimize", prepare=prepare)
    run_job(task, job("retrain", architecture=Architecture.random(TINY, 1), epochs=1), tmp_path, lambda metrics: None)
    assert len(set(lengths)) > 1
    assert seen == pytest.approx([20.0 * length / 35 for length in lengths])


def test_settings_of_another_name_or_type_are_refused():
    with pytest.raises(ValueError, match="Unknown setting 'epoch'.*epochs"):
        resolve_settings(ptb.SEARCH, {"epoch": 3})
    with pytest.raises(ValueError, match="'epochs': found '3' of type str; expected int"):
        resolve_settings(ptb.SEARCH, {"epochs": "3"})
    assert resolve_settings(ptb.SEARCH, {"learning_rate": 5}).learning_rate == 5.0


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no task 'nothing'; tasks: conll, digits, ptb"):
        load_task("nothing")


# -- runs


def test_a_search_yields_a_cell_of_its_space_and_reports_every_epoch(tmp_path):
    reports = []
    outcome = run(tmp_path, report=reports.append)
    outcome.architecture.check_fits(TINY)
    assert [report["epoch"] for report in reports] == [1.0, 2.0]
    assert all(report["default"] == report["validation"] for report in reports)
    assert outcome.validation == reports[-1]["validation"]


def test_search_and_retraining_beat_the_unigram_of_the_embedded_corpus(tmp_path):
    corpus = ptb.load_corpus("embedded")
    counts = Counter(corpus.train.tolist())
    nats = [math.log(len(corpus.train) / counts[token]) for token in corpus.valid.tolist()]
    unigram = math.exp(sum(nats) / len(nats))
    settings = {"train_tokens": 0, "batch_size": 64, "hidden_size": 32, "epochs": 3, "output_dropout": 0.0}
    settings |= {"input_dropout": 0.0, "hidden_dropout": 0.0, "embedding_dropout": 0.0}
    outcome = run(tmp_path, stage="retrain", architecture=Architecture.random(TINY, 2), **settings)
    assert outcome.validation < unigram / 1.5
    assert outcome.test == pytest.approx(outcome.validation, rel=0.1)


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, stage):
    cell = None if stage == "search" else Architecture.random(TINY, 1)
    settings = {"stage": stage, "architecture": cell, "averaging_patience": 1, "epochs": 5, "learning_rate": 200.0}
    whole = run(tmp_path, "whole", **settings)

    class Stopped(Exception):
        pass

    def stop_in_third_epoch(metrics):
        if metrics["epoch"] == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(tmp_path, "parts", stop_in_third_epoch, **settings)
    reports = []
    resumed = run(tmp_path, "parts", reports.append, **settings)
    assert [report["epoch"] for report in reports] == [1.0, 2.0, 3.0, 4.0, 5.0]
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert (whole.validation, whole.test, whole.architecture) == (
        resumed.validation, resumed.test, resumed.architecture,
    )  # fmt: skip
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert set(one["state_dict"]) == set(other["state_dict"])
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    assert ("averaging_state" in one) == ("averaging_state" in other) == (stage == "retrain")
    for name, value in one.get("averaging_state", {}).items():
        assert torch.equal(value, other["averaging_state"][name]), name


def test_averaging_starts_when_validation_stops_falling_and_not_before():
    class Trainer:
        sanity_checking = False
        callback_metrics = {}

        class state:
            fn = "fit"

    module = ptb.LanguageModelRecipe(ptb.RETRAIN)
    averaging, started = NonMonotoneAveraging(2), []
    for value in (9.0, 8.0, 8.5, 8.9, 8.3):
        Trainer.callback_metrics = {"validation": torch.tensor(value)}
        averaging.on_validation_end(Trainer, module)
        started.append(averaging.averaging)
    # 8.9 is compared with the best of all but the last two before it (9.0), 8.3 with the best of 9.0 and 8.0.
    assert started == [False, False, False, False, True]


def test_the_lstm_baseline_runs_the_same_recipe(tmp_path):
    outcome = run(tmp_path, stage="retrain", method="lstm", space=None)
    assert outcome.test is not None and math.isfinite(outcome.test)
    layer = LSTMLayer(4, 5)
    outputs, (hidden, _) = layer(torch.randn(3, 2, 4))
    assert torch.equal(outputs[-1], hidden[0])


# -- the real corpus

PTB = os.environ.get("IDARTS_PTB")


@pytest.mark.data
@pytest.mark.skipif(not PTB, reason="IDARTS_PTB does not name the folder of the real Penn Treebank")
def test_the_real_corpus_has_the_published_counts():
    corpus = read_corpus(PTB)
    assert [len(stream) for stream in (corpus.train, corpus.valid, corpus.test)] == [929_589, 73_760, 82_430]
    assert corpus.vocabulary == 10_000
    rows = {
        (split, size): len(batch_columns(getattr(corpus, split), size))
        for split, size in (("train", 256), ("train", 64), ("valid", 256), ("valid", 10), ("test", 1))
    }
    assert rows == {
        ("train", 256): 3631, ("train", 64): 14524, ("valid", 256): 288, ("valid", 10): 7376, ("test", 1): 82430,
    }  # fmt: skip
