"""One new token of each sequence over its cache: who can do it, each with the cache laid out as it likes.

GB/s are over the bytes that must be read (each K and V row once), whatever a provider reads. Where K must
have as many heads as V, the cache holds it repeated, and repeating it is a phase of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels.measure import Call
from benchmarks.kernels.prefill import SIGMA, varlen_options
from benchmarks.kernels.sweep import LIMITS, Area, Error, Prepared, Provider, relative
from kernels.diffqkv.decode import decode_attention, decode_reference
from kernels.diffqkv.pages import fused_page_views

# of a cache; peers hold it once more, with K repeated
MOST_BYTES = 12 * 2**30
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Problem:
    """One new token of each sequence over a cache of ``length`` tokens, or of many fewer if ``skewed``."""

    batch: int
    length: int
    heads: tuple[int, int, int]
    k_head_dim: int
    v_head_dim: int
    page_size: int = 64
    dtype: torch.dtype = torch.bfloat16
    device: str = "cuda"
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
        return sum(self.lengths) * (n_k * self.k_head_dim + n_v * self.v_head_dim) * self.dtype.itemsize

    def work(self, phase: str) -> tuple[float, float]:
        n_q, n_k, n_v = self.heads
        if phase == "K repeat":
            k_bytes = sum(self.lengths) * n_k * self.k_head_dim * self.dtype.itemsize
            return 0.0, k_bytes * (1 + max(n_v // n_k, 1))
        return 2.0 * sum(self.lengths) * n_q * (self.k_head_dim + self.v_head_dim), self.bytes

    def short(self) -> Problem:
        """Of three splits."""
        return replace(self, batch=min(self.batch, 2), length=min(self.length, 1100))

    def tensors(self) -> Tensors:
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

    def table(self) -> Tensors:
        """Shuffled block table, cu_seqlens_q and seq_lens."""
        pages = -(-self.length // self.page_size)
        ids = torch.randperm(self.batch * pages, generator=torch.Generator().manual_seed(1))
        table = ids.reshape(self.batch, pages).to(torch.int32)
        cu_seqlens_q = torch.arange(self.batch + 1, dtype=torch.int32)
        lengths = torch.tensor(self.lengths, dtype=torch.int32)
        return table.to(self.device), cu_seqlens_q.to(self.device), lengths.to(self.device)

    def paged(self, x_BHLD: torch.Tensor) -> torch.Tensor:
        """A contiguous cache in pages, head-major: [P, heads, T, dim]."""
        table_BM, _, _ = self.table()
        size, (_, heads, _, dim) = self.page_size, x_BHLD.shape
        pages = x_BHLD.new_zeros(table_BM.numel(), heads, size, dim)
        for m in range(table_BM.shape[1]):
            rows = x_BHLD[:, :, m * size : (m + 1) * size]
            pages[table_BM[:, m].long(), :, : rows.shape[2]] = rows
        return pages


def problems(tiny: bool) -> list[Problem]:
    """1k to 128k tokens by 1 to 64 sequences, Sigma's; some with other pages, lengths, widths, heads."""
    if tiny:
        return [Problem(2, 37, (4, 1, 2), 16, 16, 16, torch.float32, "cpu")]
    first = [(16, 32768), (64, 8192), (1, 2048), (16, 8192), (1, 131072), (4, 32768), (1, 32768)]
    sizes = first + [(b, n) for n in (8192, 131072, 2048, 1024, 32768) for b in (64, 16, 4, 1)]
    made = [Problem(b, n, SIGMA, dim, dim) for b, n in dict.fromkeys(sizes) for dim in (64, 128)]
    for dim in (64, 128):
        one = Problem(16, 8192, SIGMA, dim, dim)
        others = [replace(one, page_size=size) for size in (16, 128)]
        others += [replace(one, skewed=True), replace(one, k_head_dim=dim // 2)]
        others += [replace(one, heads=heads) for heads in ((32, 16, 16), (32, 32, 32), (32, 16, 4))]
        made[12:12] = others
    return [problem for problem in made if problem.bytes <= MOST_BYTES]


def prepared(call: Call, *, eager: bool = False, **more: Call) -> Prepared:
    """The one phase "decode", and ``more`` by name."""
    phases = {"decode": call, **{name.replace("_", " "): other for name, other in more.items()}}
    return Prepared(lambda: [call()], phases, eager=("decode",) if eager else ())  # type: ignore[list-item]


def over_pages(attend: Callable[..., Tensors], spread_k: bool = False) -> Callable[[Problem], Prepared]:
    """An op of ours over separate pages; ``spread_k``: with as many K heads as V heads."""

    def prepare(problem: Problem) -> Prepared:
        q, k, v = problem.tensors()
        k_pages, v_pages = (problem.paged(x).transpose(1, 2) for x in (_spread(k, v) if spread_k else k, v))
        table = problem.table()
        return prepared(lambda: attend(q, k_pages, v_pages, *table, softmax_scale=problem.scale)[0])

    return prepare


def over_fused_pages(problem: Problem) -> Prepared:
    """As vLLM stores them: K and its V heads side by side."""
    q, k, v = problem.tensors()
    v_units = v.unflatten(1, (k.shape[1], -1)).transpose(2, 3).flatten(3)
    pages = problem.paged(torch.cat((k, v_units), dim=-1))
    k_pages, v_pages = fused_page_views(pages, problem.k_head_dim, problem.v_head_dim)
    table = problem.table()
    return prepared(lambda: decode_attention(q, k_pages, v_pages, *table, softmax_scale=problem.scale)[0])


def sdpa(backend: SDPBackend, spread_k: bool = False) -> Callable[[Problem], Prepared]:
    """SDPA over a contiguous cache of exactly L tokens; K repeated beforehand, or as it is."""

    def prepare(problem: Problem) -> Prepared:
        q, k, v = problem.tensors()
        seen = _spread(k, v) if spread_k else k
        more = {"K_repeat": lambda: _spread(k, v)} if spread_k and seen is not k else {}
        return prepared(lambda: _sdpa(backend, q[:, :, None], seen, v, problem)[:, :, 0], **more)

    return prepare


def cudnn_growing(problem: Problem) -> Prepared:
    """One key more each call, as when generating: cuDNN plans anew for each length."""
    q, k, v = problem.tensors()
    steps = count(problem.length // 2 + 1)

    def step() -> torch.Tensor:
        n = next(steps)
        return _sdpa(SDPBackend.CUDNN_ATTENTION, q[:, :, None], k[:, :, :n], v[:, :, :n], problem)[:, :, 0]

    whole = _sdpa(SDPBackend.CUDNN_ATTENTION, q[:, :, None], k, v, problem)[:, :, 0]
    return Prepared(lambda: [whole], {"decode": step}, eager=("decode",))


def flash_stride0(problem: Problem) -> Prepared:
    """Each K head with its V heads as a sequence of its own; the one K head of it seen many times."""
    q, k, v = problem.tensors()
    n_k = k.shape[1]
    q_units, k_units, v_units = (x.unflatten(1, (n_k, -1)).flatten(0, 1) for x in (q[:, :, None], k, v))
    seen = k_units.expand(-1, v_units.shape[1], -1, -1)

    def call() -> torch.Tensor:
        out = _sdpa(SDPBackend.FLASH_ATTENTION, q_units, seen, v_units, problem)
        return out[:, :, 0].unflatten(0, (-1, n_k)).flatten(1, 2)

    return prepared(call)


def varlen(problem: Problem) -> Prepared:
    """torch's varlen_attn over pages, K repeated to V's heads."""
    if problem.device == "cpu":
        raise ValueError("varlen_attn has no CPU backend")
    missing = {"block_table", "seqused_k", "enable_gqa"} - varlen_options()
    if missing:
        raise ValueError(f"varlen_attn of torch {torch.__version__} has no {', '.join(sorted(missing))}")
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = problem.tensors()
    k_pages, v_pages = (problem.paged(x).transpose(1, 2).contiguous() for x in (_spread(k, v), v))
    table, cu_seqlens_q, seq_lens = problem.table()
    return prepared(
        lambda: varlen_attn(
            q, k_pages, v_pages, cu_seqlens_q, None, 1, problem.length, scale=problem.scale,
            enable_gqa=True, seqused_k=seq_lens, block_table=table,
        )
    )  # fmt: skip


def flex(problem: Problem) -> Prepared:
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = problem.tensors()
    k, attend = _spread(k, v), torch.compile(flex_attention, dynamic=False)
    return prepared(lambda: attend(q[:, :, None], k, v, scale=problem.scale, enable_gqa=True)[:, :, 0])


def _sdpa(
    backend: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, problem: Problem
) -> torch.Tensor:
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v, scale=problem.scale, enable_gqa=True)


def _spread(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """K with as many heads as V."""
    return k.repeat_interleave(v.shape[1] // k.shape[1], dim=1) if k.shape[1] < v.shape[1] else k


@lru_cache(maxsize=2)
def exact(problem: Problem) -> torch.Tensor:
    """The answer in float64."""
    return decode_reference(*exact_arguments(problem), problem.scale)[0]


def exact_arguments(problem: Problem) -> tuple[torch.Tensor, ...]:
    q, k, v = problem.tensors()
    pages = (problem.paged(x).transpose(1, 2).double() for x in (k, v))
    return (q.double(), *pages, *problem.table())


def errors(problem: Problem, answers: list[torch.Tensor]) -> list[Error]:
    return [Error("out", relative(answers[0], exact(problem)), LIMITS[problem.dtype][0])]


def _one_length(problem: Problem) -> bool:
    """A contiguous cache has one length for all sequences."""
    return not problem.skewed


def _spreads(problem: Problem) -> bool:
    return problem.heads[2] % problem.heads[1] == 0


def _fewer_k_heads(problem: Problem) -> bool:
    return problem.heads[1] < problem.heads[2]


def _compiles(problem: Problem) -> bool:
    """FlexAttention is compiled anew for each shape, which takes seconds; cuDNN plans take as long."""
    return problem.device == "cuda" and (problem.batch, problem.length) == (16, 8192) and _plain(problem)


def _plain(problem: Problem) -> bool:
    return problem.heads == SIGMA and problem.page_size == 64 and _one_length(problem)


def area(tiny: bool) -> Area:
    flash = SDPBackend.FLASH_ATTENTION

    def spreads(problem: Problem) -> bool:
        return _one_length(problem) and _spreads(problem)

    providers = {
        "ours": Provider(over_pages(decode_attention), errors),
        "ours, fused pages": Provider(over_fused_pages, errors, _spreads),
        "ours, K heads as V": Provider(over_pages(decode_attention, spread_k=True), errors, _fewer_k_heads),
        "cudnn": Provider(sdpa(SDPBackend.CUDNN_ATTENTION), errors, _one_length),
        "cudnn, a key more each call": Provider(cudnn_growing, errors, _compiles),
        "flash, K repeated": Provider(sdpa(flash, spread_k=True), errors, spreads),
        "flash, K of stride 0": Provider(flash_stride0, errors, spreads),
        "varlen, K repeated, paged": Provider(varlen, errors, _spreads),
        "flex, K repeated": Provider(flex, errors, _compiles),
    }
    return Area("decode", problems(tiny), providers)
