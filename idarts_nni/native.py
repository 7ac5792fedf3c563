"""Compiled elementwise passes (stub, replaced below)."""

from .elementwise import TorchPasses as NativePasses


def obstacle(inputs: object) -> str:
    """Say why not."""
    return "not built"
