"""Every shipped experiment file passes the check that `idarts run` makes before it starts anything."""

import importlib
from pathlib import Path

import pytest
import yaml

from idarts_nni.files import read_yaml
from idarts_nni.preflight import check_experiment
from idarts_nni.scales import scaled_arguments, write_scaled
from trials.task import resolve_settings

FOLDER = Path(__file__).resolve().parents[1] / "trials" / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
PAPER = sorted(FOLDER.glob("paper_*.yaml"))


def checkable(path, folder):
    """Return the file itself; one for other machines as a copy for this one, since nobody has those machines."""
    content = read_yaml(path)
    if content["trainingService"]["platform"] != "remote":
        return path
    assert all(machine["host"].endswith(".example.org") for machine in content["trainingService"]["machineList"])
    for name in ("searchSpaceFile", "trialCodeDirectory"):
        content[name] = str((path.parent / content[name]).resolve())
    content["tuner"]["codeDirectory"] = content["trialCodeDirectory"]
    copy = folder / path.name
    copy.write_text(yaml.safe_dump({**content, "trainingService": {"platform": "local"}}))
    return copy


def test_there_are_experiments():
    assert FILES and len(PAPER) == 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_file_passes_the_check(path, monkeypatch, tmp_path):
    monkeypatch.setenv("IDARTS_DATA", str(tmp_path))
    checked = check_experiment(checkable(path, tmp_path))
    assert checked.name and checked.optimize_mode in ("minimize", "maximize")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_file_opens_with_its_command(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and f"nnictl create --config trials/experiments/{path.name}" in first


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_settings_of_every_stage_and_scale_are_settings_of_the_task(path, monkeypatch, tmp_path):
    monkeypatch.setenv("IDARTS_DATA", str(tmp_path))
    class_args = read_yaml(path)["tuner"]["classArgs"]
    task = importlib.import_module(f"trials.{check_experiment(checkable(path, tmp_path)).task}")
    assert class_args.get("optimize_mode", "minimize") == task.OPTIMIZE_MODE
    scales = [
        class_args.get("scale", "full"),
        *class_args.get("scales", {}),
        *([0.1] if "scaled" in class_args else []),
    ]
    for scale in scales:
        scaled = scaled_arguments({**class_args, "scale": scale})
        for stage in ("search", "select", "retrain"):
            resolve_settings(task.SEARCH if stage == "search" else task.RETRAIN, scaled.get(stage, {}))


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", ["tiny", "small", "full", "0.05"])
def test_an_experiment_of_the_paper_runs_in_every_scale(path, scale, monkeypatch, tmp_path):
    monkeypatch.setenv("IDARTS_DATA", str(tmp_path))
    checked = check_experiment(path, scale)
    assert checked.scale == scale
    copy = write_scaled(path, scale, tmp_path / "copies")
    assert check_experiment(copy).scale == scale
