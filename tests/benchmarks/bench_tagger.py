"""Training throughput of the entity tagger with a cell, beside the same model with ``nn.LSTM``.

``python -m tests.benchmarks.bench_tagger`` takes CoNLL-2003 from the folder that IDARTS_CONLL names, or the embedded
corpus. Both models see the same batches, in turns; what is timed is forward, loss, backward, clipping and step. On a
shared machine the processor time tells more than the clock.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from idarts_nni.architecture import Architecture
from idarts_nni.space import CellSpace
from trials.batching import Batch, Batches
from trials.conll_data import TaggerData, tagger_data
from trials.conll_settings import RETRAIN
from trials.layers import clip_gradients
from trials.tagger import Tagger

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "search_spaces" / "recurrent8.yaml"
CELL = ROOT / "search_spaces" / "architectures" / "darts_v2.yaml"
LEARNING_RATE = 0.1


class Trained:
    """A tagger that takes training steps; notes the sentences a second of each, by the clock and by processor time."""

    def __init__(self, data: TaggerData, hidden_size: int, device: str, backend: str, is_cell: bool) -> None:
        torch.manual_seed(0)
        cell = (CellSpace.from_yaml(SPACE), Architecture.from_yaml(CELL)) if is_cell else (None, None)
        inputs = copy.deepcopy(data.inputs)  # each model trains its own
        rates = {"dropout": RETRAIN.dropout, "word_dropout": RETRAIN.word_dropout}
        self.model = Tagger(inputs, data.tags, "bioes", *cell, hidden_size, **rates, backend=backend)
        self.model.to(device).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)
        self.device = device
        self.rates: list[tuple[float, float]] = []

    def step(self, batch: Batch) -> None:
        """Train on one batch."""
        self._wait()
        start = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        self.model.loss(batch).backward()
        clip_gradients(self.model.parameters(), RETRAIN.gradient_clip)
        self.optimizer.step()
        self._wait()
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        self.rates.append((batch.mask.shape[1] / seconds[0], batch.mask.shape[1] / seconds[1]))

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def compare(data: TaggerData, hidden_size: int, batch_size: int, steps: int, device: str, backend: str) -> list[str]:
    """Return a row for each model: median sentences a second and the spread from the first to the third quartile."""
    models = {name: Trained(data, hidden_size, device, backend, name == "cell") for name in ("cell", "nn.LSTM")}
    for number, batch in enumerate(_batches(data, batch_size, steps + 3)):
        for model in models.values():
            model.step(batch.to(device))
        if number == 2:
            for model in models.values():
                model.rates.clear()
    return [_row(name, hidden_size, batch_size, model.rates) for name, model in models.items()]


def _batches(data: TaggerData, batch_size: int, count: int) -> Iterator[Batch]:
    batches = iter(Batches(data.examples["train"], batch_size, seed=1))
    return (next(batches) for _ in range(count))


def _row(name: str, hidden_size: int, batch_size: int, rates: Sequence[tuple[float, float]]) -> str:
    columns = []
    for values in zip(*rates, strict=True):
        first, median, third = statistics.quantiles(values, n=4)
        columns.append(f"{median:6.0f} ({first:.0f} to {third:.0f})")
    clock, processor = columns
    return f"{name:8} H={hidden_size:<4} B={batch_size:<4} sentences/s {clock}; by processor time {processor}"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    corpus = os.environ.get("IDARTS_CONLL", "embedded")
    data = tagger_data(corpus, RETRAIN, ("train", "dev"), device, sparse=device == "cpu")
    for hidden_size in options.hidden_size:
        for row in compare(data, hidden_size, options.batch_size, options.steps, device, options.backend):
            print(row)


if __name__ == "__main__":
    main()
