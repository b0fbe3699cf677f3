"""Causal attention and its backward: who can compute it with DiffQKV's heads, from the same tensors.

Tensors are [B, heads, S, dim], in memory token by token, as a model has them, unless a provider needs them
head by head. Where K must have as many heads as V, it is repeated before anyone is timed, and the repeat is
a phase of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels.sweep import LIMITS, Area, Error, Prepared, Provider, in_short, relative
from kernels.diffqkv.prefill import prefill_attention, prefill_reference

SIGMA = (32, 4, 16)
Tensors = list[torch.Tensor]
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Problem:
    """B sequences of S tokens; heads n_q, n_k, n_v; widths d_k, d_v."""

    batch: int
    length: int
    heads: tuple[int, int, int]
    k_head_dim: int
    v_head_dim: int
    dtype: torch.dtype = torch.bfloat16
    device: str = "cuda"

    @property
    def name(self) -> str:
        n_q, n_k, n_v = self.heads
        return f"{self.batch} x {self.length}, {n_q}/{n_k}/{n_v}, d {self.k_head_dim}/{self.v_head_dim}"

    def short(self) -> Problem:
        return replace(self, batch=2, length=min(self.length, 257))

    def work(self, phase: str) -> tuple[float, float]:
        """The causal half is counted once; a backward pass has 2.5 times as many FLOP."""
        n_q, n_k, n_v = self.heads
        tokens, item = self.batch * self.length, self.dtype.itemsize
        k, v = n_k * self.k_head_dim * item, n_v * self.v_head_dim * item
        q, out = n_q * self.k_head_dim * item, n_q * self.v_head_dim * item
        if phase == "K repeat":
            return 0.0, tokens * k * (1 + max(n_v // n_k, 1))
        flops = tokens * self.length * n_q * (self.k_head_dim + self.v_head_dim)
        if phase == "forward":
            return flops, tokens * (q + k + v + out)
        return 2.5 * flops, tokens * 2 * (q + k + v + out)

    def tensors(self, token_major: bool = True) -> Tensors:
        """q, k, v, wanting gradients."""
        generator = torch.Generator(self.device).manual_seed(0)
        dims = (self.k_head_dim, self.k_head_dim, self.v_head_dim)
        made = []
        for heads, dim in zip(self.heads, dims, strict=True):
            shape = (self.batch, heads, self.length, dim)
            x = torch.randn(shape, generator=generator, device=self.device).to(self.dtype)
            made.append((_by_token(x) if token_major else x).requires_grad_())
        return made


def problems(tiny: bool) -> list[Problem]:
    """16k tokens in sequences of 512 to 32k (the last one of 32k); Sigma's heads, then others; few tokens."""
    if tiny:
        return [Problem(2, 9, (4, 1, 2), 16, 16, torch.float32, "cpu")]
    made = []
    for length in (8192, 2048, 4096, 16384, 512, 1024, 32768):
        made += [Problem(max(16384 // length, 1), length, SIGMA, dim, dim) for dim in (64, 128)]
    # one short sequence: do the few programs of dK and dV fill the machine?
    made += [Problem(1, 2048, SIGMA, dim, dim) for dim in (64, 128)]
    made += [Problem(2, 8192, SIGMA, dim // 2, dim) for dim in (64, 128)]
    for heads in ((32, 4, 4), (32, 16, 16), (32, 32, 32), (32, 16, 4)):
        made += [Problem(2, 8192, heads, dim, dim) for dim in (64, 128)]
    return made


def over(attend: Attend, spread_to: str = "", token_major: bool = True) -> Callable[[Problem], Prepared]:
    """A provider's tensors and phases; ``spread_to``: "v" repeats K to V's heads, "q" both to q's."""

    def prepare(problem: Problem) -> Prepared:
        return _both_ways(attend, problem, problem.tensors(token_major), spread_to)

    return prepare


def _both_ways(attend: Attend, problem: Problem, tensors: Tensors, spread_to: str = "") -> Prepared:
    q, k, v = tensors
    k_heads, v_heads = k.shape[1], v.shape[1]
    target = {"": 0, "v": v_heads, "q": q.shape[1]}[spread_to]
    inputs = [q, *(_leaf(spread(x, max(target, x.shape[1]))) for x in (k, v))]
    out = attend(*inputs)
    random = torch.randn(out.shape, generator=torch.Generator(q.device).manual_seed(1), device=q.device)
    into = torch.empty_like(out).copy_(random.to(problem.dtype))

    def backward() -> Tensors:
        return list(torch.autograd.grad(out, inputs, into, retain_graph=True))

    def answers() -> Tensors:
        dq, dk, dv = backward()
        return [out.detach(), dq, _gather(dk, k_heads), _gather(dv, v_heads)]

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return attend(*inputs)

    phases: dict[str, Callable[[], object]] = {"forward": forward, "backward": backward}
    if target > k_heads:
        phases["K repeat"] = lambda: spread(k.detach(), target)
    # autograd's threads do not see that a graph is captured
    return Prepared(answers, phases, eager=("backward",))


def spread(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Each head repeated, side by side, to so many; memory stays token by token."""
    repeats = heads // x.shape[1]
    return x.transpose(1, 2).repeat_interleave(repeats, dim=2).transpose(1, 2) if repeats > 1 else x


def _gather(x: torch.Tensor, heads: int) -> torch.Tensor:
    """The gradient of what ``spread`` was given."""
    return x.unflatten(1, (heads, -1)).sum(2, dtype=torch.promote_types(x.dtype, torch.float32))


def _leaf(x: torch.Tensor) -> torch.Tensor:
    return x.detach().requires_grad_()


def _by_token(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def packed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attend: Callable) -> torch.Tensor:
    """Token-major [B, heads, S, dim] through an op of packed sequences; views, no copies."""
    batch, _, length, _ = q.shape
    out = attend(*(x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)), cu_seqlens(batch, length, q.device))
    return out.unflatten(0, (batch, length)).transpose(1, 2)


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return packed(q, k, v, lambda *x: prefill_attention(*x)[0])


def sdpa(backend: SDPBackend) -> Attend:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    return attend


def flash_stride0(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Each K head with its V heads as a sequence of its own; the one K head of it seen many times."""
    n_k = k.shape[1]
    q, k, v = (x.unflatten(1, (n_k, -1)).flatten(0, 1) for x in (q, k, v))
    out = sdpa(SDPBackend.FLASH_ATTENTION)(q, k.expand(-1, v.shape[1], -1, -1), v)
    return out.unflatten(0, (-1, n_k)).flatten(1, 2)


def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    attend, mask = _flex(q.shape[2], str(q.device))
    return attend(q, k, v, block_mask=mask, enable_gqa=True)


def varlen_options() -> frozenset[str]:
    """Names of what this torch's varlen_attn takes; none where there is no varlen_attn."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    length = q.shape[2]
    more = {"enable_gqa": True} if "enable_gqa" in varlen_options() else {}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: torch.Tensor) -> torch.Tensor:
        return varlen_attn(q, k, v, cu, cu, length, length, window_size=(-1, 0), **more)

    return packed(q, k, v, attend)


@cache
def _flex(length: int, device: str) -> tuple[Callable[..., torch.Tensor], object]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def causal(b: object, h: object, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return query >= key

    mask = create_block_mask(causal, None, None, length, length, device=device)
    return torch.compile(flex_attention, dynamic=False), mask


@cache
def cu_seqlens(batch: int, length: int, device: torch.device) -> torch.Tensor:
    return torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=device)


@lru_cache(maxsize=2)
def exact(problem: Problem) -> Tensors:
    """Out and gradients in float64."""
    wide = [_leaf(x.double()) for x in problem.tensors()]
    return _both_ways(lambda *x: packed(*x, lambda *y: prefill_reference(*y)[0]), problem, wide).answers()


def errors(problem: Problem, answers: Tensors) -> list[Error]:
    limits = LIMITS[problem.dtype]
    names = {"out": limits[0], "dq": limits[1], "dk": limits[1], "dv": limits[1]}
    found = zip(names.items(), answers, exact(problem), strict=True)
    return [Error(name, relative(ours, theirs), limit) for (name, limit), ours, theirs in found]


def _spreads(problem: Problem) -> bool:
    """K can be repeated to V's heads (or has as many)."""
    return problem.heads[2] % problem.heads[1] == 0


def _spreads_on_gpu(problem: Problem) -> bool:
    return problem.device == "cuda" and _spreads(problem)


def _fewer_k_heads(problem: Problem) -> bool:
    return problem.heads[1] < problem.heads[2]


def _compiles(problem: Problem) -> bool:
    """FlexAttention is compiled anew for each shape, which takes seconds: for Sigma's heads only."""
    return problem.device == "cuda" and problem.heads == SIGMA and problem.length == 8192


def questions() -> dict[str, str]:
    """What one wants to know of this torch on this GPU, beside its speed."""
    small = Problem(1, 256, SIGMA, 64, 64)
    q, k, v = (x.detach() for x in small.tensors())

    def choice() -> str:
        return SDPBackend(torch._fused_sdp_choice(q, k, v, is_causal=True, enable_gqa=True)).name

    def flexed() -> str:
        return f"no error; the answer is off by {relative(flex(q, k, v), exact(small)[0]):.2g} of its norm"

    def answered(ask: Callable[[], str]) -> str:
        try:
            return ask()
        except Exception as error:
            return f"an error: {in_short(error)}"

    return {
        "SDPA's own choice for 32/4/16": answered(choice),
        "varlen_attn takes": ", ".join(sorted(varlen_options())) or "no such function",
        "FlexAttention, K not repeated": answered(flexed),
    }


def area(tiny: bool) -> Area:
    k_to_v = "q" if "enable_gqa" not in varlen_options() else "v"
    flash = sdpa(SDPBackend.FLASH_ATTENTION)
    providers = {
        "ours": Provider(over(ours), errors),
        "cudnn": Provider(over(sdpa(SDPBackend.CUDNN_ATTENTION)), errors),
        "flash, K repeated": Provider(over(flash, "v"), errors, _spreads),
        # K heads become sequences, which only head-major memory can show without a copy
        "flash, K of stride 0": Provider(over(flash_stride0, token_major=False), errors, _spreads),
        "varlen, K repeated": Provider(over(varlen, k_to_v), errors, _spreads_on_gpu),
        "flex, K repeated": Provider(over(flex, "v"), errors, _compiles),
        "ours, K heads as V": Provider(over(ours, "v"), errors, _fewer_k_heads),
    }
    return Area("prefill", problems(tiny), providers)
