"""What a record does with its buffers, on any device; whether CUDA records the work needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from idarts_nni import graphed, kernels
from idarts_nni.architecture import Architecture
from idarts_nni.elementwise import TorchPasses
from idarts_nni.kernels import BACKENDS, Backend
from idarts_nni.space import CellSpace

from .test_kernels import OPERATION_SETS, Problem, assert_same

SPACE = CellSpace(3, OPERATION_SETS[0])


def graphed_again(*arguments: Tensor) -> Tensor:
    return graphed.graphed_unroll(*arguments, recorder=graphed.Again)


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The graph's way of computing, with work that is called again in place of a CUDA graph."""
    again = Backend("", TorchPasses, lambda inputs: "", graphed_again, automatic=False)
    monkeypatch.setitem(kernels.BACKENDS, "again", again)
    yield "again"
    graphed._records.clear()


@pytest.mark.parametrize("transform", ["target", "source"])
@pytest.mark.parametrize("mode", ["none", "train", "average", "eval"])
def test_replays_with_new_numbers_equal_the_reference(transform: str, mode: str) -> None:
    space = replace(SPACE, transform=transform)
    problem, norms = Problem(space, torch.float64), None
    norms = problem.norm(mode), problem.norm(mode)
    for turn in range(3):
        problem.tensors = [tensor + 0.1 * turn for tensor in problem.tensors]
        assert_same(problem.mixed("again", norms[0]), problem.mixed("reference", norms[1]), 1e-9)
        if norms[0] is not None and norms[1] is not None:
            torch.testing.assert_close(norms[0].state_dict(), norms[1].state_dict())
    assert len(graphed._records) == 1


def test_every_length_has_its_own_record_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "MOST_RECORDS", 2)
    architecture = Architecture.random(SPACE, seed=1)
    for steps in (3, 4, 3, 5, 4):
        problem = Problem(SPACE, torch.float64, steps=steps)
        assert_same(problem.fixed(architecture, "again"), problem.fixed(architecture, "reference"), 1e-9)
    assert [record._grad_output.shape[0] for record in graphed._records.values()] == [5, 4]


def test_outputs_and_gradients_of_one_step_outlive_the_next() -> None:
    problem = Problem(SPACE, torch.float64)
    first = problem.mixed("again")
    kept = [tensor.clone() for tensor in first]
    problem.tensors = [tensor + 1 for tensor in problem.tensors]
    problem.mixed("again")
    assert all(torch.equal(one, other) for one, other in zip(first, kept, strict=True))


def test_a_step_computes_only_the_gradients_that_it_needs() -> None:
    problem = Problem(SPACE, torch.float64)
    probabilities = problem.probabilities.clone().requires_grad_()
    output = kernels.unroll_mixed(*problem.tensors, probabilities, SPACE, backend="again")
    expected = kernels.unroll_mixed(*problem.tensors, probabilities, SPACE, backend="reference")
    grads = [torch.autograd.grad(out.sin().sum(), probabilities)[0] for out in (output, expected)]
    assert_same(grads[:1], grads[1:], 1e-9)
    assert [grad is None for grad in next(iter(graphed._records.values()))._backward.result] == [True] * 4 + [False]
    with torch.no_grad():
        assert not kernels.unroll_mixed(*problem.tensors, probabilities, SPACE, backend="again").requires_grad


def test_the_gradient_of_an_earlier_forward_pass_is_refused() -> None:
    problem = Problem(SPACE, torch.float64)
    leaves = [tensor.clone().requires_grad_() for tensor in [*problem.tensors, problem.probabilities]]
    earlier, latest = (kernels.unroll_mixed(*leaves, SPACE, backend="again") for _ in range(2))
    with pytest.raises(RuntimeError, match="earlier forward pass.*backend='fused'"):
        earlier.sum().backward()
    latest.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second time"):
        latest.sum().backward()


def test_auto_does_not_choose_graphs_and_a_cpu_has_none() -> None:
    assert not BACKENDS["graph"].automatic
    with pytest.raises(ValueError, match="not on a CUDA device"):
        Problem(SPACE, torch.float64).mixed("graph")


@pytest.mark.gpu
def test_a_cuda_graph_equals_the_reference() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    problem = Problem(SPACE, torch.float32)
    problem.tensors = [tensor.cuda() for tensor in problem.tensors]
    problem.probabilities, problem.grad_output = problem.probabilities.cuda(), problem.grad_output.cuda()
    problem.masks = {name: None if mask is None else mask.cuda() for name, mask in problem.masks.items()}
    for turn in range(3):
        problem.tensors = [tensor + 0.1 * turn for tensor in problem.tensors]
        assert_same(problem.mixed("graph"), problem.mixed("reference"), 1e-4)
