"""Whether several seeds trained as one batched model would be faster than one after the other.

``python -m tests.benchmarks.bench_seeds``: the products of S models of one cell, batched (``bmm``) and one by one, at
the shapes of the recipes, by processor time. Products take nine tenths of a step, and elementwise work is the same
either way, so where batched products are not faster, a batched model is not either.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .timing import interleave

SHAPES = {"search": (256, 300), "retraining": (64, 850), "small": (32, 128), "tiny": (16, 64)}
"""B and H."""


def main() -> None:
    """Print the ratio of times for each shape."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_seeds", description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.seeds} models, {options.threads} threads, {options.device}: one by one / batched")
    for name, (batch, hidden) in SHAPES.items():
        states = torch.randn(options.seeds, batch, hidden, device=options.device)
        weights = torch.randn(options.seeds, hidden, 2 * hidden, device=options.device)
        found = [torch.empty(options.seeds, batch, 2 * hidden, device=options.device) for _ in range(2)]
        works = [partial(_one_by_one, states, weights, found[0]), partial(torch.bmm, states, weights, out=found[1])]
        runs = {str(place): _repeated(work, options.device) for place, work in enumerate(works)}
        single, batched = interleave(runs, options.rounds).values()
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-3)
        print(f"{name:10} B {batch:3} H {hidden:3}: {single.median_processor / batched.median_processor:.2f}")


def _one_by_one(states: Tensor, weights: Tensor, out: Tensor) -> None:
    for state, weight, product in zip(states, weights, out, strict=True):
        torch.mm(state, weight, out=product)


def _repeated(work: Callable[[], object], device: str) -> Callable[[], None]:
    def run() -> None:
        for _ in range(50):
            work()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    main()
