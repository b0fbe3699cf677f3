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
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from sigma_model.attention import allowed_positions, reference_attention, sdpa_attention
from sigma_model.config import SigmaConfig

# the values of Hugging Face's own switch, ``attn_implementation``
ATTENTION = {"eager": reference_attention, "sdpa": sdpa_attention}


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


def rotate(x_BHSD: torch.Tensor, angles_BSd: torch.Tensor) -> torch.Tensor:
    """Rotary embedding: element i is paired with element i + D/2, as in Llama checkpoints."""
    cos = angles_BSd.cos()[:, None].to(x_BHSD.dtype)
    sin = angles_BSd.sin()[:, None].to(x_BHSD.dtype)
    first, second = x_BHSD.chunk(2, dim=-1)
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
        """Queries in K's space before RoPE, [B, Q, S, k_head_dim]."""
        config = self.config
        q = self.q_proj(x_BSH)
        if config.aug_q_dim:
            q = self.q_down_proj(F.silu(self.q_gate_proj(q)) * self.q_up_proj(q))
        q_BSQD = q.unflatten(-1, (config.num_q_heads, config.head_dim))
        if config.k_head_dim != config.head_dim:
            # q . (W k) = (W^T q) . k: K stays narrow in the cache
            up_KDd = self.k_up_proj.weight.unflatten(0, (config.num_k_heads, config.head_dim))
            grouped = q_BSQD.unflatten(2, (config.num_k_heads, -1))
            q_BSQD = torch.einsum("bskgd,kde->bskge", grouped, up_KDd).flatten(2, 3)
        return q_BSQD.transpose(1, 2)

    def forward(
        self,
        x_BSH: torch.Tensor,
        angles_BSd: torch.Tensor,
        allowed: torch.Tensor | None,
        cache: Any | None,
    ) -> torch.Tensor:
        config = self.config
        k_BSKD = self.k_proj(x_BSH).unflatten(-1, (config.num_k_heads, config.k_head_dim))
        v_BSVD = self.v_proj(x_BSH).unflatten(-1, (config.num_v_heads, config.v_head_dim))
        q_BQSD = rotate(self.project_q(x_BSH), angles_BSd)
        k_BKTD, v_BVTD = rotate(k_BSKD.transpose(1, 2), angles_BSd), v_BSVD.transpose(1, 2)
        if cache is not None:
            k_BKTD, v_BVTD = cache.update(k_BKTD, v_BVTD, self.layer_idx)
        attend = ATTENTION[config._attn_implementation]
        out_BQSD = attend(q_BQSD, k_BKTD, v_BVTD, allowed, config.k_head_dim**-0.5)
        return self.o_proj(out_BQSD.transpose(1, 2).flatten(2))


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
        allowed: torch.Tensor | None,
        cache: Any | None,
    ) -> torch.Tensor:
        x_BSH = x_BSH + self.self_attn(self.input_layernorm(x_BSH), angles_BSd, allowed, cache)
        return x_BSH + self.mlp(self.post_attention_layernorm(x_BSH))


class SigmaPreTrainedModel(PreTrainedModel):
    """What Hugging Face needs to know about every Sigma."""

    config_class = SigmaConfig
    base_model_prefix = "model"
    _no_split_modules = ["SigmaDecoderLayer"]
    _supports_sdpa = True


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
        past_key_values: Any | None = None,
        use_cache: bool | None = None,
        segment_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, S, H] for ``input_ids`` [B, S].

        ``attention_mask`` [B, T]: 1 = token, 0 = padding. ``segment_ids`` [B, S]: the packed
        document each position belongs to; attention stays inside one, and ``position_ids``
        [B, S] should restart with each. Without ``position_ids``: 0, 1, 2, ... after the cache.
        """
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; Sigma takes [batch, "
                "positions] with 1 for tokens and 0 for padding, and segment_ids for documents"
            )
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if segment_ids is not None and past:
            raise ValueError("segment_ids go with whole sequences only; leave out the cache")
        length = input_ids.shape[1]
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=input_ids.device)[None]
        allowed = allowed_positions(length, past + length, input_ids.device, segment_ids, attention_mask)
        angles = rope_angles(position_ids, self.config.k_head_dim, self.config.rope_theta)
        x_BSH = self.embed_tokens(input_ids)
        for layer in self.layers:
            x_BSH = layer(x_BSH, angles, allowed, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x_BSH), past_key_values=past_key_values)


class SigmaForCausalLM(SigmaPreTrainedModel, GenerationMixin):
    """A Sigma with its language-model head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__(config)
        self.model = SigmaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        segment_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, S, N]; the other arguments are those of SigmaModel.

        ``labels`` [B, S] as everywhere in transformers: equal to ``input_ids``, shifted in here,
        -100 where nothing is asked; the loss is the mean in nats. ``logits_to_keep``: only the
        last so many positions.
        """
        outputs = self.model(input_ids, attention_mask, position_ids, past_key_values, use_cache, segment_ids)
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
