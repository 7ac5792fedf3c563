"""Results files (``trials/results/*.csv``), and the README's tables, which are made from them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .files import write_atomically
from .report import COLUMNS, Record, stand_ins, summary_markdown, summary_table

_OPEN = re.compile(r"^<!-- results:(?P<name>[\w.-]+) -->[ \t]*$", re.MULTILINE)
_CLOSE = "<!-- /results -->"


def read_results(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a results file; every value stays the text that stands there, an empty field stays empty.

    Files of earlier versions lack the last column, the corpus.

    Raises
    ------
    ValueError
        If its columns are not exactly :data:`COLUMNS`.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if tuple(table.columns) == COLUMNS[:-1]:
        table[COLUMNS[-1]] = ""
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"{path}: columns {', '.join(map(str, table.columns))}; expected {', '.join(COLUMNS)}.")
    return table


def merge_results(path: str | os.PathLike[str], records: Sequence[Record], *, replace: bool = False) -> int:
    """Put the retrained results among ``records`` into a results file.

    A row that stands there already is not added twice; with ``replace`` the old rows go.

    Returns
    -------
    How many rows the file has now.
    """
    path = Path(path)
    results = [one for record in records if record["stage"] == "retrain" for one in stand_ins(record)]
    rows = [{name: _csv_value(result.get(name)) for name in COLUMNS} for result in results]
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)
    if path.exists() and not replace:
        # Only whole rows that are equal are one: two cells of a method may share seed and settings.
        old = read_results(path)
        known = set(old.itertuples(index=False, name=None))
        fresh = [row not in known for row in table.itertuples(index=False, name=None)]
        table = pd.concat([old, table[fresh]], ignore_index=True)
    write_atomically(path, table.to_csv(index=False, lineterminator="\n"))
    return len(table)


def results_markdown(path: str | os.PathLike[str]) -> str:
    """Return a results file as the README shows it: the table by method, then when, where and from which commit."""
    table = read_results(path)
    if table.empty:
        raise ValueError(f"{path}: there is no row in it.")
    facts = []
    for name in ("date", "device", "precision", "commit"):
        known = sorted({value[:10] if name == "date" else value for value in table[name] if value})
        facts.append(f"{name} {', '.join(known) or 'unknown'}")
    note = f"Mean ± sample standard deviation over runs; {'; '.join(facts)}; rows in `{Path(path).name}`."
    return f"{summary_markdown(summary_table(table))}\n{note}\n"


def update_readme(readme: str | os.PathLike[str], results: str | os.PathLike[str], *, check: bool = False) -> list[str]:
    """Make the tables of a README anew from the results files.

    A table stands between ``<!-- results:NAME -->`` and ``<!-- /results -->``, each on its own line, and is made from
    ``NAME.csv``.

    Parameters
    ----------
    readme
        The Markdown file.
    results
        The folder of the results files.
    check
        Only tell what would change, and write nothing.

    Returns
    -------
    Names of the tables that were not up to date.

    Raises
    ------
    ValueError
        If a marker is not closed, or there is no results file of that name.
    """
    readme, text = Path(readme), Path(readme).read_text(encoding="utf-8")
    pieces, stale, position = [], [], 0
    for opening in _OPEN.finditer(text):
        name, end = opening["name"], text.find(_CLOSE, opening.end())
        if end < 0 or _OPEN.search(text, opening.end(), end):
            raise ValueError(f"{readme}: <!-- results:{name} --> is not closed by a line {_CLOSE}.")
        source = Path(results) / f"{name}.csv"
        if not source.is_file():
            raise ValueError(f"{readme}: the table {name!r} is made from {source}, and there is no such file.")
        body = f"\n\n{results_markdown(source)}\n"
        if text[opening.end() : end] != body:
            stale.append(name)
        pieces += [text[position : opening.end()], body]
        position = end
    if stale and not check:
        write_atomically(readme, "".join([*pieces, text[position:]]))
    return stale


def _csv_value(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
