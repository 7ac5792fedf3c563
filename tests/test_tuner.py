"""The tuner, in real experiments: NNI's manager, its database, and tiny trials."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from idarts_nni.architecture import Architecture
from idarts_nni.manager import final_metric, read_job, refuse_gpu_number, request
from idarts_nni.space import CellSpace
from idarts_nni.tuner import SearchThenRetrain, find_data
from tests.live import ROOT, TINY_SPACE, LiveExperiment, live_experiment

# Without NNI's manager.


def test_importing_the_tuner_does_not_import_torch():
    script = "import sys, idarts_nni.tuner, idarts_nni.trial; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_a_misspelt_argument_is_named_with_the_right_one():
    with pytest.raises(TypeError, match="unknown tuner argument 'serach_seeds'. Did you mean 'search_seeds'"):
        SearchThenRetrain(serach_seeds=[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["idarts", "enas"]}, "methods: found 'enas'; allowed: idarts, darts, random, lstm"),
        ({"methods": "idarts"}, "methods: found 'idarts'; expected a list"),
        ({"methods": []}, "methods: found \\[\\]; expected a list with one or more"),
        ({"methods": ["lstm", "lstm"]}, "methods: .*stands twice"),
        ({"search_seeds": [0]}, "search_seeds: found 0; allowed: whole numbers from 1"),
        ({"retrain_seeds": [True]}, "retrain_seeds: found True"),
        ({"retrain_seeds": ["1"]}, "retrain_seeds: found '1'"),
        ({"keep": 0}, "keep: found 0; expected a whole number from 1"),
        ({"max_attempts": 1.5}, "max_attempts: found 1.5"),
        ({"select_by": "luck"}, "select_by: found 'luck'; allowed: search, validation"),
        ({"optimize_mode": "minimise"}, "optimize_mode: found 'minimise'; allowed: minimize, maximize"),
        ({"data": ""}, "data: found ''; expected a folder or 'embedded'"),
        ({"data": 3}, "data: found 3"),
        ({"search": [1]}, "search: found \\[1\\]; expected a mapping"),
        ({"retrain": {1: 2}}, "retrain: found {1: 2}; expected a mapping"),
        ({"select": {"lr": float("nan")}}, "select: .*JSON cannot carry"),
        ({"poll": 0}, "poll: found 0; expected a number of seconds above 0"),
    ],
)
def test_an_impossible_argument_is_named_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        SearchThenRetrain(**arguments)


@pytest.mark.parametrize(
    "config",
    [
        {"trialGpuNumber": 1, "trainingService": {"platform": "local"}},
        {"trainingService": {"platform": "local", "trialGpuNumber": 0.5}},
        {"trainingService": [{"platform": "local"}, {"platform": "remote", "trialGpuNumber": 2}]},
    ],
)
def test_an_experiment_with_trial_gpu_number_is_refused_with_the_remedy(config):
    with pytest.raises(ValueError, match="trialGpuNumber: .*Remove the line: each trial takes a GPU by itself"):
        refuse_gpu_number(config)


@pytest.mark.parametrize("service", [{"platform": "local"}, {"platform": "local", "trialGpuNumber": 0}, [{}], None])
def test_an_experiment_without_trial_gpu_number_is_not_refused(service):
    refuse_gpu_number({"trainingService": service})


def test_data_of_the_file_wins_over_the_environment_and_embedded_passes_through(tmp_path):
    environment = {"IDARTS_DATA": str(tmp_path), "PWD": "/"}
    assert find_data("embedded", {}, environment) == "embedded"
    assert find_data(None, {}, environment) == str(tmp_path)
    assert find_data(None, {}, {}) == ""


def test_a_relative_folder_is_looked_for_from_the_shell_and_from_the_code(tmp_path):
    shell, code = tmp_path / "shell", tmp_path / "code"
    for folder in (shell / "both", code / "both", code / "only_code", shell / "only_shell"):
        folder.mkdir(parents=True)
    config, environment = {"trialCodeDirectory": str(code)}, {"PWD": str(shell)}
    assert find_data("both", config, environment) == str(code / "both")
    assert find_data(None, config, {**environment, "IDARTS_DATA": "both"}) == str(shell / "both")
    assert find_data("only_shell", config, environment) == str(shell / "only_shell")
    assert find_data(None, config, {**environment, "IDARTS_DATA": "only_code"}) == str(code / "only_code")


def test_a_missing_folder_is_reported_with_the_places_and_the_remedy(tmp_path):
    (tmp_path / "corpus").write_text("a file")
    with pytest.raises(ValueError) as error:
        find_data(None, {"trialCodeDirectory": "/code"}, {"PWD": str(tmp_path), "IDARTS_DATA": "corpus"})
    for part in ("IDARTS_DATA asks for 'corpus'", f"{tmp_path}/corpus (a file)", "/code/corpus", "'embedded'"):
        assert part in str(error.value)


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("record", "recovered", "cancelled", "state"),
    [
        ({"status": "WAITING"}, False, False, "live"),
        ({"status": "RUNNING"}, False, False, "live"),
        ({"status": "UNKNOWN"}, False, False, "live"),
        ({"status": "ADD_RESUMED"}, True, False, "live"),
        ({"status": "ADD_RESUMED"}, False, False, "lost"),
        ({"status": "FAILED", "endTime": NOW * 1000 - 60_000}, False, False, "ended"),
        ({"status": "EARLY_STOPPED", "endTime": NOW * 1000 - 60_000}, False, False, "ended"),
        ({"status": "SUCCEEDED", "endTime": NOW * 1000 - 1_000}, False, False, "live"),
        ({"status": "SUCCEEDED", "endTime": NOW * 1000 - 60_000}, False, False, "ended"),
        ({"status": "SUCCEEDED", "finalMetricData": [{"data": '"{\\"default\\": 2}"'}]}, False, False, "succeeded"),
        ({"status": "SUCCEEDED", "finalMetricData": [{"data": '"3.5"'}]}, False, False, "succeeded"),
        ({"status": "SUCCEEDED", "finalMetricData": [{"data": '"{\\"default\\": NaN}"'}]}, False, False, "ended"),
        ({"status": "SUCCEEDED", "finalMetricData": [{"data": '{"default": "x"}'}]}, False, False, "ended"),
        ({"status": "SUCCEEDED", "finalMetricData": [{"data": "not JSON"}]}, False, False, "ended"),
        ({"status": "USER_CANCELED", "endTime": NOW * 1000 - 60_000}, False, True, "cancelled"),
        # For NNI a trial that was killed by a signal looks like one that the user cancelled.
        ({"status": "USER_CANCELED", "endTime": NOW * 1000 - 60_000}, False, False, "ended"),
    ],
)
def test_a_record_of_the_manager_is_judged(record, recovered, cancelled, state):
    assert read_job(record, "k", recovered, cancelled, now=NOW).state == state


def test_a_trial_that_the_system_may_have_killed_says_what_to_lower():
    reason = read_job({"status": "USER_CANCELED", "endTime": NOW * 1000 - 60_000}, "k", False, False, now=NOW).reason
    assert reason.startswith("killed by a signal") and "lower batch_size" in reason


def test_a_final_metric_is_unpacked_from_json_in_json():
    assert final_metric({"finalMetricData": [{"data": json.dumps(json.dumps({"default": 1.5}))}]}) == {"default": 1.5}


def test_a_plan_on_disk_is_taken_over_and_a_damaged_one_is_noticed(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("NNI_CHECKPOINT_DIRECTORY", str(tmp_path))
    tuner, path = SearchThenRetrain(), tmp_path / "plan.json"
    assert tuner._load() is None
    kept = {"idarts": [{"fingerprint": "00000000", "architecture": "{}", "score": 1.0}]}
    whole = json.dumps({"data": "embedded", "found": kept, "kept": kept, "tasks": {}, "problem": None})
    path.write_text(whole)
    assert tuner._load() == json.loads(whole)
    path.write_text('{"problem": "no data"}')
    assert tuner._load() is None and not caplog.text
    damaged = [whole[:-9], "", "[]", "7", "null", whole.replace('"score"', '"x"'), whole.replace('"kept"', '"x"')]
    for content in damaged:
        caplog.clear()
        path.write_text(content)
        assert tuner._load() is None and "is damaged" in caplog.text


class Dispatcher:
    """Stands for NNI's dispatcher, which owns the callback that a tuner sends trials by."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def send(self, number: int, parameters: object) -> None:
        raise AssertionError("nothing is to be sent")

    def report_error(self, reason: str) -> None:
        self.errors.append(reason)


ENTRIES = {
    "offer": lambda tuner, send: tuner.generate_multiple_parameters([1], st_callback=send),
    "result": lambda tuner, send: tuner.receive_trial_result(0, "", {"default": 1.0}),
    "end": lambda tuner, send: tuner.trial_end(0, False),
    "resume": lambda tuner, send: tuner.import_data([]),
    "poll": lambda tuner, send: time.sleep(1.0),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_exception_at_any_entry_becomes_the_error_of_the_experiment(monkeypatch, entry):
    tuner, dispatcher = SearchThenRetrain(data="embedded", poll=0.2), Dispatcher()
    tuner.update_search_space(TINY_SPACE)
    is_broken = False

    def ready():
        if is_broken:
            raise ZeroDivisionError("planted")
        return []

    monkeypatch.setattr(tuner, "_ready", ready)
    tuner.generate_multiple_parameters([0], st_callback=dispatcher.send)
    is_broken = True
    ENTRIES[entry](tuner, dispatcher.send)
    assert len(dispatcher.errors) == 1 and "ZeroDivisionError: planted" in dispatcher.errors[0]


@pytest.mark.parametrize("space", [{}, 7, {"num_nodes": {}}, {1: object()}])
def test_a_search_space_that_cannot_be_read_becomes_the_error_of_the_experiment(space):
    tuner, dispatcher = SearchThenRetrain(data="embedded"), Dispatcher()
    tuner.update_search_space(space)
    assert tuner.generate_multiple_parameters([0], st_callback=dispatcher.send) == []
    assert len(dispatcher.errors) == 1 and dispatcher.errors[0].startswith("searchSpaceFile: ")


# With NNI's manager.


def assert_every_trial_got_its_own_parameters(experiment: LiveExperiment) -> None:
    received, recorded = experiment.received(), experiment.recorded()
    for trial, parameters in received.items():
        shown = {key: value for key, value in parameters.items() if key != "pid"}
        assert shown == {key: recorded[trial][key] for key in shown}
    assert received


def assert_every_task_succeeded_once(experiment: LiveExperiment) -> None:
    succeeded = Counter(job["parameters"]["key"] for job in experiment.trials() if job["status"] == "SUCCEEDED")
    tasks = experiment.plan()["tasks"]
    assert succeeded == dict.fromkeys(tasks, 1)
    assert {task["state"] for task in tasks.values()} == {"done"}


def test_an_experiment_searches_selects_retrains_and_is_done_with_three_trials_at_a_time(tmp_path):
    arguments = {
        "methods": ["idarts", "random", "lstm"],
        "search_seeds": [1, 2],
        "select_by": "validation",
        "data": "embedded",
        "search": {"epochs": 3},
    }
    with live_experiment(tmp_path, arguments, concurrency=3) as experiment:
        assert experiment.wait("DONE", "ERROR", seconds=300) == "DONE", experiment.log()
        assert_every_trial_got_its_own_parameters(experiment)
        assert_every_task_succeeded_once(experiment)
        # What the fake trial scores is known: so is the cell that has to win.
        plan, space = experiment.plan(), CellSpace.from_dict(TINY_SPACE)
        found = {cell.fingerprint for cell in (Architecture.random(space, seed) for seed in (101, 102))}
        best = min(found, key=lambda cell: sum(map(ord, f"select-idarts-{cell}-r1")) % 50)
        assert [cell["fingerprint"] for cell in plan["kept"]["idarts"]] == [best]
        assert set(plan["tasks"]) == {
            *(f"search-idarts-s{seed}" for seed in (1, 2)),
            *(f"select-idarts-{cell}-r1" for cell in found),
            *(f"select-random-{Architecture.random(space, seed).fingerprint}-r1" for seed in (1, 2)),
            f"retrain-idarts-{best}-r1",
            f"retrain-random-{plan['kept']['random'][0]['fingerprint']}-r1",
            "retrain-lstm-r1",
        }
        # NNI's web page goes blank unless every entry of the search space has a list of values.
        shown = request("GET", f"{experiment.base}/experiment")["params"]["searchSpace"]
        assert shown and all(isinstance(entry["_value"], list) for entry in shown.values())


@pytest.mark.slow
def test_one_at_a_time_a_crash_an_early_death_and_silence_are_tried_again(tmp_path):
    behaviour = {
        "die_early": ["0"],  # before it asked for its parameters, which in NNI shifts all later ones
        "search-idarts-s2": {"crash": "once"},
        "retrain-lstm-r1": {"silent": True},
    }
    arguments = {"methods": ["idarts", "lstm"], "search_seeds": [1, 2], "retrain_seeds": [1, 2], "data": "embedded"}
    with live_experiment(tmp_path, arguments, behaviour=behaviour) as experiment:
        assert experiment.wait("DONE", "ERROR", seconds=300) == "DONE", experiment.log()
        assert_every_trial_got_its_own_parameters(experiment)
        tasks = experiment.plan()["tasks"]
        attempts = {key: (task["state"], task["attempts"]) for key, task in tasks.items()}
        assert attempts["search-idarts-s1"] == ("done", 2) and attempts["search-idarts-s2"] == ("done", 2)
        assert attempts["retrain-lstm-r1"] == ("failed", 2) and attempts["retrain-lstm-r2"] == ("done", 1)
        assert "without a usable final metric" in tasks["retrain-lstm-r1"]["reason"]


@pytest.mark.slow
def test_an_experiment_in_which_every_search_fails_ends_in_error_with_the_reason(tmp_path):
    arguments = {"methods": ["idarts", "darts"], "data": "embedded", "max_attempts": 1}
    with live_experiment(tmp_path, arguments, concurrency=2, behaviour={"*": {"crash": True}}) as experiment:
        assert experiment.wait("DONE", "ERROR", seconds=300) == "ERROR"
        problem = experiment.plan()["problem"]
        assert "No retraining succeeded. search-idarts-s1: 1 attempt(s)" in problem and problem in experiment.log()


@pytest.mark.slow
def test_a_trial_whose_input_cannot_be_used_is_not_tried_again(tmp_path):
    arguments = {"methods": ["lstm"], "data": "embedded", "retrain": {"epochs": 1, "hiden_size": 8}}
    command = "python -m trials.run ptb --threads 1"
    with live_experiment(tmp_path, arguments, trial_command=command) as experiment:
        assert experiment.wait("DONE", "ERROR", seconds=300) == "ERROR"
        task = experiment.plan()["tasks"]["retrain-lstm-r1"]
        assert (task["state"], task["attempts"]) == ("failed", 1)
        assert "not tried again: Unknown setting 'hiden_size'" in task["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"class_args": {"serach_seeds": [1]}}, "tuner.classArgs: unknown tuner argument 'serach_seeds'. Did you mean"),
        ({"class_args": {"keep": 0}}, "tuner.classArgs: keep: found 0"),
        ({"space": {}}, "searchSpaceFile: The search space is empty"),
        ({"space": {"num_nodes": 3, "operations": ["tan"]}}, "searchSpaceFile: search space: operations: found 'tan'"),
        ({"environment": {"IDARTS_DATA": "no/such/folder"}}, "IDARTS_DATA asks for 'no/such/folder'"),
    ],
    ids=["misspelt", "impossible", "no-space", "bad-space", "no-data"],
)
def test_an_experiment_that_cannot_start_is_in_error_at_once_with_the_reason(tmp_path, changes, reason):
    with live_experiment(tmp_path, **{"class_args": {}, **changes}) as experiment:
        assert experiment.wait("DONE", "ERROR", seconds=300) == "ERROR"
        assert reason in experiment.plan()["problem"] and reason in experiment.log()
        assert experiment.trials() == []


@pytest.mark.slow
def test_a_relative_data_folder_of_the_environment_is_found_from_where_nnictl_was_called(tmp_path):
    (tmp_path / "user" / "corpus").mkdir(parents=True)
    with live_experiment(
        tmp_path, {"methods": ["lstm"]}, cwd=tmp_path / "user", environment={"IDARTS_DATA": "corpus"}
    ) as experiment:
        assert experiment.wait("DONE", "ERROR", seconds=300) == "DONE", experiment.log()
        assert [job["parameters"]["data"] for job in experiment.trials()] == [str(tmp_path / "user" / "corpus")]


def start_of(experiment: LiveExperiment, key: str, trials: int = 1) -> tuple[str, int]:
    """Wait until a task runs in its so-many-eth trial; return that trial and its process."""

    def look() -> tuple[str, int] | None:
        found = [(trial, got["pid"]) for trial, got in experiment.received().items() if got["key"] == key]
        running = {job["trialJobId"] for job in experiment.trials() if job["status"] == "RUNNING"}
        return next(((trial, pid) for trial, pid in found if trial in running), None) if len(found) >= trials else None

    return experiment.wait_until(look, f"trial of {key}", 60)


@pytest.mark.slow
def test_a_killed_trial_runs_again_and_a_cancelled_one_does_not(tmp_path):
    behaviour = {"retrain-lstm-r1": {"seconds": 30}, "retrain-lstm-r2": {"seconds": 30}}
    arguments = {"methods": ["lstm"], "retrain_seeds": [1, 2, 3], "data": "embedded"}
    with live_experiment(tmp_path, arguments, concurrency=2, behaviour=behaviour) as experiment:
        os.kill(start_of(experiment, "retrain-lstm-r1")[1], signal.SIGKILL)
        request("DELETE", f"{experiment.base}/trial-jobs/{start_of(experiment, 'retrain-lstm-r2')[0]}")
        assert experiment.wait("DONE", "ERROR", seconds=300) == "DONE", experiment.log()
        tasks = experiment.plan()["tasks"]
        states = {key: (task["state"], task["attempts"]) for key, task in tasks.items()}
        assert states == {
            "retrain-lstm-r1": ("done", 2),
            "retrain-lstm-r2": ("failed", 1),
            "retrain-lstm-r3": ("done", 1),
        }
        assert tasks["retrain-lstm-r2"]["reason"] == "cancelled by the user"


@pytest.mark.slow
def test_cells_of_several_epochs_and_derivations_are_retrained_also_after_a_stop(tmp_path):
    arguments = {
        "methods": ["idarts", "random"],
        "snapshots": [1, 2],
        "derivations": [{"edges_per_node": 2, "combine": "mean"}, {"edges_per_node": 3, "combine": "sum"}],
        "data": "embedded",
    }
    cell = Architecture.random(CellSpace.from_dict({**TINY_SPACE, "edges_per_node": 2}), 1).fingerprint
    slow = f"retrain-idarts-{cell}-n2-mean-r1"
    with live_experiment(tmp_path, arguments, concurrency=2, behaviour={slow: {"seconds": 8}}) as experiment:
        start_of(experiment, slow)
        experiment.stop()
        experiment.resume()
        assert experiment.wait("DONE", "ERROR", seconds=300) == "DONE", experiment.log()
        assert_every_task_succeeded_once(experiment)
        sent = {job["parameters"]["key"]: job["parameters"] for job in experiment.trials()}
        retrained = [one for one in sent.values() if one["stage"] == "retrain" and one["method"] == "idarts"]
        found = sorted((json.loads(one["space"])["edges_per_node"], json.loads(one["origins"])) for one in retrained)
        # The fake trial finds one cell at epoch 1, and another at epochs 2 and 3, the last.
        assert found == [(2, [[1, 1]]), (2, [[1, 2], [1, 3]]), (3, [[1, 1]]), (3, [[1, 2], [1, 3]])]
        assert sum(one["method"] == "random" for one in sent.values()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_stopped_or_killed_experiment_goes_on_where_it_was(tmp_path, how):
    arguments = {"methods": ["idarts", "lstm"], "search_seeds": [1, 2], "retrain_seeds": [1, 2], "data": "embedded"}
    behaviour = {"retrain-lstm-r1": {"seconds": 8}}
    with live_experiment(tmp_path, arguments, concurrency=2, behaviour=behaviour) as experiment:
        for _ in range(2):
            trial, pid = start_of(experiment, "retrain-lstm-r1")
            if how == "stop":
                experiment.stop()
            else:
                os.kill(experiment.manager_pid(), signal.SIGKILL)
            # No orphan works on beside the resumed trial.
            experiment.wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "end of the trial", 20)
            (experiment.folder / "environments" / "local-env" / "trials" / trial / "received.json").unlink()
            experiment.resume()
        assert experiment.wait("DONE", "ERROR", seconds=300) == "DONE", experiment.log()
        assert_every_trial_got_its_own_parameters(experiment)
        assert_every_task_succeeded_once(experiment)


@pytest.mark.slow
def test_a_killed_experiment_goes_on_at_once_on_the_port_that_it_had(tmp_path):
    # The port that nnictl takes by itself. Whatever the dead manager started must not answer to the new one.
    arguments = {"methods": ["idarts", "lstm"], "data": "embedded"}
    with live_experiment(tmp_path, arguments, behaviour={"retrain-lstm-r1": {"seconds": 4}}) as experiment:
        for _ in range(2):
            start_of(experiment, "retrain-lstm-r1")
            manager = psutil.Process(experiment.manager_pid())
            started = manager.children(recursive=True)
            manager.kill()
            psutil.wait_procs(started, timeout=3)
            assert not [process for process in started if process.is_running()]
            experiment.resume(same_port=True)
        assert experiment.wait("DONE", "ERROR", seconds=300) == "DONE", experiment.log()
        assert_every_task_succeeded_once(experiment)
