"""Gradients of ``prefill``: no atomics, no buffers of n_q heads for dK or dV, the same bits every time.

dQ: a program owns the same tile of rows as in the forward pass, and also writes delta, the row sums of
dO * O that both kernels need. dK and dV: a program owns a block of keys of one unit and walks its pairs;
the head that the unit shares is summed over all of them, the others are stored one after the other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.diffqkv.calls import KernelCall, run
from kernels.diffqkv.configs import architecture, launch_for
from kernels.diffqkv.packed import check_packed, find_block, pair_arguments, split_rows
from kernels.diffqkv.shapes import by_unit
from kernels.diffqkv.tiles import load_rows, store_rows


@triton.jit(do_not_specialize=["num_sequences", "num_tokens"])
def _dq(
    q,
    k,
    v,
    cu_seqlens,
    out,
    lse,
    do,
    dlse,
    dq,
    delta,
    softmax_scale,
    num_sequences,
    num_tokens,
    stride_qt,
    stride_qh,
    stride_kt,
    stride_ku,
    stride_kr,
    stride_vt,
    stride_vu,
    stride_vr,
    PAIRS_PER_UNIT: tl.constexpr,
    Q_PER_PAIR: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # wide: heads may lie further apart than 32 bits reach
    pair = tl.program_id(1).to(tl.int64)
    start, length, index, owned = find_block(cu_seqlens, num_sequences, tl.program_id(0), Q_PER_PAIR, BLOCK_M)
    if index >= owned:
        return
    first_row = (owned - 1 - index) * BLOCK_M
    position, after, head = split_rows(first_row, Q_PER_PAIR, BLOCK_M)
    valid = after < length - position
    token = start + position
    first_head = pair * Q_PER_PAIR
    # out, its gradient and dq are packed; lse, delta and the gradient of lse are [heads, tokens]
    num_q_heads = tl.num_programs(1) * Q_PER_PAIR
    packed = token * num_q_heads + first_head
    rows = after * num_q_heads + head
    scalars = first_head * num_tokens + token + head.to(tl.int64) * num_tokens + after

    do_tile = load_rows(do + packed * E, rows * E, valid, E, BLOCK_E, True)
    out_tile = load_rows(out + packed * E, rows * E, valid, E, BLOCK_E, True)
    delta_rows = tl.sum(do_tile.to(tl.float32) * out_tile.to(tl.float32), 1)
    delta_rows -= tl.load(dlse + scalars, mask=valid, other=0.0)
    tl.store(delta + scalars, delta_rows, mask=valid)
    lse_log2 = tl.load(lse + scalars, mask=valid, other=float("inf")) * 1.4426950408889634

    q_rows = after * stride_qt + head * stride_qh
    q_tile = load_rows(q + token * stride_qt + first_head * stride_qh, q_rows, valid, D, BLOCK_D, True)
    k += start * stride_kt + (pair // PAIRS_PER_UNIT) * stride_ku + (pair % PAIRS_PER_UNIT) * stride_kr
    v += start * stride_vt + (pair // PAIRS_PER_UNIT) * stride_vu + (pair % PAIRS_PER_UNIT) * stride_vr
    scale_log2 = softmax_scale * 1.4426950408889634
    last_key = tl.minimum((first_row + BLOCK_M - 1) // Q_PER_PAIR + 1, length)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    offsets = tl.arange(0, BLOCK_N)
    for key in range(0, last_key, BLOCK_N):
        keys = key + offsets
        wide = tl.cast(key, tl.int64)
        k_tile = load_rows(k + wide * stride_kt, offsets * stride_kt, keys < length, D, BLOCK_D, True)
        v_tile = load_rows(v + wide * stride_vt, offsets * stride_vt, keys < length, E, BLOCK_E, True)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        p = tl.exp2(scores * scale_log2 - lse_log2[:, None])
        p = tl.where(keys[None, :] <= position + after[:, None], p, 0.0)
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision="ieee")
        ds = p * (dp - delta_rows[:, None])
        acc = tl.dot(ds.to(k_tile.dtype), k_tile, acc, input_precision="ieee")
    store_rows(dq + packed * D, rows * D, valid, acc * softmax_scale, D, BLOCK_D)


@triton.jit(do_not_specialize=["num_sequences", "num_tokens"])
def _dkdv(
    q,
    k,
    v,
    cu_seqlens,
    lse,
    do,
    delta,
    dk,
    dv,
    softmax_scale,
    num_sequences,
    num_tokens,
    stride_qt,
    stride_qh,
    stride_kt,
    stride_ku,
    stride_kr,
    stride_vt,
    stride_vu,
    stride_vr,
    PAIRS_PER_UNIT: tl.constexpr,
    K_PER_UNIT: tl.constexpr,
    V_PER_UNIT: tl.constexpr,
    Q_PER_PAIR: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    unit = tl.program_id(1).to(tl.int64)
    num_units = tl.num_programs(1)
    start, length, index, owned = find_block(cu_seqlens, num_sequences, tl.program_id(0), 1, BLOCK_N)
    if index >= owned:
        return
    # the first keys are read by most queries: they come first as they are
    first_key = index * BLOCK_N
    offsets = tl.arange(0, BLOCK_N)
    keys = first_key + offsets
    present = keys < length
    first_token = start + first_key
    packed_heads = num_units * PAIRS_PER_UNIT * Q_PER_PAIR
    scale_log2 = softmax_scale * 1.4426950408889634
    first_row = first_key * Q_PER_PAIR
    last_row = length * Q_PER_PAIR
    acc_dk = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    acc_dv = tl.zeros([BLOCK_N, BLOCK_E], dtype=tl.float32)
    k += first_token * stride_kt + unit * stride_ku
    v += first_token * stride_vt + unit * stride_vu
    # what all pairs of the unit share is loaded once
    if K_PER_UNIT == 1:
        k_tile = load_rows(k, offsets * stride_kt, present, D, BLOCK_D, True)
    if V_PER_UNIT == 1:
        v_tile = load_rows(v, offsets * stride_vt, present, E, BLOCK_E, True)
    for index_in_unit in range(PAIRS_PER_UNIT):
        pair = tl.cast(index_in_unit, tl.int64)
        if V_PER_UNIT > 1:
            acc_dv = tl.zeros([BLOCK_N, BLOCK_E], dtype=tl.float32)
        if K_PER_UNIT > 1:
            acc_dk = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
        if K_PER_UNIT > 1:
            k_tile = load_rows(k + pair * stride_kr, offsets * stride_kt, present, D, BLOCK_D, True)
        if V_PER_UNIT > 1:
            v_tile = load_rows(v + pair * stride_vr, offsets * stride_vt, present, E, BLOCK_E, True)
        q_head = (unit * PAIRS_PER_UNIT + pair) * Q_PER_PAIR
        q_pair = q + start * stride_qt + q_head * stride_qh
        do_pair = do + (start * packed_heads + q_head) * E
        lse_pair = lse + q_head * num_tokens + start
        delta_pair = delta + q_head * num_tokens + start
        for row in range(first_row, last_row, BLOCK_M):
            position, after, head = split_rows(row, Q_PER_PAIR, BLOCK_M)
            valid = after < length - position
            wide = tl.cast(position, tl.int64)
            q_rows = after * stride_qt + head * stride_qh
            q_tile = load_rows(q_pair + wide * stride_qt, q_rows, valid, D, BLOCK_D, True)
            do_rows = (after * packed_heads + head) * E
            do_tile = load_rows(do_pair + wide * packed_heads * E, do_rows, valid, E, BLOCK_E, True)
            scalars = head.to(tl.int64) * num_tokens + after
            # a row that is not there has lse = inf, so p = 0
            lse_rows = tl.load(lse_pair + wide + scalars, mask=valid, other=float("inf"))
            lse_log2 = lse_rows * 1.4426950408889634
            delta_rows = tl.load(delta_pair + wide + scalars, mask=valid, other=0.0)
            scores = tl.dot(k_tile, tl.trans(q_tile), input_precision="ieee")
            p = tl.exp2(scores * scale_log2 - lse_log2[None, :])
            p = tl.where(keys[:, None] <= position + after[None, :], p, 0.0)
            acc_dv = tl.dot(p.to(do_tile.dtype), do_tile, acc_dv, input_precision="ieee")
            dp = tl.dot(v_tile, tl.trans(do_tile), input_precision="ieee")
            ds = p * (dp - delta_rows[None, :])
            acc_dk = tl.dot(ds.to(q_tile.dtype), q_tile, acc_dk, input_precision="ieee")
        if V_PER_UNIT > 1:
            v_heads = num_units * V_PER_UNIT
            dv_pair = dv + (first_token * v_heads + unit * V_PER_UNIT + pair) * E
            store_rows(dv_pair, offsets * (v_heads * E), present, acc_dv, E, BLOCK_E)
        if K_PER_UNIT > 1:
            k_heads = num_units * K_PER_UNIT
            dk_pair = dk + (first_token * k_heads + unit * K_PER_UNIT + pair) * D
            store_rows(dk_pair, offsets * (k_heads * D), present, acc_dk * softmax_scale, D, BLOCK_D)
    if V_PER_UNIT == 1:
        dv_unit = dv + (first_token * num_units + unit) * E
        store_rows(dv_unit, offsets * (num_units * E), present, acc_dv, E, BLOCK_E)
    if K_PER_UNIT == 1:
        dk_unit = dk + (first_token * num_units + unit) * D
        store_rows(dk_unit, offsets * (num_units * D), present, acc_dk * softmax_scale, D, BLOCK_D)


def dq_launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    scale: float,
    architecture: str,
    **tensors: torch.Tensor,
) -> KernelCall:
    """Kernel, grid and arguments; ``tensors``: out, lse, do, dlse, dq, delta."""
    heads = check_packed(q, k, v)
    launch = launch_for("prefill_dq", q.shape[-1], v.shape[-1], q.dtype, architecture)
    arguments = pair_arguments(q, k, v, cu_seqlens, scale, heads) | launch.options() | tensors
    blocks = q.shape[0] * heads.q_per_pair // launch.tiles["BLOCK_M"] + arguments["num_sequences"]
    return _dq, (blocks, heads.num_pairs), arguments


def dkdv_launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    scale: float,
    architecture: str,
    **tensors: torch.Tensor,
) -> KernelCall:
    """Kernel, grid and arguments; ``tensors``: lse, do, delta, dk, dv."""
    heads = check_packed(q, k, v)
    launch = launch_for("prefill_dkdv", q.shape[-1], v.shape[-1], q.dtype, architecture)
    arguments = pair_arguments(q, k, v, cu_seqlens, scale, heads) | launch.options() | tensors
    arguments["K_PER_UNIT"] = by_unit("k", k, 1, heads).shape[2]
    arguments["V_PER_UNIT"] = by_unit("v", v, 1, heads).shape[2]
    blocks = q.shape[0] // launch.tiles["BLOCK_N"] + arguments["num_sequences"]
    return _dkdv, (blocks, heads.num_units), arguments


def _gradients(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # packed, whatever the strides of q, k and v are
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


@torch.library.custom_op("diffqkv::prefill_backward", mutates_args=())
def prefill_backward(
    do: torch.Tensor,
    dlse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor,
    softmax_scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dq, dk, dv of the shapes of q, k, v, from the gradients of ``prefill``'s two results."""
    do, dlse, out, lse = (x.contiguous() for x in (do, dlse, out, lse))
    dq, dk, dv = _gradients(q, k, v)
    delta = torch.empty_like(lse)
    where = architecture(q.device)
    launches = (
        dq_launch(
            q, k, v, cu_seqlens, softmax_scale, where, out=out, lse=lse, do=do, dlse=dlse, dq=dq, delta=delta
        ),
        dkdv_launch(q, k, v, cu_seqlens, softmax_scale, where, lse=lse, do=do, delta=delta, dk=dk, dv=dv),
    )
    run(launches, q)
    return dq, dk, dv


@prefill_backward.register_fake
def _(
    do: torch.Tensor,
    dlse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor,
    softmax_scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _gradients(q, k, v)
