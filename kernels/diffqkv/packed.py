"""Sequences packed one after the other: what forward and backward of ``prefill`` share."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.diffqkv.shapes import Heads, by_unit, count_heads


def check_packed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Heads:
    """The head counts of q, k and v; ValueError if shapes do not fit together."""
    if q.dim() != 3:
        raise ValueError(f"q must be [tokens, heads, dim], not {tuple(q.shape)}")
    heads = Heads(q.shape[1], count_heads("k", k, 1), count_heads("v", v, 1))
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise ValueError(
            f"q, k and v must have the same tokens, not {q.shape[0]}, {k.shape[0]} and {v.shape[0]}"
        )
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k must have the same head dim, not {q.shape[-1]} and {k.shape[-1]}")
    return heads


def pair_arguments(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, scale: float, heads: Heads
) -> dict[str, Any]:
    """The kernel arguments that forward and backward share."""
    # the one offset of 32 bits: wider, it costs the registers that dK and dV lack
    if heads.q_per_pair * q.stride(1) >= 2**31:
        raise ValueError(
            f"the {heads.q_per_pair} query heads that share K and V must lie within 2**31 elements, not "
            f"{q.stride(1)} apart each: call .contiguous() on q"
        )
    k, v = by_unit("k", k, 1, heads), by_unit("v", v, 1, heads)
    d, e = q.shape[-1], v.shape[-1]
    return {
        "q": q,
        "k": k,
        "v": v,
        "cu_seqlens": cu_seqlens,
        "softmax_scale": scale,
        "num_sequences": cu_seqlens.shape[0] - 1,
        "num_tokens": q.shape[0],
        "stride_qt": q.stride(0),
        "stride_qh": q.stride(1),
        "stride_kt": k.stride(0),
        "stride_ku": k.stride(1),
        # all pairs of a unit read its only head
        "stride_kr": k.stride(2) if k.shape[2] > 1 else 0,
        "stride_vt": v.stride(0),
        "stride_vu": v.stride(1),
        "stride_vr": v.stride(2) if v.shape[2] > 1 else 0,
        "PAIRS_PER_UNIT": heads.pairs_per_unit,
        "Q_PER_PAIR": heads.q_per_pair,
        "D": d,
        "E": e,
        "BLOCK_D": triton.next_power_of_2(d),
        "BLOCK_E": triton.next_power_of_2(e),
    }


@triton.jit
def find_block(cu_seqlens, num_sequences, block, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Sequence of a block: its first token, its tokens, the block's index in it, the blocks it owns.

    Sequence b has ROWS rows a token and owns the blocks from ``cu_seqlens[b] * ROWS // BLOCK + b`` on:
    always enough of them, and the grid is known without a look at the lengths. Some blocks are empty.
    """
    low = 0
    high = num_sequences
    while high - low > 1:
        middle = (low + high) // 2
        first = tl.load(cu_seqlens + middle).to(tl.int64) * ROWS // BLOCK + middle
        before = first <= block
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    start = tl.load(cu_seqlens + low).to(tl.int64)
    length = (tl.load(cu_seqlens + low + 1).to(tl.int64) - start).to(tl.int32)
    index = (block - (start * ROWS // BLOCK + low)).to(tl.int32)
    owned = (length * ROWS + BLOCK - 1) // BLOCK
    return start, length, index, owned


@triton.jit
def split_rows(first_row, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK packed rows from ``first_row`` on, ROWS a token: first position, positions after it, heads."""
    offsets = tl.arange(0, BLOCK)
    if BLOCK % ROWS != 0:
        offsets += first_row % ROWS
    return first_row // ROWS, offsets // ROWS, offsets % ROWS
