"""The tasks that are disturbed: tiny ones of both kinds, on the corpora that come along."""

from __future__ import annotations

from typing import Any

SPACE = {"num_nodes": 3, "operations": ["zeroize", "tanh", "relu"], "edges_per_node": 1}
COMMAND = "python -m trials.run {task} --threads 1 --checkpoint-minutes 0.001"
"""Saves as often as its cost allows, so that kills fall on writes as well."""

SETTINGS: dict[str, dict[str, Any]] = {
    "ptb": {"epochs": 3, "hidden_size": 12, "bptt": 10, "batch_size": 64, "train_tokens": 30000},
    "conll": {
        "epochs": 3, "hidden_size": 8, "batch_size": 8, "word_width": 8, "character_width": 4, "learning_rate": 0.3,
    },
}  # fmt: skip
"""Some tens of steps an epoch, seconds in all."""
OPTIMIZE = {"ptb": "minimize", "conll": "maximize"}


def class_args(task: str) -> dict[str, Any]:
    """Return the arguments of the tuner: a search, and three retrainings, one of which waits for the search."""
    return {
        "methods": ["idarts", "random", "lstm"],
        "data": "embedded",
        "optimize_mode": OPTIMIZE[task],
        "search": SETTINGS[task],
        "retrain": SETTINGS[task],
        "max_attempts": 50,
    }


PLAIN: tuple[tuple[str, ...], ...] = (
    ("ptb", "--stage", "search", "--method", "idarts"),
    ("ptb", "--stage", "retrain", "--method", "random"),
    ("conll", "--stage", "search", "--method", "darts"),
    ("conll", "--stage", "retrain", "--method", "lstm"),
)
"""Trials outside NNI: task and what to do."""
