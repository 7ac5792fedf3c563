from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from idarts_nni import cell, fused, kernels, native
from idarts_nni.architecture import Architecture
from idarts_nni.kernels import BACKENDS, unroll_fixed, unroll_mixed
from idarts_nni.space import CellSpace

ALL_OPERATIONS = ("zeroize", "tanh", "relu", "sigmoid", "identity", "gelu", "silu")
OPERATION_SETS = [("zeroize", "tanh", "relu", "sigmoid", "identity"), ALL_OPERATIONS, ("relu", "identity"), ("silu",)]
# fp32 is compared at small sizes; normalising repeatedly amplifies rounding, in the reference as well.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
FAST = [
    name for name in BACKENDS if name not in ("triton", "graph", "reference")
]  # the first two: test_triton.py, test_graphed.py


@pytest.fixture(params=FAST)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if reason := BACKENDS[name].obstacle(torch.zeros(1)):
        pytest.skip(reason)
    return name


class Problem:
    """Random tensors of a cell, and what comes out of it: hidden states and the gradients of everything."""

    def __init__(
        self, space: CellSpace, dtype: torch.dtype, steps: int = 4, batch: int = 9, masked: bool = True
    ) -> None:
        generator = torch.Generator().manual_seed(steps + batch)
        depth, size = 5, 7
        parts = 2 if space.gate == "highway" else 1
        shapes = [(steps, batch, depth), (batch, size), (depth + size, 2 * size), (space.num_nodes, size, parts * size)]
        scales = [1.0, 1.0, 0.5, 0.5]
        self.tensors = [
            scale * torch.randn(shape, generator=generator, dtype=dtype)
            for shape, scale in zip(shapes, scales, strict=True)
        ]
        logits = torch.randn(space.num_pairs, len(space.operations), generator=generator, dtype=dtype)
        self.probabilities = logits.softmax(-1) / 3
        self.space, self.dtype = space, dtype
        self.grad_output = torch.randn(steps, batch, size, generator=generator, dtype=dtype)
        self.masks: dict[str, Tensor | None] = {"input_mask": None, "hidden_mask": None}
        if masked:
            keep = [torch.rand(batch, width, generator=generator) < 0.7 for width in (depth, size)]
            self.masks = {
                name: kept.to(dtype) / 0.7 for name, kept in zip(("input_mask", "hidden_mask"), keep, strict=True)
            }

    def norm(self, mode: str) -> nn.BatchNorm1d | None:
        if mode == "none":
            return None
        momentum = None if mode == "average" else 0.1
        norm = nn.BatchNorm1d(7, affine=False, momentum=momentum, track_running_stats=mode != "untracked")
        norm = norm.to(self.dtype)
        if mode != "untracked":
            norm.running_mean.fill_(0.3)
            norm.running_var.fill_(1.7)
            norm.num_batches_tracked.fill_(3)
        return norm.train(mode != "eval")

    def mixed(self, backend: str, norm: nn.BatchNorm1d | None = None) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in [*self.tensors, self.probabilities]]
        output = unroll_mixed(*leaves, self.space, **self.masks, norm=norm, backend=backend)
        return [output.detach(), *torch.autograd.grad(output, leaves, self.grad_output)]

    def fixed(self, architecture: Architecture, backend: str) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in self.tensors]
        output = unroll_fixed(*leaves, architecture, self.space, **self.masks, backend=backend)
        return [output.detach(), *torch.autograd.grad(output, leaves, self.grad_output)]


def assert_same(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for position, (one, other) in enumerate(zip(actual, expected, strict=True)):
        error = (one - other).abs().max() / other.abs().max().clamp_min(1e-30)
        assert error < tolerance, f"tensor {position}: relative error {error:.1e}"


def weighted(architecture: Architecture) -> Architecture:
    return Architecture(
        tuple(
            tuple(replace(edge, weight=0.1 * (place % 4 + 1)) for place, edge in enumerate(edges))
            for edges in architecture.nodes
        )
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gate", ["highway", "none"])
@pytest.mark.parametrize("transform", ["target", "source"])
@pytest.mark.parametrize("operations", OPERATION_SETS, ids=len)
@pytest.mark.parametrize("masked", [False, True], ids=["bare", "masked"])
def test_mixed_unroll_and_all_gradients_equal_the_reference(
    backend: str, dtype: torch.dtype, gate: str, transform: str, operations: tuple[str, ...], masked: bool
) -> None:
    problem = Problem(CellSpace(4, operations, gate=gate, transform=transform), dtype, masked=masked)
    assert_same(problem.mixed(backend), problem.mixed("reference"), TOLERANCE[dtype])


@pytest.mark.parametrize("steps, batch", [(1, 1), (1, 5), (6, 1), (3, 70)])
@pytest.mark.parametrize("transform", ["target", "source"])
def test_any_number_of_steps_and_rows_equals_the_reference(
    backend: str, steps: int, batch: int, transform: str
) -> None:
    problem = Problem(CellSpace(3, OPERATION_SETS[0], transform=transform), torch.float64, steps, batch)
    assert_same(problem.mixed(backend), problem.mixed("reference"), 1e-9)


@pytest.mark.parametrize("mode", ["train", "average", "untracked", "eval"])
@pytest.mark.parametrize("transform", ["target", "source"])
def test_normalised_unroll_and_running_statistics_equal_the_reference(backend: str, mode: str, transform: str) -> None:
    problem = Problem(CellSpace(4, OPERATION_SETS[0], transform=transform), torch.float64)
    norms = problem.norm(mode), problem.norm(mode)
    assert_same(problem.mixed(backend, norms[0]), problem.mixed("reference", norms[1]), 1e-9)
    assert norms[0] is not None and norms[1] is not None
    torch.testing.assert_close(norms[0].state_dict(), norms[1].state_dict(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("combine", ["sum", "mean", "weighted"])
@pytest.mark.parametrize("edges", [1, 2, "all"])
@pytest.mark.parametrize("transform", ["target", "source"])
@pytest.mark.parametrize("gate", ["highway", "none"])
def test_derived_cells_equal_the_reference(
    backend: str, combine: str, edges: int | str, transform: str, gate: str
) -> None:
    space = CellSpace(5, ALL_OPERATIONS, edges, transform, gate, combine)
    for seed in range(3):
        problem = Problem(space, torch.float64)
        problem.tensors[3] *= 0.3  # a sum over all edges grows fast
        architecture = weighted(Architecture.random(space, seed))
        assert_same(problem.fixed(architecture, backend), problem.fixed(architecture, "reference"), 1e-9)


@pytest.mark.parametrize("wanted", range(5))
def test_one_gradient_alone_equals_its_part_of_all(backend: str, wanted: int) -> None:
    problem = Problem(CellSpace(3, OPERATION_SETS[0]), torch.float64)
    leaves = [tensor.clone() for tensor in [*problem.tensors, problem.probabilities]]
    leaves[wanted].requires_grad_()
    output = unroll_mixed(*leaves, problem.space, **problem.masks, backend=backend)
    output.backward(problem.grad_output)
    torch.testing.assert_close(leaves[wanted].grad, problem.mixed("reference")[1 + wanted], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["none", "eval", "train"])
def test_evaluation_without_gradients_gives_the_same_states(backend: str, mode: str) -> None:
    problem = Problem(CellSpace(4, OPERATION_SETS[0]), torch.float64)
    tensors = [*problem.tensors, problem.probabilities]
    norms = problem.norm(mode), problem.norm(mode)
    with torch.no_grad():
        actual = unroll_mixed(*tensors, problem.space, **problem.masks, norm=norms[0], backend=backend)
        expected = cell.unroll_mixed(*tensors, problem.space, **problem.masks, norm=norms[1])
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_interleaved_unrolls_do_not_share_memory(backend: str) -> None:
    one, other = (Problem(CellSpace(3, OPERATION_SETS[0]), torch.float64, steps) for steps in (4, 5))
    outputs, leaves = [], []
    for problem in (one, other):
        leaves.append([tensor.clone().requires_grad_() for tensor in problem.tensors])
        outputs.append(
            unroll_mixed(*leaves[-1], problem.probabilities, problem.space, **problem.masks, backend=backend)
        )
    for problem, output, tensors in zip((one, other), outputs, leaves, strict=True):
        grads = torch.autograd.grad(output, tensors, problem.grad_output)
        assert_same([output.detach(), *grads], problem.mixed("reference")[:-1], 1e-9)


def test_a_second_backward_pass_is_refused(backend: str) -> None:
    problem = Problem(CellSpace(2, OPERATION_SETS[0]), torch.float64)
    leaves = [tensor.clone().requires_grad_() for tensor in problem.tensors]
    output = unroll_mixed(*leaves, problem.probabilities, problem.space, backend=backend)
    output.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        output.sum().backward()


def test_not_a_number_in_the_inputs_reaches_the_states(backend: str) -> None:
    problem = Problem(CellSpace(2, OPERATION_SETS[0]), torch.float32)
    problem.tensors[0][0, 2, 1] = torch.nan
    output = unroll_mixed(*problem.tensors, problem.probabilities, problem.space, backend=backend)
    assert output[:, 2].isnan().all() and not output[:, 3].isnan().any()


def test_bfloat16_products_stay_close_to_full_precision(backend: str) -> None:
    problem = Problem(CellSpace(4, OPERATION_SETS[0]), torch.float32, steps=6, batch=32)
    expected = problem.mixed("reference")
    with torch.autocast("cpu", torch.bfloat16):
        actual = problem.mixed(backend)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 2e-2 * other.norm()
    assert not torch.equal(actual[0], expected[0])


@pytest.mark.parametrize("transform", ["target", "source"])
@pytest.mark.parametrize("gate", ["highway", "none"])
def test_products_kept_in_bfloat16_stay_close_to_full_precision(
    backend: str, transform: str, gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idarts_nni.matmul.cpu_multiplies_bfloat16", lambda: True)
    problem = Problem(CellSpace(4, OPERATION_SETS[1], transform=transform, gate=gate), torch.float32, batch=32)
    # Without the gate's carry, batch statistics amplify rounding.
    mode = "train" if gate == "highway" else "none"
    expected = problem.mixed("reference", problem.norm(mode))
    with torch.autocast("cpu", torch.bfloat16):
        actual = problem.mixed(backend, problem.norm(mode))
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 5e-2 * other.norm()


def test_large_products_leave_the_compiled_loop_where_torch_has_a_faster_route(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := native.obstacle(torch.zeros(1)):
        pytest.skip(reason)
    problem = Problem(CellSpace(3, OPERATION_SETS[0]), torch.float64)
    expected = problem.mixed("reference")
    monkeypatch.setattr(fused, "LARGE_PRODUCT", 1)
    monkeypatch.setattr(fused, "products_take_onednn", lambda: True)
    monkeypatch.setattr(native.NativePasses, "walk", lambda *_: pytest.fail("the loop calls MKL"))
    assert_same(problem.mixed("native"), expected, 1e-9)


def test_auto_takes_the_reference_for_an_operation_of_ones_own_and_logs_why(caplog: pytest.LogCaptureFixture) -> None:
    space = CellSpace(2, ("zeroize", "torch.nn.functional.softplus"))
    problem = Problem(space, torch.float64)
    kernels._log_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger="idarts_nni.kernels"):
        actual = problem.mixed("auto")
        problem.mixed("auto")
    assert_same(actual, problem.mixed("reference"), 1e-12)
    assert len(caplog.records) == 1 and "softplus" in caplog.text and "reference" in caplog.text


def test_auto_uses_compiled_passes_where_they_can_be_built(caplog: pytest.LogCaptureFixture) -> None:
    kernels._log_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger="idarts_nni.kernels"):
        Problem(CellSpace(2, OPERATION_SETS[0]), torch.float32).mixed("auto")
    expected = "fused" if native.obstacle(torch.zeros(1)) else "native"
    assert f"backend {expected}" in caplog.text


def test_without_a_compiler_auto_runs_in_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    native._loaded.cache_clear()
    try:
        assert "no C++ compiler" in native.obstacle(torch.zeros(1))
        problem = Problem(CellSpace(2, OPERATION_SETS[0]), torch.float64)
        assert_same(problem.mixed("auto"), problem.mixed("reference"), 1e-9)
        with pytest.raises(ValueError, match="no C\\+\\+ compiler"):
            problem.mixed("native")
    finally:
        native._loaded.cache_clear()


def test_probabilities_of_another_type_are_left_to_the_reference(backend: str) -> None:
    problem = Problem(CellSpace(2, OPERATION_SETS[0]), torch.float32)
    problem.probabilities = problem.probabilities.double()
    problem.grad_output = problem.grad_output.double()
    assert_same(problem.mixed("auto"), problem.mixed("reference"), 1e-12)
    with pytest.raises(ValueError, match="differ in type"):
        problem.mixed(backend)


def test_masks_may_be_boolean(backend: str) -> None:
    problem = Problem(CellSpace(2, OPERATION_SETS[0]), torch.float64)
    problem.masks = {name: mask > 0 for name, mask in problem.masks.items() if mask is not None}
    assert_same(problem.mixed(backend), problem.mixed("reference"), 1e-9)


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="found 'warp'; allowed: auto, native, triton, graph, fused, reference"):
        Problem(CellSpace(2, OPERATION_SETS[0]), torch.float64).mixed("warp")


def test_one_row_cannot_be_normalised_in_training(backend: str) -> None:
    problem = Problem(CellSpace(2, OPERATION_SETS[0]), torch.float64, batch=1)
    for name in (backend, "reference"):
        with pytest.raises(ValueError):
            problem.mixed(name, problem.norm("train"))


@pytest.mark.parametrize("run", [lambda p, b: p.mixed(b), lambda p, b: p.mixed(b, p.norm("train"))])
def test_memory_is_handed_on_and_results_do_not_depend_on_what_it_held(
    backend: str, run: Callable[[Problem, str], list[Tensor]]
) -> None:
    problem = Problem(CellSpace(3, OPERATION_SETS[0]), torch.float32)
    first = run(problem, backend)
    run(Problem(CellSpace(4, OPERATION_SETS[0], transform="source"), torch.float32, steps=7), backend)
    for one, again in zip(first, run(problem, backend), strict=True):
        assert torch.equal(one, again)


class NothingFromTheHost(TorchDispatchMode):
    """Fails where a step would read a value of a tensor, or bring constants to the device: on a GPU both wait."""

    REFUSED = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert not func.__name__.startswith(self.REFUSED), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["train", "average", "eval"])
def test_a_step_of_plain_torch_neither_reads_from_nor_writes_constants_to_the_device(mode: str) -> None:
    problem = Problem(CellSpace(3, OPERATION_SETS[0]), torch.float32)
    architecture = weighted(Architecture.random(CellSpace(3, OPERATION_SETS[0], edges_per_node=2), seed=1))
    problem.space = replace(problem.space, edges_per_node=2, combine="weighted")
    norm = problem.norm(mode)
    problem.mixed("fused", norm), problem.fixed(architecture, "fused")
    with NothingFromTheHost():
        problem.mixed("fused", norm), problem.fixed(architecture, "fused")


def test_training_after_an_evaluation_in_inference_mode(backend: str) -> None:
    space = CellSpace(3, ("zeroize", "relu", "identity", "tanh"))
    problem, architecture = Problem(space, torch.float64, steps=2), Architecture.random(space, seed=5)
    with torch.inference_mode():
        unroll_mixed(*problem.tensors, problem.probabilities, space, backend=backend)
        unroll_fixed(*problem.tensors, architecture, space, backend=backend)
    assert_same(problem.mixed(backend), problem.mixed("reference"), 1e-9)
    assert_same(problem.fixed(architecture, backend), problem.fixed(architecture, "reference"), 1e-9)
