"""Checkpoints: random states come back, a write is whole or absent, and code is never loaded."""

import pickle
import random

import numpy
import pytest
import torch

from idarts_nni.checkpoint import (
    AtomicCheckpointIO,
    ExactResume,
    Resumable,
    first_intact,
    load_plain,
    random_states,
    restore_random_states,
)


def draw():
    return random.random(), numpy.random.rand(3).tolist(), torch.rand(3).tolist()


def test_restored_random_states_draw_the_same_numbers_again(tmp_path):
    draw()
    path = tmp_path / "states.ckpt"
    AtomicCheckpointIO().save_checkpoint(random_states(), path)
    expected = draw()
    draw()
    restore_random_states(load_plain(path))
    assert draw() == expected


def test_a_failed_write_keeps_the_old_checkpoint_and_leaves_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert load_plain(path) == {"epoch": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["last.ckpt"]


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


@pytest.mark.parametrize("damage", ["cut", "pickle", "text", "empty", "number"])
def test_a_checkpoint_that_cannot_be_read_is_named_and_runs_no_code(tmp_path, damage, capsys):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(100)}, path)
    whole = path.read_bytes()
    AtomicCheckpointIO().save_checkpoint(7, path)
    spoilt = {"cut": whole[: len(whole) // 2], "pickle": pickle.dumps(Bomb()), "text": b"hello", "empty": b""}
    path.write_bytes({**spoilt, "number": path.read_bytes()}[damage])
    with pytest.raises(ValueError, match="last.ckpt: not a checkpoint that can be read"):
        load_plain(path)
    assert "boom" not in capsys.readouterr().out


def test_a_file_that_the_disk_cannot_read_is_passed_over(tmp_path, caplog):
    # Linux answers EIO to whoever reads there.
    (tmp_path / "last.ckpt").symlink_to("/proc/self/mem")
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, tmp_path / "before.ckpt")
    paths = [tmp_path / "last.ckpt", tmp_path / "before.ckpt"]
    assert first_intact(paths) == paths[1] and "passed over" in caplog.text


def test_a_damaged_checkpoint_is_set_aside_so_that_it_never_takes_the_place_of_a_whole_one(tmp_path):
    paths = [tmp_path / "last.ckpt", tmp_path / "before.ckpt"]
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, paths[1])
    paths[0].write_bytes(b"cut")
    assert first_intact(paths) == paths[1]
    AtomicCheckpointIO().save_checkpoint({"epoch": 2}, paths[0], {"previous": paths[1]})
    assert [load_plain(path)["epoch"] for path in reversed(paths) if path.is_file()] == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before.ckpt", "last.ckpt", "last.ckpt.damaged"]


def test_places_of_loaders_travel_in_the_checkpoint():
    class Loader:
        place = 0

        def state_dict(self):
            return {"place": self.place}

        def load_state_dict(self, state):
            self.place = state["place"]

    there, here = Loader(), Loader()
    assert isinstance(there, Resumable)
    there.place = 7
    ExactResume([here, object()]).load_state_dict(ExactResume([there, object()]).state_dict())
    assert here.place == 7
