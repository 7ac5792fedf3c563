"""Every shipped experiment file passes the check that `idarts run` makes before it starts anything."""

import importlib
from pathlib import Path

import pytest

from idarts_nni.files import read_yaml
from idarts_nni.preflight import check_experiment
from trials.task import resolve_settings

FOLDER = Path(__file__).resolve().parents[1] / "trials" / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_experiments():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_file_passes_the_check(path, monkeypatch, tmp_path):
    monkeypatch.setenv("IDARTS_DATA", str(tmp_path))
    checked = check_experiment(path)
    assert checked.name and checked.optimize_mode in ("minimize", "maximize")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_file_opens_with_its_command(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and f"nnictl create --config trials/experiments/{path.name}" in first


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_settings_of_every_stage_are_settings_of_the_task(path, monkeypatch, tmp_path):
    monkeypatch.setenv("IDARTS_DATA", str(tmp_path))
    class_args = read_yaml(path)["tuner"]["classArgs"]
    task = importlib.import_module(f"trials.{check_experiment(path).task}")
    assert class_args.get("optimize_mode", "minimize") == task.OPTIMIZE_MODE
    for stage in ("search", "select", "retrain"):
        resolve_settings(task.SEARCH if stage == "search" else task.RETRAIN, class_args.get(stage, {}))
