"""When a search stops, and what it says."""

import pytest

from idarts_nni.stopping import Epoch, StoppingRules


def epochs(*changed, eigenvalues=None):
    return [Epoch(value, eigenvalues[place] if eigenvalues else None) for place, value in enumerate(changed)]


def test_without_rules_a_search_never_stops():
    assert StoppingRules().decide(epochs(*[0] * 50, eigenvalues=list(range(1, 51)))) is None


def test_an_unchanged_cell_stops_after_so_many_epochs_in_a_row():
    rules = StoppingRules(unchanged=3)
    changed = [4, 0, 0, 1, 0, 0, 0]
    decisions = [rules.decide(epochs(*changed[:end])) for end in range(1, 8)]
    assert decisions[:6] == [None] * 6
    assert decisions[6].epoch == 7
    assert decisions[6].reason == "the cell has not changed for 3 epochs (stop_unchanged: 3)"


def test_warm_up_does_not_count():
    rules = StoppingRules(unchanged=2, warmup_epochs=3)
    assert rules.decide(epochs(0, 0, 0, 0)) is None
    assert rules.decide(epochs(0, 0, 0, 0, 0)).epoch == 5


def test_a_risen_eigenvalue_goes_back_to_the_cell_of_five_epochs_ago():
    rules = StoppingRules(eigenvalue_ratio=0.75)
    flat, risen = [1.0] * 10, [1.0] * 5 + [1.0, 1.2, 1.5, 1.5, 1.5]  # their average is 1.34
    assert rules.decide(epochs(*[1] * 10, eigenvalues=flat)) is None
    assert rules.decide(epochs(*[1] * 9, eigenvalues=risen[:9])) is None, "ten epochs are needed"
    stop = rules.decide(epochs(*[1] * 10, eigenvalues=risen))
    assert stop.epoch == 5
    assert stop.reason == "the largest Hessian eigenvalue rose from 1 to 1.34 within 5 epochs (stop_eigenvalue: 0.75)"
    assert StoppingRules(eigenvalue_ratio=0.74).decide(epochs(*[1] * 10, eigenvalues=risen)) is None


def test_epochs_without_a_measurement_are_passed_over():
    rules = StoppingRules(eigenvalue_ratio=0.75)
    sparse = [None, 1.0, None, 1.0, None, None, 2.0, None, 2.0, None]
    assert rules.decide(epochs(*[1] * 10, eigenvalues=sparse)) is None, "nothing was measured in the last epoch"
    assert rules.decide(epochs(*[1] * 10, eigenvalues=[*sparse[:9], 2.0])).epoch == 5
    assert rules.decide(epochs(*[1] * 10, eigenvalues=[-1.0] * 5 + [1.0] * 5)) is None, (
        "a ratio to a negative says nothing"
    )


def test_impossible_rules_are_refused():
    with pytest.raises(ValueError, match="stop_unchanged: found -1"):
        StoppingRules(unchanged=-1)
    with pytest.raises(ValueError, match="stop_eigenvalue: found 2.0"):
        StoppingRules(eigenvalue_ratio=2.0)
