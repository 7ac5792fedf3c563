"""The curves of a trial lie where NNI's button looks for them, with the values that the record has."""

import json
import sys

import pytest

from idarts_nni.trial import tensorboard_directory
from tests.test_trials_run import SEARCH, SMALL, run
from trials import curves


def read_curves(folder):
    """Return tag -> {epoch: value} as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_a_search_writes_its_metrics_and_how_settled_it_is(tmp_path):
    pytest.importorskip("tensorboard")
    done = run("ptb", *SEARCH, *SMALL, "--set", "epochs=2", "--tensorboard", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    found = read_curves(tmp_path / "tensorboard")
    history = json.loads((tmp_path / "record.json").read_text())["history"]
    for name in ("validation", "train", "entropy", "margin"):
        assert found[name] == {epoch: pytest.approx(history[epoch - 1][name]) for epoch in (1, 2)}
    # By hand none are written unless asked for.
    done = run("ptb", *SEARCH, *SMALL, "--set", "epochs=1", "--output", tmp_path / "without")
    assert done.returncode == 0 and not (tmp_path / "without" / "tensorboard").exists()


def test_a_trial_that_goes_on_repeats_its_curve_in_one_file(tmp_path):
    pytest.importorskip("tensorboard")
    curves.Curves(tmp_path).add({"epoch": 1.0, "default": 9.0, "loss": 9.0})
    second = curves.Curves(tmp_path)
    for epoch in (1, 2):
        second.add({"epoch": float(epoch), "default": 1.0, "loss": 10.0 - epoch, "nothing": float("nan")})
    assert len(list(tmp_path.iterdir())) == 1
    assert read_curves(tmp_path) == {"loss": {1: 9.0, 2: 8.0}}


def test_curves_lie_where_the_button_of_nni_looks(monkeypatch, tmp_path):
    output = tmp_path / "AbCd" / "environments" / "local-env" / "trials" / "xyz"
    for name, value in {"NNI_EXP_ID": "AbCd", "NNI_TRIAL_JOB_ID": "xyz", "NNI_OUTPUT_DIR": str(output)}.items():
        monkeypatch.setenv(name, value)
    # getTrialOutputLocalPath in nni_node/training_service/v3/compat.js, and 'tensorboard' in it
    assert tensorboard_directory() == tmp_path / "AbCd" / "trials" / "xyz" / "output" / "tensorboard"


def test_curves_that_cannot_be_written_are_refused_at_the_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tensorboard is not installed; pip install '.\[tensorboard\]'"):
        curves.with_curves(print, True)
    assert curves.with_curves(print, None) is print
