"""What the kernels accept: head counts, head dims, strides, dtypes, devices. Each refusal says its rule.

Query head q reads K head floor(q * n_k / n_q) and V head floor(q * n_v / n_q) (the paper's Eq. 3).
A *unit* is what shares one head of the rarer kind: 32/4/16 has 4 units, each a K head with its 4 V heads.
A *pair* is what shares both: 32/4/16 has 16, each 2 query heads on one K head and one V head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from triton import knobs

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MIN_HEAD_DIM, MAX_HEAD_DIM = 16, 256


@dataclass(frozen=True)
class Heads:
    """Head counts that nest: n_q is a multiple of n_k and n_v, and one of these of the other.

    Raises ValueError with the rule that the counts break.
    """

    num_q_heads: int
    num_k_heads: int
    num_v_heads: int

    def __post_init__(self) -> None:
        n_q, n_k, n_v = self.num_q_heads, self.num_k_heads, self.num_v_heads
        if min(n_q, n_k, n_v) < 1:
            raise ValueError(f"head counts must be at least 1, not {n_q} query, {n_k} K, {n_v} V heads")
        for name, count in (("num_k_heads", n_k), ("num_v_heads", n_v)):
            if n_q % count:
                raise ValueError(
                    f"num_q_heads must be divisible by {name}: {n_q} is not a multiple of {count}"
                )
        if n_v % n_k and n_k % n_v:
            raise ValueError(
                "num_k_heads must divide num_v_heads or num_v_heads divide num_k_heads, "
                f"so that groups of heads nest: {n_k} K heads and {n_v} V heads do not"
            )

    @property
    def num_units(self) -> int:
        return min(self.num_k_heads, self.num_v_heads)

    @property
    def num_pairs(self) -> int:
        return max(self.num_k_heads, self.num_v_heads)

    @property
    def pairs_per_unit(self) -> int:
        return self.num_pairs // self.num_units

    @property
    def q_per_pair(self) -> int:
        return self.num_q_heads // self.num_pairs

    @property
    def q_per_unit(self) -> int:
        return self.num_q_heads // self.num_units


def count_heads(name: str, x: torch.Tensor, head_axis: int) -> int:
    """Heads of a tensor with one head axis at ``head_axis``, or two there: unit, then head inside it.

    x: [..., heads, dim] or [..., units, heads in the unit, dim], as ``head_axis`` + 2 or + 3 axes.
    """
    if x.dim() == head_axis + 2:
        return x.shape[head_axis]
    if x.dim() == head_axis + 3:
        return x.shape[head_axis] * x.shape[head_axis + 1]
    raise ValueError(
        f"{name} must have {head_axis + 2} axes (one of heads) or {head_axis + 3} (units, heads in the "
        f"unit), not shape {tuple(x.shape)}"
    )


def by_unit(name: str, x: torch.Tensor, head_axis: int, heads: Heads) -> torch.Tensor:
    """The view [..., unit, head inside the unit, dim] of K or V: one stride for each, never a copy.

    A tensor with one head axis is split; one that has both already (heads that are not uniformly
    strided, as V in a page fused with K) must have as many units as the head counts make.
    """
    if x.dim() == head_axis + 2:
        return x.unflatten(head_axis, (heads.num_units, -1))
    if x.shape[head_axis] != heads.num_units:
        raise ValueError(
            f"{name} has {x.shape[head_axis]} units, but {heads.num_k_heads} K heads and "
            f"{heads.num_v_heads} V heads make {heads.num_units}"
        )
    return x


def check_head_dim(name: str, head_dim: int) -> None:
    """``head_dim`` must be 16 to 256 and a multiple of 8 (16-byte loads)."""
    if not MIN_HEAD_DIM <= head_dim <= MAX_HEAD_DIM or head_dim % 8:
        raise ValueError(
            f"{name} must be a multiple of 8 from {MIN_HEAD_DIM} to {MAX_HEAD_DIM}, not {head_dim}"
        )


def check_float(**tensors: torch.Tensor) -> None:
    """Activations and caches: one dtype that we know, one device that can run them, dims uniformly packed."""
    (first, x), *others = tensors.items()
    if x.dtype not in DTYPES:
        raise ValueError(f"{first} must be float16, bfloat16 or float32, not {x.dtype}")
    for name, other in others:
        if other.dtype != x.dtype:
            raise ValueError(f"{name} must have the dtype of {first}, {x.dtype}, not {other.dtype}")
        if other.device != x.device:
            raise ValueError(f"{name} must be on the device of {first}, {x.device}, not {other.device}")
    for name, tensor in tensors.items():
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(
                f"the last axis of {name} must have stride 1, not {tensor.stride(-1)}: call .contiguous()"
            )
    if x.device.type == "cpu":
        if not interpreted():
            raise ValueError(
                f"{first} is on the CPU, where the kernels only run in Triton's interpreter: move it to a "
                "GPU, set TRITON_INTERPRET=1 before the first import, or use the reference"
            )
        if x.dtype == torch.bfloat16:
            raise ValueError(
                "Triton's interpreter multiplies bfloat16 as raw bits: on the CPU use float32 or float16"
            )
    elif x.device.type not in ("cuda", "meta"):
        raise ValueError(f"{first} must be on a CUDA device, not {x.device}")


def check_index(name: str, x: torch.Tensor, like: torch.Tensor, axes: int = 1) -> None:
    """Integers that kernels follow (cu_seqlens, block_table, slot_mapping): int32 or int64, packed."""
    if x.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name} must be int32 or int64, not {x.dtype}")
    if x.dim() != axes:
        raise ValueError(f"{name} must have {axes} axes, not shape {tuple(x.shape)}")
    if x.device != like.device:
        raise ValueError(f"{name} must be on {like.device} with the rest, not on {x.device}")
    if not x.is_contiguous():
        raise ValueError(f"{name} must be contiguous: call .contiguous()")


def interpreted() -> bool:
    """Whether Triton's interpreter takes the place of its compiler in this process."""
    return bool(knobs.runtime.interpret)
