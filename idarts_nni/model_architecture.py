"""What a search of any other model space yields: one choice for each label, as data."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from .architecture import Architecture
from .files import parse_yaml, read_yaml, write_atomically

CHOICES = "choices"
_KEYS = (CHOICES, "name", "source")


@dataclass(frozen=True)
class ModelArchitecture:
    """A derived model of any NNI space (cells for images, choices of layers, depths, widths).

    :class:`~idarts_nni.architecture.Architecture` describes a recurrent cell; this class describes everything else, by
    the labels of NNI's mutables. Both have the same methods to write and read.

    Raises
    ------
    ValueError
        If a label is no text or a choice is not plain data.
    """

    choices: Mapping[str, Any]
    """Label -> what was chosen: text, a number, a truth value, nothing, or a list of these."""

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("An architecture needs at least one choice; found none.")
        # Labels of NNI are texts with a history; tuples come back from JSON as lists.
        plain = {_plain_label(label): _plain(choice, str(label)) for label, choice in self.choices.items()}
        object.__setattr__(self, CHOICES, plain)

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell architectures apart in tables and on NNI's page."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:8]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that :meth:`from_dict` reads back."""
        return {CHOICES: dict(self.choices)}

    def to_json(self) -> str:
        """Return one line of JSON, always the same for equal architectures."""
        return json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True)

    def to_yaml(self, path: str | os.PathLike[str], *, name: str = "", source: str = "") -> None:
        """Write a file that :meth:`from_yaml` reads; ``name`` and ``source`` tell people what it is."""
        head = {key: value for key, value in (("name", name), ("source", source)) if value}
        write_atomically(path, yaml.safe_dump({**head, **self.to_dict()}, sort_keys=False, default_flow_style=None))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], origin: str = "architecture") -> ModelArchitecture:
        """Check and build from plain data; ``origin`` (a file name) leads every error message."""
        for key in data:
            if key not in _KEYS:
                raise ValueError(f"{origin}: unknown key {key!r}; allowed: {', '.join(_KEYS)}.")
        choices = data.get(CHOICES)
        if not isinstance(choices, Mapping):
            raise ValueError(f"{origin}: {CHOICES}: found {choices!r}; expected a mapping from label to choice.")
        try:
            return cls(choices)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from None

    @classmethod
    def from_json(cls, text: str, origin: str = "architecture") -> ModelArchitecture:
        """Read from JSON text."""
        return cls.from_dict(parse_yaml(text, origin), origin)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> ModelArchitecture:
        """Read from a YAML or JSON file."""
        return cls.from_dict(read_yaml(path), origin=str(path))

    def sample(self, mutables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sample that NNI's ``freeze`` and ``model_context`` take.

        Parameters
        ----------
        mutables
            Those of the model space, ``model_space.simplify()``; they say which values JSON has changed (a tuple
            comes back as a list).

        Raises
        ------
        ValueError
            If the architecture lacks a label of the space, has one more, or chooses what is not offered there.
        """
        missing, unknown = sorted(set(mutables) - set(self.choices)), sorted(set(self.choices) - set(mutables))
        if missing or unknown:
            raise ValueError(f"The architecture is not of this model space: missing {missing}, unknown {unknown}.")
        sample = {label: _offered(mutable, self.choices[label]) for label, mutable in mutables.items()}
        for label, mutable in mutables.items():
            error = mutable.check_contains(sample)
            if error is not None:
                raise ValueError(f"{label}: found {self.choices[label]!r}: {error}")
        return sample


def read_architecture(data: Mapping[str, Any], origin: str = "architecture") -> Architecture | ModelArchitecture:
    """Read either kind of architecture from plain data: ``choices`` of any model space, or ``nodes`` of a cell."""
    if CHOICES in data:
        return ModelArchitecture.from_dict(data, origin)
    return Architecture.from_dict(data, origin)


def _plain_label(label: object) -> str:
    if not isinstance(label, str) or not label:
        raise ValueError(f"label: found {label!r}; expected a text.")
    return str.__str__(label)


def _plain(choice: object, label: str) -> Any:
    if isinstance(choice, (list, tuple)):
        return [_plain(part, label) for part in choice]
    is_number = isinstance(choice, (int, float)) and math.isfinite(choice)
    if choice is None or isinstance(choice, str) or is_number:
        return choice
    raise ValueError(f"{label}: found {choice!r}; expected text, a finite number, or a list of these.")


def _offered(mutable: Any, choice: Any) -> Any:
    """Return the value of a mutable that was written as ``choice``."""
    values = {json.dumps(_plain(value, "value")): value for value in getattr(mutable, "values", ())}
    if isinstance(choice, list) and json.dumps(choice) not in values:
        return [values.get(json.dumps(part), part) for part in choice]
    return values.get(json.dumps(choice), choice)
