"""Who can decode DiffQKV over a cache, each with the cache laid out as it likes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels.providers import repeat_k
from kernels.diffqkv.bounded import bounded_decode_attention
from kernels.diffqkv.decode import decode_attention, decode_reference
from kernels.diffqkv.pages import fused_page_views
from kernels.diffqkv.topk import topk_decode_attention

TOP_K, EPSILON = 100, 1e-3


@dataclass(frozen=True)
class Problem:
    """One new token of each sequence over a cache of ``length`` tokens, or of many fewer if ``skewed``."""

    batch: int
    length: int
    heads: tuple[int, int, int]
    k_head_dim: int
    v_head_dim: int
    page_size: int
    dtype: torch.dtype
    device: str
    skewed: bool = False
    # random scores are flat: times this, a few keys carry the weight, as in a trained model
    sharpness: float = 1.0

    @property
    def name(self) -> str:
        n_q, n_k, n_v = self.heads
        text = f"{self.batch} x {self.length}, {n_q}/{n_k}/{n_v}, d {self.k_head_dim}/{self.v_head_dim}"
        text += f", page {self.page_size}" + (", skewed" if self.skewed else "")
        return text + (f", scores x {self.sharpness:g}" if self.sharpness != 1.0 else "")

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence: all the same, or one whole and the rest an eighth of it."""
        rest = self.length // 8 if self.skewed else self.length
        return [self.length] + [rest] * (self.batch - 1)

    @property
    def scale(self) -> float:
        return self.k_head_dim**-0.5 * self.sharpness

    @property
    def bytes(self) -> int:
        """What must be read whoever reads it: each K and V row once."""
        _, n_k, n_v = self.heads
        row = (n_k * self.k_head_dim + n_v * self.v_head_dim) * self.dtype.itemsize
        return sum(self.lengths) * row

    def short(self) -> Problem:
        """One small enough for the reference."""
        return replace(self, batch=min(self.batch, 2), length=min(self.length, 300))

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q [B, n_q, d_k], K and V head-major [B, heads, L, dim]."""
        n_q, n_k, n_v = self.heads
        generator = torch.Generator(self.device).manual_seed(0)
        shapes = (
            (self.batch, n_q, self.k_head_dim),
            (self.batch, n_k, self.length, self.k_head_dim),
            (self.batch, n_v, self.length, self.v_head_dim),
        )
        q, k, v = (
            torch.randn(shape, generator=generator, dtype=self.dtype, device=self.device) for shape in shapes
        )
        return q, k, v


Call = Callable[[], torch.Tensor]
Prepare = Callable[[Problem], Call]


def table_of(problem: Problem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shuffled block table, cu_seqlens_q and seq_lens."""
    pages = -(-problem.length // problem.page_size)
    ids = torch.randperm(problem.batch * pages, generator=torch.Generator().manual_seed(1))
    table = ids.reshape(problem.batch, pages).to(torch.int32)
    cu_seqlens_q = torch.arange(problem.batch + 1, dtype=torch.int32)
    lengths = torch.tensor(problem.lengths, dtype=torch.int32)
    return table.to(problem.device), cu_seqlens_q.to(problem.device), lengths.to(problem.device)


def paged(x_BHLD: torch.Tensor, table_BM: torch.Tensor, page_size: int) -> torch.Tensor:
    """A contiguous cache in pages, head-major: [P, heads, T, dim]."""
    batch, heads, length, dim = x_BHLD.shape
    pages = x_BHLD.new_empty(table_BM.numel(), heads, page_size, dim)
    for m in range(table_BM.shape[1]):
        rows = x_BHLD[:, :, m * page_size : (m + 1) * page_size]
        pages[table_BM[:, m].long(), :, : rows.shape[2]] = rows
    return pages


def over_pages(attend: Callable[..., tuple[torch.Tensor, torch.Tensor]], gqa: bool = False) -> Prepare:
    """An op of ours over separate pages; ``gqa``: with as many K heads as V heads."""

    def prepare(problem: Problem) -> Call:
        q, k, v = problem.tensors()
        if gqa:
            k = repeat_k(k, v)
        table = table_of(problem)
        k_pages, v_pages = (paged(x, table[0], problem.page_size).transpose(1, 2) for x in (k, v))
        return lambda: attend(q, k_pages, v_pages, *table, softmax_scale=problem.scale)[0]

    return prepare


def over_fused_pages(problem: Problem) -> Call:
    q, k, v = problem.tensors()
    table = table_of(problem)
    v_units = v.unflatten(1, (k.shape[1], -1)).transpose(2, 3).flatten(3)
    pages = paged(torch.cat((k, v_units), dim=-1), table[0], problem.page_size)
    k_pages, v_pages = fused_page_views(pages, problem.k_head_dim, problem.v_head_dim)
    return lambda: decode_attention(q, k_pages, v_pages, *table, softmax_scale=problem.scale)[0]


def contiguous(backend: SDPBackend, repeat: bool) -> Prepare:
    """SDPA over a contiguous cache of exactly L tokens; K repeated beforehand, or as it is."""

    def prepare(problem: Problem) -> Call:
        q, k, v = _one_length(problem)
        if repeat:
            k = repeat_k(k, v)

        def call() -> torch.Tensor:
            with sdpa_kernel(backend):
                out = scaled_dot_product_attention(q[:, :, None], k, v, scale=problem.scale, enable_gqa=True)
            return out[:, :, 0]

        return call

    return prepare


def flash_stride0(problem: Problem) -> Call:
    """Each K head with its V heads as a sequence of its own; the one K head of it seen many times."""
    q, k, v = _one_length(problem)
    n_k = k.shape[1]
    q_units, k_units, v_units = (x.unflatten(1, (n_k, -1)).flatten(0, 1) for x in (q[:, :, None], k, v))
    seen = k_units.expand(-1, v_units.shape[1], -1, -1)

    def call() -> torch.Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            out = scaled_dot_product_attention(q_units, seen, v_units, scale=problem.scale, enable_gqa=True)
        return out[:, :, 0].unflatten(0, (-1, n_k)).flatten(1, 2)

    return call


def flex_repeat(problem: Problem) -> Call:
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = _one_length(problem)
    k, flex = repeat_k(k, v), torch.compile(flex_attention)
    return lambda: flex(q[:, :, None], k, v, scale=problem.scale, enable_gqa=True)[:, :, 0]


def _one_length(problem: Problem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if problem.skewed:
        raise ValueError("a contiguous cache has one length for all sequences")
    return problem.tensors()


def reference(problem: Problem) -> torch.Tensor:
    """The exact answer, in float64."""
    q, k, v = (x.double() for x in problem.tensors())
    table = table_of(problem)
    k_pages, v_pages = (paged(x, table[0], problem.page_size).transpose(1, 2) for x in (k, v))
    return decode_reference(q, k_pages, v_pages, *table, problem.scale)[0]


def top_k(*arguments: torch.Tensor, softmax_scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    return topk_decode_attention(*arguments, softmax_scale=softmax_scale, top_k=TOP_K)


def bounded(*arguments: torch.Tensor, softmax_scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    return bounded_decode_attention(*arguments, EPSILON, softmax_scale)


EXACT: dict[str, Prepare] = {
    "ours": over_pages(decode_attention),
    "ours, fused pages": over_fused_pages,
    "ours, K heads as V": over_pages(decode_attention, gqa=True),
    "cudnn": contiguous(SDPBackend.CUDNN_ATTENTION, repeat=False),
    "flash, K repeated": contiguous(SDPBackend.FLASH_ATTENTION, repeat=True),
    "flash, K of stride 0": flash_stride0,
    "flex, K repeated": flex_repeat,
}
SELECTIVE: dict[str, Prepare] = {
    f"top {TOP_K} V rows": over_pages(top_k),
    f"V within {EPSILON}": over_pages(bounded),
}
