"""Two processes that train one model compute what one process computes, and end together whatever happens."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from idarts_nni import devices
from idarts_nni.architecture import Architecture
from idarts_nni.checkpoint import load_plain
from idarts_nni.devices import NoDeviceError, device_lease
from idarts_nni.saving import LAST
from idarts_nni.shares import Share, own_columns
from tests import together
from tests.test_resume import assert_equal, end_of
from trials import conll, digits, ptb
from trials.training import run_job

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GLOO_SOCKET_IFNAME": "lo"}
STOPPED = ("stopped text", "stopped lstm", "left text")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return the folder in which two processes have done all jobs together, one after the other."""
    folder = tmp_path_factory.mktemp("pair")
    names = [*together.JOBS, *STOPPED]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.together", str(folder), str(rank), "2", *names],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)[-4000:]
    return folder


def results(folder, name):
    return [torch.load(folder / name / f"{rank}.result", weights_only=True) for rank in (0, 1)]


def assert_close(one, other, path="", tolerance=2e-4):
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=1e-5, msg=lambda text: f"{path}: {text}")
    elif isinstance(one, dict):
        assert set(one) == set(other), path
        for key, value in one.items():
            assert_close(value, other[key], f"{path}/{key}", tolerance)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=tolerance, abs=1e-5), path
    else:
        assert one == other, path


def assert_same_training(pair, name, tmp_path):
    """Compare weights, metrics of every epoch and what is tested with those of one process."""
    outcome, alphas = together.do(name, tmp_path)
    first, second = results(pair, name)
    weights = [load_plain(folder / LAST)["state_dict"] for folder in (tmp_path, pair / name)]
    assert_close(*weights)
    for epoch, mine in zip(first["history"], outcome.history, strict=True):
        assert_close({key: mine[key] for key in epoch}, epoch)
    assert_close(outcome.test, first["test"])
    assert_close(outcome.scores, first["scores"])
    assert_close(outcome.gap, first["gap"])
    assert_close(alphas, first["alphas"])
    assert_equal(first, second)  # every process knows the metrics, to the last bit
    return first


# Shares.


@pytest.mark.parametrize(("size", "count"), [(8, 2), (7, 2), (7, 3), (1, 3), (0, 2)])
def test_the_parts_of_all_processes_are_the_whole_and_differ_by_one_at_most(size, count):
    whole = torch.arange(3 * size).view(3, size)
    parts = [Share(rank, count).columns(whole, 1) for rank in range(count)]
    assert torch.equal(torch.cat(parts, 1), whole)
    sizes = [part.shape[1] for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_processes_draw_the_same_numbers_each_its_own_columns():
    drawn, after = [], []
    for share in (Share(), Share(0, 2), Share(1, 2)):
        torch.manual_seed(1)
        columns = share.part(5)
        with share.drawing(5):
            drawn.append(own_columns((2, columns.stop - columns.start, 3), 1, torch.rand))
        after.append(torch.rand(()))
    assert torch.equal(torch.cat(drawn[1:], 1), drawn[0])
    assert after[0] == after[1] == after[2]


def test_a_rank_outside_its_count_and_a_part_of_another_size_are_refused():
    with pytest.raises(ValueError, match="found rank 2 of 2"):
        Share(2, 2)
    with Share(0, 2).drawing(8), pytest.raises(ValueError, match="8 columns to draw for"):
        own_columns((8, 3), 0, torch.rand)


# Training.


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["text", "text without dropout", "entities"])
def test_two_processes_train_as_one_does(pair, tmp_path, name):
    assert_same_training(pair, name, tmp_path)
    assert ("averaging_state" in load_plain(pair / name / LAST)) == (name == "text")


@pytest.mark.parametrize("name", ["search", "second order", "normalised search"])
def test_alphas_are_equal_in_both_processes_after_every_step_and_as_in_one_process(pair, tmp_path, name):
    first = assert_same_training(pair, name, tmp_path)
    assert len(first["alphas"]) > 10 and not torch.equal(first["alphas"][0], first["alphas"][-1])


def test_alphas_are_equal_where_batches_are_shared_unequally(pair):
    first, second = results(pair, "entity search")
    assert len(first["alphas"]) > 5
    assert_equal(first, second)


# Faults.


@pytest.mark.parametrize("name", ["text", "lstm"])
def test_two_processes_stopped_within_an_epoch_go_on_bit_for_bit(pair, name):
    assert_equal(end_of(pair / f"stopped {name}"), end_of(pair / name))


def test_one_process_goes_on_from_the_checkpoint_of_two(pair, tmp_path):
    outcome, _ = together.do("text", pair / "left text")
    (first, _) = results(pair, "text")
    assert_close(outcome.test, first["test"])
    assert [epoch["epoch"] for epoch in outcome.history] == [1.0, 2.0, 3.0]


def test_a_loss_that_is_nan_in_one_process_takes_both_back(pair):
    first, second = results(pair, "spoilt")
    assert first["reductions"] == second["reductions"] == (2,)
    assert_equal(first, second)


def test_processes_that_drift_apart_are_noticed(pair):
    for rank in (0, 1):
        said = (pair / "drifted" / f"{rank}.error").read_text()
        assert "drifted apart in epoch 1" in said and "_model.embedding" in said


# What is refused.


@pytest.mark.parametrize(
    ("task", "overrides", "message"),
    [
        (ptb, {"batch_size": 63}, "found 63; with --devices 2 .* use 62 or 64"),
        (ptb, {"batch_size": 1}, "found 1; with --devices 2 .* use 2"),
        (conll, {"batch_size": 1}, "batch_size: found 1; allowed: 2 or more"),
        (conll, {"batch_size": 2, "train_sentences": 31}, "batches of 1 sentences; 2 processes need 2 or more"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_with_what_would_work(task, overrides, message):
    job = together.job_of(task, "retrain", overrides, share=Share(0, 2))
    with pytest.raises(ValueError, match=message):
        task.prepare(job)


def test_a_task_that_cannot_share_its_batches_is_refused(tmp_path):
    job = replace(together.job_of(digits, "retrain", {}, method="cnn"), share=Share(0, 2))
    with pytest.raises(ValueError, match="--devices 2: this task trains on one device only"):
        run_job(digits, job, tmp_path, lambda metrics: None)


# Several GPUs.


def test_several_gpus_are_taken_and_each_process_sees_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("IDARTS_LOCKS", str(tmp_path))
    monkeypatch.setenv("NNI_TRIAL_JOB_ID", "abcde")
    gpus = ["GPU-a", "GPU-b", "GPU-c"]
    with device_lease("cuda", devices=gpus, count=2) as lease:
        assert (lease.name, lease.others) == ("GPU-a", ("GPU-b",)) and os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a"
        with device_lease("cuda", slots_per_gpu=2, devices=gpus, count=3) as other:
            assert (other.name, other.slot, set(other.others)) == ("GPU-c", 0, {"GPU-a", "GPU-b"})
    with device_lease("cuda", devices=gpus, count=3) as lease:
        assert [lease.name, *lease.others] == gpus
    assert devices.lease_holders()["abcde"].count("GPU-") > 1
    with pytest.raises(NoDeviceError, match="4 GPUs were requested and 3 can be used"):
        with device_lease("cuda", devices=gpus, count=4):
            pass


def test_trials_that_want_several_gpus_never_wait_for_each_other_s_part(monkeypatch, tmp_path):
    monkeypatch.setenv("IDARTS_LOCKS", str(tmp_path))
    monkeypatch.setattr(devices, "_POLL_SECONDS", 0.01)
    held, most, done, guard = Counter(), Counter(), [], threading.Lock()

    def trial(gpus):
        for _ in range(5):
            lease, locks = devices._take_slots(gpus, 1, 2)
            with guard:
                held.update([lease.name, *lease.others])
                most.update({gpu: held[gpu] for gpu in held if held[gpu] > most[gpu]})
            time.sleep(0.002)
            with guard:
                held.subtract([lease.name, *lease.others])
            for lock in locks:
                lock.release()
            done.append(lease)

    # In opposite orders, which is how two that gather one by one come to wait for each other.
    orders = (["a", "b"], ["b", "a"], ["a", "b", "c"], ["c", "b", "a"])
    threads = [threading.Thread(target=trial, args=(order,), daemon=True) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 20 and set(most) == {"a", "b", "c"}


# By hand.


def command(folder, count, *more):
    Architecture.random(together.TINY, 1).to_yaml(folder / "cell.yaml")
    (folder / "space.yaml").write_text(json.dumps({"num_nodes": 2, "operations": ["zeroize", "tanh", "relu"]}))
    return [
        sys.executable, "-m", "trials.run", "ptb", "--stage", "retrain", "--space", str(folder / "space.yaml"),
        "--architecture", str(folder / "cell.yaml"), "--data", "embedded", "--output", str(folder / "out"),
        "--devices", str(count), "--device", "cpu", "--checkpoint-minutes", "0.001",
        *(f"--set={name}={value}" for name, value in {**together.TEXT, "epochs": 30}.items()), *more,
    ]  # fmt: skip


def start(*arguments):
    return subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def checkpoint_of(folder, process, before=0.0):
    """Wait for a checkpoint younger than a moment; return it."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        for path in (folder / "out" / "tasks").glob(f"*/{LAST}"):
            if path.stat().st_mtime > before:
                return path
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1])


def followers_of(process):
    """Return the processes that a process has started and that have not ended."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "Z" not in line.split()[1]]


def has_ended(pid):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_lost_process_ends_the_trial_ctrl_c_ends_all_and_the_command_goes_on(tmp_path):
    process = start(tmp_path, 2)
    last = checkpoint_of(tmp_path, process)
    (follower,) = followers_of(process)
    os.kill(follower, signal.SIGKILL)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert errors.count("error: Process 2 of 2 failed: it was killed (signal 9)") == 1 and "Traceback" not in errors
    assert said.count("epoch 1: ") <= 1

    moment = last.stat().st_mtime
    process = start(tmp_path, 2)
    checkpoint_of(tmp_path, process, moment)
    (follower,) = followers_of(process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and errors.count("the same command goes on") == 1, errors
    assert has_ended(follower)

    whole = subprocess.run(command(tmp_path, 2), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert whole.returncode == 0, whole.stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert [epoch["epoch"] for epoch in record["history"]] == [float(number) for number in range(1, 31)]
    assert record["device"].startswith("2 x cpu, 1 thread") and whole.stdout.count("epoch 30: ") == 1


@pytest.mark.slow
def test_the_other_processes_end_with_a_first_one_that_is_killed(tmp_path):
    process = start(tmp_path, 2)
    checkpoint_of(tmp_path, process)
    (follower,) = followers_of(process)
    process.kill()
    process.communicate(timeout=60)
    assert has_ended(follower)


def test_bad_input_ends_with_exit_code_2_and_is_said_once(tmp_path):
    done = subprocess.run(command(tmp_path, 2, "--set=batch_size=63"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("use 62 or 64") == 1 and "Traceback" not in done.stderr
