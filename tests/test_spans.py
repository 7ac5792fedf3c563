"""Entity scores, against a count that shares no code with them."""

from __future__ import annotations

import random

import pytest

from trials.spans import span_scores

# Each case: what is shown, true tags, predicted tags, and the entities counted by hand from the definition of the
# shared task: (right, predicted, true).
AWKWARD = [
    ("exact", "B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", (2, 2, 2)),
    ("adjacent entities of one type, told apart", "B-PER B-PER", "B-PER B-PER", (2, 2, 2)),
    ("adjacent entities of one type, run together", "B-PER B-PER", "B-PER I-PER", (0, 1, 2)),
    ("one entity, cut in two", "B-PER I-PER", "B-PER B-PER", (0, 2, 1)),
    ("type changes without B", "B-PER B-LOC", "I-PER I-LOC", (2, 2, 2)),
    ("type changes inside an entity", "B-PER I-PER I-PER", "B-PER I-PER I-LOC", (0, 2, 1)),
    ("I at the start of the sentence", "B-ORG I-ORG O", "I-ORG I-ORG O", (1, 1, 1)),
    ("I after O", "O B-ORG O", "O I-ORG O", (1, 1, 1)),
    ("right words, wrong type", "B-ORG I-ORG", "B-LOC I-LOC", (0, 1, 1)),
    ("a word too few", "B-ORG I-ORG I-ORG", "B-ORG I-ORG O", (0, 1, 1)),
    ("a word too many", "B-ORG O", "B-ORG I-ORG", (0, 1, 1)),
    ("nothing predicted", "B-ORG O", "O O", (0, 0, 1)),
    ("nothing true", "O O", "B-ORG O", (0, 1, 0)),
    ("IOB1: B only between two of one type", "I-PER B-PER O I-LOC", "B-PER B-PER O B-LOC", (3, 3, 3)),
    ("BIOES against BIO", "B-PER I-PER O B-LOC", "B-PER E-PER O S-LOC", (2, 2, 2)),
    ("BIOES: E alone", "O B-PER", "O E-PER", (1, 1, 1)),
    ("BIOES: I after E", "B-PER I-PER B-PER", "B-PER E-PER I-PER", (2, 2, 2)),
    ("type with a dash", "B-A-B I-A-B", "B-A-B I-A-B", (1, 1, 1)),
]


def independent_entities(tags: list[str]) -> set[tuple[int, int, str]]:
    """Entities by the definition, from the words' side: join neighbours as long as the second continues the first."""
    found = set()
    position = 0
    while position < len(tags):
        if tags[position] == "O":
            position += 1
            continue
        kind = tags[position][2:]
        end = position + 1
        while end < len(tags) and tags[end][0] in "IE" and tags[end][2:] == kind and tags[end - 1][0] in "BI":
            end += 1
        found.add((position, end, kind))
        position = end
    return found


def independent_counts(true: list[list[str]], predicted: list[list[str]], kind: str = "") -> tuple[int, int, int]:
    right = guessed = wanted = 0
    for one, other in zip(true, predicted, strict=True):
        mine = {entity for entity in independent_entities(one) if kind in ("", entity[2])}
        theirs = {entity for entity in independent_entities(other) if kind in ("", entity[2])}
        right, guessed, wanted = right + len(mine & theirs), guessed + len(theirs), wanted + len(mine)
    return right, guessed, wanted


def percentages(right: int, guessed: int, wanted: int) -> tuple[float, float, float]:
    precision = 100.0 * right / guessed if guessed else 0.0
    recall = 100.0 * right / wanted if wanted else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return precision, recall, f1


@pytest.mark.parametrize(("case", "true", "predicted", "counts"), AWKWARD, ids=[case for case, *_ in AWKWARD])
def test_awkward_case_scores_as_counted_by_hand(case, true, predicted, counts):
    del case
    overall = span_scores([true.split()], [predicted.split()]).overall
    assert (overall.precision, overall.recall, overall.f1) == pytest.approx(percentages(*counts))
    assert overall.support == counts[2]


@pytest.mark.parametrize("letters", ["BI", "BIES"])
@pytest.mark.parametrize("seed", range(20))
def test_random_tags_score_as_an_independent_count(letters, seed):
    generator = random.Random(seed)
    tags = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("PER", "LOC"))]
    true = [generator.choices(tags, k=generator.randrange(1, 9)) for _ in range(30)]
    # Near misses: most predicted tags are the true ones, or hardly any entity would be right.
    predicted = [[tag if generator.random() < 0.7 else generator.choice(tags) for tag in one] for one in true]
    scores = span_scores(true, predicted)
    for kind, score in [("", scores.overall), *scores.by_type.items()]:
        counts = independent_counts(true, predicted, kind)
        assert counts[0] > 0
        assert (score.precision, score.recall, score.f1) == pytest.approx(percentages(*counts))
        assert score.support == counts[2]


def test_entities_do_not_run_over_sentence_borders():
    joined = span_scores([["B-PER"], ["I-PER"]], [["B-PER"], ["B-PER"]])
    assert joined.overall.support == 2
    assert joined.f1 == 100.0


def test_no_entity_anywhere_scores_zero_without_a_warning(recwarn):
    scores = span_scores([["O", "O"]], [["O", "O"]])
    assert (scores.f1, scores.overall.support, scores.by_type) == (0.0, 0, {})
    assert not list(recwarn)


def test_report_has_a_row_for_each_type_and_for_all():
    scores = span_scores([["B-PER", "O", "B-LOC"]], [["B-PER", "B-ORG", "O"]])
    assert list(scores.to_dict()) == ["all", "LOC", "ORG", "PER"]
    lines = str(scores).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["LOC", "ORG", "PER", "all"]
    assert lines[-1].split() == ["all", "50.00", "50.00", "50.00", "2"]


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([["O"]], [["O"], ["O"]], "1 true and of 2 predicted"),
        ([["O", "O"]], [["O"]], "sentence 0: 2 words, but 1"),
        ([["O"]], [["PER"]], "found the tag 'PER'"),
    ],
)
def test_tags_that_do_not_match_are_refused(true, predicted, message):
    with pytest.raises(ValueError, match=message):
        span_scores(true, predicted)
