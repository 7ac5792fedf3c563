"""The Triton kernels without a GPU: computed by Triton's interpreter, and compiled for real devices.

Both want Triton (extra ``triton``), and a process each: whether kernels are interpreted is decided when they are
imported. ``python -m tests.test_triton`` is what the first test runs.
"""

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from idarts_nni import triton_backend
from idarts_nni.architecture import Architecture
from idarts_nni.kernels import BACKENDS
from idarts_nni.space import CellSpace

from .test_kernels import ALL_OPERATIONS, OPERATION_SETS, Problem, assert_same

ROOT = Path(__file__).parents[1]


def _triton() -> Any:
    """Import Triton; skip without, unless ``make test-extras`` wants all of them."""
    if os.environ.get("IDARTS_TEST_EXTRAS"):
        return importlib.import_module("triton")
    return pytest.importorskip("triton", reason="Triton is not installed (extra triton)")


def test_auto_does_not_look_for_triton_without_a_gpu() -> None:
    assert "CUDA" in triton_backend.obstacle(torch.zeros(1))


def test_kernels_that_fail_or_differ_are_an_obstacle_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    made = triton_backend._small_cell(torch.device("cpu"), BACKENDS["fused"].passes)
    answers = {"differ from plain torch": [2 * tensor for tensor in made], "failed on cpu: RuntimeError": None}
    for expected, answer in answers.items():

        def small_cell(device, passes, answer=answer):
            if passes is triton_backend.TorchPasses:
                return made
            if answer is None:
                raise RuntimeError("no such architecture")
            return answer

        monkeypatch.setattr(triton_backend, "_small_cell", small_cell)
        triton_backend._tried.cache_clear()
        assert expected in triton_backend.obstacle(torch.zeros(1))
    triton_backend._tried.cache_clear()


def test_the_check_works_from_within_an_evaluation() -> None:
    with torch.inference_mode():
        inside = triton_backend._small_cell(torch.device("cpu"), BACKENDS["fused"].passes)
    outside = triton_backend._small_cell(torch.device("cpu"), BACKENDS["fused"].passes)
    assert_same(inside, outside, 1e-12)


@pytest.mark.extras
def test_interpreted_kernels_equal_the_reference() -> None:
    _triton()
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_triton"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "all equal"


def compare_interpreted() -> None:
    """Compare interpreted kernels with the reference, for every option of a space."""
    assert not (reason := triton_backend.obstacle(torch.zeros(1))), reason
    for operations in OPERATION_SETS:
        for transform in ("target", "source"):
            for gate in ("highway", "none"):
                for mode in ("none", "train", "eval"):
                    space = CellSpace(3, operations, gate=gate, transform=transform)
                    problem = Problem(space, torch.float64, steps=2, masked=mode != "none")
                    expected = problem.mixed("reference", problem.norm(mode))
                    assert_same(problem.mixed("triton", problem.norm(mode)), expected, 1e-9)
        print("mixed", *operations, "equal")
    for edges in (1, 2, 3):
        space = CellSpace(3, ALL_OPERATIONS, edges_per_node=edges, combine="mean" if edges > 1 else "sum")
        problem = Problem(space, torch.float32, steps=3, batch=70)
        architecture = Architecture.random(space, seed=edges)
        assert_same(problem.fixed(architecture, "triton"), problem.fixed(architecture, "reference"), 1e-5)
        source = replace(space, transform="source")
        problem = Problem(source, torch.float64, steps=3, batch=1)
        assert_same(problem.fixed(architecture, "triton"), problem.fixed(architecture, "reference"), 1e-9)
        print("fixed", edges, "equal")
    first, again = (Problem(CellSpace(3, ALL_OPERATIONS), torch.float32).mixed("triton") for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    print("all equal")


@pytest.mark.extras
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("product", ["*fp32", "*bf16"])
@pytest.mark.parametrize("shared", [False, True])
def test_kernels_compile_for_devices_that_are_not_here(capability: int, product: str, shared: bool) -> None:
    triton = _triton()
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from idarts_nni import triton_kernels

    numbers = {
        **dict.fromkeys(("targets", "rows", "used"), "*i32"),
        **dict.fromkeys(("elements", "size", "width", "table", "batch"), "i32"),
        **dict.fromkeys(("eps", "share"), "fp32"),
        "product": product,
    }
    constants = {
        "OPERATIONS": tuple(range(6)), "GATED": True, "SHARED": shared, "BLOCK": 1024, "LINKS": 8, "WANTED": True,
        "MODE": 1, "MASKED": True, "OUTPUT": True, "PRODUCT": True, "ROWS": 64, "COLUMNS": 16,
    }  # fmt: skip
    for kernel in triton_kernels.KERNELS:
        kinds = {n: "constexpr" if n in constants else numbers.get(n, "*fp32") for n in kernel.arg_names}
        fixed = {(place,): constants[n] for place, n in enumerate(kernel.arg_names) if n in constants}
        source = ASTSource(fn=kernel, signature=kinds, constexprs=fixed)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert len(compiled.asm["cubin"]) > 1000


if __name__ == "__main__":
    compare_interpreted()
