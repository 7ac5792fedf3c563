"""Faults of real trials: signals, kill -9, no memory, a full disk; what they say, and that the same command goes on."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from idarts_nni.checkpoint import load_plain
from idarts_nni.saving import LAST
from trials.faults import EXIT_NO_ROOM, explain

ROOT = Path(__file__).parents[1]
SEARCH = ("ptb", "--stage", "search", "--space", "search_spaces/tiny.yaml", "--data", "embedded", "--threads", "1")
# Some 45 steps an epoch.
LONG = (
    "--set", "hidden_size=8", "--set", "bptt=10", "--set", "batch_size=64", "--set", "epochs=3",
    "--set", "train_tokens=28000",
)  # fmt: skip
PATIENCE = 600.0
"""Seconds; a trial takes a few, and many times that on a busy machine."""
TASK = Path("tasks") / "search-idarts-s1"


def start(*arguments, memory=None, stdout=subprocess.PIPE):
    def limit():
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NNI_", "IDARTS_"))}
    command = [sys.executable, "-m", "trials.run", *SEARCH, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=stdout, stderr=subprocess.STDOUT, text=True, preexec_fn=limit
    )


def finish(*arguments):
    with start(*arguments) as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    return said


def results(folder):
    record = json.loads((folder / "record.json").read_text())
    history = [{**epoch, "seconds": 0} for epoch in record["history"]]
    return history, record["architecture"], record["validation"]


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"The trial ended without {text!r}: {process.wait()}.")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(*LONG, "--output", folder)
    return folder


def assert_as_undisturbed(folder, undisturbed):
    assert results(folder) == results(undisturbed)
    one, other = (load_plain(where / TASK / LAST)["state_dict"] for where in (folder, undisturbed))
    assert set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_trial_that_is_stopped_within_an_epoch_goes_on_bit_for_bit(tmp_path, undisturbed, number):
    arguments = (*LONG, "--output", tmp_path, "--checkpoint-minutes", "0.001")
    with start(*arguments) as process:
        wait_for(process, "epoch 1:")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not place(tmp_path)["epochs"]:
            time.sleep(0.02)
        process.send_signal(number)
        said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == -number
    assert number == signal.SIGKILL or "the same command goes on from it" in said
    assert number == signal.SIGKILL or place(tmp_path)["batches"] > 0, "saved within an epoch"
    said = finish(*arguments)
    assert "epoch 1:" not in said
    assert_as_undisturbed(tmp_path, undisturbed)


def place(folder):
    try:
        return load_plain(folder / TASK / LAST)["place"]
    except FileNotFoundError:  # between two renamings
        return {"epochs": 0, "batches": 0}


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_the_step(tmp_path):
    with start(*LONG, "--set", "bptt=4000", "--output", tmp_path) as process:
        wait_for(process, "epoch 1:")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode in (-signal.SIGTERM, -signal.SIGINT)


def test_too_little_memory_says_what_to_lower(tmp_path):
    with start("--set", "hidden_size=60000", "--set", "epochs=1", "--output", tmp_path, memory=12 << 30) as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_NO_ROOM, said
    assert "Lower batch_size, hidden_size or bptt" in said and "--precision bf16" in said and "Traceback" not in said
    assert not (tmp_path / "record.json").exists()


def test_every_way_of_saying_that_memory_ran_out_is_understood():
    for make in (lambda: bytearray(1 << 62), lambda: torch.empty(1 << 58)):
        try:
            make()
        except (MemoryError, RuntimeError) as error:
            assert "The memory is not enough" in explain(error)
    assert "memory" in explain(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert explain(RuntimeError("shapes differ")) is None and explain(FileNotFoundError(2, "none")) is None


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], timeout=20, check=True)


def test_a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_room_again(small_disk, undisturbed):
    arguments = (*LONG, "--output", small_disk, "--checkpoint-minutes", "0.001")
    filler = small_disk / "filler"
    with start(*arguments) as process:
        wait_for(process, "epoch 1:")
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_NO_ROOM, said
    assert "could not be written" in said and "the disk is full. Nothing that was written before is lost." in said
    assert "Traceback" not in said
    before = place(small_disk)
    assert (before["epochs"], before["batches"]) > (0, 0)
    assert not [path for path in (small_disk / TASK).iterdir() if path.name.endswith(".tmp")]
    filler.unlink()
    assert "epoch 1:" not in finish(*arguments) or before["epochs"] == 0
    assert_as_undisturbed(small_disk, undisturbed)


CACHE = """
import numpy, sys
from trials.faults import explain
from trials.feature_cache import cached_features
try:
    cached_features(sys.argv[1], "key", 10_000, lambda: iter([numpy.zeros((10_000, 300), numpy.float16)]))
except OSError as error:
    sys.exit(explain(error))
"""


def test_a_cache_that_does_not_fit_on_the_disk_says_so_and_leaves_nothing_behind(small_disk):
    command = [sys.executable, "-c", CACHE, str(small_disk)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1, f"ended with {done.returncode}: without a word where it is negative"
    assert f"could not be written ({small_disk}" in done.stderr and "the disk is full" in done.stderr
    assert [path.name for path in small_disk.iterdir()] == ["key.lock"]


def test_a_gpu_that_is_insisted_on_and_hidden_is_bad_input(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with start("--device", "cuda", "--output", tmp_path) as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "there is no GPU (CUDA_VISIBLE_DEVICES is '-1')" in said
    assert "Traceback" not in said
