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


@pytest.mark.parametrize("damage", ["cut", "pickle", "text", "empty"])
def test_a_checkpoint_that_cannot_be_read_is_named_and_runs_no_code(tmp_path, damage, capsys):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(100)}, path)
    whole = path.read_bytes()
    path.write_bytes(
        {"cut": whole[: len(whole) // 2], "pickle": pickle.dumps(Bomb()), "text": b"hello", "empty": b""}[damage]
    )
    with pytest.raises(ValueError, match="last.ckpt: not a checkpoint that can be read"):
        load_plain(path)
    assert "boom" not in capsys.readouterr().out


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
