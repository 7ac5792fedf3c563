"""``python -m tests.fuzz`` (or ``make fuzz``): 100,000 spoilt inputs for all readers, and a table of what happened.

A tenth of them are valid documents with changes that know their structure (Hypothesis, which takes milliseconds for
each); the others come from a coverage-guided fuzzer (Atheris, which is libFuzzer for Python): it keeps every input that
reaches a new place in the code of the project or of PyYAML and goes on from there. Both start from the same seed.
Every reader runs in a process of its own with a limit on memory. Inputs with an outcome that must not happen are kept
in ``build/fuzz``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import logging
import os
import resource
import struct
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import atheris

# Atheris names every module on the way.
with (
    contextlib.redirect_stderr(io.StringIO()),
    atheris.instrument_imports(include=["idarts_nni", "trials", "yaml"]),
):
    from .judge import Verdict, empty_folder, judge
    from .readers import READERS, Reader, seeds
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch._weights_only_unpickler import Unpickler

from .documents import NASTY_TEXT, inputs

# By hand: naming it above would instrument all of torch.
Unpickler.load = atheris.instrument_func(Unpickler.load)  # type: ignore[method-assign]

MEMORY = 768 << 20
"""Bytes that reading may take beyond what the process has at its start."""
KINDS = ("accepted", "refused", "foreign")
_COUNTS = struct.Struct("3q")


class Tally:
    """Counts verdicts in a file, because a fuzzer ends its process without a word to Python."""

    def __init__(self, path: Path, failures: Path, reader: Reader) -> None:
        self.counts = dict.fromkeys(KINDS, 0)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        self._failures = failures
        self._reader = reader
        self._known: set[str] = set()

    def add(self, data: bytes, verdict: Verdict) -> None:
        """Count a verdict, and keep the first input of each foreign kind."""
        self.counts[verdict.kind] += 1
        os.pwrite(self._file, _COUNTS.pack(*self.counts.values()), 0)
        kind = verdict.reason.partition(": ")[0]
        if verdict.kind == "foreign" and kind not in self._known:
            self._known.add(kind)
            self._failures.mkdir(parents=True, exist_ok=True)
            name = f"{self._reader.name.split()[0]}-{hashlib.sha256(data).hexdigest()[:8]}"
            (self._failures / f"{name}.bin").write_bytes(data)
            (self._failures / f"{name}.txt").write_text(f"{self._reader.name}: {verdict.reason}\n", errors="replace")


def run_structured(reader: Reader, count: int, number: int, tally: Tally, folder: Path) -> None:
    """Read documents that Hypothesis makes."""

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=inputs(reader))
    def read(data: bytes) -> None:
        if sum(tally.counts.values()) < count:  # Hypothesis tries a few more than it was asked for
            tally.add(data, judge(reader, data, folder))

    read()


def run_guided(reader: Reader, count: int, number: int, tally: Tally, folder: Path, corpus: Path) -> None:
    """Read what libFuzzer makes; does not return."""
    corpus.mkdir()
    for index, data in enumerate(seeds(reader)):
        (corpus / str(index)).write_bytes(data)
    words = [f'"{"".join(f"{chr(92)}x{byte:02x}" for byte in text[:32])}"' for text in NASTY_TEXT if text]
    (folder.parent / "words").write_text("\n".join(words))

    def read(data: bytes) -> None:
        if sum(tally.counts.values()) == count:  # libFuzzer's own count leaves some of the first ones out
            return
        (folder.parent / "current").write_bytes(data)  # all that is left of an input that ends the process
        tally.add(data, judge(reader, data, folder))

    options = {"runs": count, "seed": number, "max_len": 8192, "dict": folder.parent / "words", "timeout": 60}
    options |= {"rss_limit_mb": 8192, "len_control": 0, "verbosity": 1}
    atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)], read)
    atheris.Fuzz()


def run_part(part: str, reader: Reader, count: int, number: int, scratch: Path, failures: Path) -> dict[str, Any]:
    """Run one part for one reader in a process of its own and return its counts."""
    counts, log = scratch / "counts", scratch / "log"
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _isolate(log)
            (scratch / "files").mkdir()
            tally = Tally(counts, failures, reader)
            if part == "structured":
                run_structured(reader, count, number, tally, scratch / "files")
            else:
                run_guided(reader, count, number, tally, scratch / "files", scratch / "corpus")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    said = log.read_text(errors="replace")
    if status != 0 or not counts.is_file():
        print(said[-3000:], file=sys.stderr)
    numbers = _COUNTS.unpack(counts.read_bytes()) if counts.is_file() else (0, 0, 0)
    edges = [int(line.split("cov:")[1].split()[0]) for line in said.splitlines() if "cov:" in line]
    return {
        **dict(zip(KINDS, numbers, strict=True)),
        "edges": max(edges, default=0),
        "memory": usage.ru_maxrss >> 10,
        "seconds": time.monotonic() - begun,
        "broken": status != 0,
    }


def _isolate(log: Path) -> None:
    """Send what the child says to a file, and bound its memory."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(target, 1)
    os.dup2(target, 2)
    logging.disable()
    warnings.simplefilter("ignore")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def shares(total: int) -> dict[str, tuple[int, int]]:
    """Return how many inputs each reader gets from either part; slow readers get fewer, and the sum is the total."""
    weight = {reader.name: 0.15 if reader.name in ("experiment", "record") else 1.0 for reader in READERS}
    unit = total / sum(weight.values())
    found = {name: int(unit * share) for name, share in weight.items()}
    found[READERS[0].name] += total - sum(found.values())
    return {name: (count // 10, count - count // 10) for name, count in found.items()}


def main() -> int:
    """Run everything; return 0 if nothing happened that must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N", help="of all readers together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", help="only readers whose name holds this")
    parser.add_argument("--failures", type=Path, default=Path("build/fuzz"), help="folder (default: build/fuzz)")
    options = parser.parse_args()
    rows, begun = [], time.monotonic()
    print(f"| {'reader':<20} | inputs | accepted | refused | foreign | edges | peak MB | seconds |")
    print(f"| {'-' * 20} | -----: | -------: | ------: | ------: | ----: | ------: | ------: |")
    for reader in READERS:
        if options.reader and options.reader not in reader.name:
            continue
        row = _run_reader(reader, shares(options.inputs)[reader.name], options.seed, options.failures)
        rows.append(row)
        _print_row(reader.name, row)
    total = {key: sum(row[key] for row in rows) for key in rows[0]} | {"memory": max(row["memory"] for row in rows)}
    _print_row("all", total | {"seconds": time.monotonic() - begun})
    for report in sorted(options.failures.glob("*.txt")) if total["foreign"] else []:
        print(report.read_text().rstrip(), f"({report.with_suffix('.bin')})")
    return 1 if total["foreign"] or total["broken"] else 0


def _run_reader(reader: Reader, counts: tuple[int, int], number: int, failures: Path) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    for part, count in zip(("structured", "guided"), counts, strict=True):
        # Hypothesis stops early where it finds nothing new; the other part makes up for that.
        missing = counts[0] - sum(parts[0][kind] for kind in KINDS) if parts else 0
        with empty_folder() as scratch:
            parts.append(run_part(part, reader, count + missing, number, Path(scratch), failures.absolute()))
    row = {key: sum(part[key] for part in parts) for key in parts[0]}
    return row | {"memory": max(part["memory"] for part in parts)}


def _print_row(name: str, row: dict[str, Any]) -> None:
    inputs_read = sum(row[kind] for kind in KINDS)
    broken = "  DID NOT END WELL" if row["broken"] else ""
    print(
        f"| {name:<20} | {inputs_read:>6,} | {row['accepted']:>8,} | {row['refused']:>7,} | {row['foreign']:>7,} "
        f"| {row['edges']:>5,} | {row['memory']:>7,} | {row['seconds']:>7.0f} |{broken}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
