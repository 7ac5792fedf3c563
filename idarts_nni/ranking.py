"""Orders of preference: which edges a node keeps, and which samples come after the best one."""

from __future__ import annotations

import heapq
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

RankedEdge = tuple[int, int, float]
"""Source, column of the operation, and logarithm of the probability."""


@dataclass(frozen=True)
class Alternative:
    """One way to take a decision: its share of an NNI sample, and the logarithm of its probability."""

    score: float
    sample: Mapping[str, Any] = field(default_factory=dict)


def rank_edges(
    scores: Sequence[Sequence[float]],
    columns: Sequence[int],
    *,
    distinct_sources: bool = False,
    passed_over: Collection[int] = (),
) -> list[tuple[int, int]]:
    """Order the edges of a node, best first; ties break by lower source, then by earlier operation.

    Parameters
    ----------
    scores
        For each source, the score of each operation.
    columns
        The operations that may be kept.
    distinct_sources
        Put the best edge of each source before every second edge of a source (DARTS's rule).
    passed_over
        Sources whose edges come after all others.

    Returns
    -------
    All ``(source, column)``.
    """
    edges = [(source, column) for source in range(len(scores)) for column in columns]
    edges.sort(key=lambda edge: (edge[0] in passed_over, -scores[edge[0]][edge[1]], edge))
    if not distinct_sources:
        return edges
    best = {edge[0]: edge for edge in reversed(edges)}  # the last one written is the best of its source
    return [edge for edge in edges if best[edge[0]] == edge] + [edge for edge in edges if best[edge[0]] != edge]


def ranked_subsets(scores: Sequence[float], size: int) -> Iterator[tuple[int, ...]]:
    """Yield all subsets of ``size`` positions, the first positions first, then by falling sum of scores.

    The order of the positions is the order of preference. Where a score is higher than one before it (a rule that
    looks at more than scores put it there), it counts as the lower of the two.
    """
    costs: list[float] = []
    for score in scores:
        costs.append(max(-score, costs[-1]) if costs else -score)
    start = tuple(range(size))
    waiting, seen = [(0.0, start)], {start}
    while waiting:
        cost, chosen = heapq.heappop(waiting)
        yield chosen
        for place, position in enumerate(chosen):
            following = position + 1
            if following == len(costs) or following in chosen:
                continue
            further = (*chosen[:place], following, *chosen[place + 1 :])
            if further not in seen:
                seen.add(further)
                heapq.heappush(waiting, (cost + costs[following] - costs[position], further))


def kept_sets(ranked: Sequence[RankedEdge], size: int) -> Iterator[tuple[float, list[tuple[int, int]]]]:
    """Yield the sets of edges that a node may keep, best first, each with the sum of its log-probabilities."""
    scores = [score for _, _, score in ranked]
    for positions in ranked_subsets(scores, min(size, len(ranked))):
        kept = sorted((ranked[position][0], ranked[position][1]) for position in positions)
        yield math.fsum(scores[position] for position in positions), kept


def best_sample(decisions: Sequence[Iterator[Alternative]]) -> dict[str, Any]:
    """Return the sample in which every decision is taken in its best way."""
    return {label: choice for decision in decisions for label, choice in next(decision).sample.items()}


def nni_decisions(module: Any, exported: Mapping[str, Any], memo: Mapping[str, Any]) -> list[Iterator[Alternative]]:
    """Return the decisions of one of NNI's own modules: its export first, then what its probabilities say."""
    probabilities = module.export_probs(memo)
    open_choices = {label: choice for label, choice in exported.items() if label in probabilities}
    decided = {label: choice for label, choice in exported.items() if label not in probabilities}
    decisions = [_ranked_choices(label, choice, probabilities[label]) for label, choice in open_choices.items()]
    return decisions + ([iter([Alternative(0.0, decided)])] if decided else [])


def _ranked_choices(label: str, exported: Any, probabilities: Mapping[Any, float]) -> Iterator[Alternative]:
    several = isinstance(exported, list)  # inputs of an InputChoice
    first = exported if several else [exported]
    values = sorted(probabilities, key=lambda value: (value not in first, -probabilities[value]))
    # The smallest positive number stands for a probability that was rounded to none.
    scores = [math.log(max(probabilities[value], sys.float_info.min)) for value in values]
    for positions in ranked_subsets(scores, len(first)):
        chosen = [values[position] for position in positions]
        score = math.fsum(scores[position] for position in positions)
        yield Alternative(score, {label: sorted(chosen) if several else chosen[0]})


def ranked_combinations(decisions: Sequence[Iterator[Alternative]]) -> Iterator[Alternative]:
    """Combine independent decisions: yield every whole sample once, best first.

    Parameters
    ----------
    decisions
        For each decision its alternatives, best first; they are read only as far as they are needed.
    """
    rows = [_Row(decision) for decision in decisions]
    start = (0,) * len(rows)
    waiting, seen = [(0.0, start)], {start}
    while waiting:
        _, places = heapq.heappop(waiting)
        chosen = [row.read(place) for row, place in zip(rows, places, strict=True)]
        taken = [alternative for alternative in chosen if alternative is not None]
        if len(taken) < len(rows):
            return  # a decision without any alternative
        merged: dict[str, Any] = {}
        for alternative in taken:
            merged |= alternative.sample
        yield Alternative(sum(alternative.score for alternative in taken), merged)
        for index, row in enumerate(rows):
            further = (*places[:index], places[index] + 1, *places[index + 1 :])
            if further not in seen and row.read(further[index]) is not None:
                seen.add(further)
                cost = sum(row.cost(place) for row, place in zip(rows, further, strict=True))
                heapq.heappush(waiting, (cost, further))


class _Row:
    """The alternatives of one decision, read when they are asked for."""

    def __init__(self, alternatives: Iterator[Alternative]) -> None:
        self._unread = alternatives
        self._read: list[Alternative] = []

    def read(self, place: int) -> Alternative | None:
        self._read.extend(islice(self._unread, max(0, place + 1 - len(self._read))))
        return self._read[place] if place < len(self._read) else None

    def cost(self, place: int) -> float:
        """Return how much worse a place is than the first one."""
        return self._read[0].score - self._read[place].score
