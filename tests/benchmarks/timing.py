"""Interleaved timing: on a shared machine a slow minute must hit all variants alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds of one variant: by the clock, and of processor time summed over threads."""

    clock: tuple[float, ...]
    processor: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds by the clock."""
        return statistics.median(self.clock)

    @property
    def median_processor(self) -> float:
        """Median seconds of processor time: less disturbed by other programs."""
        return statistics.median(self.processor)

    @property
    def spread(self) -> str:
        """Least and most seconds by the clock."""
        return f"{min(self.clock):.2f} to {max(self.clock):.2f}"


def interleave(variants: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, Times]:
    """Run every variant once to warm up, then all of them in turn, ``rounds`` times."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for run in variants.values():
        run()
    for _ in range(rounds):
        for name, run in variants.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            found[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {name: Times(*map(tuple, zip(*pairs, strict=True))) for name, pairs in found.items()}
