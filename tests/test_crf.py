"""The conditional random field, against the enumeration of all tag sequences."""

from __future__ import annotations

import itertools

import pytest
import torch

from trials.crf import LinearChainCRF
from trials.schemes import first_misfit, tag_set

LENGTHS = (4, 1, 3)


def a_crf(scheme: str | None, types: tuple[str, ...] = ("PER",)) -> tuple[LinearChainCRF, tuple[str, ...]]:
    torch.manual_seed(3)
    tags = tag_set(types, scheme or "bio")
    crf = LinearChainCRF(tags, scheme).double()
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf, tags


def a_batch(num_tags: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    emissions = torch.randn(max(LENGTHS), len(LENGTHS), num_tags, dtype=torch.float64)
    mask = torch.arange(max(LENGTHS))[:, None] < torch.tensor(LENGTHS)
    return emissions, mask


def is_written_by(tags: tuple[str, ...], scheme: str | None) -> bool:
    """Say whether the scheme has these tags, by writing their entities anew: no table of transitions."""
    return scheme is None or first_misfit(tags, scheme) is None


def enumerated(crf: LinearChainCRF, tags: tuple[str, ...], scheme: str | None, emissions: torch.Tensor, length: int):
    """Score of every sequence that the scheme allows, written out from the definition; emissions (T, C)."""
    scores = {}
    for path in itertools.product(range(len(tags)), repeat=length):
        if is_written_by(tuple(tags[number] for number in path), scheme):
            # The sum over no transition keeps them in the graph where the sentence has one word.
            score = crf.first[path[0]] + crf.last[path[-1]] + 0.0 * crf.transitions.sum()
            score = score + sum(emissions[step, number] for step, number in enumerate(path))
            scores[path] = score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path))
    return scores


@pytest.mark.parametrize("scheme", [None, "iob1", "bio", "bioes"])
def test_probabilities_and_gradients_equal_enumeration(scheme):
    crf, tags = a_crf(scheme)
    emissions, mask = a_batch(len(tags))
    emissions.requires_grad_()
    for column, length in enumerate(LENGTHS):
        scores = enumerated(crf, tags, scheme, emissions[:, column], length)
        total = torch.stack(list(scores.values())).logsumexp(0)
        for path in list(scores)[::7]:
            numbers = torch.zeros_like(mask, dtype=torch.long)
            numbers[:length, column] = torch.tensor(path)
            actual = crf.log_likelihood(emissions, numbers, mask)[column]
            expected = scores[path] - total
            torch.testing.assert_close(actual, expected)
            inputs = [emissions, *crf.parameters()]
            torch.testing.assert_close(
                torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs, retain_graph=True)
            )


@pytest.mark.parametrize("scheme", [None, "iob1", "bio", "bioes"])
def test_decoding_finds_the_best_of_all_sequences(scheme):
    crf, tags = a_crf(scheme, ("LOC",) if scheme == "bioes" else ("LOC", "PER"))
    emissions, mask = a_batch(len(tags))
    found = crf.viterbi(emissions, mask)
    for column, length in enumerate(LENGTHS):
        scores = enumerated(crf, tags, scheme, emissions[:, column], length)
        best = max(scores, key=lambda path: scores[path].item())
        assert tuple(found[:length, column].tolist()) == best
        assert not found[length:, column].any()


def test_probabilities_of_all_sequences_sum_to_one():
    crf, tags = a_crf("bio")
    emissions, _ = a_batch(len(tags))
    paths = torch.tensor(list(itertools.product(range(len(tags)), repeat=4))).T  # (T, B)
    logs = crf.log_likelihood(emissions[:, :1].expand(-1, paths.shape[1], -1), paths, torch.ones_like(paths).bool())
    torch.testing.assert_close(logs.exp().sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("scheme", ["iob1", "bio", "bioes"])
def test_decoded_tags_are_always_ones_that_the_scheme_writes(scheme):
    tags = tag_set(("LOC", "ORG", "PER"), scheme)
    torch.manual_seed(0)
    crf = LinearChainCRF(tags, scheme)
    emissions = 5.0 * torch.randn(12, 200, len(tags))
    paths = crf.viterbi(emissions, torch.ones(12, 200, dtype=torch.bool))
    names = [[tags[number] for number in path] for path in paths.T.tolist()]
    assert all(first_misfit(path, scheme) is None for path in names)
    free = LinearChainCRF(tags).viterbi(emissions, torch.ones(12, 200, dtype=torch.bool))
    assert any(first_misfit([tags[number] for number in path], scheme) is not None for path in free.T.tolist())


def test_padding_changes_nothing():
    crf, tags = a_crf("bioes")
    emissions, mask = a_batch(len(tags))
    numbers = crf.viterbi(emissions, mask)
    noise = torch.where(mask[:, :, None], emissions, torch.full_like(emissions, 1e3))
    torch.testing.assert_close(crf.log_likelihood(noise, numbers, mask), crf.log_likelihood(emissions, numbers, mask))
    assert torch.equal(crf.viterbi(noise, mask), numbers)
    for column, length in enumerate(LENGTHS):
        alone = emissions[:length, column : column + 1], mask[:length, column : column + 1]
        assert torch.equal(crf.viterbi(*alone)[:, 0], numbers[:length, column])


def test_half_precision_emissions_are_summed_in_single_precision():
    crf = LinearChainCRF(tag_set(("PER",), "bio"))
    emissions, mask = a_batch(3)
    half = emissions.to(torch.bfloat16)
    numbers = crf.viterbi(half, mask)
    expected = crf.log_likelihood(half.float(), numbers, mask)
    assert torch.equal(crf.log_likelihood(half, numbers, mask), expected)
    assert expected.dtype == torch.float32


def test_gradients_stay_finite_with_excluded_transitions_and_large_scores():
    tags = tag_set(("LOC", "PER"), "bioes")
    crf = LinearChainCRF(tags, "bioes")
    emissions = (100.0 * torch.randn(120, 2, len(tags))).requires_grad_()
    mask = torch.ones(120, 2, dtype=torch.bool)
    crf.log_likelihood(emissions, torch.zeros(120, 2, dtype=torch.long), mask).sum().backward()
    for tensor in (emissions, *crf.parameters()):
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[True, False], [True, False]], "1 of 2 sentences have no word"),
        ([[True, True], [False, True], [True, True]], "padding stands before"),
    ],
)
def test_impossible_masks_are_refused(mask, message):
    crf = LinearChainCRF(("O", "B-PER"))
    mask = torch.tensor(mask)
    emissions = torch.zeros(*mask.shape, 2)
    with pytest.raises(ValueError, match=message):
        crf.viterbi(emissions, mask)
    with pytest.raises(ValueError, match=message):
        crf.log_likelihood(emissions, mask.long(), mask)
