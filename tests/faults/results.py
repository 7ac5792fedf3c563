"""What a task ended with, in a form that tells bit by bit whether two runs ended alike."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from idarts_nni.checkpoint import load_plain

_TIMES = ("seconds", "date", "experiment")
"""What differs between two runs of one task though they do the same."""


def result_of(record: Mapping[str, Any], tasks: Path) -> dict[str, Any]:
    """Return a record without its times, and digests of the weights in the task's folder below ``tasks``."""
    folder = tasks / re.sub(r"[^\w.-]", "_", record["key"])
    plain = _without_times(record)
    return {**plain, **{name: weights_digest(folder / f"{name}.ckpt") for name in ("best", "last")}}


def weights_digest(path: Path) -> str:
    """Return a digest of all weights in a checkpoint; empty where there is no such file."""
    if not path.is_file():
        return ""
    digest = hashlib.sha256()
    weights: dict[str, Tensor] = load_plain(path)["state_dict"]
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {tuple(weights[name].shape)}".encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names under which two results differ."""
    return sorted(name for name in {*one, *other} if json.dumps(one.get(name)) != json.dumps(other.get(name)))


def _without_times(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _without_times(value) for key, value in data.items() if key not in _TIMES}
    return [_without_times(part) for part in data] if isinstance(data, list) else data
