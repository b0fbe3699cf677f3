"""Selective V by top-k: all of K is read, and of V only the rows of each query head's highest scores.

Three passes: scores to memory (scores.py), the best of every block of keys, then the best of all with a
gather of their V rows. Shape letters as in scores.py; X candidates of a row.
Source: arXiv 2501.13629, appendix B.2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.diffqkv.calls import KernelCall, strides
from kernels.diffqkv.configs import launch_for
from kernels.diffqkv.decode import LN_2
from kernels.diffqkv.pages import PagedCall, paged_op, seen_rows
from kernels.diffqkv.scores import BLOCK_S, row_lse, score_launch

MAX_TOP_K = 512
LOWEST = tl.constexpr(-(2**63))


def kept_positions(scores_L: torch.Tensor, top_k: int, keep_first: int, keep_last: int) -> torch.Tensor:
    """Positions of the ``top_k`` highest scores, of equal ones the earlier; the always-kept before all."""
    length = scores_L.shape[0]
    rank_L = scores_L.clone()
    rank_L[:keep_first] = float("inf")
    rank_L[max(length - keep_last, 0) :] = float("inf")
    return rank_L.sort(descending=True, stable=True).indices[:top_k]


def topk_decode_reference(
    q_NQD: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table_BM: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    seq_lens_B: torch.Tensor,
    softmax_scale: float | None = None,
    top_k: int = 100,
    renormalize: bool = False,
    keep_first: int = 0,
    keep_last: int = 0,
) -> torch.Tensor:
    """The contract of out, one sequence, token and head after the other; as ``topk_decode_attention``."""
    out_NQE = q_NQD.new_zeros(*q_NQD.shape[:2], v_pages.shape[-1])
    for _, n, q, scores_S, v_SE in seen_rows(
        q_NQD, k_pages, v_pages, block_table_BM, cu_seqlens_q, seq_lens_B, softmax_scale
    ):
        kept = kept_positions(scores_S, top_k, keep_first, keep_last)
        weights = scores_S.softmax(0)[kept]
        if renormalize:
            weights = weights / weights.sum()
        out_NQE[n, q] = weights @ v_SE[kept]
    return out_NQE


def topk_decode_attention(
    q_NQD: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table_BM: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    seq_lens_B: torch.Tensor,
    softmax_scale: float | None = None,
    max_seqlen_q: int = 1,
    max_seqlen_k: int | None = None,
    top_k: int = 100,
    renormalize: bool = False,
    keep_first: int = 0,
    keep_last: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``decode_attention`` with only the V rows of each query head's ``top_k`` highest scores.

    Of equal scores the earlier key counts as the higher. The first ``keep_first`` and last ``keep_last``
    keys that a query sees are kept whatever their scores, within the ``top_k`` (1 to 512). A kept row has
    the weight that it has among all keys; ``renormalize`` divides by the kept weight (the paper leaves
    this open). lse is that of all keys. All else, refusals too, as ``decode_attention``.
    """
    return _topk_decode(
        q_NQD, k_pages, v_pages, block_table_BM, cu_seqlens_q, seq_lens_B, softmax_scale, max_seqlen_q,
        max_seqlen_k, top_k, renormalize, keep_first, keep_last,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_blocks", "keep_first", "keep_last"])
def _select_of_block(
    scores,
    candidates,
    cu_seqlens_q,
    seq_lens,
    stride_sn,
    stride_sh,
    stride_xn,
    stride_xh,
    num_blocks,
    keep_first,
    keep_last,
    TOP: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """The TOP best keys of a block; grid (Q, blocks * positions, B).

    A candidate is one int64: the score's bits, ordered as an integer, above the complement of the key's
    index; so equal scores fall to the earlier key, and which keys stay depends on nothing else.
    """
    head = tl.program_id(0)
    block = tl.program_id(1) % num_blocks
    position = tl.program_id(1) // num_blocks
    b = tl.program_id(2)
    q_first = tl.load(cu_seqlens_q + b)
    q_len = (tl.load(cu_seqlens_q + b + 1) - q_first).to(tl.int32)
    seen = tl.load(seq_lens + b).to(tl.int32) - q_len + position + 1
    if (position >= q_len) | (block * BLOCK_L >= seen):
        return
    token = tl.cast(q_first, tl.int64) + position
    key = block * BLOCK_L + tl.arange(0, BLOCK_L)
    score = tl.load(scores + token * stride_sn + head * stride_sh + key, mask=key < seen, other=0.0)
    bits = score.to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    order = tl.where((key < keep_first) | (key >= seen - keep_last), 0x7FFFFFFF, order)
    packed = (order.to(tl.int64) << 32) | (key ^ 0x7FFFFFFF).to(tl.int64)
    best = tl.topk(tl.where(key < seen, packed, LOWEST), TOP)
    tl.store(candidates + token * stride_xn + head * stride_xh + block * TOP + tl.arange(0, TOP), best)


@triton.jit(do_not_specialize=["top_k"])
def _gather_best(
    scores,
    tile_lse,
    candidates,
    v,
    block_table,
    cu_seqlens_q,
    seq_lens,
    out,
    lse,
    stride_sn,
    stride_sh,
    stride_tn,
    stride_th,
    stride_xn,
    stride_xh,
    stride_vp,
    stride_vt,
    stride_vu,
    stride_vr,
    stride_table,
    stride_on,
    stride_oh,
    stride_ln,
    stride_lh,
    top_k,
    E,
    Q_PER_UNIT: tl.constexpr,
    V_PER_UNIT: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    TOP: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr,
    RENORMALIZE: tl.constexpr,
):
    """The best of a row's candidates, and a sum over their V rows; grid (Q, positions, B)."""
    head = tl.program_id(0)
    position = tl.program_id(1)
    b = tl.program_id(2)
    q_first = tl.load(cu_seqlens_q + b)
    q_len = (tl.load(cu_seqlens_q + b + 1) - q_first).to(tl.int32)
    if position >= q_len:
        return
    token = tl.cast(q_first, tl.int64) + position
    seen = tl.load(seq_lens + b).to(tl.int32) - q_len + position + 1
    rank = tl.arange(0, TOP)
    candidates += token * stride_xn + head * stride_xh
    best = tl.full([TOP], LOWEST, tl.int64)
    for block in range(0, tl.cdiv(seen, BLOCK_L)):
        more = tl.load(candidates + block * TOP + rank)
        best = tl.topk(tl.reshape(tl.join(best, more), [2 * TOP]), TOP)
    kept = (rank < top_k) & (best != LOWEST)
    key = tl.where(kept, (best & 0x7FFFFFFF).to(tl.int32) ^ 0x7FFFFFFF, 0)

    total = row_lse(tile_lse + token * stride_tn + head * stride_th, tl.cdiv(seen, BLOCK_N), BLOCK_S)
    score = tl.load(scores + token * stride_sn + head * stride_sh + key, mask=kept, other=float("-inf"))
    weight = tl.exp2(score - tl.where(total == float("-inf"), 0.0, total))
    if RENORMALIZE:
        mass = tl.sum(weight, 0)
        weight = weight / tl.where(mass > 0.0, mass, 1.0)

    v += (head // Q_PER_UNIT) * stride_vu
    v += head % Q_PER_UNIT // (Q_PER_UNIT // V_PER_UNIT) * stride_vr
    page = tl.load(block_table + b.to(tl.int64) * stride_table + key // PAGE_SIZE, mask=kept, other=0)
    rows = page.to(tl.int64) * stride_vp + key % PAGE_SIZE * stride_vt
    out += token * stride_on + head * stride_oh
    # a slice of the width at a time: TOP rows of all of it would not fit into registers
    for start in range(0, E, BLOCK_E):
        e = start + tl.arange(0, BLOCK_E)
        tile = tl.load(v + rows[:, None] + e[None, :], mask=kept[:, None] & (e < E)[None, :], other=0.0)
        result = tl.sum(weight[:, None] * tile.to(tl.float32), 0)
        tl.store(out + e, result.to(out.dtype.element_ty), mask=e < E)
    tl.store(lse + token * stride_ln + head * stride_lh, total * LN_2)


def topk_decode_launches(
    call: PagedCall,
    out_NQE: torch.Tensor,
    lse_QN: torch.Tensor,
    top_k: int,
    renormalize: bool,
    keep_first: int,
    keep_last: int,
    architecture: str,
) -> list[KernelCall]:
    """Kernels, grids and arguments for ``architecture``; grids depend on shapes and bounds, not on data."""
    heads, q = call.heads, call.q_NQD
    dims = (q.shape[-1], call.v_head_dim, q.dtype, architecture)
    scores, score = score_launch(call, architecture)
    top = max(16, triton.next_power_of_2(top_k))
    select_options = launch_for("select", *dims).options()
    block_l = max(select_options.pop("BLOCK_L"), top)
    num_blocks = triton.cdiv(call.max_seqlen_k, block_l)
    candidates_NQX = q.new_empty(*q.shape[:2], num_blocks * top, dtype=torch.int64)
    candidates = {
        "candidates": candidates_NQX,
        **strides("x", "nh", candidates_NQX),
        "TOP": top,
        "BLOCK_L": block_l,
    }
    select = {
        **call.lengths(),
        **scores.keys(),
        **candidates,
        "num_blocks": num_blocks,
        "keep_first": keep_first,
        "keep_last": keep_last,
        **select_options,
    }
    gather = {
        **call.lengths(),
        **scores.keys(),
        **scores.tiles(),
        **candidates,
        **call.table(),
        **call.v(),
        "BLOCK_E": min(triton.next_power_of_2(call.v_head_dim), 64),
        "out": out_NQE,
        "lse": lse_QN,
        **strides("o", "nh", out_NQE),
        **strides("l", "hn", lse_QN),
        "top_k": top_k,
        "Q_PER_UNIT": heads.q_per_unit,
        "V_PER_UNIT": heads.num_v_heads // heads.num_units,
        "BLOCK_S": BLOCK_S,
        "RENORMALIZE": renormalize,
        **launch_for("gather", *dims).options(),
    }
    return [
        score,
        (_select_of_block, (heads.num_q_heads, num_blocks * call.max_seqlen_q, call.num_sequences), select),
        (_gather_best, (heads.num_q_heads, call.max_seqlen_q, call.num_sequences), gather),
    ]


def _check_selection(top_k: int, renormalize: bool, keep_first: int, keep_last: int) -> None:
    if not 1 <= top_k <= MAX_TOP_K:
        raise ValueError(f"top_k must be from 1 to {MAX_TOP_K}, not {top_k}")
    if min(keep_first, keep_last) < 0 or keep_first + keep_last > top_k:
        raise ValueError(
            f"keep_first and keep_last must not be negative and fit into top_k = {top_k} together, "
            f"not {keep_first} and {keep_last}"
        )


_topk_decode = paged_op(
    "topk_decode",
    ", SymInt top_k, bool renormalize, SymInt keep_first, SymInt keep_last",
    _check_selection,
    topk_decode_launches,
)
