"""The attention backend switch: which code computes DiffQKV attention, chosen aloud.

The switch is Hugging Face's ``attn_implementation``: ``sigma`` (our Triton kernels), ``cudnn`` (torch's
cuDNN attention, which takes n_k != n_v as it is), ``sdpa`` (torch's default, K and V repeated to all
query heads), ``reference`` (the naive contract; ``eager`` is Hugging Face's name for it), or ``auto``:
cudnn where it can run, else sdpa. Our kernels have been compiled for GPUs but not timed on one, so ``auto``
leaves them to who asks by name. A backend asked for by name runs or raises ValueError; ``auto`` logs what
it took, and why not what it would rather have.

Shape letters as in attention.py and cache.py; tensors come token-major, [B, S, heads, width].
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from sigma_model.attention import (
    allowed_in_cache,
    allowed_positions,
    reference_attention,
    sdpa_attention,
)
from sigma_model.cache import PagedCache

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Who looks at whom in one forward: made once, the same for all layers."""

    over_cache: bool
    # the torch backends' mask
    allowed: Tensor | None = None
    # the kernels' bounds of sequences in the B * S tokens
    cu_seqlens: Tensor | None = None


class TorchBackend:
    """Attention as one function of [B, heads, S, width] and a mask; a cache is gathered for it."""

    name = "sdpa"
    attend_whole = staticmethod(sdpa_attention)
    attend_gathered = staticmethod(sdpa_attention)

    @staticmethod
    def refusal(k_head_dim: int, v_head_dim: int, device: str, dtype: torch.dtype) -> str | None:
        """Why this backend cannot run, or None."""
        return None

    @staticmethod
    def append(cache: PagedCache, layer_idx: int, k_BSKD: Tensor, v_BSVE: Tensor) -> None:
        """Write the new tokens' K and V of a layer into the slots that the cache took for them."""
        cache.append(layer_idx, k_BSKD, v_BSVE)

    @staticmethod
    def plan(
        batch: int,
        length: int,
        device: torch.device,
        segment_ids_BS: Tensor | None,
        padding_BS: Tensor | None,
        cache: PagedCache | None,
        cu_seqlens: Tensor | None = None,
    ) -> Plan:
        """``cache`` is the one to attend over, or None when the new tokens are all there is."""
        if cu_seqlens is not None:
            positions = torch.arange(batch * length, dtype=torch.int32, device=device)
            segment_ids_BS = torch.searchsorted(cu_seqlens, positions, right=True).view(batch, length)
        if cache is not None:
            return Plan(True, allowed_in_cache(length, cache.seq_lens, cache.max_seq_len))
        return Plan(False, allowed_positions(length, device, segment_ids_BS, padding_BS))

    def attend(
        self,
        q_BSQD: Tensor,
        k_BSKD: Tensor,
        v_BSVE: Tensor,
        scale: float,
        plan: Plan,
        cache: PagedCache | None,
        layer_idx: int,
    ) -> Tensor:
        """Outputs [B, S, Q, E]; the new tokens' K and V are in the cache already."""
        q_BQSD = q_BSQD.transpose(1, 2)
        if plan.over_cache:
            assert cache is not None
            k_BKLD, v_BVLE = (x.to(q_BQSD.dtype) for x in cache.gather(layer_idx))
            out_BQSE = self.attend_gathered(q_BQSD, k_BKLD, v_BVLE, plan.allowed, scale)
        else:
            k_BKSD, v_BVSE = k_BSKD.transpose(1, 2), v_BSVE.transpose(1, 2)
            out_BQSE = self.attend_whole(q_BQSD, k_BKSD, v_BVSE, plan.allowed, scale)
        return out_BQSE.transpose(1, 2)


class ReferenceBackend(TorchBackend):
    """The naive contract, head by head."""

    name = "reference"
    attend_whole = staticmethod(reference_attention)
    attend_gathered = staticmethod(reference_attention)


class CudnnBackend(TorchBackend):
    """torch's cuDNN attention for whole sequences; a step over a cache has other shapes each time, for
    which cuDNN would plan anew, and goes through sdpa."""

    name = "cudnn"

    @staticmethod
    def attend_whole(
        q_BQSD: Tensor, k_BKTD: Tensor, v_BVTE: Tensor, allowed: Tensor | None, scale: float
    ) -> Tensor:
        """cuDNN alone; ValueError where it does not take the call."""
        try:
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return scaled_dot_product_attention(
                    q_BQSD,
                    k_BKTD,
                    v_BVTE,
                    attn_mask=allowed,
                    is_causal=allowed is None,
                    scale=scale,
                    enable_gqa=True,
                )
        except RuntimeError as error:
            raise ValueError(
                f"cuDNN does not take this attention (q {tuple(q_BQSD.shape)}, K {tuple(k_BKTD.shape)}, V "
                f"{tuple(v_BVTE.shape)}, {q_BQSD.dtype}): {error}; use attn_implementation='sdpa'"
            ) from error

    @staticmethod
    def refusal(k_head_dim: int, v_head_dim: int, device: str, dtype: torch.dtype) -> str | None:
        """Why this backend cannot run, or None."""
        if device != "cuda":
            return f"cuDNN needs an NVIDIA GPU, the model is on {device}"
        if not torch.backends.cudnn.is_available():
            return "this torch has no cuDNN"
        if dtype not in (torch.float16, torch.bfloat16):
            return f"cuDNN takes float16 and bfloat16, not {dtype}"
        for name, width in (("k_head_dim", k_head_dim), ("v_head_dim", v_head_dim)):
            if width % 8 or width > 128:
                return f"cuDNN takes head dims that are multiples of 8 up to 128, not {name} = {width}"
        return None


class CudnnOrSdpaBackend(CudnnBackend):
    """What ``auto`` takes where cuDNN runs: calls that it does not take (one key, some masks) go to sdpa."""

    name = "cudnn, else sdpa"

    @classmethod
    def attend_whole(
        cls, q_BQSD: Tensor, k_BKTD: Tensor, v_BVTE: Tensor, allowed: Tensor | None, scale: float
    ) -> Tensor:
        """cuDNN, or sdpa with a line in the log that says why."""
        try:
            return super().attend_whole(q_BQSD, k_BKTD, v_BVTE, allowed, scale)
        except ValueError as error:
            _warn_once(str(error).splitlines()[0])
            return sdpa_attention(q_BQSD, k_BKTD, v_BVTE, allowed, scale)


@functools.cache
def _warn_once(why: str) -> None:
    logger.warning("attention of this call by sdpa: %s", why)


class SigmaBackend:
    """Our Triton kernels: packed sequences for whole ones, pages for a cache."""

    name = "sigma"

    @staticmethod
    def refusal(k_head_dim: int, v_head_dim: int, device: str, dtype: torch.dtype) -> str | None:
        """Why this backend cannot run, or None."""
        try:
            from kernels.diffqkv.shapes import check_float, check_head_dim
        except ImportError as error:
            return f"the kernels need Triton ({error}); pip install triton"
        try:
            check_head_dim("k_head_dim", k_head_dim)
            check_head_dim("v_head_dim", v_head_dim)
            check_float(q=torch.empty(1, dtype=dtype, device=device))
        except ValueError as error:
            return str(error)
        return None

    @staticmethod
    def plan(
        batch: int,
        length: int,
        device: torch.device,
        segment_ids_BS: Tensor | None,
        padding_BS: Tensor | None,
        cache: PagedCache | None,
        cu_seqlens: Tensor | None = None,
    ) -> Plan:
        """Bounds of the sequences. A run of padding is a sequence of its own: nobody looks at it."""
        if cu_seqlens is not None:
            return Plan(False, cu_seqlens=cu_seqlens)
        rows = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=device)
        if cache is not None or (segment_ids_BS is None and padding_BS is None):
            return Plan(cache is not None, cu_seqlens=rows if length else rows.new_zeros(batch + 1))
        kind_BS = torch.zeros(batch, length, dtype=torch.int64, device=device)
        if segment_ids_BS is not None:
            kind_BS = segment_ids_BS.to(torch.int64) + 1
        if padding_BS is not None:
            kind_BS = kind_BS * 2 + padding_BS.bool()
            starts = (padding_BS[:, 1:].bool() & ~padding_BS[:, :-1].bool()).sum(-1) + padding_BS[:, 0].bool()
            if segment_ids_BS is None and (starts > 1).any():
                raise ValueError(
                    "attention_mask has padding between tokens, which the kernels of "
                    "attn_implementation='sigma' do not take; use 'sdpa', or pad at one side"
                )
        changes = torch.ones(batch, length, dtype=torch.bool, device=device)
        changes[:, 1:] = kind_BS[:, 1:] != kind_BS[:, :-1]
        bounds = changes.flatten().nonzero()[:, 0].to(torch.int32)
        return Plan(False, cu_seqlens=torch.cat([bounds, rows[-1:]]))

    @staticmethod
    def append(cache: PagedCache, layer_idx: int, k_BSKD: Tensor, v_BSVE: Tensor) -> None:
        """As the torch backends; padding's slots of -1 are skipped in the kernel."""
        from kernels.diffqkv.append import kv_append

        k_pages, v_pages = (pages[layer_idx].transpose(1, 2) for pages in (cache.k_pages, cache.v_pages))
        k_NKD, v_NVE = (x.detach().flatten(0, 1).to(k_pages.dtype) for x in (k_BSKD, v_BSVE))
        kv_append(k_NKD, v_NVE, k_pages, v_pages, cache.slots.flatten())

    @staticmethod
    def attend(
        q_BSQD: Tensor,
        k_BSKD: Tensor,
        v_BSVE: Tensor,
        scale: float,
        plan: Plan,
        cache: PagedCache | None,
        layer_idx: int,
    ) -> Tensor:
        """Outputs [B, S, Q, E]; the new tokens' K and V are in the cache already."""
        assert plan.cu_seqlens is not None
        q_NQD = q_BSQD.flatten(0, 1)
        if plan.over_cache:
            from kernels.diffqkv.decode import decode_attention

            assert cache is not None
            out_NQE, _ = decode_attention(
                q_NQD,
                cache.k_pages[layer_idx].transpose(1, 2),
                cache.v_pages[layer_idx].transpose(1, 2),
                cache.block_table,
                plan.cu_seqlens,
                cache.seq_lens,
                scale,
                max_seqlen_q=q_BSQD.shape[1],
            )
        else:
            from kernels.diffqkv.prefill import prefill_attention

            out_NQE, _ = prefill_attention(
                q_NQD, k_BSKD.flatten(0, 1), v_BSVE.flatten(0, 1), plan.cu_seqlens, scale
            )
        return out_NQE.unflatten(0, q_BSQD.shape[:2])


Backend = TorchBackend | SigmaBackend
BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (SigmaBackend(), CudnnBackend(), TorchBackend(), ReferenceBackend())
}
# what auto takes, the first that can run; not sigma, for which no GPU has spoken yet
AUTO: tuple[Backend, ...] = (CudnnOrSdpaBackend(), BACKENDS["sdpa"])


def backend_name(asked: str | None) -> str:
    """The switch's value for what Hugging Face was asked for; ValueError for a name we do not have."""
    name = {None: "auto", "eager": "reference"}.get(asked, asked)
    if name != "auto" and name not in BACKENDS:
        raise ValueError(
            f"attn_implementation = {asked!r} is none of Sigma's: use 'auto' or one of {sorted(BACKENDS)}"
        )
    assert name is not None
    return name


@functools.cache
def choose_backend(name: str, k_head_dim: int, v_head_dim: int, device: str, dtype: torch.dtype) -> Backend:
    """The backend that ``name`` means for these head dims, device type and dtype; logged once.

    Raises ValueError where the backend asked for by name cannot run.
    """
    refusals = []
    if name == "auto":
        refusals = ["sigma (its kernels have not been timed on a GPU: ask for it by name)"]
    for candidate in AUTO if name == "auto" else (BACKENDS[name],):
        refusal = candidate.refusal(k_head_dim, v_head_dim, device, dtype)
        if refusal is None:
            # on a GPU a slower backend is news
            level = logging.WARNING if candidate is AUTO[-1] and device == "cuda" else logging.INFO
            why = "".join(f"; not {line}" for line in refusals)
            logger.log(level, "attention on %s in %s: %s%s", device, dtype, candidate.name, why)
            return candidate
        refusals.append(f"{candidate.name} ({refusal})")
    raise ValueError(
        f"attn_implementation = {name!r} cannot run here: {refusals[0]}; use 'auto', which takes cudnn where "
        "it can run, else sdpa"
    )
