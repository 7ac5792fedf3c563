"""Sums over tag sequences by products of matrices, against the same word by word in logarithms."""

from __future__ import annotations

import pytest
import torch

from trials.chain import log_partition, reverse_words
from trials.crf import LinearChainCRF
from trials.schemes import tag_set

TAGS = tag_set(("LOC", "PER"), "bioes")


def a_problem(size: float, length: int = 40, sentences: int = 7) -> tuple[LinearChainCRF, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    crf = LinearChainCRF(TAGS, "bioes").double()
    emissions = (size * torch.randn(length, sentences, len(TAGS), dtype=torch.float64)).requires_grad_()
    lengths = torch.tensor([length, 1, 2, length - 1, *torch.randint(1, length, (sentences - 4,)).tolist()])
    return crf, emissions, torch.arange(length)[:, None] < lengths


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0])
def test_sums_and_gradients_equal_those_in_logarithms(size):
    crf, emissions, mask = a_problem(size)
    actual = log_partition(emissions, *crf._scores(torch.float64), mask)
    expected = crf.log_partition_by_steps(emissions, mask)
    torch.testing.assert_close(actual, expected)
    inputs = [emissions, *crf.parameters()]
    weights = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((actual * weights).sum(), inputs), torch.autograd.grad((expected * weights).sum(), inputs)
    )


def test_single_precision_is_met_to_its_last_digits():
    crf, emissions, mask = a_problem(3.0)
    exact = crf.log_partition(emissions, mask)
    crf.float()
    single = emissions.detach().float().requires_grad_()
    found = crf.log_partition(single, mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=0.0)
    found.sum().backward()
    assert single.grad.dtype == crf.transitions.grad.dtype == torch.float32
    assert not single.grad[~mask].any()
    # Probabilities of the tags of a word.
    torch.testing.assert_close(single.grad.sum(-1), mask.float())


def test_scores_beyond_double_precision_are_summed_in_logarithms():
    crf, emissions, mask = a_problem(3e4)
    assert log_partition(emissions, *crf._scores(torch.float64), mask) is None
    found = crf.log_partition(emissions, mask)
    torch.testing.assert_close(found, crf.log_partition_by_steps(emissions, mask))
    assert torch.autograd.grad(found.sum(), emissions)[0].isfinite().all()


@pytest.mark.parametrize("garbage", [1e300, -1e300, float("inf"), float("nan")])
def test_what_stands_in_the_padding_does_not_matter(garbage):
    crf, emissions, mask = a_problem(1.0)
    spoiled = torch.where(mask[:, :, None], emissions, garbage)
    both = [log_partition(one, *crf._scores(torch.float64), mask) for one in (emissions, spoiled)]
    torch.testing.assert_close(both[1], both[0])
    gradients = [torch.autograd.grad(one.sum(), [emissions, *crf.parameters()]) for one in both]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_scores_that_are_not_numbers_give_none():
    crf, emissions, mask = a_problem(1.0)
    with torch.no_grad():
        emissions[0, 2, 1] = float("nan")
    found = crf.log_partition(emissions, mask)
    assert found.isnan().tolist() == [index == 2 for index in range(len(found))]


def test_the_gradient_of_a_reversal_is_a_reversal():
    sequence = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([5, 1, 3])
    assert torch.autograd.gradcheck(lambda inputs: reverse_words(inputs, lengths), sequence)
    assert torch.autograd.gradgradcheck(lambda inputs: reverse_words(inputs, lengths).sin(), sequence)
