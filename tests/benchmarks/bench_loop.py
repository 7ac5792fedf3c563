"""What the training loop costs for each step, beside the step itself: the trial's trainer against a bare loop.

``python -m tests.benchmarks.bench_loop``: the same model, data and number of steps, at a width where the step is small;
medians over interleaved rounds.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from idarts_nni.architecture import Architecture
from idarts_nni.space import CellSpace
from trials import ptb
from trials.task import Job
from trials.training import load_task, run_job

from .timing import interleave

ROOT = Path(__file__).parents[2]
SPACES = ROOT / "search_spaces"


def main() -> None:
    """Print milliseconds a step of both, and their difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_loop", description=__doc__)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    job = _job(options.hidden)
    steps = len(list(ptb.prepare(job).train))
    runs: dict[str, Callable[[], None]] = {
        "bare loop": lambda: _bare(job),
        "trainer": lambda: _trained(job),
        # What both spend once: data, model, the trainer's start and end, and an evaluation.
        "bare, no steps": lambda: _bare(job, steps=0),
        "trainer, one step": lambda: _trained(job, tokens=2 * job.overrides["batch_size"]),
    }
    times = interleave(runs, options.rounds)
    clock = {name: 1e3 * found.median_processor for name, found in times.items()}
    bare = (clock["bare loop"] - clock["bare, no steps"]) / steps
    trained = (clock["trainer"] - clock["trainer, one step"]) / (steps - 1)
    print(f"{steps} steps, H = {options.hidden}, {options.threads} thread: processor time of a step")
    print(f"bare loop {bare:.2f} ms, trainer {trained:.2f} ms: the loop itself {trained - bare:.2f} ms")


def _job(hidden: int) -> Job:
    return Job(
        stage="select",
        method="idarts",
        seed=1,
        space=CellSpace.from_yaml(SPACES / "recurrent8.yaml"),
        architecture=Architecture.from_yaml(SPACES / "architectures" / "idarts.yaml"),
        overrides={"epochs": 1, "hidden_size": hidden, "batch_size": 8, "evaluation_batch_size": 512},
        data="embedded",
    )


def _trained(job: Job, tokens: int = 0) -> None:
    settings = {**job.overrides, "train_tokens": tokens}
    job = Job(**{**vars(job), "overrides": settings})
    with tempfile.TemporaryDirectory() as folder:
        run_job(load_task("ptb"), job, Path(folder), lambda metrics: None)


def _bare(job: Job, steps: int | None = None) -> None:
    workload = ptb.prepare(job)
    model, settings = workload.model.train(), workload.settings
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    hidden = None
    for batch in list(workload.train)[:steps]:
        outputs, hidden = model(batch.tokens, hidden)
        hidden = hidden.detach()
        loss = model.loss(outputs, batch.targets)
        loss = loss + settings.activation_change * (outputs[1:] - outputs[:-1]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.param_groups[0]["lr"] = settings.learning_rate * len(batch.tokens) / settings.bptt
        optimizer.step()


if __name__ == "__main__":
    main()
