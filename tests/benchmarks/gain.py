"""What the state of random cells does in training, for each number of edges and way of joining.

``python -m tests.benchmarks.gain --data /path/to/ptb``: real text, the recipe of retraining at a small width, a few
steps of SGD. For each kind of cell: the gain of a step (:mod:`idarts_nni.gain`), the root mean square of the last
hidden state of a piece before training and its largest value in training, and the loss.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import torch

from idarts_nni.architecture import Architecture
from idarts_nni.gain import HALF_OPEN, step_gain
from idarts_nni.report import to_markdown
from idarts_nni.space import CellSpace
from trials import ptb
from trials.corpus import Segments, batch_columns

SPACE = CellSpace.from_yaml("search_spaces/recurrent8.yaml")
KINDS = [(1, "sum"), *((n, rule) for n in (2, 3, "all") for rule in ("sum", "mean", "weighted"))]
HEADER = ("n", "combine", "gain, gates closed", "gain, half open", "rms before", "largest rms", "loss", "steps")


def weighed(cell: Architecture, seed: int) -> Architecture:
    """Draw weights for the edges of each node, uniformly among those that sum to 1; equal ones would be a mean."""
    generator = random.Random(seed)
    nodes = []
    for edges in cell.nodes:
        drawn = [generator.expovariate(1.0) for _ in edges]
        nodes.append(
            tuple(
                dataclasses.replace(edge, weight=round(share / sum(drawn), 6))
                for edge, share in zip(edges, drawn, strict=True)
            )
        )
    return Architecture(tuple(nodes))


def train(space: CellSpace, seed: int, corpus: object, options: argparse.Namespace) -> Sequence[str]:
    """Train one random cell; return a row of the table."""
    torch.manual_seed(seed)
    cell = weighed(Architecture.random(space, seed), seed)
    settings = dataclasses.replace(ptb.RETRAIN, hidden_size=options.hidden, batch_size=options.batch)
    model = ptb.LanguageModel(corpus.vocabulary, space, cell, settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    sizes, losses, hidden = [], [], None
    for piece in islice(pieces(corpus, settings, seed), options.steps):
        outputs, last = model(piece.tokens, None if piece.first else hidden)
        hidden = last.detach()
        sizes.append(hidden.pow(2).mean().sqrt().item())
        loss = model.loss(outputs, piece.targets)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
    tail = losses[-10:]
    numbers = (step_gain(cell, space), step_gain(cell, space, HALF_OPEN), sizes[0], max(sizes), sum(tail) / len(tail))
    finite = math.isfinite(losses[-1])
    steps = f"{len(losses)}" if finite else f"not finite at {len(losses)}"
    return [str(space.edges_per_node), space.combine, *(f"{number:.3g}" for number in numbers), steps]


def pieces(corpus: object, settings: ptb.Settings, seed: int) -> Iterator[object]:
    """Yield pieces of text of the usual length, over and over."""
    return cycle(Segments(batch_columns(corpus.train, settings.batch_size), settings.bptt, "train"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="embedded", help="folder of the corpus (default: the embedded one)")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    corpus = ptb.load_corpus(options.data)
    rows = []
    for n, rule in KINDS:
        space = dataclasses.replace(SPACE, edges_per_node=n, combine=rule)
        rows += [train(space, seed, corpus, options) for seed in options.seeds]
        print(to_markdown(HEADER, rows[-len(options.seeds) :]), flush=True)
    print(to_markdown(HEADER, rows))


if __name__ == "__main__":
    main()
