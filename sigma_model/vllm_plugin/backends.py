"""What computes DiffQKV attention over vLLM's pages: our Triton kernels, or plain torch on a CPU.

vLLM hands a layer its pages as a view [P, K, T, C] of any strides but the last, C = D + R*E: a K head's
row of K, then those of its R V heads (``kernels.diffqkv.pages.fused_page_views``).

Shape letters: N tokens of the batch, S those of one sequence, B sequences, L tokens of the longest, P pages,
T tokens of a page, M entries of a block table, Q, K and V heads, G query heads of a K head, R V heads of a
K head, D width of q and k, E width of v.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionImpl,
    AttentionMetadata,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
    MultipleOf,
)

from kernels.diffqkv.append import kv_append
from kernels.diffqkv.decode import decode_attention
from kernels.diffqkv.pages import fused_page_views
from sigma_model.attention import sdpa_attention


@dataclass
class Batch(AttentionMetadata):
    """What one step's attention needs to know: the fields that all supported versions of vLLM have."""

    num_tokens: int
    max_query_len: int
    max_seq_len: int
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    slots: torch.Tensor
    page_size: int

    @cached_property
    def plan(self) -> Plan:
        """For plain torch; made in the first layer, the same for all."""
        return Plan(self)


class Plan:
    """A batch on the CPU: where its tokens are written, its decoding sequences side by side, its prefills."""

    def __init__(self, batch: Batch) -> None:
        bounds = batch.query_start_loc.tolist()
        lengths = batch.seq_lens.tolist()
        slots_N = batch.slots[: batch.num_tokens]
        # padding has slot -1
        self.written = (slots_N >= 0).nonzero()[:, 0]
        self.pages = slots_N[self.written] // batch.page_size
        self.places = slots_N[self.written] % batch.page_size
        queries = [last - first for first, last in zip(bounds, bounds[1:], strict=False)]
        decoding = [b for b, count in enumerate(queries) if count == 1]
        self.decode_tokens = torch.tensor([bounds[b] for b in decoding], dtype=torch.int64)
        longest = max((lengths[b] for b in decoding), default=0)
        num_pages = -(-longest // batch.page_size)
        self.decode_pages_BM = batch.block_table[decoding, :num_pages].long()
        places_L = torch.arange(num_pages * batch.page_size)
        self.decode_seen_BL = places_L < batch.seq_lens[decoding][:, None]
        self.prefills = [
            (bounds[b], bounds[b + 1], lengths[b], batch.block_table[b, : -(-lengths[b] // batch.page_size)])
            for b, count in enumerate(queries)
            if count > 1
        ]


class Builder(AttentionMetadataBuilder[Batch]):
    """Batches out of vLLM's metadata; keeps no state."""

    _cudagraph_support: ClassVar[AttentionCGSupport] = AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE

    def __init__(self, kv_cache_spec: Any, layer_names: Any, vllm_config: Any, device: Any) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> Batch:
        common = common_attn_metadata
        return Batch(
            num_tokens=common.num_actual_tokens,
            max_query_len=common.max_query_len,
            max_seq_len=common.max_seq_len,
            query_start_loc=common.query_start_loc,
            seq_lens=common.seq_lens,
            block_table=common.block_table_tensor,
            slots=common.slot_mapping,
            page_size=self.kv_cache_spec.block_size,
        )


class Implementation(AttentionImpl[Batch]):
    """What both have in common: checks, the profiling run, padding."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        logits_soft_cap: float | None,
        attn_type: str,
        kv_sharing_target_layer_name: str | None,
        *,
        v_head_dim: int,
    ) -> None:
        if kv_cache_dtype not in SigmaBackend.supported_kv_cache_dtypes:
            raise ValueError(
                f"kv_cache_dtype = {kv_cache_dtype!r}: Sigma's kernels keep the cache in the model's dtype; "
                "leave it at 'auto', or on a GPU take vLLM's with --attention-backend TRITON_ATTN_DIFFKV"
            )
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_size, self.v_head_dim, self.scale = head_size, v_head_dim, scale
        self.kv_cache_dtype = kv_cache_dtype

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Batch | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """q [N, Q, D], k [N, K, D], v [N, K, R*E], pages [P, K, T, D + R*E]; writes output [N, Q, E]."""
        if attn_metadata is None:
            # vLLM measures memory
            return output.fill_(0)
        count = attn_metadata.num_tokens
        self.attend(query[:count], key[:count], value[:count], kv_cache, attn_metadata, output[:count])
        return output

    def attend(
        self,
        q_NQD: torch.Tensor,
        k_NKD: torch.Tensor,
        v_NKX: torch.Tensor,
        pages_PKTC: torch.Tensor,
        batch: Batch,
        out_NQE: torch.Tensor,
    ) -> None:
        raise NotImplementedError


class TritonImplementation(Implementation):
    """Our kernels: append, then split-KV decode or chunked prefill over the same pages."""

    def attend(self, q_NQD, k_NKD, v_NKX, pages_PKTC, batch, out_NQE):
        k_pages, v_pages = fused_page_views(pages_PKTC, self.head_size, self.v_head_dim)
        v_NVE = v_NKX.view(v_NKX.shape[0], -1, self.v_head_dim)
        kv_append(k_NKD, v_NVE, k_pages, v_pages, batch.slots[: batch.num_tokens])
        table_BM = batch.block_table.contiguous()
        attended, _ = decode_attention(
            q_NQD,
            k_pages,
            v_pages,
            table_BM,
            batch.query_start_loc,
            batch.seq_lens,
            self.scale,
            batch.max_query_len,
            # vLLM's is an upper bound
            min(batch.max_seq_len, table_BM.shape[1] * batch.page_size),
        )
        out_NQE.copy_(attended)


class TorchImplementation(Implementation):
    """Plain torch for a CPU: decoding sequences side by side, prefills one after the other."""

    def attend(self, q_NQD, k_NKD, v_NKX, pages_PKTC, batch, out_NQE):
        plan = batch.plan
        rows_NKC = torch.cat([k_NKD, v_NKX], dim=-1)
        pages_PKTC[plan.pages, :, plan.places] = rows_NKC[plan.written]
        if len(plan.decode_tokens):
            out_NQE[plan.decode_tokens] = self._decode(q_NQD[plan.decode_tokens], pages_PKTC, plan)
        for first, last, length, table in plan.prefills:
            out_NQE[first:last] = self._prefill(q_NQD[first:last], pages_PKTC[table.long()], length)

    def _decode(self, q_BQD: torch.Tensor, pages_PKTC: torch.Tensor, plan: Plan) -> torch.Tensor:
        d, e = self.head_size, self.v_head_dim
        kv_BKLC = pages_PKTC[plan.decode_pages_BM].transpose(1, 2).flatten(2, 3)
        q_BKGD = q_BQD.unflatten(1, (self.num_kv_heads, -1))
        scores_BKGL = q_BKGD @ kv_BKLC[..., :d].transpose(-1, -2) * self.scale
        seen_BKGL = plan.decode_seen_BL[:, None, None]
        weights_BKGL = scores_BKGL.masked_fill(~seen_BKGL, float("-inf")).softmax(-1, torch.float32)
        weights_BKGL = weights_BKGL.to(q_BQD.dtype)
        v_of_R = kv_BKLC[..., d:].split(e, dim=-1)
        groups = zip(weights_BKGL.chunk(len(v_of_R), dim=2), v_of_R, strict=True)
        return torch.cat([weights @ v_BKLE for weights, v_BKLE in groups], dim=2).flatten(1, 2)

    def _prefill(self, q_SQD: torch.Tensor, pages_MKTC: torch.Tensor, length: int) -> torch.Tensor:
        d, e = self.head_size, self.v_head_dim
        kv_KLC = pages_MKTC.transpose(0, 1).flatten(1, 2)[:, :length]
        v_VLE = kv_KLC[..., d:].unflatten(-1, (-1, e)).transpose(1, 2).flatten(0, 1)
        new = q_SQD.shape[0]
        allowed = None
        if new < length:
            allowed = torch.ones(new, length, dtype=torch.bool).tril(length - new)
        q_QSD = q_SQD.transpose(0, 1)
        out = sdpa_attention(q_QSD[None], kv_KLC[None, ..., :d], v_VLE[None], allowed, self.scale)
        return out[0].transpose(0, 1)


class SigmaBackend(AttentionBackend):
    """What vLLM asks of a backend; both of ours answer alike."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    supported_kv_cache_dtypes: ClassVar[list[Any]] = ["auto"]

    @staticmethod
    def get_name() -> str:
        # a member of vLLM's enum: the layer looks it up there
        return "CUSTOM"

    @staticmethod
    def get_builder_cls() -> type[Builder]:
        return Builder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[int | MultipleOf]:
        return [MultipleOf(16)]


class TritonBackend(SigmaBackend):
    """kernels/diffqkv on a GPU."""

    @staticmethod
    def get_impl_cls() -> type[TritonImplementation]:
        return TritonImplementation


class TorchBackend(SigmaBackend):
    """Plain torch on a CPU."""

    @staticmethod
    def get_impl_cls() -> type[TorchImplementation]:
        return TorchImplementation
