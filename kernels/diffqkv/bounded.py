"""Selective V by bound: V tiles that together carry at most epsilon of a query's weight are not read.

Scores go to memory first (scores.py), so the weight of every tile is known, not guessed, before the first
V row is asked for. Shape letters as in scores.py.
"""

from __future__ import annotations

from collections import defaultdict

import torch
import triton
import triton.language as tl

from kernels.diffqkv.calls import KernelCall, strides
from kernels.diffqkv.configs import launch_for
from kernels.diffqkv.decode import combine_launch, empty_splits
from kernels.diffqkv.pages import PagedCall, page_of, paged_op, query_rows, rows_of_page, seen_rows
from kernels.diffqkv.scores import BLOCK_S, row_lse, score_launch
from kernels.diffqkv.shapes import count_heads
from kernels.diffqkv.tiles import load_rows, store_rows


def bounded_decode_reference(
    q_NQD: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table_BM: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    seq_lens_B: torch.Tensor,
    epsilon: float,
    tile: int,
    softmax_scale: float | None = None,
) -> torch.Tensor:
    """The contract of out for tiles of ``tile`` keys: all rows of a tile of queries skip or read together."""
    out_NQE = q_NQD.new_zeros(*q_NQD.shape[:2], v_pages.shape[-1])
    q_per_v = q_NQD.shape[1] // count_heads("v_pages", v_pages, 2)
    sharers: dict[tuple[int, ...], list[tuple[int, int, torch.Tensor, torch.Tensor]]] = defaultdict(list)
    for b, n, q, scores_S, v_SE in seen_rows(
        q_NQD, k_pages, v_pages, block_table_BM, cu_seqlens_q, seq_lens_B, softmax_scale
    ):
        row = (n - int(cu_seqlens_q[b])) * q_per_v + q % q_per_v
        sharers[b, q // q_per_v, row // _rows_of_tile(q_per_v)].append((n, q, scores_S.softmax(0), v_SE))
    for (b, _, _), rows in sharers.items():
        length = int(seq_lens_B[b])
        share = epsilon / -(-length // tile)
        for start in range(0, length, tile):
            part = slice(start, start + tile)
            if max(weights_S[part].sum() for _, _, weights_S, _ in rows) > share:
                for n, q, weights_S, v_SE in rows:
                    out_NQE[n, q] += weights_S[part] @ v_SE[part]
    return out_NQE


def _rows_of_tile(q_per_v: int) -> int:
    """Query rows of a V head that a program takes: head by head, then the next position."""
    return max(16, triton.next_power_of_2(q_per_v))


def bounded_decode_attention(
    q_NQD: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table_BM: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    seq_lens_B: torch.Tensor,
    epsilon: float,
    softmax_scale: float | None = None,
    max_seqlen_q: int = 1,
    max_seqlen_k: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``decode_attention`` without the V tiles that hardly weigh.

    The bound: every element of out is within ``epsilon`` * max |V| of the exact one, rounding aside, where
    the maximum is over the skipped tiles of its V head. A sequence of L keys has S = ceil(L / tile) tiles.
    A V head's tile is skipped if for each query that shares it, the tile's softmax weight is at most
    epsilon / S; so a query loses at most S * epsilon / S of its weight of 1. Skipped keys stay in the
    softmax's sum and in lse. ``epsilon``: 0 (only tiles whose weight underflows to 0 are skipped) to 1.
    All else, refusals too, as ``decode_attention``.
    """
    return _bounded_decode(
        q_NQD, k_pages, v_pages, block_table_BM, cu_seqlens_q, seq_lens_B, softmax_scale, max_seqlen_q,
        max_seqlen_k, epsilon,
    )  # fmt: skip


@triton.jit
def _sum_tiles(
    tile_lse,
    cu_seqlens_q,
    seq_lens,
    lse,
    stride_tn,
    stride_th,
    stride_ln,
    stride_lh,
    BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """A row's base-2 log-sum-exp; grid (Q, positions, B)."""
    head = tl.program_id(0)
    position = tl.program_id(1)
    b = tl.program_id(2)
    q_first = tl.load(cu_seqlens_q + b)
    q_len = (tl.load(cu_seqlens_q + b + 1) - q_first).to(tl.int32)
    if position >= q_len:
        return
    token = tl.cast(q_first, tl.int64) + position
    seen = tl.load(seq_lens + b).to(tl.int32) - q_len + position + 1
    total = row_lse(tile_lse + token * stride_tn + head * stride_th, tl.cdiv(seen, BLOCK_N), BLOCK_S)
    tl.store(lse + token * stride_ln + head * stride_lh, total)


@triton.jit(do_not_specialize=["num_splits"])
def _heavy_tiles(
    scores,
    tile_lse,
    lse,
    v,
    block_table,
    cu_seqlens_q,
    seq_lens,
    part,
    part_lse,
    epsilon,
    stride_sn,
    stride_sh,
    stride_tn,
    stride_th,
    stride_ln,
    stride_lh,
    stride_vp,
    stride_vt,
    stride_vu,
    stride_vr,
    stride_table,
    stride_pn,
    stride_ph,
    stride_pc,
    stride_pln,
    stride_plh,
    num_splits,
    chunk,
    V_PER_UNIT: tl.constexpr,
    Q_PER_V: tl.constexpr,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One (V head, split of a row block, sequence); grid (V, C * row blocks, B)."""
    v_head = tl.program_id(0)
    split = tl.program_id(1) % num_splits
    row_block = tl.program_id(1) // num_splits
    b = tl.program_id(2)
    seq_len = tl.load(seq_lens + b).to(tl.int32)
    q_first = tl.load(cu_seqlens_q + b)
    q_len = (tl.load(cu_seqlens_q + b + 1) - q_first).to(tl.int32)
    if (row_block * BLOCK_M >= q_len * Q_PER_V) | (split * chunk >= seq_len):
        return
    token, head, valid, _ = query_rows(q_first, q_len, seq_len, row_block, Q_PER_V, BLOCK_M)
    head += v_head * Q_PER_V
    scores += token * stride_sn + head * stride_sh
    tile_lse += token * stride_tn + head * stride_th
    total_lse = tl.load(lse + token * stride_ln + head * stride_lh, mask=valid, other=float("-inf"))
    base = tl.where(total_lse == float("-inf"), 0.0, total_lse)
    v += (v_head // V_PER_UNIT) * stride_vu + (v_head % V_PER_UNIT) * stride_vr
    block_table += b.to(tl.int64) * stride_table

    share = epsilon / tl.cdiv(seq_len, BLOCK_N)
    weight = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    first_key = split * chunk
    last_key = tl.minimum(first_key + chunk, seq_len)
    for start in range(first_key, last_key, BLOCK_N):
        one_lse = tl.load(tile_lse + start // BLOCK_N, mask=valid, other=float("-inf"))
        one_weight = tl.exp2(one_lse - base)
        weight += one_weight
        if tl.max(one_weight, 0) > share:
            key = start + tl.arange(0, BLOCK_N)
            in_split = key < last_key
            page = page_of(block_table, start, last_key, PAGE_SIZE, BLOCK_N)
            v_page, rows = rows_of_page(page, key % PAGE_SIZE, stride_vp, stride_vt, PAGE_SIZE, BLOCK_N)
            v_tile = load_rows(v + v_page, rows, in_split, E, BLOCK_E, True)
            score = tl.load(
                scores[:, None] + key[None, :], mask=valid[:, None] & in_split[None, :], other=float("-inf")
            )
            # inside the tile, so that 16 bits hold the weights in a context of any length
            inside = tl.exp2(score - tl.where(one_lse == float("-inf"), 0.0, one_lse)[:, None])
            acc += one_weight[:, None] * tl.dot(inside.to(v_tile.dtype), v_tile, input_precision="ieee")

    some = weight > 0.0
    total = tl.where(some, weight, 1.0)
    rows = token * stride_pn + head * stride_ph
    store_rows(part + split * stride_pc, rows, valid, acc / total[:, None], E, BLOCK_E)
    split_lse = tl.where(some, total_lse + tl.log2(total), float("-inf"))
    tl.store(part_lse + token * stride_pln + head * stride_plh + split, split_lse, mask=valid)


def bounded_decode_launches(
    call: PagedCall, out_NQE: torch.Tensor, lse_QN: torch.Tensor, epsilon: float, architecture: str
) -> list[KernelCall]:
    """Kernels, grids and arguments for ``architecture``; grids depend on shapes and bounds, not on data."""
    heads, q = call.heads, call.q_NQD
    scores, score = score_launch(call, architecture)
    options = launch_for("bounded", q.shape[-1], call.v_head_dim, q.dtype, architecture).options()
    chunk = options.pop("CHUNK")
    num_splits = triton.cdiv(call.max_seqlen_k, chunk)
    part_NQCE, part_lse_NQC = empty_splits(call, num_splits)
    q_per_v = heads.num_q_heads // heads.num_v_heads
    block_m = _rows_of_tile(q_per_v)
    row_blocks = triton.cdiv(call.max_seqlen_q * q_per_v, block_m)
    # base 2 here; the combination, last in the row, writes the natural one over it
    base_2_lse = {"lse": lse_QN, **strides("l", "hn", lse_QN)}
    sum_tiles = {
        **call.lengths(),
        **scores.tiles(),
        **base_2_lse,
        "BLOCK_S": BLOCK_S,
        "num_warps": 1,
        "num_stages": 2,
    }
    heavy_tiles = {
        **call.lengths(),
        **call.table(),
        **call.v(),
        **scores.keys(),
        **scores.tiles(),
        **base_2_lse,
        "part": part_NQCE,
        "part_lse": part_lse_NQC,
        **strides("p", "nhc", part_NQCE),
        **strides("pl", "nh", part_lse_NQC),
        "epsilon": epsilon,
        "num_splits": num_splits,
        "chunk": chunk,
        "V_PER_UNIT": heads.num_v_heads // heads.num_units,
        "Q_PER_V": q_per_v,
        "BLOCK_M": block_m,
        **options,
    }
    return [
        score,
        (_sum_tiles, (heads.num_q_heads, call.max_seqlen_q, call.num_sequences), sum_tiles),
        (_heavy_tiles, (heads.num_v_heads, num_splits * row_blocks, call.num_sequences), heavy_tiles),
        combine_launch(call, part_NQCE, part_lse_NQC, out_NQE, lse_QN, chunk),
    ]


def _check_epsilon(epsilon: float) -> None:
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon is a share of a query's weight, from 0 to 1, not {epsilon}")


_bounded_decode = paged_op("bounded_decode", ", float epsilon", _check_epsilon, bounded_decode_launches)
