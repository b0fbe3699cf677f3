"""Scores of query tokens against all keys in the cache, in memory: what selective V starts from.

Shape letters as in pages.py; L keys, S tiles of keys.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from kernels.diffqkv.calls import KernelCall, strides
from kernels.diffqkv.configs import launch_for
from kernels.diffqkv.pages import PagedCall, page_of, query_rows, rows_of_page
from kernels.diffqkv.tiles import load_rows

# tiles whose log-sum-exp a row adds at a time
BLOCK_S = 256


class Scores(NamedTuple):
    """Base-2 scores [N, Q, L] and the log-sum-exp of each tile of ``block_n`` keys [N, Q, S], float32.

    Rows are written up to the end of the tile in which their sequence ends, with -inf for unseen keys.
    """

    scores_NQL: torch.Tensor
    tile_lse_NQS: torch.Tensor
    block_n: int

    def keys(self) -> dict[str, Any]:
        """Kernel arguments for the scores."""
        return {"scores": self.scores_NQL, **strides("s", "nh", self.scores_NQL)}

    def tiles(self) -> dict[str, Any]:
        """Kernel arguments for the tiles' log-sum-exp."""
        return {
            "tile_lse": self.tile_lse_NQS,
            **strides("t", "nh", self.tile_lse_NQS),
            "BLOCK_N": self.block_n,
        }


@triton.jit(do_not_specialize=["num_splits"])
def _score_split(
    q,
    k,
    block_table,
    cu_seqlens_q,
    seq_lens,
    scores,
    tile_lse,
    scale_log2,
    stride_qn,
    stride_qh,
    stride_kp,
    stride_kt,
    stride_ku,
    stride_kj,
    stride_table,
    stride_sn,
    stride_sh,
    stride_tn,
    stride_th,
    num_splits,
    chunk,
    Q_PER_K: tl.constexpr,
    K_PER_UNIT: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One (K head, split of a row block, sequence); grid (K, C * row blocks, B)."""
    k_head = tl.program_id(0)
    split = tl.program_id(1) % num_splits
    row_block = tl.program_id(1) // num_splits
    b = tl.program_id(2)
    seq_len = tl.load(seq_lens + b).to(tl.int32)
    q_first = tl.load(cu_seqlens_q + b)
    q_len = (tl.load(cu_seqlens_q + b + 1) - q_first).to(tl.int32)
    if (row_block * BLOCK_M >= q_len * Q_PER_K) | (split * chunk >= seq_len):
        return
    token, head, valid, seen = query_rows(q_first, q_len, seq_len, row_block, Q_PER_K, BLOCK_M)
    head += k_head * Q_PER_K
    q_tile = load_rows(q, token * stride_qn + head * stride_qh, valid, D, BLOCK_D, True)
    k += (k_head // K_PER_UNIT) * stride_ku + (k_head % K_PER_UNIT) * stride_kj
    block_table += b.to(tl.int64) * stride_table
    scores += token * stride_sn + head * stride_sh
    tile_lse += token * stride_tn + head * stride_th

    first_key = split * chunk
    last_key = tl.minimum(first_key + chunk, seq_len)
    page = page_of(block_table, first_key, last_key, PAGE_SIZE, BLOCK_N)
    for start in range(first_key, last_key, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        in_split = key < last_key
        next_page = page_of(block_table, start + BLOCK_N, last_key, PAGE_SIZE, BLOCK_N)
        k_page, k_rows = rows_of_page(page, key % PAGE_SIZE, stride_kp, stride_kt, PAGE_SIZE, BLOCK_N)
        k_tile = load_rows(k + k_page, k_rows, in_split, D, BLOCK_D, True)
        tile = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        tile = tl.where(key[None, :] < seen[:, None], tile * scale_log2, float("-inf"))
        tl.store(scores[:, None] + key[None, :], tile, mask=valid[:, None])
        tile_max = tl.max(tile, 1)
        seen_any = tile_max != float("-inf")
        tile_sum = tl.sum(tl.exp2(tile - tl.where(seen_any, tile_max, 0.0)[:, None]), 1)
        lse = tile_max + tl.log2(tl.where(seen_any, tile_sum, 1.0))
        tl.store(tile_lse + start // BLOCK_N, lse, mask=valid)
        page = next_page


@triton.jit
def row_lse(tile_lse, num_tiles, BLOCK_S: tl.constexpr):
    """Base-2 log-sum-exp of a row from those of its tiles, in steps of fixed size."""
    row_max = float("-inf")
    row_sum = 0.0
    for start in range(0, num_tiles, BLOCK_S):
        tile = start + tl.arange(0, BLOCK_S)
        lse = tl.load(tile_lse + tile, mask=tile < num_tiles, other=float("-inf"))
        new_max = tl.maximum(row_max, tl.max(lse, 0))
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        row_sum = row_sum * tl.exp2(row_max - base) + tl.sum(tl.exp2(lse - base), 0)
        row_max = new_max
    some = row_sum > 0.0
    return tl.where(some, row_max + tl.log2(tl.where(some, row_sum, 1.0)), float("-inf"))


def score_launch(call: PagedCall, architecture: str) -> tuple[Scores, KernelCall]:
    """Empty scores, and kernel, grid and arguments that fill them."""
    heads, q = call.heads, call.q_NQD
    options = launch_for("score", q.shape[-1], call.v_head_dim, q.dtype, architecture).options()
    chunk, block_n = options.pop("CHUNK"), options.pop("BLOCK_N")
    q_per_k = heads.num_q_heads // heads.num_k_heads
    block_m = max(16, triton.next_power_of_2(q_per_k))
    num_tiles = triton.cdiv(call.max_seqlen_k, block_n)
    rows = q.shape[:2]
    scores = Scores(
        q.new_empty(*rows, num_tiles * block_n, dtype=torch.float32),
        q.new_empty(*rows, num_tiles, dtype=torch.float32),
        block_n,
    )
    num_splits = triton.cdiv(call.max_seqlen_k, chunk)
    row_blocks = triton.cdiv(call.max_seqlen_q * q_per_k, block_m)
    arguments = {
        **call.q_and_k(),
        **call.table(),
        **call.lengths(),
        **scores.keys(),
        **scores.tiles(),
        "num_splits": num_splits,
        "chunk": chunk,
        "Q_PER_K": q_per_k,
        "K_PER_UNIT": heads.num_k_heads // heads.num_units,
        "BLOCK_M": block_m,
        **options,
    }
    grid = (heads.num_k_heads, num_splits * row_blocks, call.num_sequences)
    return scores, (_score_split, grid, arguments)
