"""Who can compute causal DiffQKV attention, each from the same tensors, each with what it needs of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from kernels.diffqkv.prefill import prefill_attention, prefill_reference


@dataclass(frozen=True)
class Problem:
    """B sequences of S tokens; heads n_q, n_k, n_v; widths d_k, d_v."""

    batch: int
    length: int
    heads: tuple[int, int, int]
    k_head_dim: int
    v_head_dim: int
    dtype: torch.dtype
    device: str

    @property
    def name(self) -> str:
        n_q, n_k, n_v = self.heads
        return f"{self.batch} x {self.length}, {n_q}/{n_k}/{n_v}, d {self.k_head_dim}/{self.v_head_dim}"

    @property
    def flops(self) -> int:
        """Of a forward pass, the causal half counted once; a backward pass has 2.5 times as many."""
        return self.batch * self.heads[0] * (self.k_head_dim + self.v_head_dim) * self.length**2

    def tensors(self, token_major: bool) -> list[torch.Tensor]:
        """q, k, v as [B, heads, S, dim], wanting gradients; in memory token by token, or head by head."""
        generator = torch.Generator(self.device).manual_seed(0)
        dims = (self.k_head_dim, self.k_head_dim, self.v_head_dim)
        made = []
        for heads, dim in zip(self.heads, dims, strict=True):
            shape = (self.batch, heads, self.length, dim)
            x = torch.randn(shape, generator=generator, dtype=torch.float32, device=self.device)
            x = x.to(self.dtype)
            if token_major:
                x = x.transpose(1, 2).contiguous().transpose(1, 2)
            made.append(x.requires_grad_())
        return made


class Provider(NamedTuple):
    """``attend``: q, k, v to out, all [B, heads, S, dim]; ``token_major``: the memory that it likes best."""

    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    token_major: bool = True


def packed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attend: Callable[..., tuple]) -> torch.Tensor:
    """Run an op over packed tokens: [B, H, S, D] -> [B * S, H, D] and back, views of token-major memory."""
    batch, _, length, _ = q.shape
    cu_seqlens = _cu_seqlens(batch, length, q.device)
    tokens = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    out, _ = attend(*tokens, cu_seqlens)
    return out.unflatten(0, (batch, length)).transpose(1, 2)


@cache
def _cu_seqlens(batch: int, length: int, device: torch.device) -> torch.Tensor:
    return torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=device)


def repeat_k(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """K with as many heads as V."""
    return k.repeat_interleave(v.shape[1] // k.shape[1], dim=1)


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return packed(q.double(), k.double(), v.double(), prefill_reference)


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return packed(q, k, v, prefill_attention)


def ours_gqa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return packed(q, repeat_k(k, v), v, prefill_attention)


def cudnn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def flash_repeat(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, repeat_k(k, v), v, is_causal=True, enable_gqa=True)


def flash_stride0(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Each K head with its V heads as a sequence of its own; the one K head of it seen many times."""
    n_k = k.shape[1]
    units = [x.unflatten(1, (n_k, -1)).flatten(0, 1) for x in (q, k, v)]
    seen = units[1].expand(-1, units[2].shape[1], -1, -1)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out = scaled_dot_product_attention(units[0], seen, units[2], is_causal=True, enable_gqa=True)
    return out.unflatten(0, (-1, n_k)).flatten(1, 2)


def flex_repeat(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    flex, mask = _flex(q.shape[2], str(q.device))
    return flex(q, repeat_k(k, v), v, block_mask=mask, enable_gqa=True)


@cache
def _flex(length: int, device: str) -> tuple[Callable[..., torch.Tensor], object]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def causal(b: object, h: object, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return query >= key

    return torch.compile(flex_attention), create_block_mask(causal, None, None, length, length, device=device)


PROVIDERS = {
    "ours": Provider(ours),
    "cudnn": Provider(cudnn),
    "flash, K repeated": Provider(flash_repeat),
    # K heads become sequences, which only head-major memory can show without a copy
    "flash, K of stride 0": Provider(flash_stride0, token_major=False),
    "flex, K repeated": Provider(flex_repeat),
    "ours, K heads as V": Provider(ours_gqa),
}
