"""Sigma out of vLLM's parallel layers; weights load by the names of sigma_model.modeling.

Heads are split over ranks by K head, with the query and V heads that belong to it. The MLP of augmented Q
mixes all query heads: its inner width is split, its input gathered and its output summed over the ranks.

Shape letters: N tokens, H hidden size, and those of attention.py, heads counted on this rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_gather,
)
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import (
    MergedColumnParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, maybe_prefix
from vllm.model_executor.utils import set_weight_attrs
from vllm.sequence import IntermediateTensors

from sigma_model.config import SigmaConfig
from sigma_model.modeling import rope_angles
from sigma_model.vllm_plugin.attention import DiffQKVAttention
from sigma_model.vllm_plugin.limits import check_servable


def rotary_embedding(config: SigmaConfig) -> nn.Module:
    """vLLM's rotary embedding (one object for all layers) with the angles of sigma_model.modeling: vLLM's own
    frequencies are rounded differently, which moves a query 4096 tokens on by 1e-3."""
    embedding = get_rope(
        config.k_head_dim,
        max_position=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
    )
    positions = torch.arange(config.max_position_embeddings)
    angles = rope_angles(positions[None], config.k_head_dim, config.rope_theta)[0]
    cast(torch.Tensor, embedding.cos_sin_cache).copy_(torch.cat((angles.cos(), angles.sin()), dim=-1))
    return embedding


class KUpMap(nn.Module):
    """This rank's rows of the map of a narrow K up to the query's width, which is folded into the query.

    No layer of vLLM's: on a CPU those pack their weight away.
    """

    def __init__(self, rows: int, k_head_dim: int, rank: int) -> None:
        super().__init__()
        self.first = rank * rows
        self.weight = nn.Parameter(torch.empty(rows, k_head_dim), requires_grad=False)
        set_weight_attrs(self.weight, {"weight_loader": self.load})

    def load(self, parameter: nn.Parameter, whole: torch.Tensor) -> None:
        parameter.data.copy_(whole.narrow(0, self.first, parameter.shape[0]))


class SigmaAttention(nn.Module):
    """DiffQKV attention: projections, augmented Q, RoPE, the layer over the pages."""

    def __init__(self, vllm_config: VllmConfig, config: SigmaConfig, prefix: str) -> None:
        super().__init__()
        quant = vllm_config.quant_config
        ranks = get_tensor_model_parallel_world_size()
        self.rank, self.ranks = get_tensor_model_parallel_rank(), ranks
        self.num_q_heads, self.num_k_heads = config.num_q_heads // ranks, config.num_k_heads // ranks
        num_v_heads = config.num_v_heads // ranks
        self.head_dim, self.k_head_dim = config.head_dim, config.k_head_dim
        widths = [
            config.num_q_heads * config.head_dim,
            config.num_k_heads * config.k_head_dim,
            config.num_v_heads * config.v_head_dim,
        ]
        self.widths = [width // ranks for width in widths]
        q_width, hidden = widths[0], config.hidden_size
        self.qkv_proj = MergedColumnParallelLinear(
            hidden, widths, bias=False, quant_config=quant, prefix=f"{prefix}.qkv_proj"
        )
        self.augmented = config.aug_q_dim > 0
        if self.augmented:
            self.q_gate_up_proj = MergedColumnParallelLinear(
                q_width,
                [config.aug_q_dim] * 2,
                bias=False,
                quant_config=quant,
                prefix=f"{prefix}.q_gate_up_proj",
            )
            self.q_down_proj = RowParallelLinear(
                config.aug_q_dim, q_width, bias=False, quant_config=quant, prefix=f"{prefix}.q_down_proj"
            )
            self.act_fn = SiluAndMul()
        self.narrow = config.k_head_dim != config.head_dim
        if self.narrow:
            self.k_up_proj = KUpMap(self.num_k_heads * self.head_dim, self.k_head_dim, self.rank)
        self.o_proj = RowParallelLinear(
            config.num_q_heads * config.v_head_dim,
            hidden,
            bias=False,
            quant_config=quant,
            prefix=f"{prefix}.o_proj",
        )
        self.rotary_emb = rotary_embedding(config)
        self.attn = DiffQKVAttention(
            self.num_q_heads,
            self.num_k_heads,
            num_v_heads,
            config.k_head_dim,
            config.v_head_dim,
            cache_config=vllm_config.cache_config,
            prefix=f"{prefix}.attn",
        )

    def project_q(self, q_NX: torch.Tensor) -> torch.Tensor:
        """Queries of this rank's heads in K's space, [N, Q * k_head_dim]; as in sigma_model.modeling."""
        if self.augmented:
            if self.ranks > 1:
                q_NX = tensor_model_parallel_all_gather(q_NX.contiguous())
            gate_up, _ = self.q_gate_up_proj(q_NX)
            q_NX, _ = self.q_down_proj(self.act_fn(gate_up))
            q_NX = q_NX.narrow(-1, self.rank * self.widths[0], self.widths[0])
        if self.narrow:
            up_KDd = self.k_up_proj.weight.view(self.num_k_heads, self.head_dim, self.k_head_dim)
            q_NKGD = q_NX.unflatten(-1, (self.num_k_heads, -1, self.head_dim))
            q_NX = torch.einsum("nkgd,kde->nkge", q_NKGD, up_KDd).flatten(1)
        return q_NX.contiguous()

    def forward(self, positions: torch.Tensor, x_NH: torch.Tensor) -> torch.Tensor:
        qkv, _ = self.qkv_proj(x_NH)
        q, k, v = qkv.split(self.widths, dim=-1)
        q, k = self.rotary_emb(positions, self.project_q(q), k.contiguous())
        out, _ = self.o_proj(self.attn(q, k, v.contiguous()))
        return out


class SigmaMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, vllm_config: VllmConfig, config: SigmaConfig, prefix: str) -> None:
        super().__init__()
        quant, hidden, inner = vllm_config.quant_config, config.hidden_size, config.intermediate_size
        self.gate_up_proj = MergedColumnParallelLinear(
            hidden, [inner] * 2, bias=False, quant_config=quant, prefix=f"{prefix}.gate_up_proj"
        )
        self.down_proj = RowParallelLinear(
            inner, hidden, bias=False, quant_config=quant, prefix=f"{prefix}.down_proj"
        )
        self.act_fn = SiluAndMul()

    def forward(self, x_NH: torch.Tensor) -> torch.Tensor:
        gate_up, _ = self.gate_up_proj(x_NH)
        out, _ = self.down_proj(self.act_fn(gate_up))
        return out


class SigmaDecoderLayer(nn.Module):
    """Pre-norm block; the residual stream goes along, as vLLM's fused norms want it."""

    def __init__(self, vllm_config: VllmConfig, config: SigmaConfig, prefix: str) -> None:
        super().__init__()
        self.self_attn = SigmaAttention(vllm_config, config, prefix=f"{prefix}.self_attn")
        self.mlp = SigmaMLP(vllm_config, config, prefix=f"{prefix}.mlp")
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, positions: torch.Tensor, x_NH: torch.Tensor, residual_NH: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if residual_NH is None:
            residual_NH = x_NH
            x_NH = self.input_layernorm(x_NH)
        else:
            x_NH, residual_NH = self.input_layernorm(x_NH, residual_NH)
        x_NH = self.self_attn(positions, x_NH)
        x_NH, residual_NH = self.post_attention_layernorm(x_NH, residual_NH)
        return self.mlp(x_NH), residual_NH


@support_torch_compile(dynamic_arg_dims={"input_ids": 0, "positions": 0, "inputs_embeds": 0})
class SigmaModel(nn.Module):
    """Token ids to hidden states."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = cast(SigmaConfig, vllm_config.model_config.hf_config)
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size, config.hidden_size, prefix=f"{prefix}.embed_tokens"
        )
        self.layers = nn.ModuleList(
            SigmaDecoderLayer(vllm_config, config, prefix=f"{prefix}.layers.{i}")
            for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x_NH = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        residual_NH = None
        for layer in self.layers:
            x_NH, residual_NH = layer(positions, x_NH, residual_NH)
        x_NH, _ = self.norm(x_NH, residual_NH)
        return x_NH


class SigmaForCausalLM(nn.Module):
    """A Sigma with its head, as vLLM wants a model; no pipeline parallelism, no LoRA."""

    packed_modules_mapping = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
        "q_gate_up_proj": ["q_gate_proj", "q_up_proj"],
    }
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_stacked={
            ".q_proj": (".qkv_proj", 0),
            ".k_proj": (".qkv_proj", 1),
            ".v_proj": (".qkv_proj", 2),
            ".gate_proj": (".gate_up_proj", 0),
            ".up_proj": (".gate_up_proj", 1),
            ".q_gate_proj": (".q_gate_up_proj", 0),
            ".q_up_proj": (".q_gate_up_proj", 1),
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = cast(SigmaConfig, vllm_config.model_config.hf_config)
        check_servable(config, get_tensor_model_parallel_world_size())
        self.config = config
        self.model = SigmaModel(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        self.lm_head = ParallelLMHead(
            config.vocab_size, config.hidden_size, prefix=maybe_prefix(prefix, "lm_head")
        )
        if config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(config.vocab_size)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model.embed_tokens(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads what sigma_model.modeling saved."""
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
