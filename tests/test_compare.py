"""Comparisons with random cells, on results whose truth is known."""

import math

import numpy as np
import pandas as pd
import pytest

from idarts_nni import cli
from idarts_nni.compare import compare_methods, difference
from idarts_nni.report import COLUMNS


def rows(method, values, **kwargs):
    row = {**dict.fromkeys(COLUMNS, ""), "task": "ptb", "method": method, "n": "1", "combine": "sum", "epochs": 5}
    row |= {"parameters": 1000, **kwargs}
    return [{**row, "seed": seed, "test": value, "validation": value} for seed, value in enumerate(values, start=1)]


def compared(*groups, lower=True):
    return compare_methods(pd.DataFrame([row for group in groups for row in group]), "test", lower)


@pytest.mark.parametrize(
    ("size", "rule"), [(2, "Welch's t"), (3, "Welch's t"), (5, "Welch's t"), (6, "bootstrap-t"), (10, "bootstrap-t")]
)
def test_intervals_cover_the_true_difference_as_often_as_they_say(size, rule):
    generator = np.random.default_rng(1)
    rounds, covered = 300, 0
    for _ in range(rounds):
        one, other = generator.normal(3.0, 1.0, size), generator.normal(0.0, 2.0, size)
        found = difference(one, other)
        covered += found.low <= 3.0 <= found.high
        assert found.rule == rule and found.low <= found.mean <= found.high
    # Two and a half standard errors of a share of 0.95 in 300 rounds are 0.03.
    assert covered / rounds >= 0.92


def test_a_percentile_bootstrap_would_be_too_narrow_at_three_values():
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        one, other = generator.normal(0.0, 1.0, (2, 3))
        means = generator.choice(one, (999, 3)).mean(1) - generator.choice(other, (999, 3)).mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        covered += low <= 0.0 <= high
    assert covered / 300 < 0.88, "this is why it is not used"


@pytest.mark.parametrize("size", [3, 4, 8])
def test_claims_about_nothing_are_rare_and_three_values_make_none(size):
    generator = np.random.default_rng(3)
    claims = sum(difference(*generator.normal(0.0, 1.0, (2, size))).is_carried for _ in range(300))
    assert claims / 300 <= (0.0 if size == 3 else 0.08)


@pytest.mark.parametrize("sizes", [(4, 12), (12, 4)], ids=str)
def test_claims_about_nothing_are_rare_where_sides_differ_in_number_and_spread(sizes):
    generator = np.random.default_rng(5)
    few, many = sizes
    claims = sum(
        difference(generator.normal(0.0, 1.0, few), generator.normal(0.0, 3.0, many)).is_carried for _ in range(300)
    )
    assert claims / 300 <= 0.08


def test_a_large_difference_is_found():
    generator = np.random.default_rng(4)
    found = sum(
        difference(generator.normal(-3.0, 1.0, 6), generator.normal(0.0, 1.0, 6)).is_carried for _ in range(100)
    )
    assert found >= 90


def test_the_permutation_test_counts_all_arrangements():
    found = difference([1.0, 2.0], [3.0, 4.0])
    assert found.p == pytest.approx(2 / 6) and found.least_p == pytest.approx(2 / 6)
    assert difference([1.0, 4.0], [2.0, 3.0]).p == 1.0
    assert difference([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]).p == pytest.approx(2 / 70)


def test_a_single_value_has_no_interval():
    found = difference([1.0], [5.0, 6.0, 7.0])
    assert (found.low, found.high) == (-math.inf, math.inf) and not found.is_carried


def test_the_words_say_what_the_data_carry():
    _, (better,) = compared(
        rows("idarts", [50, 51, 52, 50.5, 51.5, 52.5]), rows("random", [60, 61, 62, 60.5, 61.5, 62.5])
    )
    assert better.startswith("idarts (ptb, n=1, sum, 5 epochs): better than random cells by 10.00, and the data carry")
    _, (worse,) = compared(
        rows("idarts", [50, 51, 52, 53]), rows("random", [90, 91, 92, 93]), lower=False
    )  # fmt: skip
    assert "worse than random cells by 40.00, and the data carry that claim" in worse
    _, (open_,) = compared(rows("idarts", [50, 60, 55, 58, 52]), rows("random", [51, 59, 54, 57, 53]))
    assert "do not carry a claim: the difference may be anything from" in open_
    _, (few,) = compared(rows("idarts", [10, 11, 12]), rows("random", [60, 61, 62]))
    assert "cannot carry any claim" in few and "p = 0.10" in few


def test_only_the_same_space_and_budget_are_compared():
    text, sentences = compared(
        rows("idarts", [1, 2, 3, 4], n="2"), rows("darts", [1, 2, 3, 4], parameters=1200),
        rows("lstm", [1, 2], n="-", combine="-"), rows("random", [5, 6, 7, 8]), rows("random", [5, 6, 7, 8], epochs=9),
    )  # fmt: skip
    assert "idarts (ptb, n=2, sum, 5 epochs): there are no random cells" in sentences[0]
    assert any("its 1,200 parameters are not the budget of the random cells, 1,000" in line for line in sentences)
    assert len(text.splitlines()) == 2 + 5


def test_runs_of_one_cell_count_once():
    searched = [row for cell in "abcd" for row in rows("idarts", [1.0, 3.0], cell=cell)]
    drawn = [row for cell in "efgh" for row in rows("random", [5.0, 7.0], cell=cell)]
    text, _ = compared(searched, drawn)
    assert "4 (8)" in text and "2.00 ± 0.00" in text


def test_cells_of_earlier_search_epochs_and_other_scales_are_kept_apart():
    text, _ = compared(
        rows("idarts", [1.0, 2.0]), rows("idarts", [8.0, 9.0], search_epoch="3"), rows("random", [5.0, 6.0]),
        rows("random", [7.0, 8.0], scale="tiny"),
    )  # fmt: skip
    assert "1.50 ± 0.71" in text and "8.50" not in text and text.count("| random") == 2


def test_runs_of_one_search_count_once_where_the_cell_is_not_told():
    searched = [row for seed in "123" for row in rows("idarts", [1.0, 3.0], search_seed=seed)]
    text, _ = compared(searched, rows("random", [5.0, 7.0]))
    assert "3 (6)" in text and "2 (2)" in text


def test_runs_that_failed_are_spoken_of():
    _, sentences = compared(rows("idarts", [1, 2, "", math.inf]), rows("random", [3, 4]))
    assert "2 run(s) ended without a number" in sentences[-1] or "1 run(s)" in sentences[-1]


def test_the_command_reads_a_results_file_and_wants_to_know_what_is_good(tmp_path, capsys):
    path = tmp_path / "results.csv"
    table = pd.DataFrame(rows("idarts", [50, 51, 52, 53]) + rows("random", [60, 61, 62, 63]))
    table[list(COLUMNS)].to_csv(path, index=False)
    assert cli.main(["compare", str(path)]) == cli.UNUSABLE
    assert "--better lower" in capsys.readouterr().err
    assert cli.main(["compare", str(path), "--better", "lower"]) == 0
    said = capsys.readouterr().out
    assert "| idarts |" in said and "better than random cells by 10.00" in said
    table[table["method"] != "random"][list(COLUMNS)].to_csv(path, index=False)
    assert cli.main(["compare", str(path), "--better", "lower"]) == cli.UNUSABLE
    assert "add random to the plan's methods" in capsys.readouterr().err


def test_one_method_s_scale_can_stand_for_random_cells():
    groups = [
        rows("idarts", [60, 61, 62, 63], scale="first"), rows("idarts", [50, 51, 52, 53], scale="second"),
        rows("random", [61, 62, 63, 64], scale="first"),
    ]  # fmt: skip
    table = pd.DataFrame([row for group in groups for row in group])
    text, sentences = compare_methods(table, "test", True, "idarts:first")
    assert [line.split("|")[1:5] for line in text.splitlines()[2:]] == [
        [" idarts ", "   1 ", " sum     ", f" {scale:6} "] for scale in ("first", "second")
    ] + [[" random ", "   1 ", " sum     ", " first  "]]
    assert "minus idarts:first" in text
    assert sentences[0].startswith("idarts (ptb, n=1, sum, 5 epochs, second): better than idarts:first by 10.00, and")
    assert sentences[1].startswith("random (ptb, n=1, sum, 5 epochs, first): the data do not carry a claim")
    assert "Of 2 comparisons, each may claim by chance in 5 of 100 cases" in sentences[2]
    _, within = compare_methods(table, "test", True)
    assert len(within) == 2 and "idarts (ptb, n=1, sum, 5 epochs, first): the data do not" in within[0]
    assert "second): there are no random cells of the same" in within[1]


def test_what_is_compared_with_has_to_be_there(tmp_path, capsys):
    path = tmp_path / "results.csv"
    pd.DataFrame(rows("idarts", [50, 51], scale="first"))[list(COLUMNS)].to_csv(path, index=False)
    for against in ("darts", "idarts:second"):
        assert cli.main(["compare", str(path), "--better", "lower", "--against", against]) == cli.UNUSABLE
        assert f"--against {against}: there is no such result; found idarts:first" in capsys.readouterr().err
