"""A few of the kills of ``make faults``, which makes 40 and more."""

import random

import pytest

from tests.faults.experiments import disturb_experiment, undisturbed_results
from tests.faults.jobs import PLAIN
from tests.faults.results import differences
from tests.faults.tally import Tally
from tests.faults.trials_alone import disturb_trial


def test_a_trial_killed_at_three_moments_ends_as_in_peace(tmp_path):
    tally = disturb_trial(PLAIN[1], 3, random.Random(4), tmp_path)
    assert tally.trial_kills and tally.is_good, tally


def test_any_difference_between_two_results_is_seen():
    one = {"validation": 1.5, "history": [{"epoch": 1}], "best": "a"}
    assert differences(one, dict(one)) == []
    assert differences(one, {**one, "validation": 1.5000000000000002, "best": "b"}) == ["best", "validation"]
    assert differences(one, {"validation": 1.5, "best": "a"}) == ["history"]


def test_tallies_add_up_and_one_bad_count_spoils_them():
    total = Tally(trial_kills=2, notes=["a"]) + Tally(trial_kills=3, lost=1, notes=["b"])
    assert (total.trial_kills, total.notes, total.is_good) == (5, ["a", "b"], False)
    assert Tally(trial_kills=2, resumes=1, tasks=4).is_good


@pytest.mark.slow
def test_an_experiment_whose_trials_and_manager_are_killed_ends_as_in_peace(tmp_path):
    expected = undisturbed_results("ptb", tmp_path / "peace")
    assert len(expected) == 4
    tally = disturb_experiment("ptb", 2, 2, random.Random(1), tmp_path / "disturbed", expected)
    assert tally.manager_kills and tally.resumes == tally.manager_kills
    assert tally.is_good and not tally.notes, tally
