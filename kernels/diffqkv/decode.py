"""Attention of query tokens over a paged KV cache: split-KV decode, and prefill in chunks.

One program takes a unit (one K head, its query heads and its V heads; where V heads are the rarer, one V
head and its K heads) and a split of the keys, so that every byte of K and V is read once. A tile's rows are
the unit's query heads at one or more positions; each V head is multiplied with the weights of its own rows,
all others zero, into one accumulator. A second kernel combines the splits. A split has a fixed number of
keys, so that a sequence's result does not depend on what else is in the batch.

Shape letters as in pages.py; C splits. Sources: arXiv 2501.13629, Eq. 3 (head map); flash-decoding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.diffqkv.calls import KernelCall, strides
from kernels.diffqkv.configs import launch_for
from kernels.diffqkv.pages import PagedCall, page_of, paged_op, query_rows, rows_of_page, seen_rows
from kernels.diffqkv.tiles import load_rows, store_rows

LN_2 = tl.constexpr(0.6931471805599453)
# with more query tokens than this, tensor cores decide, not bytes: then a program takes one V head
MAX_DECODE_TOKENS = 8
# pairs of a K and a V head whose tiles a program holds at once; a unit with more is cut, and reads its
# shared head once for each part
MAX_PAIRS = 4
# splits that the combination adds at a time
BLOCK_C = 16


def decode_reference(
    q_NQD: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table_BM: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    seq_lens_B: torch.Tensor,
    softmax_scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The contract: sequence by sequence, token by token, head by head; as ``decode_attention``."""
    num_tokens, n_q, _ = q_NQD.shape
    out_NQE = q_NQD.new_zeros(num_tokens, n_q, v_pages.shape[-1])
    lse_QN = torch.full((n_q, num_tokens), float("-inf"), dtype=q_NQD.dtype, device=q_NQD.device)
    for _, n, q, scores_S, v_SE in seen_rows(
        q_NQD, k_pages, v_pages, block_table_BM, cu_seqlens_q, seq_lens_B, softmax_scale
    ):
        out_NQE[n, q] = scores_S.softmax(0) @ v_SE
        lse_QN[q, n] = scores_S.logsumexp(0)
    return out_NQE, lse_QN


def decode_attention(
    q_NQD: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table_BM: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    seq_lens_B: torch.Tensor,
    softmax_scale: float | None = None,
    max_seqlen_q: int = 1,
    max_seqlen_k: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each sequence's last tokens over all its tokens in the cache; no gradient.

    q_NQD: [N, n_q, d_k]; sequence b's rows are cu_seqlens_q[b] to cu_seqlens_q[b + 1] and are the last of
    its ``seq_lens_B[b]`` tokens, whose K and V are in the cache already: the last row sees them all, each
    one before it one less. k_pages [P, T, n_k, d_k] and v_pages [P, T, n_v, d_v], or with the head axis
    split into (unit, head in the unit); any strides, the last one 1. Token t of sequence b is token t % T
    of page block_table_BM[b, t // T]. Indices are int32 or int64. softmax_scale: d_k ** -0.5 by default.
    Returns out [N, n_q, d_v] in the dtype of q, and lse float32 [n_q, N], the natural log-sum-exp of the
    scaled scores. A row that sees nothing gets 0 and -inf; rows of q past cu_seqlens_q[-1] are padding,
    what stands in theirs is undefined. Raises ValueError that says the rule for shapes that are not taken.

    max_seqlen_q and max_seqlen_k (default: what a row of the block table can hold) bound the sequences and
    make the grid; the kernels read the lengths, so a captured CUDA graph serves other lengths. That lengths
    keep to the bounds and pages exist is not checked: it would stop the GPU.
    Up to 8 tokens a sequence split the keys; with more, a program walks all keys for one V head. On
    either side of that, a sequence's result is bitwise the same in any batch.
    """
    return _decode(
        q_NQD, k_pages, v_pages, block_table_BM, cu_seqlens_q, seq_lens_B, softmax_scale, max_seqlen_q,
        max_seqlen_k,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_splits"])
def _attend_split(
    q,
    k,
    v,
    block_table,
    cu_seqlens_q,
    seq_lens,
    out,
    lse,
    scale_log2,
    stride_qn,
    stride_qh,
    stride_kp,
    stride_kt,
    stride_ku,
    stride_kj,
    stride_vp,
    stride_vt,
    stride_vu,
    stride_vr,
    stride_table,
    stride_on,
    stride_oh,
    stride_oc,
    stride_ln,
    stride_lh,
    stride_lc,
    num_splits,
    chunk,
    Q_PER_UNIT: tl.constexpr,
    K_PER_UNIT: tl.constexpr,
    V_PER_UNIT: tl.constexpr,
    PARTS: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    LAST: tl.constexpr,
):
    """One (part of a unit, split of a row block, sequence); grid (U * PARTS, C * row blocks, B).

    A part is some of the unit's pairs of a K and a V head. LAST: there is one split, so out is final.
    """
    GROUP: tl.constexpr = Q_PER_UNIT // PARTS
    K_HEADS: tl.constexpr = (K_PER_UNIT + PARTS - 1) // PARTS
    V_HEADS: tl.constexpr = (V_PER_UNIT + PARTS - 1) // PARTS
    # parts of a unit are neighbours in launch order: what they share stays in L2
    unit = tl.program_id(0) // PARTS
    part = tl.program_id(0) % PARTS
    split = tl.program_id(1) % num_splits
    row_block = tl.program_id(1) // num_splits
    b = tl.program_id(2)
    seq_len = tl.load(seq_lens + b).to(tl.int32)
    q_first = tl.load(cu_seqlens_q + b)
    q_len = (tl.load(cu_seqlens_q + b + 1) - q_first).to(tl.int32)
    if (row_block * BLOCK_M >= q_len * GROUP) | ((split > 0) & (split * chunk >= seq_len)):
        return
    token, head_of_group, valid, seen = query_rows(q_first, q_len, seq_len, row_block, GROUP, BLOCK_M)
    head = unit * Q_PER_UNIT + part * GROUP + head_of_group
    k_of_row = head_of_group // (GROUP // K_HEADS)
    v_of_row = head_of_group // (GROUP // V_HEADS)
    q_tile = load_rows(q, token * stride_qn + head * stride_qh, valid, D, BLOCK_D, True)
    k += unit * stride_ku + (part * K_PER_UNIT // PARTS) * stride_kj
    v += unit * stride_vu + (part * V_PER_UNIT // PARTS) * stride_vr
    block_table += b.to(tl.int64) * stride_table

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    first_key = split * chunk
    last_key = tl.minimum(first_key + chunk, tl.max(seen, 0))
    page = page_of(block_table, first_key, last_key, PAGE_SIZE, BLOCK_N)
    for start in range(first_key, last_key, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        in_split = key < last_key
        token_of_page = key % PAGE_SIZE
        next_page = page_of(block_table, start + BLOCK_N, last_key, PAGE_SIZE, BLOCK_N)
        k_page, k_rows = rows_of_page(page, token_of_page, stride_kp, stride_kt, PAGE_SIZE, BLOCK_N)
        v_page, v_rows = rows_of_page(page, token_of_page, stride_vp, stride_vt, PAGE_SIZE, BLOCK_N)
        scores = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for j in tl.static_range(K_HEADS):
            k_tile = load_rows(k + k_page + j * stride_kj, k_rows, in_split, D, BLOCK_D, True)
            q_of_j = q_tile
            if K_HEADS > 1:
                q_of_j = tl.where((k_of_row == j)[:, None], q_tile, 0.0).to(q_tile.dtype)
            scores = tl.dot(q_of_j, tl.trans(k_tile), scores, input_precision="ieee")
        scores = tl.where(key[None, :] < seen[:, None], scores * scale_log2, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        # a row that has seen no key yet must not subtract -inf from -inf
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(row_max - base)
        row_sum = row_sum * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None]
        for r in tl.static_range(V_HEADS):
            v_tile = load_rows(v + v_page + r * stride_vr, v_rows, in_split, E, BLOCK_E, True)
            of_r = weights
            if V_HEADS > 1:
                of_r = tl.where((v_of_row == r)[:, None], weights, 0.0)
            acc = tl.dot(of_r.to(v_tile.dtype), v_tile, acc, input_precision="ieee")
        row_max = new_max
        page = next_page

    some = row_sum > 0.0
    total = tl.where(some, row_sum, 1.0)
    row_lse = tl.where(some, row_max + tl.log2(total), float("-inf"))
    if LAST:
        row_lse *= LN_2
    store_rows(
        out + split * stride_oc,
        token * stride_on + head * stride_oh,
        valid,
        acc / total[:, None],
        E,
        BLOCK_E,
    )
    tl.store(lse + token * stride_ln + head * stride_lh + split * stride_lc, row_lse, mask=valid)


@triton.jit
def _combine(
    part,
    part_lse,
    cu_seqlens_q,
    seq_lens,
    out,
    lse,
    stride_pn,
    stride_ph,
    stride_pc,
    stride_pln,
    stride_plh,
    stride_on,
    stride_oh,
    stride_ln,
    stride_lh,
    chunk,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One (query head, position, sequence): its splits' outputs by the weight of their log-sum-exp.

    Walks the sequence's own splits in steps of fixed size: the order of additions depends on nothing else.
    """
    head = tl.program_id(0)
    position = tl.program_id(1)
    b = tl.program_id(2)
    q_first = tl.load(cu_seqlens_q + b)
    if position >= tl.load(cu_seqlens_q + b + 1) - q_first:
        return
    num_splits = tl.cdiv(tl.load(seq_lens + b).to(tl.int32), chunk)
    token = tl.cast(q_first, tl.int64) + position
    part += token * stride_pn + head * stride_ph
    part_lse += token * stride_pln + head * stride_plh
    row_max = float("-inf")
    row_sum = 0.0
    acc = tl.zeros([BLOCK_E], tl.float32)
    for start in range(0, num_splits, BLOCK_C):
        split = start + tl.arange(0, BLOCK_C)
        exists = split < num_splits
        split_lse = tl.load(part_lse + split, mask=exists, other=float("-inf"))
        tile = load_rows(part, split * stride_pc, exists, E, BLOCK_E, True)
        new_max = tl.maximum(row_max, tl.max(split_lse, 0))
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        weight = tl.exp2(split_lse - base)
        shrink = tl.exp2(row_max - base)
        row_sum = row_sum * shrink + tl.sum(weight, 0)
        acc = acc * shrink + tl.sum(weight[:, None] * tile, 0)
        row_max = new_max
    some = row_sum > 0.0
    total = tl.where(some, row_sum, 1.0)
    e = tl.arange(0, BLOCK_E)
    result = (acc / total).to(out.dtype.element_ty)
    tl.store(out + token * stride_on + head * stride_oh + e, result, mask=e < E)
    natural = tl.where(some, (row_max + tl.log2(total)) * LN_2, float("-inf"))
    tl.store(lse + token * stride_ln + head * stride_lh, natural)


def decode_launches(
    call: PagedCall, out_NQE: torch.Tensor, lse_QN: torch.Tensor, architecture: str
) -> list[KernelCall]:
    """Kernels, grids and arguments for ``architecture``; grids depend on shapes and bounds, not on data."""
    heads = call.heads
    few = call.max_seqlen_q <= MAX_DECODE_TOKENS
    q = call.q_NQD
    decode = "decode_more_k" if heads.num_k_heads > heads.num_v_heads else "decode"
    op = decode if few else "extend"
    options = launch_for(op, q.shape[-1], call.v_head_dim, q.dtype, architecture).options()
    if few:
        parts, chunk = _parts(heads.pairs_per_unit), options.pop("CHUNK")
        options["BLOCK_M"] = max(16, triton.next_power_of_2(heads.q_per_unit // parts))
    else:
        parts = heads.pairs_per_unit
        chunk = triton.cdiv(call.max_seqlen_k, options["BLOCK_N"]) * options["BLOCK_N"]
    num_splits = triton.cdiv(call.max_seqlen_k, chunk)
    row_blocks = triton.cdiv(call.max_seqlen_q * heads.q_per_unit // parts, options["BLOCK_M"])
    if num_splits == 1:
        part_NQCE, part_lse_NQC = out_NQE[:, :, None], lse_QN.T[:, :, None]
    else:
        part_NQCE, part_lse_NQC = empty_splits(call, num_splits)
    grid = (heads.num_units * parts, num_splits * row_blocks, call.num_sequences)
    arguments = {
        **call.q_and_k(),
        **call.v(),
        **call.table(),
        **call.lengths(),
        "out": part_NQCE,
        "lse": part_lse_NQC,
        **strides("o", "nhc", part_NQCE),
        **strides("l", "nhc", part_lse_NQC),
        "num_splits": num_splits,
        "chunk": chunk,
        "Q_PER_UNIT": heads.q_per_unit,
        "K_PER_UNIT": heads.num_k_heads // heads.num_units,
        "V_PER_UNIT": heads.num_v_heads // heads.num_units,
        "PARTS": parts,
        "LAST": num_splits == 1,
        **options,
    }
    launches: list[KernelCall] = [(_attend_split, grid, arguments)]
    if num_splits > 1:
        launches.append(combine_launch(call, part_NQCE, part_lse_NQC, out_NQE, lse_QN, chunk))
    return launches


def _parts(pairs_per_unit: int) -> int:
    """Into how many programs a unit falls: as few as leave no more than MAX_PAIRS to each."""
    return next(
        n
        for n in range(1, pairs_per_unit + 1)
        if pairs_per_unit % n == 0 and pairs_per_unit // n <= MAX_PAIRS
    )


def empty_splits(call: PagedCall, num_splits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each split's normalized output [N, Q, C, E] and base-2 log-sum-exp [N, Q, C], float32."""
    num_tokens, num_q_heads, _ = call.q_NQD.shape
    shape = (num_tokens, num_q_heads, num_splits)
    part_NQCE = call.q_NQD.new_empty(*shape, call.v_head_dim, dtype=torch.float32)
    return part_NQCE, call.q_NQD.new_empty(shape, dtype=torch.float32)


def combine_launch(
    call: PagedCall,
    part_NQCE: torch.Tensor,
    part_lse_NQC: torch.Tensor,
    out_NQE: torch.Tensor,
    lse_QN: torch.Tensor,
    chunk: int,
) -> KernelCall:
    """Kernel, grid and arguments that write out and lse from the splits of ``chunk`` keys."""
    arguments = {
        **call.lengths(),
        "part": part_NQCE,
        "part_lse": part_lse_NQC,
        "out": out_NQE,
        "lse": lse_QN,
        **strides("p", "nhc", part_NQCE),
        **strides("pl", "nh", part_lse_NQC),
        **strides("o", "nh", out_NQE),
        **strides("l", "hn", lse_QN),
        "chunk": chunk,
        "E": call.v_head_dim,
        "BLOCK_E": triton.next_power_of_2(call.v_head_dim),
        "BLOCK_C": BLOCK_C,
        "num_warps": 4,
        "num_stages": 2,
    }
    return _combine, (call.heads.num_q_heads, call.max_seqlen_q, call.num_sequences), arguments


_decode = paged_op("decode", "", lambda: None, decode_launches)
