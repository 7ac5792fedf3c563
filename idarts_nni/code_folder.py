"""The folder of the trial code: what NNI copies of it to every trial, and whether NNI will."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

MAX_CODE_FILES = 2000
MAX_CODE_BYTES = 300 << 20
"""Limits of NNI on what it copies to every trial (nni_node/common/tarball.js)."""


def check_code_folder(folder: Path) -> None:
    """Check that NNI can copy the trial code: what ``.nniignore`` leaves must stay within NNI's limits."""
    if not folder.is_dir():
        raise ValueError(f"trialCodeDirectory: there is no folder {folder}.")
    ignore = folder / ".nniignore"
    patterns = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    files = size = 0
    for file in _code_files(folder, "", patterns):
        files, size = files + 1, size + file.stat(follow_symlinks=False).st_size
        if files > MAX_CODE_FILES or size > MAX_CODE_BYTES:
            raise ValueError(
                f"trialCodeDirectory: {folder} has more than {MAX_CODE_FILES:,} files or {MAX_CODE_BYTES >> 20} MB, "
                f"NNI's limits. Name in {ignore} what a trial does not need (data, environments, outputs)."
            )


def _code_files(folder: Path, relative: str, patterns: list[str]) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_ignored(relative + entry.name, is_folder, patterns):
                continue
            if is_folder:
                yield from _code_files(Path(entry.path), f"{relative}{entry.name}/", patterns)
            else:
                yield entry


def is_ignored(relative: str, is_folder: bool, patterns: list[str]) -> bool:
    """Tell whether ``.nniignore`` leaves a path out; the patterns are those of ``.gitignore``, ``**`` aside."""
    ignored = False
    for line in patterns:
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        negated, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        only_folders, pattern = pattern.endswith("/"), pattern.rstrip("/")
        if only_folders and not is_folder:
            continue
        name = relative if "/" in pattern else relative.rpartition("/")[2]
        if fnmatch.fnmatchcase(name, pattern.removeprefix("/")):
            ignored = not negated
    return ignored
