"""Features of frozen models on disk, computed once and then mapped into memory.

A cache is two files in one folder, named after a key: ``<key>.npy`` with the features of all words, one row a word, and
``<key>.json``, which says what they are and carries their checksum. The description is written last, so features
without one are not complete and are computed anew; so are features whose size or checksum is wrong.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError  # numpy reads an array's header as Python text
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from idarts_nni.files import read_yaml, write_atomically

_logger = logging.getLogger(__name__)

LAYOUT = 1
"""Raise it when the files change: older caches are then computed anew."""

Words = Sequence[Sequence[str]]
"""Sentences as words."""

_BLOCK = 1 << 24


def cache_key(model: str, sentences: Iterable[Words]) -> str:
    """Return the key of a model's features for some lists of sentences, in this order.

    Parameters
    ----------
    model
        Says all on which the features of a sentence depend: kind of model, settings, digest of its files.
    sentences
        The lists; where a word stands in them is part of the key.
    """
    digest = hashlib.sha256(f"{LAYOUT}\n{model}\n".encode())
    for corpus in sentences:
        digest.update(json.dumps([list(words) for words in corpus]).encode())
    return digest.hexdigest()[:24]


def files_digest(paths: Iterable[Path]) -> str:
    """Return one digest of the content of some files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name}\n{path.stat().st_size}\n".encode())
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def cached_features(
    folder: str | os.PathLike[str],
    key: str,
    rows: int,
    compute: Callable[[], Iterator[NDArray[Any]]],
    dtype: str = "float16",
) -> NDArray[Any]:
    """Return features from the cache, after computing them if they are not there or not whole.

    Of several trials that ask at once, one computes and the others wait.

    Parameters
    ----------
    folder
        Where caches lie; made if needed.
    key
        See :func:`cache_key`.
    rows
        Number of words of all sentences.
    compute
        Yields the features in order, each array of shape ``(words, F)``; called at most once.
    dtype
        In which they are kept.

    Returns
    -------
    Mapped into memory, shape ``(rows, F)``. The first run reads them from the file as the second does, so
    both score the same.

    Raises
    ------
    ValueError
        If ``compute`` yields another number of rows, or values that are not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data, note = folder / f"{key}.npy", folder / f"{key}.json"
    with FileLock(str(folder / f"{key}.lock")):
        fault = _fault(data, note, rows, dtype)
        if fault:
            _logger.info("Computing features of %s words into %s (%s).", f"{rows:,}", data, fault)
            _write(data, note, rows, compute(), np.dtype(dtype))
        # Copy on write: torch warns of arrays that it may not write to, and the file stays as it is all the same.
        return np.lib.format.open_memmap(data, mode="c")


def _fault(data: Path, note: Path, rows: int, dtype: str) -> str:
    """Say why a cache cannot be used; empty if it can."""
    if not data.is_file() or not note.is_file():
        return "not there yet"
    try:
        described = read_yaml(note)
        # Not numpy.load, which also opens archives and pickles.
        found = np.lib.format.open_memmap(data, mode="r")
        wanted = (described["shape"], described["dtype"], described["checksum"])
    except (ValueError, KeyError, TypeError, OSError, EOFError, OverflowError, TokenError) as error:
        return f"damaged: {error}"
    if list(found.shape) != wanted[0] or str(found.dtype) != wanted[1] or wanted[1] != dtype or len(found) != rows:
        return f"of another shape: {found.dtype} {found.shape}"
    return "" if _checksum(data) == wanted[2] else "damaged: the checksum is wrong"


def _write(data: Path, note: Path, rows: int, parts: Iterator[NDArray[Any]], dtype: np.dtype[Any]) -> None:
    note.unlink(missing_ok=True)
    temporary = data.with_name(f".{data.name}.{os.getpid()}.tmp")
    try:
        shape = _fill(temporary, rows, parts, dtype)
        os.replace(temporary, data)
    finally:
        temporary.unlink(missing_ok=True)
    described = {"shape": list(shape), "dtype": str(dtype), "checksum": _checksum(data), "layout": LAYOUT}
    write_atomically(note, json.dumps(described, indent=1) + "\n")


def _fill(path: Path, rows: int, parts: Iterator[NDArray[Any]], dtype: np.dtype[Any]) -> tuple[int, ...]:
    table: NDArray[Any] | None = None
    filled = 0
    for part in parts:
        if not np.isfinite(part).all():
            raise ValueError(f"The model's features of words {filled:,} and on hold values that are not finite.")
        if dtype.kind == "f" and np.abs(part).max(initial=0.0) > np.finfo(dtype).max:
            raise ValueError(f"The model's features of words {filled:,} and on are too large for {dtype}.")
        if table is None:
            shape = (rows, part.shape[1])
            table = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            _take_room(path)
        if filled + len(part) > rows:
            raise ValueError(f"The model gave features of more than the {rows:,} words.")
        table[filled : filled + len(part)] = part
        filled += len(part)
    if table is None or filled != rows:
        raise ValueError(f"The model gave features of {filled:,} words, not of {rows:,}.")
    table.flush()
    return table.shape


def _take_room(path: Path) -> None:
    """Have the system put the whole file on disk now: writing to a map of a full disk would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # of file systems that cannot do it
                    raise OSError(error.errno, error.strerror, str(path)) from None


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value
