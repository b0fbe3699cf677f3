"""A kernel with its grid and its arguments: what a launcher makes, what runs, and what ``aot`` compiles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

# kernel, grid, arguments by name
KernelCall = tuple[Any, tuple[int, ...], dict[str, Any]]


def run(calls: Iterable[KernelCall], like: torch.Tensor) -> None:
    """Launch one after the other on the GPU that holds ``like``."""
    with torch.cuda.device_of(like):
        for kernel, grid, arguments in calls:
            kernel[grid](**arguments)


def strides(name: str, axes: str, x: torch.Tensor) -> dict[str, int]:
    """Strides of the leading axes as kernel arguments: stride_<name><axis>."""
    return {f"stride_{name}{axis}": x.stride(i) for i, axis in enumerate(axes)}
