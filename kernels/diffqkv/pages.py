"""The paged KV cache as the kernels read it: views only, nothing is copied.

Shape letters: P pages, T tokens of a page, K K heads, V V heads, U units, J K heads of a unit, R V heads
of a unit, D width of q and k, E width of v, N query tokens of all sequences one after the other,
Q query heads, B sequences, M entries of a block table.

A page tensor comes by head, [P, T, heads, width], or by unit, [P, T, U, heads of the unit, width]: heads of
different units need not be uniformly strided, as in vLLM's fused page. Head-major pages
[P, heads, T, width] are ``pages.transpose(1, 2)``: the kernels take any strides but the last, which is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from kernels.diffqkv.calls import KernelCall, run, strides
from kernels.diffqkv.configs import architecture
from kernels.diffqkv.shapes import Heads, by_unit, check_float, check_head_dim, check_index, count_heads


def fused_page_views(
    kv_PUTC: torch.Tensor, k_head_dim: int, v_head_dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V of fused pages [P, K, T, D + R*E], in which a K head's R V heads lie behind it.

    Returns k [P, T, K, D] and v [P, T, K, R, E]. vLLM stores a layer with ``head_size_v`` so; its
    token-major and head-major layouts differ in the strides of kv_PUTC only.
    """
    kv_PTUC = kv_PUTC.transpose(1, 2)
    return kv_PTUC[..., :k_head_dim], kv_PTUC[..., k_head_dim:].unflatten(-1, (-1, v_head_dim))


def gather_pages(pages: torch.Tensor, block_table_M: torch.Tensor, length: int) -> torch.Tensor:
    """One sequence out of its pages, [length, heads, width]; for references and tests."""
    page_ids = block_table_M[: -(-length // pages.shape[1])].long()
    tokens = pages[page_ids].flatten(0, 1)[:length]
    return tokens.flatten(1, 2) if tokens.dim() == 4 else tokens


def pages_by_unit(
    k_pages: torch.Tensor, v_pages: torch.Tensor, num_q_heads: int | None = None
) -> tuple[Heads, torch.Tensor, torch.Tensor]:
    """Head counts and views k_PTUJD, v_PTURE; ``num_q_heads`` None where there are no queries.

    Raises ValueError that names the rule where head counts, widths or pages do not fit together.
    """
    n_k, n_v = count_heads("k_pages", k_pages, 2), count_heads("v_pages", v_pages, 2)
    if k_pages.shape[:2] != v_pages.shape[:2]:
        raise ValueError(
            "k_pages and v_pages share a block table, so they must have as many pages and tokens a page: "
            f"{tuple(k_pages.shape[:2])} and {tuple(v_pages.shape[:2])} differ"
        )
    check_head_dim("k_head_dim", k_pages.shape[-1])
    check_head_dim("v_head_dim", v_pages.shape[-1])
    heads = Heads(n_k * n_v if num_q_heads is None else num_q_heads, n_k, n_v)
    return heads, by_unit("k_pages", k_pages, 2, heads), by_unit("v_pages", v_pages, 2, heads)


@dataclass(frozen=True)
class PagedCall:
    """Checked arguments of an op that attends over pages, K and V by unit."""

    heads: Heads
    q_NQD: torch.Tensor
    k_PTUJD: torch.Tensor
    v_PTURE: torch.Tensor
    block_table_BM: torch.Tensor
    cu_seqlens_q: torch.Tensor
    seq_lens_B: torch.Tensor
    softmax_scale: float
    max_seqlen_q: int
    max_seqlen_k: int

    @property
    def num_sequences(self) -> int:
        return self.seq_lens_B.shape[0]

    @property
    def v_head_dim(self) -> int:
        return self.v_PTURE.shape[-1]

    def lengths(self) -> dict[str, Any]:
        """Kernel arguments that say how long sequences are."""
        return {"cu_seqlens_q": self.cu_seqlens_q, "seq_lens": self.seq_lens_B}

    def table(self) -> dict[str, Any]:
        """Kernel arguments that say where pages are."""
        return {
            "block_table": self.block_table_BM,
            "stride_table": self.block_table_BM.stride(0),
            "PAGE_SIZE": self.k_PTUJD.shape[1],
        }

    def q_and_k(self) -> dict[str, Any]:
        d = self.q_NQD.shape[-1]
        return {
            "q": self.q_NQD,
            "k": self.k_PTUJD,
            "scale_log2": self.softmax_scale * 1.4426950408889634,
            **strides("q", "nh", self.q_NQD),
            **strides("k", "ptuj", self.k_PTUJD),
            "D": d,
            "BLOCK_D": triton.next_power_of_2(d),
        }

    def v(self) -> dict[str, Any]:
        e = self.v_head_dim
        return {
            "v": self.v_PTURE,
            **strides("v", "ptur", self.v_PTURE),
            "E": e,
            "BLOCK_E": triton.next_power_of_2(e),
        }

    def empty_results(self) -> tuple[torch.Tensor, torch.Tensor]:
        """out [N, Q, E] in q's dtype and lse [Q, N] in float32."""
        num_tokens, num_q_heads, _ = self.q_NQD.shape
        out_NQE = self.q_NQD.new_empty(num_tokens, num_q_heads, self.v_head_dim)
        return out_NQE, self.q_NQD.new_empty(num_q_heads, num_tokens, dtype=torch.float32)


def check_paged_call(
    q_NQD: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table_BM: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    seq_lens_B: torch.Tensor,
    softmax_scale: float | None,
    max_seqlen_q: int,
    max_seqlen_k: int | None,
) -> PagedCall:
    """Look at shapes, strides and dtypes, never at values; ValueError that names the rule that is broken."""
    if softmax_scale is None:
        softmax_scale = q_NQD.shape[-1] ** -0.5
    if q_NQD.dim() != 3:
        raise ValueError(f"q must be [tokens, heads, dim], not {tuple(q_NQD.shape)}")
    heads, k_PTUJD, v_PTURE = pages_by_unit(k_pages, v_pages, q_NQD.shape[1])
    if q_NQD.shape[-1] != k_pages.shape[-1]:
        raise ValueError(
            f"q and k_pages must have the same head dim, not {q_NQD.shape[-1]} and {k_pages.shape[-1]}"
        )
    check_float(q=q_NQD, k_pages=k_pages, v_pages=v_pages)
    check_index("block_table", block_table_BM, q_NQD, axes=2)
    check_index("cu_seqlens_q", cu_seqlens_q, q_NQD)
    check_index("seq_lens", seq_lens_B, q_NQD)
    num_sequences = seq_lens_B.shape[0]
    if block_table_BM.shape[0] != num_sequences or cu_seqlens_q.shape[0] != num_sequences + 1:
        raise ValueError(
            f"{num_sequences} seq_lens need as many rows of block_table and one more of cu_seqlens_q, "
            f"not {block_table_BM.shape[0]} and {cu_seqlens_q.shape[0]}"
        )
    if not softmax_scale > 0:
        raise ValueError(f"softmax_scale must be positive, not {softmax_scale}")
    if max_seqlen_q < 1:
        raise ValueError(f"max_seqlen_q must be at least 1, not {max_seqlen_q}")
    capacity = block_table_BM.shape[1] * k_pages.shape[1]
    max_seqlen_k = capacity if max_seqlen_k is None else max_seqlen_k
    if not 1 <= max_seqlen_k <= capacity:
        raise ValueError(
            f"max_seqlen_k must be from 1 to the {capacity} tokens that a row of block_table can hold, "
            f"not {max_seqlen_k}"
        )
    return PagedCall(
        heads,
        q_NQD,
        k_PTUJD,
        v_PTURE,
        block_table_BM,
        cu_seqlens_q,
        seq_lens_B,
        softmax_scale,
        max_seqlen_q,
        max_seqlen_k,
    )


def paged_op(
    name: str,
    options: str,
    check: Callable[..., None],
    launches: Callable[..., list[KernelCall]],
) -> torch.library.CustomOpDef:
    """Register ``diffqkv::<name>``, which takes what ``check_paged_call`` takes and gives out and lse.

    ``options``: more arguments, in the words of a schema; ``check(*options)`` raises ValueError for values
    that are not taken; ``launches(call, out, lse, *options, architecture)`` gives what is to run.
    """

    def checked(*arguments: Any) -> PagedCall:
        check(*arguments[9:])
        return check_paged_call(*arguments[:9])

    def attend(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        call = checked(*arguments)
        results = call.empty_results()
        where = architecture(call.q_NQD.device)
        run(launches(call, *results, *arguments[9:], where), call.q_NQD)
        return results

    schema = (
        "(Tensor q, Tensor k_pages, Tensor v_pages, Tensor block_table, Tensor cu_seqlens_q, "
        "Tensor seq_lens, float? softmax_scale, SymInt max_seqlen_q, SymInt? max_seqlen_k"
        f"{options}) -> (Tensor, Tensor)"
    )
    op = torch.library.custom_op(f"diffqkv::{name}", attend, mutates_args=(), schema=schema)
    op.register_fake(lambda *arguments: checked(*arguments).empty_results())
    return op


def seen_rows(
    q_NQD: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table_BM: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    seq_lens_B: torch.Tensor,
    softmax_scale: float | None,
) -> Iterator[tuple[int, int, int, torch.Tensor, torch.Tensor]]:
    """For references: sequence by sequence, token by token, head by head, as ``decode_attention`` defines.

    Sequence, token and query head of each row that sees a key; its scaled scores [S] of the S keys that
    it sees, and their V rows [S, E].
    """
    n_q, d_k = q_NQD.shape[1:]
    scale = d_k**-0.5 if softmax_scale is None else softmax_scale
    for b, length in enumerate(seq_lens_B.tolist()):
        first, last = cu_seqlens_q[b : b + 2].tolist()
        k_LKD = gather_pages(k_pages, block_table_BM[b], length)
        v_LVE = gather_pages(v_pages, block_table_BM[b], length)
        for n in range(first, last):
            seen = length - (last - 1 - n)
            for q in range(n_q) if seen > 0 else ():
                scores_S = k_LKD[:seen, q * k_LKD.shape[1] // n_q] @ q_NQD[n, q] * scale
                yield b, n, q, scores_S, v_LVE[:seen, q * v_LVE.shape[1] // n_q]


@triton.jit
def query_rows(q_first, q_len, seq_len, row_block, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """Rows of a tile: GROUP query heads of a position side by side, then the next position.

    Returns each row's token (int64), head inside the group, whether it exists, and the keys it sees: the
    last query token sees the whole sequence, each one before it one key less.
    """
    row_M = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    position_M = row_M // GROUP
    valid_M = position_M < q_len
    seen_M = tl.where(valid_M, seq_len - q_len + position_M + 1, 0)
    token_M = tl.cast(q_first, tl.int64) + position_M
    return token_M, row_M % GROUP, valid_M, seen_M


@triton.jit
def page_of(block_table, start, end, PAGE_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Pages of the keys from ``start``, BLOCK_N of them or up to ``end``; a scalar where one page has all.

    int64, because page times stride overflows int32.
    """
    if PAGE_SIZE % BLOCK_N == 0:
        return tl.load(block_table + start // PAGE_SIZE, mask=start < end, other=0).to(tl.int64)
    else:
        key = start + tl.arange(0, BLOCK_N)
        return tl.load(block_table + key // PAGE_SIZE, mask=key < end, other=0).to(tl.int64)


@triton.jit
def rows_of_page(page, token_of_page, stride_p, stride_t, PAGE_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Where rows lie, as an offset that they share and one of each row: in 32 bits if one page has all."""
    if PAGE_SIZE % BLOCK_N == 0:
        return page * stride_p, token_of_page * stride_t
    else:
        return tl.cast(0, tl.int64), page * stride_p + token_of_page * stride_t
