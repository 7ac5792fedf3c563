"""Scales of an experiment: what they make of the tuner's arguments, and of a file."""

import pytest
import yaml

from idarts_nni.parameters import Settings
from idarts_nni.scales import scale_label, scaled_arguments, write_scaled

FULL = {
    "methods": ["idarts"],
    "search_seeds": [1, 2, 3, 4],
    "retrain_seeds": [1],
    "keep": 4,
    "snapshots": [10, 20, 30],
    "search": {"epochs": 40, "hidden_size": 300, "learning_rate": 20.0},
    "retrain": {"epochs": 500, "hidden_size": 850},
    "scaled": ["epochs", "hidden_size"],
    "scales": {"small": {"search_seeds": [1], "snapshots": [1, 2], "search": {"epochs": 3}, "data": "embedded"}},
}


def test_a_file_runs_at_full_scale_unless_it_says_otherwise():
    assert scaled_arguments({"keep": 2}) == {"keep": 2, "scale": "full"}
    assert scaled_arguments({**FULL, "scale": "full"}) == {
        **{name: FULL[name] for name in FULL if not name.startswith("scale")},
        "scale": "full",
    }


def test_a_named_scale_merges_the_stages_and_replaces_the_rest():
    small = scaled_arguments({**FULL, "scale": "small"})
    assert small["search"] == {"epochs": 3, "hidden_size": 300, "learning_rate": 20.0}
    assert (small["search_seeds"], small["snapshots"], small["data"]) == ([1], [1, 2], "embedded")
    assert small["retrain"] == FULL["retrain"] and small["scale"] == "small" and FULL["search"]["epochs"] == 40
    assert Settings.from_class_args({**FULL, "scale": "small"}).scale == "small"


@pytest.mark.parametrize("number", [0.1, "0.1"])
def test_a_number_shrinks_what_the_file_lists_together_with_seeds_and_snapshots(number):
    small = scaled_arguments({**FULL, "scale": number})
    assert small["search"] == {"epochs": 4, "hidden_size": 30, "learning_rate": 20.0}
    assert small["retrain"] == {"epochs": 50, "hidden_size": 85}
    assert (small["search_seeds"], small["retrain_seeds"], small["snapshots"]) == ([1], [1], [1, 2, 3])
    assert small["scale"] == "0.1"
    assert scaled_arguments({**FULL, "scale": 0.5})["search_seeds"] == [1, 2]


@pytest.mark.parametrize("number", [1, 1.0, "1"])
def test_one_is_the_full_scale(number):
    assert scaled_arguments({**FULL, "scale": number}) == scaled_arguments(FULL)


def test_without_scales_a_name_labels_the_results():
    assert scaled_arguments({"keep": 2, "scale": "small"}) == {"keep": 2, "scale": "small"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": "smal"}, "scale: found 'smal'; allowed: full, small, or a number"),
        ({"scale": 0}, "scale: found 0; a number has to lie above 0"),
        ({"scale": 2}, "scale: found 2; a number has to lie above 0 and not above 1"),
        ({"scale": True}, "scale: found True"),
        ({"scale": ""}, "scale: found ''"),
        ({"scales": [1]}, "scales: found"),
        ({"scales": {"small": 3}}, "scales: found"),
        ({"scale": 0.5, "scaled": []}, "`scaled` lists, and it lists none"),
        ({"scale": 0.5, "scaled": ["train_tokens"]}, "multiplies train_tokens, which search does not state"),
        ({"scale": 0.5, "select_by": "validation"}, "multiplies epochs, hidden_size, which select does not state"),
    ],
)
def test_an_impossible_scale_is_named_with_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        scaled_arguments({**FULL, **changes})


def test_the_copy_of_a_file_names_the_same_things_from_anywhere(tmp_path):
    (tmp_path / "home").mkdir()
    content = {
        "searchSpaceFile": "../space.yaml",
        "trial_code_directory": ".",
        "experimentWorkingDirectory": "/var/experiments",
        "trialCommand": "python my_trial.py",
        "tuner": {"codeDirectory": "..", "classArgs": {**FULL, "search": {"train_file": "a.txt"}}},
        "trainingService": [{"platform": "local", "sshKeyFile": "key"}],
    }
    file = tmp_path / "home" / "experiment.yaml"
    file.write_text(yaml.safe_dump(content))
    copy = yaml.safe_load(write_scaled(file, "small", tmp_path / "elsewhere").read_text())
    assert copy["searchSpaceFile"] == str(tmp_path / "space.yaml")
    assert copy["trial_code_directory"] == str(tmp_path / "home")
    assert copy["experimentWorkingDirectory"] == "/var/experiments"
    assert copy["tuner"]["codeDirectory"] == str(tmp_path)
    assert copy["trainingService"][0]["sshKeyFile"] == str(tmp_path / "home" / "key")
    assert copy["tuner"]["classArgs"] == {**FULL, "search": {"train_file": "a.txt"}, "scale": "small"}
    assert copy["trialCommand"] == "python my_trial.py"


def test_a_label_says_what_was_trained_on_where_that_is_not_the_training_set_alone():
    assert scale_label("small", {}) == scale_label("small", {"train_on": "train"}) == "small"
    assert scale_label("full", {"train_on": "train+dev"}) == "full, trained on train+dev"
