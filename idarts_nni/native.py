"""Compiled elementwise passes: built once from ``native.cpp`` with the machine's own compiler, then read from a cache.

Without a compiler (or with ``IDARTS_NATIVE=0``) everything runs on :class:`~idarts_nni.elementwise.TorchPasses`.
Why compiled: the edges of one state of the search network (8 links, B = 256, H = 300, one AVX2 core, other programs
running) take 1.5 ms forward and 1.8 ms backward here, 17 to 36 and 26 to 84 ms in plain torch; their matrix product
takes 9.4 ms. Building takes 15 to 20 s of processor time, once.

The cache is ``$XDG_CACHE_HOME/idarts_nni`` (``~/.cache/idarts_nni``), or the folder that ``IDARTS_CACHE`` names.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import time
from functools import lru_cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from .elementwise import OPERATIONS, Normalisation
from .links import Links
from .native_loop import Buffers, run_loop, torch_gemm

_logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("native.cpp")
_INCLUDED = Path(__file__).with_name("native_loop.h")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-w")
_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
_CODES = {name: 1 << position for position, name in enumerate(OPERATIONS)}


class _Stage(ctypes.Structure):
    """``struct Stage`` of native.cpp."""

    _fields_ = (
        ("links", ctypes.c_int64),
        ("slots", ctypes.c_int64),
        ("gated", ctypes.c_int64),
        ("operations", ctypes.c_int64),
        ("targets", ctypes.POINTER(ctypes.c_int64)),
        ("rows", ctypes.POINTER(ctypes.c_int64)),
        ("masks", ctypes.POINTER(ctypes.c_int64)),
        ("codes", ctypes.POINTER(ctypes.c_int64)),
    )


class NativePasses:
    """The passes of :class:`~idarts_nni.elementwise.Passes`, compiled, for contiguous tensors on a CPU."""

    def __init__(
        self,
        links: Links,
        coefficients: Tensor,
        mask: Tensor | None,
        norm: Normalisation,
        coefficients_grad: bool = False,
    ) -> None:
        self._library = library()
        self._stages = _stages(links)
        self._coefficients = coefficients
        self._mask = mask
        self._norm = norm
        self._mode = 1 if norm.batch else 2 if norm.active else 0
        self._share = 1.0 / links.num_nodes
        self._suffix = _SUFFIX[coefficients.dtype]
        self._grad = torch.zeros(coefficients.shape, dtype=torch.float64) if coefficients_grad else None

    def spread(self, stage: int, state: Tensor, product: Tensor, totals: Tensor) -> None:
        """Run :meth:`~idarts_nni.elementwise.Passes.spread`."""
        call = getattr(self._library, f"spread_{self._product_suffix(product)}")
        batch, size = state.shape
        call(self._stages[stage], _int(batch), _int(size), *map(_at, (state, product, self._coefficients, totals)))

    def spread_backward(
        self, stage: int, state: Tensor, product: Tensor, grad_totals: Tensor, grad_state: Tensor
    ) -> None:
        """Run :meth:`~idarts_nni.elementwise.Passes.spread_backward`."""
        call = getattr(self._library, f"spread_backward_{self._product_suffix(product)}")
        batch, size = state.shape
        tensors = (state, product, self._coefficients, grad_totals, grad_state, self._grad)
        call(self._stages[stage], _int(batch), _int(size), *map(_at, tensors))

    def settle(
        self, total: Tensor, state: Tensor, masked: Tensor | None, mean: Tensor, variance: Tensor, output: Tensor | None
    ) -> None:
        """Run :meth:`~idarts_nni.elementwise.Passes.settle`."""
        norm = self._norm
        if norm.mean is not None and norm.inverse is not None:
            mean, variance = norm.mean, norm.inverse
        tensors = (total, self._mask, mean, variance, state, masked, output)
        self._call("settle", total, *map(_at, tensors))

    def settle_backward(
        self,
        grad_state: Tensor,
        grad_masked: Tensor | None,
        grad_output: Tensor | None,
        state: Tensor,
        variance: Tensor,
        grad_total: Tensor,
    ) -> None:
        """Run :meth:`~idarts_nni.elementwise.Passes.settle_backward`."""
        if self._norm.inverse is not None:
            variance = self._norm.inverse
        tensors = (grad_state, grad_masked, self._mask, grad_output, state, variance, grad_total)
        self._call("settle_backward", state, *map(_at, tensors))

    def walk(self, buffers: Buffers) -> bool:
        """Run :meth:`~idarts_nni.elementwise.Passes.walk`."""
        if not torch_gemm(self._coefficients.dtype):
            return False
        norm = self._norm
        way = "forward" if buffers.grad_output is None else "backward"
        run_loop(
            getattr(self._library, f"loop_{way}_{self._suffix}"),
            buffers,
            self._stages,
            mode=self._mode,
            eps=norm.eps,
            coefficients=self._coefficients,
            statistics=None if norm.mean is None or norm.inverse is None else (norm.mean, norm.inverse),
            grad_coefficients=self._grad,
        )
        return True

    def finish_coefficients(self) -> Tensor:
        """Return the gradient of the coefficients, summed over all :meth:`spread_backward`."""
        assert self._grad is not None
        return self._grad.to(self._coefficients.dtype)

    def _call(self, name: str, like: Tensor, *pointers: ctypes.c_void_p | None) -> None:
        batch, size = like.shape
        eps, share = ctypes.c_double(self._norm.eps), ctypes.c_double(self._share)
        getattr(self._library, f"{name}_{self._suffix}")(
            _int(batch), _int(size), _int(self._mode), eps, share, *pointers
        )

    def _product_suffix(self, product: Tensor) -> str:
        return self._suffix if product.dtype != torch.bfloat16 else f"{self._suffix}_bf16"


def softmax_nll(logits: Tensor, targets: Tensor, scale: float | None) -> Tensor:
    """Return each row's negative log-likelihood, fp64.

    Parameters
    ----------
    logits
        Shape ``(rows, classes)``, contiguous, fp32 or fp64.
    targets
        Shape ``(rows,)``, int64.
    scale
        If given, ``logits`` become their gradient times ``scale``, in place.
    """
    losses = torch.empty(len(logits), dtype=torch.float64)
    rows, classes = logits.shape
    getattr(library(), f"softmax_nll_{_SUFFIX[logits.dtype]}")(
        _int(rows),
        _int(classes),
        ctypes.c_double(scale or 0.0),
        _int(scale is not None),
        *map(_at, (logits, targets, losses)),
    )
    return losses


def obstacle(inputs: Tensor) -> str:
    """Return why the compiled passes cannot run tensors like this one; empty if they can."""
    if inputs.device.type != "cpu":
        return f"the compiled passes run on CPUs, and the tensors are on {inputs.device.type}"
    if inputs.dtype not in _SUFFIX:
        return f"the compiled passes take fp32 and fp64, and the tensors are {inputs.dtype}"
    return _loaded()[1]


def library() -> ctypes.CDLL:
    """Return the compiled passes, building them if this machine has not done so before.

    Raises
    ------
    RuntimeError
        If they cannot be built; the message says why.
    """
    found, reason = _loaded()
    if found is None:
        raise RuntimeError(f"The compiled passes are not available: {reason}. Use backend='fused'.")
    return found


@lru_cache(maxsize=1)
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("IDARTS_NATIVE", "1") == "0":
        return None, "IDARTS_NATIVE=0"
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return None, "no C++ compiler (g++, or the one that CXX names) was found"
    try:
        return ctypes.CDLL(str(_build(compiler))), ""
    except subprocess.CalledProcessError as error:
        return None, f"{compiler} failed: {error.stderr.strip()[-300:]}"
    except OSError as error:
        return None, str(error)


def _build(compiler: str) -> Path:
    """Return the library in the cache; concurrent trials wait for the first to build it."""
    openmp = _openmp()
    name = hashlib.sha256("\n".join([_identity(compiler), str(openmp), *_FLAGS]).encode())
    name.update(_SOURCE.read_bytes() + _INCLUDED.read_bytes())
    folder = _cache()
    target = folder / f"native-{name.hexdigest()[:16]}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if not target.exists():
            started = time.perf_counter()
            partial = folder / f"{target.stem}.{os.getpid()}"
            _run([compiler, *_FLAGS, "-c", str(_SOURCE), "-o", f"{partial}.o"])
            # Linked to torch's own OpenMP, or two pools of threads would fight for the cores.
            _run([compiler, "-shared", f"{partial}.o", *openmp, "-o", f"{partial}.so"])
            os.unlink(f"{partial}.o")
            with open(f"{partial}.so", "rb") as library:
                os.fsync(library.fileno())  # a part of it, after a loss of power, would be found again for ever
            os.replace(f"{partial}.so", target)
            _logger.info("Built the compiled passes in %.0f s: %s.", time.perf_counter() - started, target)
    return target


def _openmp() -> list[str]:
    bundled = sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    bundled += sorted(Path(torch.__file__).parent.parent.glob("torch.libs/libgomp*.so*"))
    return [str(bundled[0])] if bundled else ["-fopenmp"]


def _identity(compiler: str) -> str:
    """Return what the machine code depends on beside the source: the compiler and the processor."""
    lines = [_run([compiler, "--version"])]
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines += sorted({line.strip() for line in file if line.startswith(("model name", "flags"))})
    return "\n".join(lines)


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _cache() -> Path:
    named = os.environ.get("IDARTS_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "idarts_nni"


@lru_cache(maxsize=64)
def _stages(links: Links) -> list[ctypes.Array[_Stage]]:
    codes = [_CODES[name] for name in links.operations]
    stages = []
    for stage in links.stages:
        masks = [sum(codes[column] for column in link.columns) for link in stage.links]
        targets, rows = [link.target for link in stage.links], [link.row for link in stage.links]
        head = (len(stage.links), stage.slots, int(stage.gated), len(codes))
        stages.append((_Stage * 1)(_Stage(*head, *map(_integers, (targets, rows, masks, codes)))))
    return stages


def _integers(values: list[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def _int(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(int(value))


def _at(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())
