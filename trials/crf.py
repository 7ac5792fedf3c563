r"""Linear-chain conditional random field: the tags of a sentence scored, and decoded, together.

Axis letters: ``T`` words, ``B`` sentences, ``C`` tags. The score of tags :math:`y` under emissions :math:`e` is

.. math:: s(y) = b_{y_1} + \sum_t e_{t, y_t} + \sum_{t > 1} a_{y_{t-1}, y_t} + d_{y_T}

and their probability is :math:`\exp s(y)` over the sum of that of all sequences of the sentence's length.

References
----------
Lafferty, McCallum and Pereira, "Conditional Random Fields", ICML 2001; Lample et al., "Neural Architectures for Named
Entity Recognition", NAACL 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .chain import log_partition
from .schemes import OUTSIDE, may_follow

FORBIDDEN = -1e6
"""Score of an excluded transition. Finite, as minus infinity makes gradients NaN; its exponential is 0 in float32."""


class LinearChainCRF(nn.Module):
    """Scores of tag transitions, the likelihood of tags, and the best tags.

    Parameters
    ----------
    tags
        Names of the tags; they only matter for ``scheme``.
    scheme
        ``iob1``, ``bio`` or ``bioes``: exclude the transitions that the scheme never writes, from the likelihood and
        from the decoding. None allows all.
    """

    transitions: nn.Parameter
    """:math:`a`, shape ``(C, C)``: from row to column."""
    first: nn.Parameter
    """:math:`b`, shape ``(C,)``."""
    last: nn.Parameter
    """:math:`d`, shape ``(C,)``."""

    def __init__(self, tags: Sequence[str], scheme: str | None = None) -> None:
        super().__init__()
        count = len(tags)
        self.transitions = nn.Parameter(torch.empty(count, count).uniform_(-0.1, 0.1))
        self.first = nn.Parameter(torch.empty(count).uniform_(-0.1, 0.1))
        self.last = nn.Parameter(torch.empty(count).uniform_(-0.1, 0.1))
        self._forbid("transitions_forbidden", [[_is_excluded(a, b, scheme) for b in tags] for a in tags])
        self._forbid("first_forbidden", [_is_excluded(OUTSIDE, tag, scheme) for tag in tags])
        self._forbid("last_forbidden", [_is_excluded(tag, OUTSIDE, scheme) for tag in tags])

    def log_likelihood(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Return the log probability of the tags of each sentence, in nats.

        Parameters
        ----------
        emissions
            Scores of each tag at each word, shape ``(T, B, C)``.
        tags
            Tag numbers, shape ``(T, B)``; where the mask is false, any number from 0 to ``C - 1``.
        mask
            True at words, false at padding, which must come last; shape ``(T, B)``.

        Returns
        -------
        Shape ``(B,)``, float32 or float64.

        Raises
        ------
        ValueError
            If a sentence has no word, or padding stands before a word.
        """
        _check_mask(mask)
        emissions = _precise(emissions)
        return self._score(emissions, tags, mask) - self.log_partition(emissions, mask)

    def log_partition(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Return the logarithm of the summed exponential scores of all tags of each sentence, shape ``(B,)``."""
        found = log_partition(emissions, *self._scores(emissions.dtype), mask)
        return self.log_partition_by_steps(emissions, mask) if found is None else found

    @torch.no_grad()
    def viterbi(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Return the most probable tags.

        Parameters
        ----------
        emissions, mask
            As in :meth:`log_likelihood`.

        Returns
        -------
        Tag numbers, shape ``(T, B)``; 0 at padding. Of equally good tags the lower number wins, from the end backwards.

        Raises
        ------
        ValueError
            If a sentence has no word, or padding stands before a word.
        """
        _check_mask(mask)
        emissions = _precise(emissions)
        first, transitions, last = self._scores(emissions.dtype)
        best = first + emissions[0]  # (B, C): score of the best tags that end in each tag
        pointers = []
        for emission, present in zip(emissions[1:], mask[1:], strict=True):
            scores, sources = (best[:, :, None] + transitions).max(1)  # each (B, C)
            best = torch.where(present[:, None], scores + emission, best)
            pointers.append(sources)
        tag = (best + last).argmax(1)  # (B,): tag of the last word, held over the padding
        path = [tag]
        for sources, present in zip(reversed(pointers), reversed(mask[1:].unbind(0)), strict=True):
            tag = torch.where(present, sources.gather(1, tag[:, None])[:, 0], tag)
            path.append(tag)
        return torch.stack(path[::-1]) * mask

    def _forbid(self, name: str, excluded: object) -> None:
        # Not persistent: it follows from the tags and the scheme, so a checkpoint need not carry it.
        self.register_buffer(name, torch.tensor(excluded, dtype=torch.bool), persistent=False)

    def _scores(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        names = ("first", "transitions", "last")
        parts = [
            getattr(self, name).to(dtype).masked_fill(getattr(self, f"{name}_forbidden"), FORBIDDEN) for name in names
        ]
        return parts[0], parts[1], parts[2]

    def _score(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        first, transitions, last = self._scores(emissions.dtype)
        emitted = emissions.gather(2, tags[:, :, None])[:, :, 0] * mask  # (T, B)
        pairs = tags[:-1] * len(first) + tags[1:]  # (T - 1, B)
        # index_select, since the gradient of an index sorts what it indexes.
        moved = transitions.flatten().index_select(0, pairs.flatten()).view_as(pairs) * mask[1:]
        ends = tags.gather(0, mask.sum(0, keepdim=True) - 1)[0]  # (B,)
        edges = first.index_select(0, tags[0]) + last.index_select(0, ends)
        return edges + emitted.sum(0) + moved.sum(0)

    def log_partition_by_steps(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Return the same, a word at a time in logarithms: slower, and for scores of any size."""
        first, transitions, last = self._scores(emissions.dtype)
        forward = first + emissions[0]  # (B, C): log of the summed exp scores of all tags that end in each tag
        for emission, present in zip(emissions[1:], mask[1:], strict=True):
            following = (forward[:, :, None] + transitions).logsumexp(1) + emission
            forward = torch.where(present[:, None], following, forward)
        return (forward + last).logsumexp(1)


def _is_excluded(before: str, after: str, scheme: str | None) -> bool:
    return scheme is not None and not may_follow(before, after, scheme)


def _precise(emissions: Tensor) -> Tensor:
    """Return at least single precision: sums over a sentence lose too much in half."""
    return emissions if emissions.dtype == torch.float64 else emissions.float()


def _check_mask(mask: Tensor) -> None:
    if not bool(mask[0].all()):
        raise ValueError(f"mask: {int((~mask[0]).sum())} of {mask.shape[1]} sentences have no word at their start.")
    if bool((mask[1:] & ~mask[:-1]).any()):
        raise ValueError("mask: padding stands before a word; it must come last in every sentence.")
