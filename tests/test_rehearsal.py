import json
from pathlib import Path

import pytest

from idarts_nni.preflight import ExperimentFileError, check_experiment, check_input
from idarts_nni.rehearsal import input_problems

ROOT = Path(__file__).resolve().parents[1]
PTB = ["python", "-m", "trials.run", "ptb", "--threads", "1"]


def test_trials_of_ones_own_are_not_asked(tmp_path):
    assert input_problems(["python", "mine.py"], tmp_path, "nowhere", {}) == []
    assert input_problems(["bash", "-c", "trials.run", "x"], tmp_path, "nowhere", {}) == []


def test_code_that_cannot_be_run_is_told_with_its_last_words(tmp_path):
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "__init__.py").touch()
    (tmp_path / "trials" / "run.py").write_text("raise ImportError('no torch here')")
    (problem,) = input_problems(PTB, tmp_path, "embedded", {})
    assert "--check failed" in problem and "ImportError: no torch here" in problem


@pytest.mark.parametrize(("arguments", "stages"), [
    ({}, ["search", "retrain"]), ({"methods": ["lstm"]}, ["retrain"]),
    ({"methods": ["random"], "select_by": "validation"}, ["search", "select", "retrain"]),
], ids=str)  # fmt: skip
def test_only_the_stages_of_the_plan_are_asked_for_with_their_settings(tmp_path, arguments, stages):
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "__init__.py").touch()
    (tmp_path / "trials" / "run.py").write_text(
        "import json, sys\nprint(json.dumps([sys.stdin.read(), *sys.argv[1:]]))"
    )
    asked, *words = input_problems(PTB, tmp_path, "folder", {**arguments, "retrain": {"epochs": 3}})
    settings = {stage: {"epochs": 3} if stage == "retrain" else {} for stage in stages}
    assert asked == json.dumps({"data": "folder", "settings": settings})
    assert words == ["ptb", "--threads", "1", "--check"]


def test_file_with_a_misspelt_setting_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("IDARTS_DATA", "embedded")
    text = (ROOT / "trials" / "experiments" / "own_text.yaml").read_text()
    path = tmp_path / "file.yaml"
    path.write_text(text.replace("../..", str(ROOT)).replace("hidden_size", "hiden_size"))
    with pytest.raises(ExperimentFileError, match="Did you mean 'hidden_size'") as caught:
        check_input(check_experiment(path))
    assert len(caught.value.problems) == 2 and str(path) in str(caught.value)
