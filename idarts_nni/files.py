"""Reading and writing the small text files that the package lives on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 4 << 20
"""Larger than any space, architecture or experiment file; a guard against reading a corpus by mistake."""


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
    """Parse YAML (or JSON) text that holds one mapping; ``origin`` names it in errors."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        # JSON comes first, as in NNI: in YAML 1.1 the number 1e-06 is a word.
        data = _load_yaml(text, origin)
    if not isinstance(data, dict):
        raise ValueError(f"{origin}: expected a mapping of keys to values, found {type(data).__name__}.")
    return data


def _load_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: PyYAML raises it for impossible dates and numbers; RecursionError: for deep nesting.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{origin}: not valid YAML: {reason}") from None


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
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Without it the renaming itself can be lost when the power fails.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse it for folders; the content is safe all the same
        pass
    finally:
        os.close(descriptor)
