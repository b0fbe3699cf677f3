"""Sigma in plain torch: RMSNorm, RoPE, DiffQKV attention with augmented Q, SwiGLU.

Shape letters: B batch, S positions of this call, T positions with the cache, Q/K/V heads, D head
width, H hidden size, N vocabulary. Module names are Llama's where the part is Llama's, the
paper's where it is Sigma's (appendix E); they are the state-dict names of every checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from kernels.diffqkv.cross_entropy import linear_cross_entropy
from sigma_model.backends import Backend, Plan, backend_name, choose_backend
from sigma_model.cache import PagedCache
from sigma_model.config import SigmaConfig


class SigmaRMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, computed in at least float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rope_angles(position_ids: torch.Tensor, width: int, theta: float) -> torch.Tensor:
    """Angles [B, S, width / 2] of rotary embeddings for positions [B, S]."""
    exponents = torch.arange(0, width, 2, device=position_ids.device, dtype=torch.float32) / width
    return position_ids[..., None].float() * theta**-exponents


def rotate(x_BSHD: torch.Tensor, angles_BSd: torch.Tensor) -> torch.Tensor:
    """Rotary embedding: element i is paired with element i + D/2, as in Llama checkpoints."""
    cos = angles_BSd.cos()[:, :, None].to(x_BSHD.dtype)
    sin = angles_BSd.sin()[:, :, None].to(x_BSHD.dtype)
    first, second = x_BSHD.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class SigmaAttention(nn.Module):
    """DiffQKV attention: Q, K and V heads counted apart, Q augmented by a gated MLP."""

    def __init__(self, config: SigmaConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        hidden, q_width = config.hidden_size, config.num_q_heads * config.head_dim
        self.q_proj = nn.Linear(hidden, q_width, bias=False)
        if config.aug_q_dim:
            self.q_gate_proj = nn.Linear(q_width, config.aug_q_dim, bias=False)
            self.q_up_proj = nn.Linear(q_width, config.aug_q_dim, bias=False)
            self.q_down_proj = nn.Linear(config.aug_q_dim, q_width, bias=False)
        self.k_proj = nn.Linear(hidden, config.num_k_heads * config.k_head_dim, bias=False)
        if config.k_head_dim != config.head_dim:
            self.k_up_proj = nn.Linear(config.k_head_dim, config.num_k_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, config.num_v_heads * config.v_head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_q_heads * config.v_head_dim, hidden, bias=False)

    def project_q(self, x_BSH: torch.Tensor) -> torch.Tensor:
        """Queries in K's space before RoPE, [B, S, Q, k_head_dim]."""
        config = self.config
        q = self.q_proj(x_BSH)
        if config.aug_q_dim:
            q = self.q_down_proj(F.silu(self.q_gate_proj(q)) * self.q_up_proj(q))
        # under tensor parallelism these are some of the heads
        q_BSQD = q.unflatten(-1, (-1, config.head_dim))
        if config.k_head_dim != config.head_dim:
            # q . (W k) = (W^T q) . k: K stays narrow in the cache
            up_KDd = self.k_up_proj.weight.unflatten(0, (config.num_k_heads, config.head_dim))
            grouped = q_BSQD.unflatten(2, (config.num_k_heads, -1))
            q_BSQD = torch.einsum("bskgd,kde->bskge", grouped, up_KDd).flatten(2, 3)
        return q_BSQD

    def forward(
        self,
        x_BSH: torch.Tensor,
        angles_BSd: torch.Tensor,
        backend: Backend,
        plan: Plan,
        cache: PagedCache | None,
    ) -> torch.Tensor:
        config = self.config
        k_BSKD = self.k_proj(x_BSH).unflatten(-1, (-1, config.k_head_dim))
        v_BSVE = self.v_proj(x_BSH).unflatten(-1, (-1, config.v_head_dim))
        q_BSQD, k_BSKD = rotate(self.project_q(x_BSH), angles_BSd), rotate(k_BSKD, angles_BSd)
        if cache is not None:
            backend.append(cache, self.layer_idx, k_BSKD, v_BSVE)
        scale = config.k_head_dim**-0.5
        out_BSQE = backend.attend(q_BSQD, k_BSKD, v_BSVE, scale, plan, cache, self.layer_idx)
        return self.o_proj(out_BSQE.flatten(2))


class SigmaMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class SigmaDecoderLayer(nn.Module):
    """Pre-norm block: attention, then SwiGLU, each added to the residual stream."""

    def __init__(self, config: SigmaConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = SigmaAttention(config, layer_idx)
        self.mlp = SigmaMLP(config)
        self.input_layernorm = SigmaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = SigmaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x_BSH: torch.Tensor,
        angles_BSd: torch.Tensor,
        backend: Backend,
        plan: Plan,
        cache: PagedCache | None,
    ) -> torch.Tensor:
        normed_BSH = self.input_layernorm(x_BSH)
        x_BSH = x_BSH + self.self_attn(normed_BSH, angles_BSd, backend, plan, cache)
        return x_BSH + self.mlp(self.post_attention_layernorm(x_BSH))


class SigmaPreTrainedModel(PreTrainedModel):
    """What Hugging Face needs to know about every Sigma."""

    config: SigmaConfig
    config_class = SigmaConfig
    base_model_prefix = "model"
    _no_split_modules = ["SigmaDecoderLayer"]

    def get_correct_attn_implementation(
        self, requested_attention: str | None, is_init_check: bool = False
    ) -> str:
        """Our values of Hugging Face's switch ``attn_implementation``: those of backends.py."""
        return backend_name(requested_attention)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers looks for its own attention interface in our source, and would switch nothing
        return True

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # generate leaves it to us to make the cache
        return False


class SigmaModel(SigmaPreTrainedModel):
    """Token ids to hidden states."""

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            SigmaDecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
        )
        self.norm = SigmaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: PagedCache | None = None,
        use_cache: bool | None = None,
        segment_ids: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, S, H] for ``input_ids`` [B, S].

        ``attention_mask`` [B, T]: 1 = token, 0 = padding, of which the last S columns are these; with
        a cache, padding stands before tokens. ``segment_ids`` [B, S]: the packed document each
        position belongs to; attention stays inside one, and ``position_ids`` [B, S] should restart
        with each. ``cu_seqlens`` [N + 1] int32 says the same by where documents begin in the B * S
        positions, row after row, ends with B * S, and may be filled up with it; each row begins one.
        Without ``position_ids``: 0, 1, 2, ... after the cache. ``past_key_values``: a PagedCache or
        ContiguousCache; ``use_cache`` without one makes a PagedCache.
        """
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; Sigma takes [batch, "
                "positions] with 1 for tokens and 0 for padding, and segment_ids for documents"
            )
        x_BSH = self.embed_tokens(input_ids)
        batch, length, device = *input_ids.shape, x_BSH.device
        if torch.is_autocast_enabled(device.type):
            # else the residual stream stays float32, twice the bytes of all that lies between matrices
            x_BSH = x_BSH.to(torch.get_autocast_dtype(device.type))
        dtype = x_BSH.dtype
        cache = past_key_values
        if use_cache and cache is None:
            cache = PagedCache(self.config, dtype=dtype, device=device)
        if cache is not None and not isinstance(cache, PagedCache):
            raise ValueError(
                f"past_key_values is a {type(cache).__name__}; Sigma's K and V differ in shape: give a "
                "PagedCache or ContiguousCache of sigma_model.cache"
            )
        first = cache is None or cache.is_empty
        if (segment_ids is not None or cu_seqlens is not None) and not first:
            raise ValueError("segment_ids and cu_seqlens go with whole sequences only; leave out the cache")
        if cu_seqlens is not None and (segment_ids is not None or attention_mask is not None):
            raise ValueError("cu_seqlens say it all: leave out segment_ids and attention_mask")
        past = 0 if cache is None else cache.get_seq_length()
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=device)[None]
        if attention_mask is not None:
            if attention_mask.shape[1] != past + length:
                raise ValueError(
                    f"attention_mask has {attention_mask.shape[1]} columns; give one for each of the "
                    f"{past} positions in the cache and the {length} of this call"
                )
            attention_mask = attention_mask[:, past:]
        config = self.config
        name, widths = config._attn_implementation, (config.k_head_dim, config.v_head_dim)
        backend = choose_backend(name, *widths, device.type, dtype)
        if cache is not None:
            cache.begin(batch, length, attention_mask)
        over = None if first else cache
        plan = backend.plan(batch, length, device, segment_ids, attention_mask, over, cu_seqlens)
        angles = rope_angles(position_ids, config.k_head_dim, config.rope_theta)
        for layer in self.layers:
            x_BSH = layer(x_BSH, angles, backend, plan, cache)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x_BSH), past_key_values=cache)


class SigmaForCausalLM(SigmaPreTrainedModel, GenerationMixin):
    """A Sigma with its language-model head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__(config)
        self.model = SigmaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def pretraining_loss(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        *,
        z_loss: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over the asked labels: (cross-entropy in nats, the same plus the z-loss).

        ``labels`` [B, S] are the next tokens themselves, already shifted, -100 where nothing is asked.
        Matrices are multiplied in ``dtype``. The logits [B, S, N] never exist at once.
        """
        with torch.autocast(input_ids.device.type, dtype, enabled=dtype == torch.bfloat16):
            hidden = self.model(input_ids, position_ids=position_ids, cu_seqlens=cu_seqlens)
        hidden_TH = hidden.last_hidden_state.flatten(0, 1)
        return linear_cross_entropy(hidden_TH, self.lm_head.weight, labels.flatten(), z_loss, dtype=dtype)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: PagedCache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        segment_ids: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, S, N]; the other arguments are those of SigmaModel.

        ``labels`` [B, S] as everywhere in transformers: equal to ``input_ids``, shifted in here,
        -100 where nothing is asked; the loss is the mean in nats. ``logits_to_keep``: only the
        last so many positions.
        """
        outputs = self.model(
            input_ids, attention_mask, position_ids, past_key_values, use_cache, segment_ids, cu_seqlens
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BSN = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits_BSN[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(
            loss=loss,  # type: ignore[arg-type]
            logits=logits_BSN,
            past_key_values=outputs.past_key_values,
        )
