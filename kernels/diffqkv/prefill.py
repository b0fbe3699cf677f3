"""Causal attention over packed sequences with n_q query, n_k K and n_v V heads, d_k != d_v.

Shape letters: T tokens of all sequences, one after the other; Q, K, V heads; D width of q and k, E of v.
A program owns a pair: one K head, one V head, and the query heads that read both, packed into the rows of
its tile (position by position), so that K and V are read once for all of them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.diffqkv.calls import KernelCall, run
from kernels.diffqkv.configs import architecture, launch_for
from kernels.diffqkv.packed import check_packed, find_block, pair_arguments, split_rows
from kernels.diffqkv.prefill_backward import prefill_backward
from kernels.diffqkv.shapes import Heads, check_float, check_head_dim, check_index
from kernels.diffqkv.tiles import load_rows, store_rows


def prefill_reference(
    q_TQD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TVE: torch.Tensor,
    cu_seqlens: torch.Tensor,
    softmax_scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The contract of ``prefill_attention``: sequence by sequence, head by head, in the dtype it is given."""
    heads = check_packed(q_TQD, k_TKD, v_TVE)
    scale = q_TQD.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    if k_TKD.dim() == 4:
        k_TKD = k_TKD.flatten(1, 2)
    if v_TVE.dim() == 4:
        v_TVE = v_TVE.flatten(1, 2)
    outs, lses = [], []
    bounds = cu_seqlens.tolist()
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        causal = torch.ones(end - start, end - start, dtype=torch.bool, device=q_TQD.device).tril()
        out_heads, lse_heads = [], []
        for q in range(heads.num_q_heads):
            k_SD = k_TKD[start:end, q * heads.num_k_heads // heads.num_q_heads]
            v_SE = v_TVE[start:end, q * heads.num_v_heads // heads.num_q_heads]
            scores_SS = (q_TQD[start:end, q] @ k_SD.T * scale).masked_fill(~causal, float("-inf"))
            out_heads.append(scores_SS.softmax(dim=-1) @ v_SE)
            lse_heads.append(scores_SS.logsumexp(dim=-1))
        outs.append(torch.stack(out_heads, dim=1))
        lses.append(torch.stack(lse_heads))
    return torch.cat(outs), torch.cat(lses, dim=1)


def prefill_attention(
    q_TQD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TVE: torch.Tensor,
    cu_seqlens: torch.Tensor,
    softmax_scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention inside each packed sequence; differentiable in q, k and v through both results.

    q_TQD: [T, n_q, d_k]. k_TKD: [T, n_k, d_k], v_TVE: [T, n_v, d_v], or with the head axis split into
    (unit, head in the unit). Any strides, the last one 1; float16, bfloat16, or float32 in full precision.
    cu_seqlens: int32 or int64 [sequences + 1], 0 first, T last, never falling; equal ones are an empty
    sequence, so it can be padded to a fixed size. softmax_scale: positive, d_k ** -0.5 by default.
    Returns out [T, n_q, d_v] in the dtype of q, and lse float32 [n_q, T], the natural log-sum-exp of the
    scaled scores. Raises ValueError that says the rule for shapes that are not taken.
    Source: arXiv 2501.13629, section 2, Eq. 3.
    """
    scale = q_TQD.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    return _prefill(q_TQD, k_TKD, v_TVE, cu_seqlens, scale)


def _check(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, softmax_scale: float
) -> Heads:
    heads = check_packed(q, k, v)
    check_head_dim("k_head_dim", k.shape[-1])
    check_head_dim("v_head_dim", v.shape[-1])
    check_float(q=q, k=k, v=v)
    check_index("cu_seqlens", cu_seqlens, like=q)
    if cu_seqlens.shape[0] < 2:
        raise ValueError("cu_seqlens must have at least two entries, 0 and the number of tokens")
    if not softmax_scale > 0:
        raise ValueError(f"softmax_scale must be positive, not {softmax_scale}")
    return heads


@triton.jit
def _attend(
    acc,
    row_max,
    row_sum,
    q,
    k,
    v,
    stride_kt,
    stride_vt,
    positions,
    first_key,
    last_key,
    scale_log2,
    length,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Online softmax, base 2, over the keys from ``first_key`` to before ``last_key``."""
    offsets = tl.arange(0, BLOCK_N)
    for key in range(first_key, last_key, BLOCK_N):
        keys = key + offsets
        wide = tl.cast(key, tl.int64)
        k_tile = load_rows(k + wide * stride_kt, offsets * stride_kt, keys < length, D, BLOCK_D, MASKED)
        scores = tl.dot(q, tl.trans(k_tile), input_precision="ieee")
        if MASKED:
            scores = tl.where(keys[None, :] <= positions[:, None], scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1) * scale_log2)
        p = tl.exp2(scores * scale_log2 - new_max[:, None])
        shrink = tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None]
        v_tile = load_rows(v + wide * stride_vt, offsets * stride_vt, keys < length, E, BLOCK_E, MASKED)
        acc = tl.dot(p.to(v_tile.dtype), v_tile, acc, input_precision="ieee")
        row_max = new_max
    return acc, row_max, row_sum


@triton.jit(do_not_specialize=["num_sequences", "num_tokens"])
def _forward(
    q,
    k,
    v,
    cu_seqlens,
    out,
    lse,
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
    # the longest rows first: the short ones fill the end of the launch
    first_row = (owned - 1 - index) * BLOCK_M
    position, after, head = split_rows(first_row, Q_PER_PAIR, BLOCK_M)
    valid = after < length - position
    token = start + position
    first_head = pair * Q_PER_PAIR
    q_rows = after * stride_qt + head * stride_qh
    q_tile = load_rows(q + token * stride_qt + first_head * stride_qh, q_rows, valid, D, BLOCK_D, True)
    k += start * stride_kt + (pair // PAIRS_PER_UNIT) * stride_ku + (pair % PAIRS_PER_UNIT) * stride_kr
    v += start * stride_vt + (pair // PAIRS_PER_UNIT) * stride_vu + (pair % PAIRS_PER_UNIT) * stride_vr

    acc = tl.zeros([BLOCK_M, BLOCK_E], dtype=tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
    scale_log2 = softmax_scale * 1.4426950408889634
    # every row sees the keys before the tile's first position
    diagonal = position // BLOCK_N * BLOCK_N
    last_key = tl.minimum((first_row + BLOCK_M - 1) // Q_PER_PAIR + 1, length)
    acc, row_max, row_sum = _attend(
        acc, row_max, row_sum, q_tile, k, v, stride_kt, stride_vt, position + after, 0, diagonal,
        scale_log2, length, D, E, BLOCK_D, BLOCK_E, BLOCK_N, False,
    )  # fmt: skip
    acc, row_max, row_sum = _attend(
        acc, row_max, row_sum, q_tile, k, v, stride_kt, stride_vt, position + after, diagonal, last_key,
        scale_log2, length, D, E, BLOCK_D, BLOCK_E, BLOCK_N, True,
    )  # fmt: skip
    num_q_heads = tl.num_programs(1) * Q_PER_PAIR
    out += (token * num_q_heads + first_head) * E
    store_rows(out, (after * num_q_heads + head) * E, valid, acc / row_sum[:, None], E, BLOCK_E)
    natural = (row_max + tl.log2(row_sum)) * 0.6931471805599453
    lse += first_head * num_tokens + token
    tl.store(lse + head.to(tl.int64) * num_tokens + after, natural, mask=valid)


def forward_launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    lse: torch.Tensor,
    architecture: str,
) -> KernelCall:
    """Kernel, grid and arguments for ``architecture``."""
    heads = check_packed(q, k, v)
    launch = launch_for("prefill", q.shape[-1], v.shape[-1], q.dtype, architecture)
    arguments = pair_arguments(q, k, v, cu_seqlens, scale, heads) | launch.options()
    arguments |= {"out": out, "lse": lse}
    blocks = q.shape[0] * heads.q_per_pair // launch.tiles["BLOCK_M"] + arguments["num_sequences"]
    return _forward, (blocks, heads.num_pairs), arguments


def _outputs(q: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    out_TQE = q.new_empty(q.shape[0], q.shape[1], v.shape[-1])
    lse_QT = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    return out_TQE, lse_QT


@torch.library.custom_op("diffqkv::prefill", mutates_args=())
def _prefill(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, softmax_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    _check(q, k, v, cu_seqlens, softmax_scale)
    _check_bounds(cu_seqlens, q.shape[0])
    out, lse = _outputs(q, v)
    run([forward_launch(q, k, v, cu_seqlens, softmax_scale, out, lse, architecture(q.device))], q)
    return out, lse


def _check_bounds(cu_seqlens: torch.Tensor, num_tokens: int) -> None:
    """On the CPU only: on a GPU a look at the values would wait for it."""
    if cu_seqlens.device.type != "cpu":
        return
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != num_tokens or bounds != sorted(bounds):
        raise ValueError(f"cu_seqlens must rise from 0 to the number of tokens, {num_tokens}, not {bounds}")


@_prefill.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, softmax_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    _check(q, k, v, cu_seqlens, softmax_scale)
    return _outputs(q, v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, cu_seqlens, ctx.softmax_scale = inputs
    ctx.save_for_backward(q, k, v, *output, cu_seqlens)


def _backward(ctx: Any, do: torch.Tensor, dlse: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return *prefill_backward(do, dlse, *ctx.saved_tensors, ctx.softmax_scale), None, None


_prefill.register_autograd(_backward, setup_context=_save)
