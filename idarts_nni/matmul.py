"""Matrix products of the fused unroll and head, in the precision that a trial asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

FP32_ERROR = 1e-5
"""Error of a product above which its operands were rounded: fp32 gives 4e-7, bfloat16 2e-3."""


@dataclass(frozen=True)
class Products:
    """Products of one precision.

    ``full``: operands as they are. ``bf16``: operands rounded to bfloat16, sums in fp32, results in bfloat16 where they
    are kept. ``rounded``: the same operands on a processor without bfloat16 arithmetic, multiplied and kept in fp32,
    because torch's bfloat16 product is some 50 times slower there. It shows what bfloat16 does to the numbers; it is no
    faster than ``full``, and takes more memory.
    """

    precision: str = "full"

    @property
    def exact(self) -> bool:
        """Whether operands are taken as they are."""
        return self.precision == "full"

    def product_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the type of kept products of tensors of type ``dtype``."""
        return torch.bfloat16 if self.precision == "bf16" else dtype

    def operand(self, tensor: Tensor) -> Tensor:
        """Return a contiguous operand, rounded as the precision says."""
        if self.precision == "full":
            return tensor.detach().contiguous()
        low = tensor.detach().to(torch.bfloat16)
        return (low if self.precision == "bf16" else low.to(tensor.dtype)).contiguous()

    def into(self, product: Tensor, left: Tensor, right: Tensor) -> None:
        """Write ``left @ right`` into ``product``; ``right`` is an :meth:`operand` already."""
        torch.mm(self.operand(left), right, out=product)

    def add_into(self, product: Tensor, left: Tensor, right: Tensor) -> None:
        """Add ``left @ right`` to ``product``."""
        product.addmm_(self.operand(left), right)

    def transposed(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``left @ right.T`` in the type of the states."""
        return self._wide(self.operand(left) @ right.t())

    def weight_gradient(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``left.T @ right``: a product over all steps and rows of the batch."""
        return self._wide(self.operand(left).t() @ self.operand(right))

    def add_weight_gradient(self, grad: Tensor, left: Tensor, right: Tensor) -> None:
        """Add ``left.T @ right`` to ``grad``, in the type of ``grad``."""
        if self.precision == "bf16":
            grad += self._wide(self.operand(left).t() @ self.operand(right))
        else:
            grad.addmm_(self.operand(left).t(), self.operand(right))

    def _wide(self, tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def products_for(tensor: Tensor) -> Products:
    """Return the products that the current autocast setting asks for on the tensor's device.

    Inside ``torch.autocast(device, torch.bfloat16)``, fp32 operands are rounded to bfloat16; weights, states, sums,
    statistics and gradients of weights stay fp32. Outside, and for fp64, products are exact in their type.
    """
    kind = tensor.device.type
    if tensor.dtype != torch.float32 or not torch.is_autocast_enabled(kind):
        return Products()
    if torch.get_autocast_dtype(kind) != torch.bfloat16:
        return Products()
    return Products("bf16" if kind != "cpu" or cpu_multiplies_bfloat16() else "rounded")


@lru_cache(maxsize=1)
def cpu_multiplies_bfloat16() -> bool:
    """Tell whether this processor has instructions for bfloat16 products (AVX-512 BF16 or AMX)."""
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def allow_fast_matmul(device: str = "cpu") -> bool:
    """Let fp32 products take the faster route that is still fp32-accurate; a trial calls it once, before it trains.

    On a CPU this is ``torch.set_float32_matmul_precision("medium")``, which moves products from MKL to oneDNN (1.1 to
    1.5 times faster on processors with AVX-512; within the noise on one with AVX2). On some processors oneDNN may then
    round operands to bfloat16 (those with AMX do), so a product is tried, and where it is not accurate the setting is
    taken back. On other devices it is left alone.

    Returns
    -------
    Whether the setting was changed.
    """
    if device != "cpu":
        return False
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    if _product_error() < FP32_ERROR:
        return True
    torch.set_float32_matmul_precision(before)
    return False


def products_take_onednn() -> bool:
    """Tell whether fp32 products of torch take the route of :func:`allow_fast_matmul` now."""
    return torch.get_float32_matmul_precision() != "highest"


def _product_error() -> float:
    """Return the largest error of a product in fp32, relative to its largest entry."""
    numbers = torch.Generator().manual_seed(0)
    left, right = (torch.randn(shape, generator=numbers) for shape in ((256, 320), (320, 512)))
    exact = left.double() @ right.double()
    return float((left @ right - exact).abs().max() / exact.abs().max())
