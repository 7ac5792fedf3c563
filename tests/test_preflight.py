from pathlib import Path

import pytest
import yaml

from idarts_nni.code_folder import check_code_folder, is_ignored
from idarts_nni.preflight import ExperimentFileError, bind_arguments, check_experiment

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write an experiment file that is good but for some changes; ``None`` takes a key out."""
    monkeypatch.delenv("IDARTS_DATA", raising=False)
    code = tmp_path / "code"
    code.mkdir()
    (code / "my_trial.py").write_text("")

    def write_file(class_args=None, tuner=None, **changes):
        good = {
            "experimentName": "good",
            "searchSpaceFile": str(ROOT / "search_spaces" / "tiny.yaml"),
            "trialCodeDirectory": "code",
            "trialCommand": "python my_trial.py",
            "trialConcurrency": 1,
            "tuner": {
                "className": "idarts_nni.tuner.SearchThenRetrain",
                "codeDirectory": str(ROOT),
                "classArgs": {"methods": ["idarts"], "data": "embedded", **(class_args or {})},
                **(tuner or {}),
            },
            "trainingService": {"platform": "local"},
        }
        path = tmp_path / "experiment.yaml"
        content = {key: value for key, value in {**good, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(content))
        return path

    return write_file


def problems_of(path) -> list[str]:
    with pytest.raises(ExperimentFileError) as caught:
        check_experiment(path)
    assert str(path) in str(caught.value)
    return caught.value.problems


def test_good_file_passes(write, tmp_path):
    checked = check_experiment(write())
    assert (checked.name, checked.task, checked.is_local, checked.optimize_mode) == (
        "good",
        "my_trial",
        True,
        "minimize",
    )
    assert checked.working_directory == Path.home() / "nni-experiments"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"trialGpuNumber": 1}, ["trialGpuNumber", "loop", "--slots-per-gpu"]),
        ({"trial_gpu_number": 0}, ["trialGpuNumber"]),
        ({"trainingService": {"platform": "local", "trialGpuNumber": 2}}, ["trialGpuNumber"]),
        ({"maxTrialNumber": 5}, ["maxTrialNumber", "Leave it out"]),
        ({"trialConcurency": 2}, ["trialconcurency", "Did you mean 'trialConcurrency'?"]),
        ({"trialConcurrency": 0}, ["NNI does not accept"]),
        ({"trainingService": {"platform": "moon"}}, ["NNI does not accept"]),
        ({"searchSpaceFile": "gone.yaml"}, ["gone.yaml"]),
        ({"searchSpaceFile": None, "searchSpace": {}}, ["search space"]),
        ({"searchSpaceFile": None, "searchSpace": {"num_nodes": 0, "operations": ["tanh"]}}, ["num_nodes", "found 0"]),
        ({"searchSpaceFile": None, "searchSpace": {"nodes": 3}}, ["unknown key 'nodes'"]),
        ({"tuner": {"className": None, "name": "TPE"}}, ["TPE", "SearchThenRetrain"]),
        ({"tuner": {"className": "idarts_nni.tuner.SearchAndRetrain"}}, ["SearchAndRetrain", "idarts_nni.tuner"]),
        ({"tuner": {"className": "no_such_module.Tuner"}}, ["no_such_module", "cannot be imported"]),
        ({"tuner": {"className": "Tuner"}}, ["'Tuner'"]),
        ({"tuner": {"codeDirectory": "gone"}}, ["gone"]),
        ({"class_args": {"search_sedes": [1]}}, ["'search_sedes'", "Did you mean 'search_seeds'?", "retrain_seeds"]),
        ({"class_args": {"methods": ["idart"]}}, ["methods", "'idart'", "darts"]),
        ({"class_args": {"keep": 0}}, ["keep", "0"]),
        ({"class_args": {"data": "gone"}}, ["'gone'", "code/gone", "embedded"]),
        ({"class_args": {"data": None}}, ["No corpus", "IDARTS_DATA", "embedded"]),
        ({"trialCodeDirectory": "gone"}, ["gone"]),
        ({"trialCommand": "python -m trials.run ptb"}, ["trials.run"]),
        ({"trialCommand": "python gone.py"}, ["gone.py"]),
        ({"trialCommand": "cd a && python my_trial.py"}, ["more than one command"]),
        ({"trialCommand": "python 'my_trial.py"}, ["cannot be read as a command"]),
        ({"trialCommand": "python9 my_trial.py"}, ["python9"]),
    ],
    ids=str,
)
def test_problem_is_told_with_its_reason_and_remedy(write, changes, words):
    told = "\n".join(problems_of(write(**changes)))
    for word in words:
        assert word in told


def test_all_problems_are_told_at_once(write):
    told = problems_of(write({"methodes": ["idarts"]}, maxTrialNumber=3, trialCommand="python gone.py"))
    assert len(told) == 3


def test_missing_file_and_text_that_is_no_yaml_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.yaml"):
        check_experiment(tmp_path / "gone.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="bad.yaml: not valid YAML"):
        check_experiment(tmp_path / "bad.yaml")


def test_data_folder_comes_from_the_variable_as_well(write, monkeypatch, tmp_path):
    path = write({"data": None})
    monkeypatch.setenv("IDARTS_DATA", str(tmp_path / "corpus"))
    assert "IDARTS_DATA" in problems_of(path)[0]
    (tmp_path / "corpus").mkdir()
    check_experiment(path)


def test_space_that_belongs_to_a_task_needs_no_corpus(write):
    check_experiment(write({"data": None}, searchSpaceFile=None, searchSpace={"model": "darts"}))


def test_own_tuner_is_bound_to_its_signature(write, tmp_path):
    (tmp_path / "own_tuner_for_test.py").write_text(
        "from nni.tuner import Tuner\nclass Mine(Tuner):\n    def __init__(self, rate, mode='a'): pass\n"
    )

    def write_with(class_args):
        tuner = {"className": "own_tuner_for_test.Mine", "codeDirectory": ".", "classArgs": class_args}
        return write(tuner=tuner, searchSpaceFile=None, searchSpace={"model": "x"})

    check_experiment(write_with({"rate": 1, "mode": "b"}))
    told = problems_of(write_with({"rat": 1}))
    assert "unknown argument 'rat'. Did you mean 'rate'? Allowed: rate, mode." in told[0]


def test_missing_argument_is_named():
    def make(rate, *, mode="a"):
        """Stand for a tuner."""

    with pytest.raises(ValueError, match="'rate' is missing; known: rate, mode"):
        bind_arguments(make, {"mode": "b"})


def test_code_folder_is_counted_without_what_is_ignored(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(2001):
        (tmp_path / "data" / f"{number}.txt").touch()
    with pytest.raises(ValueError, match="more than 2,000 files.*nniignore"):
        check_code_folder(tmp_path)
    (tmp_path / ".nniignore").write_text("# big\ndata\n")
    check_code_folder(tmp_path)


def test_large_code_folder_is_told_without_reading_it(tmp_path):
    with open(tmp_path / "model.bin", "wb") as file:
        file.truncate(301 << 20)
    with pytest.raises(ValueError, match="300 MB"):
        check_code_folder(tmp_path)


@pytest.mark.parametrize(
    "path, is_folder, patterns, expected",
    [
        ("data", True, ["data"], True),
        ("deep/data", True, ["data"], True),
        ("data", False, ["data/"], False),
        ("deep/data", True, ["/data"], False),
        ("deep/data", True, ["deep/data"], True),
        ("a.pyc", False, ["*.pyc"], True),
        ("keep.pyc", False, ["*.pyc", "!keep.pyc"], False),
        ("a.py", False, ["# a.py", "", "  "], False),
    ],
)
def test_ignore_file_reads_as_git_does(path, is_folder, patterns, expected):
    assert is_ignored(path, is_folder, patterns) is expected


def test_a_scale_is_checked_like_the_file_itself(write):
    scales = {"small": {"search_seeds": [1]}, "broken": {"keep": 0}}
    assert check_experiment(write({"scales": {"small": scales["small"]}}), "small").scale == "small"
    assert any("keep: found 0" in problem for problem in problems_of(write({"scales": scales})))
    with pytest.raises(ExperimentFileError, match="scale: found 'smal'; allowed: full, small"):
        check_experiment(write({"scales": {"small": {}}}), "smal")
    with pytest.raises(ExperimentFileError, match="--scale small: this file has no scales"):
        check_experiment(write(), "small")


def test_derivations_and_snapshots_of_a_space_of_the_task_are_refused(write):
    path = write({"derivations": [{"edges_per_node": 1}]}, searchSpaceFile=None, searchSpace={"model": "digits"})
    assert any("derivations: such a plan needs a space of recurrent cells" in problem for problem in problems_of(path))
