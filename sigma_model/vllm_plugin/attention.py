"""DiffQKV attention as a vLLM layer: n_k KV heads, K of width d_k, V of width (n_v / n_k) * d_v.

The V projection has its heads in this order already (V heads R*k to R*k + R - 1 go with K head k,
R = n_v / n_k), so the wide V is a view. vLLM keeps n_k * (d_k + R * d_v) = n_k * d_k + n_v * d_v
elements a token, no more.

Shape letters: N tokens, Q query heads, K K heads, V V heads, G query heads of a V head, R V heads of a
K head, D width of q and k, E width of v.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import CacheConfig, get_current_vllm_config
from vllm.model_executor.layers.attention import Attention
from vllm.platforms import current_platform
from vllm.utils.torch_utils import _encode_layer_name
from vllm.v1.attention.backend import AttentionBackend
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.backends.triton_attn_diffkv import TritonAttentionDiffKVBackend as StockBackend

from sigma_model.vllm_plugin.backends import TorchBackend, TritonBackend


def choose_backend(asked: AttentionBackendEnum | None) -> type[AttentionBackend]:
    """Plain torch on a CPU. On a GPU our Triton kernels, or vLLM's stock kernel where
    ``--attention-backend TRITON_ATTN_DIFFKV`` asks for it. Raises ValueError for any other."""
    if current_platform.is_cpu():
        return TorchBackend
    if asked in (None, AttentionBackendEnum.CUSTOM):
        return TritonBackend
    if asked is AttentionBackendEnum.TRITON_ATTN_DIFFKV:
        return StockBackend
    raise ValueError(
        f"attention backend {asked.name} does not know heads of K and V apart: leave the option out for "
        "Sigma's own kernels, or give TRITON_ATTN_DIFFKV for vLLM's"
    )


class DiffQKVAttention(Attention):
    """vLLM's attention layer with K heads and V heads counted apart; counts are those of this rank."""

    def __init__(
        self,
        num_q_heads: int,
        num_k_heads: int,
        num_v_heads: int,
        k_head_dim: int,
        v_head_dim: int,
        cache_config: CacheConfig | None,
        prefix: str,
    ) -> None:
        backend = choose_backend(get_current_vllm_config().attention_config.backend)
        wide_v = num_v_heads // num_k_heads * v_head_dim
        extras: dict[str, Any] = {}
        self_made = backend is not StockBackend
        if self_made:
            extras["v_head_dim"] = v_head_dim
        else:
            # the stock kernel reads it off the class
            StockBackend.set_head_size_v(wide_v)
        super().__init__(
            num_q_heads,
            k_head_dim,
            k_head_dim**-0.5,
            num_kv_heads=num_k_heads,
            cache_config=cache_config,
            prefix=prefix,
            attn_backend=backend,
            head_size_v=wide_v,
            **extras,
        )
        self.v_head_dim = v_head_dim
        self.self_made = self_made

    def forward(  # type: ignore[override]
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """q [N, Q*D], k [N, K*D], v [N, V*E], RoPE done; returns [N, Q*E]."""
        num_tokens = q.shape[0]
        if not self.self_made:
            wide_NQX = super().forward(q, k, v).view(num_tokens, self.num_heads, self.head_size_v)
            return own_part(wide_NQX, self.num_kv_heads, self.v_head_dim).flatten(1)
        out_NQE = q.new_empty(num_tokens, self.num_heads, self.v_head_dim)
        # vLLM's op: compilation and CUDA graphs know it
        torch.ops.vllm.unified_attention_with_output(
            q.view(num_tokens, self.num_heads, self.head_size),
            k.view(num_tokens, self.num_kv_heads, self.head_size),
            v.view(num_tokens, self.num_kv_heads, self.head_size_v),
            out_NQE,
            _encode_layer_name(self.layer_name),
        )
        return out_NQE.flatten(1)


def own_part(wide_NQX: torch.Tensor, num_k_heads: int, v_head_dim: int) -> torch.Tensor:
    """Each query head's own V head out of all R of its K head: [N, Q, R*E] to [N, Q, E]."""
    num_tokens, num_q_heads, width = wide_NQX.shape
    v_per_k = width // v_head_dim
    by_head = wide_NQX.view(num_tokens, num_k_heads, v_per_k, -1, v_per_k, v_head_dim)
    own_NKGER = by_head.diagonal(dim1=2, dim2=4)
    return own_NKGER.movedim(-1, 2).reshape(num_tokens, num_q_heads, v_head_dim)
