"""A whole search step and a whole retrain step of the Penn Treebank model, on random tokens or a real text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from idarts_nni import kernels
from idarts_nni.architecture import Architecture
from idarts_nni.derive import cell_probabilities
from idarts_nni.dropped_head import dropped_linear_cross_entropy
from idarts_nni.space import CellSpace

from .original import original_fixed, original_head, original_mixed

SPACE = CellSpace(8, ("zeroize", "tanh", "relu", "sigmoid", "identity"))
CELL = Path(__file__).parents[2] / "search_spaces" / "architectures" / "darts_v2.yaml"
TAR = 1e-3
"""Weight of the temporal activation regularisation."""
OUTPUT_DROPOUT = 0.75


@dataclass(frozen=True)
class Size:
    """What a step costs depends on these."""

    hidden: int
    batch: int
    steps: int = 35
    words: int = 10000
    space: CellSpace = SPACE

    @property
    def pairs(self) -> int:
        """Products of the size of one node's in a step of the mixed cell."""
        return self.space.num_pairs if self.space.transform == "target" else self.space.num_nodes


SEARCH = Size(hidden=300, batch=256)
RETRAIN = Size(hidden=850, batch=64)


@dataclass
class Step:
    """The parameters and one batch, and both ways to train on it. ``fast`` False is the original structure."""

    size: Size
    fixed: bool = False
    fast: bool = True
    backend: str = "auto"
    seed: int = 0
    text: Tensor | None = None
    """Numbers of a text's words, which two batches are cut from; None for random ones."""

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        size, width, batch = self.size, self.size.hidden, self.size.batch
        shapes = {
            "embedding": (size.words, width),
            "bias": (size.words,),
            "input": (2 * width, 2 * width),
            "nodes": (size.space.num_nodes, width, 2 * width),
        }
        self.weights = {name: nn.Parameter(torch.empty(shape).uniform_(-0.04, 0.04)) for name, shape in shapes.items()}
        self.logits = nn.Parameter(1e-3 * torch.randn(size.space.num_pairs, len(size.space.operations)))
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.architecture = Architecture.from_yaml(CELL) if self.fixed else None
        self.tokens = torch.randint(size.words, (2, size.steps + 1, batch))  # (batches, T + 1, B)
        if self.text is not None:
            self.tokens = _columns(self.text, self.tokens.shape)
        self.hidden = torch.zeros(batch, width)
        drops = {"embedding": 0.2, "input": 0.75, "hidden": 0.25, "output": OUTPUT_DROPOUT}
        self.masks = {name: torch.empty(batch, width).bernoulli_(1 - p) / (1 - p) for name, p in drops.items()}
        self.optimisers = [torch.optim.SGD(self.weights.values(), lr=1e-3, weight_decay=5e-7)]
        self.optimisers += [] if self.fixed else [torch.optim.Adam([self.logits], lr=3e-3, weight_decay=1e-3)]

    def loss(self, batch: int) -> Tensor:
        """Return the loss of one batch."""
        inputs, targets = self.tokens[batch, :-1], self.tokens[batch, 1:]
        embedded = nn.functional.embedding(inputs, self.weights["embedding"]) * self.masks["embedding"]
        masks = {"input_mask": self.masks["input"], "hidden_mask": self.masks["hidden"]}
        tensors = (embedded, self.hidden, self.weights["input"], self.weights["nodes"])
        if self.architecture is not None:
            unroll = partial(kernels.unroll_fixed, backend=self.backend) if self.fast else original_fixed
            states = unroll(*tensors, self.architecture, self.size.space, **masks)
        else:
            unroll = partial(kernels.unroll_mixed, backend=self.backend) if self.fast else original_mixed
            probabilities = cell_probabilities(self.logits)
            states = unroll(*tensors, probabilities, self.size.space, **masks, norm=self.norm)
        if self.fast:
            decoder = (self.weights["embedding"], self.weights["bias"])
            loss = dropped_linear_cross_entropy(states, self.masks["output"], *decoder, targets)
        else:
            output = (states * self.masks["output"]).flatten(0, 1)
            loss = original_head(output, self.weights["embedding"], self.weights["bias"], targets.flatten())
        return loss + TAR * (states[1:] - states[:-1]).pow(2).mean()

    def gradients(self, batch: int, *, architecture: bool) -> list[Tensor]:
        """Return the gradients that a half step uses; the original computes the others too."""
        wanted = [self.logits] if architecture else list(self.weights.values())
        frozen = list(self.weights.values()) if architecture else [self.logits]
        for parameter in frozen:
            parameter.requires_grad_(not self.fast)
            parameter.grad = None
        for parameter in wanted:
            parameter.requires_grad_()
            parameter.grad = None
        self.loss(batch).backward()
        return [parameter.grad for parameter in wanted if parameter.grad is not None]

    def run(self) -> None:
        """Train once: a search step is an architecture step, then a weight step."""
        if not self.fixed:
            self.gradients(1, architecture=True)
            self.optimisers[1].step()
        self.gradients(0, architecture=False)
        nn.utils.clip_grad_norm_(self.weights.values(), 0.25)
        self.optimisers[0].step()


def _columns(text: Tensor, shape: torch.Size) -> Tensor:
    batches, length, batch = shape
    if len(text) < shape.numel():
        raise SystemExit(f"The text has {len(text):,} words; {batches} batches of this size need {shape.numel():,}.")
    return text[: shape.numel()].view(batch, batches, length).permute(1, 2, 0).contiguous()


def in_setting(run: Callable[[], None], *, matmul: str = "highest", bf16: bool = False) -> Callable[[], None]:
    """Return ``run`` under a matmul setting and, if asked, autocast to bfloat16."""

    def wrapped() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(matmul)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            run()
        torch.set_float32_matmul_precision(before)

    return wrapped


def check_equality() -> dict[str, float]:
    """Return the largest relative difference of any gradient between both ways, at a small size; raise above 1e-4."""
    worst = {}
    for name, fixed, transform in (
        ("search", False, "target"),
        ("search source", False, "source"),
        ("retrain", True, "target"),
    ):
        space = replace(SPACE, transform=transform)
        size = Size(hidden=20, batch=16, steps=5, words=50, space=space)
        ways = [Step(size, fixed, fast) for fast in (False, True)]
        for architecture in [False] if fixed else [True, False]:
            pairs = zip(*(way.gradients(0, architecture=architecture) for way in ways), strict=True)
            errors = [((fast - slow).abs().max() / slow.abs().max()).item() for slow, fast in pairs]
            worst[name] = max([worst.get(name, 0.0), *errors])
        if not worst[name] < 1e-4:
            raise SystemExit(f"{name}: gradients differ by {worst[name]:.1e}; a time would mean nothing.")
    return worst


def matmul_gflop(size: Size, *, fixed: bool, fast: bool = True) -> float:
    """Return the matrix products that one step takes, in GFLOP.

    The original takes all gradients in both halves of a search step, and all features in the head. The fast step leaves
    the weights' gradients out of the architecture step, and the dropped features out of the head.
    """
    tokens = size.steps * size.batch
    pairs = size.space.num_nodes if fixed else size.pairs
    cell = 2 * tokens * size.hidden * 2 * size.hidden * (pairs + 2)
    head = 2 * tokens * size.hidden * size.words * (1 - OUTPUT_DROPOUT if fast else 1)
    products = 3 if fixed else 5 if fast else 6
    return products * (cell + head) / 1e9
