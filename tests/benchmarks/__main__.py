"""Measure everything: equality, whole steps, the cell alone, memory; print a table and write ``build/bench.json``."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from idarts_nni import native
from idarts_nni.matmul import allow_fast_matmul, cpu_multiplies_bfloat16
from trials.corpus import read_corpus

from . import bench_cell, bench_memory
from .bench_step import RETRAIN, SEARCH, SPACE, Size, Step, check_equality, in_setting, matmul_gflop
from .timing import interleave

SOURCE = replace(SPACE, transform="source")


def main() -> None:
    """Run the benchmark; ``--quick`` shortens the sequences, ``--threads`` sets the threads."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 steps a sequence instead of 35, fewer rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=0, help="timed runs of each variant (default 3, quick 2)")
    parser.add_argument("--only", default="", help="search, source, retrain, cell or memory")
    parser.add_argument("--data", default="", help="folder of a corpus, for real text in place of random words")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = arguments.rounds or (2 if arguments.quick else 3)
    steps = 5 if arguments.quick else 35
    started = time.perf_counter()
    print(f"compiled passes: {native.obstacle(torch.zeros(1)) or 'ready'} after {time.perf_counter() - started:.1f} s")
    print("largest relative difference of a gradient:", {k: f"{v:.0e}" for k, v in check_equality().items()})
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{platform.processor() or platform.machine()}, {capability}, {arguments.threads} threads, T = {steps}")
    results: dict[str, float] = {}
    corpus = read_corpus(arguments.data) if arguments.data else None
    text = corpus.train if corpus else None
    words = corpus.vocabulary if corpus else SEARCH.words
    sizes = {"search": SEARCH, "search_source": replace(SEARCH, space=SOURCE), "retrain": RETRAIN}
    for task, size in sizes.items():
        if arguments.only in ("", task, task.split("_")[-1]):
            results |= compare(task, replace(size, steps=steps, words=words), rounds, text)
    if arguments.only in ("", "cell"):
        cells(steps, rounds)
    if arguments.only in ("", "memory") and not arguments.quick:
        results |= memory()
    known = json.loads(arguments.output.read_text()) if arguments.only and arguments.output.exists() else {}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(known | results, indent=2) + "\n")
    print(f"wrote {arguments.output}")


def compare(task: str, size: Size, rounds: int, text: torch.Tensor | None = None) -> dict[str, float]:
    """Time whole steps; a ratio is the original's median (default settings) over ours.

    ``search_source`` stands against the original with the target transform, which is what the public code computes;
    the table also has the original with the source transform.
    """
    fixed = task == "retrain"
    runs: dict[str, Callable[[], None]] = {}
    if task == "search_source":
        runs["original"] = Step(replace(size, space=SPACE), fixed, fast=False, text=text).run
        runs["original, source"] = Step(size, fixed, fast=False, text=text).run
    else:
        original = Step(size, fixed, fast=False, text=text)
        runs["original"] = original.run
        runs["original, medium"] = in_setting(original.run, matmul="medium")
        if cpu_multiplies_bfloat16():
            runs["original, medium, autocast"] = in_setting(original.run, matmul="medium", bf16=True)
        else:
            print("original in autocast: left out, this processor has no bfloat16 products (50 times slower here)")
    ours = Step(size, fixed, text=text)
    setting = "medium" if allow_fast_matmul() else "highest"
    torch.set_float32_matmul_precision("highest")
    runs["fp32"] = in_setting(ours.run, matmul=setting)
    runs["bf16"] = in_setting(ours.run, matmul=setting, bf16=True)
    times = interleave(runs, rounds)
    base = times["original"]
    low = cpu_multiplies_bfloat16()
    limits = {bf16: bench_cell.matmul_limit(size, bf16=bf16) for bf16 in {False, low}}
    print(
        f"\n{task}: products of its shapes alone reach {limits[False]:.0f} GFLOP/s in fp32"
        f"{f', {limits[True]:.0f} in bfloat16' if low else ''}"
    )
    print(f"seconds a step\n{'':28} median  (range)        ratio  ratio of processor time  GFLOP/s  of limit")
    for name, found in times.items():
        counted = replace(size, space=SPACE) if name == "original" else size
        rate = matmul_gflop(counted, fixed=fixed, fast=not name.startswith("original")) / found.median
        limit = limits[low and ("bf16" in name or "autocast" in name)]
        print(
            f"{name:28} {found.median:6.2f}  ({found.spread:14}) {base.median / found.median:5.2f}"
            f"  {base.median_processor / found.median_processor:10.2f} {rate:22.0f}  {rate / limit:6.0%}"
        )
    return {f"{task}_{name}": round(base.median / times[name].median, 3) for name in ("fp32", "bf16")}


def cells(steps: int, rounds: int) -> None:
    """Print the cell beside an LSTM of its width, and how its cost grows."""
    for name, size, fixed in (("mixed", SEARCH, False), ("derived", RETRAIN, True)):
        size = replace(size, steps=steps)
        variants = {"cell": bench_cell.cell_run(size, fixed=fixed), "LSTM": bench_cell.lstm_run(size)}
        times = interleave(variants, rounds)
        share = times["cell"].median / times["LSTM"].median
        print(f"\n{name} cell {times['cell'].median:.2f} s, LSTM {times['LSTM'].median:.2f} s: {share:.1f} times")
    print("\nmixed cell, H = 300: processor seconds, and microseconds per token")
    for length, batch, seconds in bench_cell.sweep(SEARCH, rounds):
        print(f"T {length:3}  B {batch:4}  {seconds:7.3f}  {1e6 * seconds / length / batch:6.1f}")


def memory() -> dict[str, float]:
    """Print the peak memory of each variant."""
    peaks = {way: bench_memory.peak_megabytes(way) for way in bench_memory.WAYS}
    print("\npeak memory in MB:", {way: round(peak) for way, peak in peaks.items()})
    ratio = peaks["original"] / peaks["fast"]
    print(
        f"search step, original / fp32: {ratio:.2f}; retrain: {peaks['original retrain'] / peaks['fast retrain']:.2f}"
    )
    return {"search_memory": round(ratio, 3)}


if __name__ == "__main__":
    main()
