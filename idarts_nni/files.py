"""Reading and writing the small text files that the package lives on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 4 << 20
"""Larger than any space, architecture or experiment file; a guard against reading a corpus by mistake."""
MAX_DEPTH = 64
"""Mappings and lists inside each other; few enough for every recursive reader and for messages that show a value."""
MAX_VALUES = 200_000
"""Keys, items and values of one file, every alias counted as what it stands for."""

_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_TOO_MANY = f"more than {MAX_VALUES:,} values, aliases written out"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_LONGEST_NUMBER = 400


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML (or JSON) file that holds one mapping.

    Parameters
    ----------
    path
        File to read; at most 4 MiB.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is too large, is not YAML, or holds something other than a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file (asked from {Path.cwd()}).")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes; such a file has at most {MAX_BYTES:,}.")
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), origin=str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """Parse YAML (or JSON) text that holds one mapping.

    Parameters
    ----------
    text
        At most :data:`MAX_VALUES` values with every alias written out, :data:`MAX_DEPTH` levels deep.
    origin
        Names the text in errors.

    Raises
    ------
    ValueError
        If the text is neither, holds something other than a mapping, or is too large, too deep, or has a whole number
        of more than 64 bits or a text that UTF-8 cannot write.
    """
    data = parse_value(text, origin)
    if not isinstance(data, dict):
        raise ValueError(f"{origin}: expected a mapping of keys to values, found {type(data).__name__}.")
    return data


def parse_value(text: str, origin: str) -> Any:
    """Parse YAML (or JSON) text of any kind; otherwise as :func:`parse_yaml`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        # JSON comes first, as in NNI: in YAML 1.1 the number 1e-06 is a word.
        data = _load_yaml(text, origin)
    problem = _first_problem(data)
    if problem:
        raise ValueError(f"{origin}: {problem}.")
    return data


def _load_yaml(text: str, origin: str) -> Any:
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _extent(node, {}, 1)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
        LookupError,
        AttributeError,
        TypeError,
        ArithmeticError,
    ) as error:
        # ValueError: PyYAML raises it for impossible dates and numbers; RecursionError: for deep nesting; the last four
        # for a tag that does not fit its value, such as "!!int ''" or "!!bool perhaps".
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{origin}: not valid YAML: {reason}") from None


def _extent(node: yaml.Node, known: dict[int, tuple[int, int] | None], depth: int) -> tuple[int, int]:
    """Return the number of values and the levels of a document with its aliases written out, before it is built.

    A few lines of aliases to aliases describe more values than a memory holds, and a merge key (``<<``) would copy
    them.
    """
    if id(node) in known:
        extent = known[id(node)]
        if extent is None:
            raise ValueError("a value holds itself through an alias")
        if depth + extent[1] > MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        return extent
    if depth > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)
    known[id(node)] = None
    values, levels = 1, 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = list(node.value)
    elif node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
        raise ValueError(f"a number has {len(node.value):,} characters, at most {_LONGEST_NUMBER} are read")
    for part in parts:
        extent = _extent(part, known, depth + 1)
        values, levels = values + extent[0], max(levels, extent[1] + 1)
        if values > MAX_VALUES:
            raise ValueError(_TOO_MANY)
    known[id(node)] = values, levels
    return values, levels


def _first_problem(data: object) -> str:
    """Say why data cannot be worked with; empty if it can."""
    waiting: list[tuple[object, int]] = [(data, 1)]
    values = 0
    while waiting:
        value, depth = waiting.pop()
        values += 1
        if values > MAX_VALUES:
            return _TOO_MANY
        if isinstance(value, (dict, list, tuple)):
            if depth > MAX_DEPTH:
                return _TOO_DEEP
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(part, depth + 1) for part in parts]
        elif isinstance(value, int) and value.bit_length() > 64:
            return f"a whole number has {value.bit_length():,} bits, at most 64 can be used"
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                return f"a text holds half a character ({error.reason}, at character {error.start})"
    return ""


def write_atomically(
    path: str | os.PathLike[str],
    content: str | bytes | memoryview,
    *,
    previous: str | os.PathLike[str] | None = None,
) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new, never a part of either.

    Parameters
    ----------
    path
        File to write; its folder is made if need be.
    content
        Text, written as UTF-8, or bytes.
    previous
        Where the old file is kept, instead of being lost; a crash between the two renamings leaves it there alone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk; without it a renaming itself can be lost when the power fails."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse it for folders; the content is safe all the same
        pass
    finally:
        os.close(descriptor)
