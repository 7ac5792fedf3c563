"""The sum over all tag sequences of a sentence, with its gradient, for the conditional random field.

Axis letters: ``T`` words, ``B`` sentences, ``C`` tags.

The recursion from the left and the one from the right are the same one on transposed transitions and reversed
sentences, so both run side by side, as products of matrices rather than sums of logarithms: in double precision,
normalised now and then, with the largest emission of a word taken out. The gradient of the logarithm of the sum are the
marginal probabilities of tags and of pairs of tags, which both recursions together give at once, without a graph
of some ten nodes for each word.

References
----------
Rabiner, "A Tutorial on Hidden Markov Models", 1989 (both recursions, and their scaling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_STEPS_BETWEEN_SCALINGS = 8
"""A word makes sums smaller by some ten nats at most, and double precision has 700."""


@dataclass(frozen=True)
class ChainSums:
    """Sums over the tag sequences of each sentence."""

    log_partition: Tensor
    """Shape ``(B,)``."""
    tags: Tensor
    """Probability of each tag at each word, shape ``(T, B, C)``; 0 at padding."""
    pairs: Tensor
    """Expected number of each pair of neighbouring tags, shape ``(B, C, C)``."""
    ends: Tensor
    """Probability of each tag of the last word, shape ``(B, C)``."""


def reverse_words(sequence: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each sentence of ``(T, B, D)`` within its length and leave its padding where it is; its own inverse."""
    return _ReverseWords.apply(sequence, lengths)


class _ReverseWords(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sequence: Tensor, lengths: Tensor) -> Tensor:
        ctx.save_for_backward(lengths)
        count = sequence.shape[1]
        steps = torch.arange(len(sequence), device=sequence.device)[:, None]  # (T, 1)
        source = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (T, B)
        rows = source * count + torch.arange(count, device=sequence.device)
        return sequence.flatten(0, 1).index_select(0, rows.flatten()).view_as(sequence)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # The same reversal: a gather's gradient adds up rows, though none meets another here.
        (lengths,) = ctx.saved_tensors
        return reverse_words(gradient, lengths), None


def log_partition(emissions: Tensor, first: Tensor, transitions: Tensor, last: Tensor, mask: Tensor) -> Tensor | None:
    """Return the logarithm of the summed exponential scores of all tag sequences, shape ``(B,)``.

    Parameters
    ----------
    emissions
        Shape ``(T, B, C)``.
    first, transitions, last
        Shapes ``(C,)``, ``(C, C)`` from row to column, ``(C,)``.
    mask
        True at words, false at padding, which comes last; shape ``(T, B)``.

    Returns
    -------
    None where the sums leave the range of double precision (scores of one word some hundred nats apart).
    """
    with torch.no_grad():
        sums = chain_sums(*(one.double() for one in (emissions, first, transitions, last)), mask)
    if sums is None:
        return None
    return _LogPartition.apply(emissions, first, transitions, last, sums)


def chain_sums(emissions: Tensor, first: Tensor, transitions: Tensor, last: Tensor, mask: Tensor) -> ChainSums | None:
    """Run both recursions; parameters as of :func:`log_partition`, in double precision."""
    steps, sentences, tags = emissions.shape
    lengths = mask.sum(0)
    both = torch.stack([emissions, reverse_words(emissions, lengths)], dim=1)  # (T, 2, B, C)
    largest = both.amax(-1, keepdim=True)
    emitted = (both - largest).exp_()
    offset = transitions.max()
    moves = (transitions - offset).exp()  # (C, C)
    moves = torch.stack([moves, moves.T])
    edges = torch.stack([first, last])[:, None]  # (2, 1, C)
    edge_offset = edges.amax(-1, keepdim=True)
    before = emissions.new_empty(steps, 2, sentences, tags)  # sums that lead to each tag, without its emission
    within = torch.empty_like(before)  # with it, normalised now and then
    totals = emissions.new_ones(steps, 2, sentences, 1)
    before[0] = (edges - edge_offset).exp()
    latest = None
    rows = zip(before.unbind(), within.unbind(), emitted.unbind(), strict=True)
    for step, (arriving, leaving, factor) in enumerate(rows):
        if latest is not None:
            torch.bmm(latest, moves, out=arriving)
        latest = torch.mul(arriving, factor, out=leaving)
        if step % _STEPS_BETWEEN_SCALINGS == _STEPS_BETWEEN_SCALINGS - 1:
            latest.div_(torch.sum(latest, -1, keepdim=True, out=totals[step]))
    onward, backward = within[:, 0], reverse_words(within[:, 1], lengths)
    mass = (before[:, 0] * backward).sum(-1)  # (T, B)
    final = lengths - 1
    end = onward.gather(0, final[None, :, None].expand(1, -1, tags))[0] * (last - edge_offset[1, 0]).exp()  # (B, C)
    ending = end.sum(-1)
    if not bool(((totals[:, 0, :, 0] > 0) & (mass > 0) | ~mask).all() & (ending > 0).all()):
        return None  # not-a-number counts too
    scale = torch.where(mask, totals[:, 0, :, 0].log() + largest[:, 0, :, 0], 0.0).sum(0)
    value = scale + ending.log() + edge_offset[:, 0, 0].sum() + offset * final
    share = torch.where(mask, 1.0 / mass, 0.0)[:, :, None]  # (T, B, 1)
    probability = torch.where(mask[:, :, None], before[:, 0] * backward * share, 0.0)
    # Padding is left out: a share of 0 does not make a product with infinity 0.
    after = torch.where(mask[:, :, None], backward * share, 0.0)[1:]
    earlier = torch.where(mask[1:, :, None], onward[:-1], 0.0)
    pairs = torch.einsum("tbi,tbj->bij", earlier, after) * moves[0]
    return ChainSums(value, probability, pairs, end / ending[:, None])


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, first: Tensor, transitions: Tensor, last: Tensor, sums: ChainSums
    ) -> Tensor:
        ctx.save_for_backward(sums.tags, sums.pairs, sums.ends)
        ctx.dtypes = [one.dtype for one in (emissions, first, transitions, last)]
        return sums.log_partition.to(emissions.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tags, pairs, ends = ctx.saved_tensors
        weight = gradient.double()
        found = (
            tags * weight[:, None],
            weight @ tags[0],
            torch.einsum("b,bij->ij", weight, pairs),
            weight @ ends,
        )
        return *(one.to(dtype) for one, dtype in zip(found, ctx.dtypes, strict=True)), None
