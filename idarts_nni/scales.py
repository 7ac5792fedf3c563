"""One experiment file in several sizes: what a named scale, or a number, makes of the tuner's arguments."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .files import read_yaml, write_atomically

FULL = "full"
ARGUMENTS = ("scale", "scales", "scaled")
_STAGES = ("search", "select", "retrain")
_SEEDS = ("search_seeds", "retrain_seeds")


def scaled_arguments(class_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tuner's arguments in the scale that they ask for.

    Parameters
    ----------
    class_args
        ``scale`` is ``full``, the name of an entry of ``scales``, or a number above 0 and below 1. ``scales`` holds
        arguments by name of a scale: those of a stage are merged with the file's, others stand in their place. A
        number multiplies the settings that ``scaled`` lists, in every stage, and takes the first of the seeds and the
        snapshots accordingly. Where there are no ``scales``, a name only labels the results.

    Returns
    -------
    The arguments without ``scales`` and ``scaled``; ``scale`` is a text.

    Raises
    ------
    ValueError
        If there is no such scale, or it is not one.
    """
    arguments = {name: value for name, value in class_args.items() if name not in ARGUMENTS}
    scale, scales = class_args.get("scale", FULL), class_args.get("scales", {})
    if not isinstance(scales, Mapping) or not all(isinstance(entry, Mapping) for entry in scales.values()):
        raise ValueError(f"scales: found {scales!r}; expected a mapping such as {{small: {{search_seeds: [1]}}}}.")
    factor = _factor(scale)
    if factor is not None:
        if factor < 1.0:
            arguments = _shrunk(arguments, factor, class_args.get("scaled"))
        return {**arguments, "scale": FULL if factor == 1.0 else f"{factor:g}"}
    if not isinstance(scale, str) or not scale.strip() or (scales and scale not in (FULL, *scales)):
        raise ValueError(f"scale: found {scale!r}; allowed: {', '.join([FULL, *map(str, scales)])}, or a number to 1.")
    for name, value in scales.get(scale, {}).items():
        stage = arguments.get(name)
        if name in _STAGES and isinstance(stage, Mapping) and isinstance(value, Mapping):
            arguments[name] = {**stage, **value}
        else:
            arguments[name] = value
    return {**arguments, "scale": scale}


def scale_label(scale: str, settings: Mapping[str, Any]) -> str:
    """Return a scale as a record names it, with what the runs were trained on where that is more than the training set.

    A task whose settings have ``train_on`` says so there. Results under different labels are never averaged, and every
    table shows them apart.
    """
    trained_on = settings.get("train_on", "train")
    return scale if trained_on == "train" else f"{scale}, trained on {trained_on}"


def write_scaled(path: str | os.PathLike[str], scale: str, folder: Path) -> Path:
    """Write a copy of an experiment file with another ``scale``, whose paths are absolute.

    Returns
    -------
    The copy's path, in ``folder``.
    """
    path = Path(path).absolute()
    content = _with_absolute_paths(read_yaml(path), path.parent)
    tuner = content.get("tuner")
    if isinstance(tuner, dict):
        # NNI takes a key in any spelling.
        name = next((key for key in tuner if _plain(key) == "classargs"), "classArgs")
        tuner[name] = {**(tuner.get(name) or {}), "scale": scale}
    copy = folder / path.name
    write_atomically(copy, yaml.safe_dump(content, sort_keys=False))
    return copy


def _factor(scale: object) -> float | None:
    """Return the number that a scale is, or None for a name."""
    if isinstance(scale, bool):
        return None
    try:
        factor = float(scale)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if not 0.0 < factor <= 1.0:
        raise ValueError(f"scale: found {scale!r}; a number has to lie above 0 and not above 1.")
    return factor


def _shrunk(arguments: dict[str, Any], factor: float, scaled: object) -> dict[str, Any]:
    if not isinstance(scaled, Sequence) or isinstance(scaled, str) or not scaled:
        raise ValueError(
            f"scale: {factor:g} multiplies the settings that `scaled` lists, and it lists none (found {scaled!r}). "
            f"Add such as scaled: [epochs, hidden_size], or name a scale."
        )
    arguments = dict(arguments)
    for stage in _STAGES:
        settings = arguments.get(stage) or {}
        if not settings and stage == "select" and arguments.get("select_by") != "validation":
            continue
        missing = [name for name in scaled if name not in settings]
        if missing:
            raise ValueError(
                f"scale: {factor:g} multiplies {', '.join(map(str, missing))}, which {stage} does not state. "
                f"State the full value there."
            )
        arguments[stage] = {
            name: max(1, round(value * factor)) if name in scaled and type(value) is int else value
            for name, value in settings.items()
        }
    for name in _SEEDS:
        seeds = arguments.get(name)
        if isinstance(seeds, Sequence) and not isinstance(seeds, str):
            arguments[name] = list(seeds)[: math.ceil(len(seeds) * factor)]
    if arguments.get("snapshots"):
        arguments["snapshots"] = sorted({max(1, round(epoch * factor)) for epoch in arguments["snapshots"]})
    return arguments


def _with_absolute_paths(content: Any, folder: Path) -> Any:
    """Resolve what NNI would take for a path from the file's own folder: keys that end in File or Directory."""
    if isinstance(content, list):
        return [_with_absolute_paths(entry, folder) for entry in content]
    if not isinstance(content, dict):
        return content
    resolved = {}
    for key, value in content.items():
        if _plain(key) == "classargs":  # the tuner's own, which are no paths of NNI
            resolved[key] = value
        elif isinstance(value, str) and _plain(key).endswith(("file", "directory")):
            resolved[key] = str(Path(os.path.normpath(folder / Path(value).expanduser())))
        else:
            resolved[key] = _with_absolute_paths(value, folder)
    return resolved


def _plain(key: object) -> str:
    return str(key).lower().replace("_", "")
