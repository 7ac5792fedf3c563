"""The tagger: what padding may change, both directions, and what it refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from trials.batching import Batches, collate
from trials.chain import reverse_words
from trials.conll_data import tagger_data
from trials.schemes import first_misfit
from trials.tagger import BidirectionalLayer, WordInput

from .taggers import CELL, QUICK_SETTINGS, TINY, tagger


@pytest.fixture(scope="module")
def data():
    return tagger_data("embedded", QUICK_SETTINGS, ("train", "dev"))


def of_different_lengths(data, count=6):
    by_length = {len(example.words): example for example in data.examples["dev"]}
    return list(by_length.values())[:count]


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
