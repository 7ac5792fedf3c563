"""Entity scores as the CoNLL-2003 evaluation defines them: an entity counts if its words and its type are all right.

The counting is ``seqeval``'s, in its default mode, which follows the shared task's ``conlleval``.

References
----------
Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task", CoNLL 2003; Nakayama, "seqeval", 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

from .schemes import OUTSIDE, split_tag


@dataclass(frozen=True)
class Score:
    """How well entities of one type, or of all types, were found; in percent, 0 where there is nothing to divide by."""

    precision: float
    """Share of the predicted entities that are right."""
    recall: float
    """Share of the true entities that were predicted."""
    f1: float
    """Harmonic mean of both."""
    support: int
    """Number of true entities."""


@dataclass(frozen=True)
class SpanScores:
    """The score over all entities and that of each type."""

    overall: Score
    by_type: dict[str, Score]
    """Every type that is true or predicted somewhere, sorted by name."""

    @property
    def f1(self) -> float:
        """F1 over all entities, in percent: the number that papers report."""
        return self.overall.f1

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return plain data, fit for JSON; the overall score is under ``all``."""
        return {"all": asdict(self.overall), **{kind: asdict(score) for kind, score in self.by_type.items()}}

    def __str__(self) -> str:
        rows = [*self.by_type.items(), ("all", self.overall)]
        width = max(len(name) for name, _ in rows)
        head = f"{'':{width}}  precision  recall      F1  entities"
        return "\n".join([head, *(_row(name, score, width) for name, score in rows)])


def span_scores(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> SpanScores:
    """Score predicted tags.

    Parameters
    ----------
    true, predicted
        Tags of each sentence, of any scheme; the two need not be of the same scheme.

    Raises
    ------
    ValueError
        If the two differ in the number of sentences or of words in one, or a tag is of no scheme.
    """
    _check_tags(true, predicted)
    # seqeval cannot divide where neither side has any entity.
    if not any(tag != OUTSIDE for tags in (*true, *predicted) for tag in tags):
        return SpanScores(Score(0.0, 0.0, 0.0, 0), {})
    both = [list(tags) for tags in true], [list(tags) for tags in predicted]
    # Not its report, which adds two averages that nobody reads and takes three times as long.
    overall = precision_recall_fscore_support(*both, average="micro", zero_division=0)
    columns = precision_recall_fscore_support(*both, average=None, zero_division=0)
    types = sorted({split_tag(tag)[1] for tags in (*true, *predicted) for tag in tags if tag != OUTSIDE})
    by_type = {kind: _score(*row) for kind, *row in zip(types, *columns, strict=True)}
    return SpanScores(_score(*overall), by_type)


def _score(precision: float, recall: float, f1: float, support: float) -> Score:
    return Score(100.0 * float(precision), 100.0 * float(recall), 100.0 * float(f1), int(support))


def _row(name: str, score: Score, width: int) -> str:
    return f"{name:{width}}  {score.precision:9.2f}  {score.recall:6.2f}  {score.f1:6.2f}  {score.support:8d}"


def _check_tags(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    if len(true) != len(predicted):
        raise ValueError(f"found the tags of {len(true)} true and of {len(predicted)} predicted sentences.")
    for number, (one, other) in enumerate(zip(true, predicted, strict=True)):
        if len(one) != len(other):
            raise ValueError(f"sentence {number}: {len(one)} words, but {len(other)} predicted tags.")
        for tag in (*one, *other):
            split_tag(tag)
