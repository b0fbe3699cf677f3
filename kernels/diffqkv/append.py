"""New K and V rows into their slots of a paged cache, with rotary embedding of K on the way.

Shape letters as in pages.py; N new tokens, F = D / 2 rotary angles.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.diffqkv.calls import KernelCall, run, strides
from kernels.diffqkv.pages import pages_by_unit
from kernels.diffqkv.shapes import check_float, check_index


def rotate_half(x_NKD: torch.Tensor, cos_NF: torch.Tensor, sin_NF: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, half-split as in Llama: element i turns with i + D / 2; in float32 or more."""
    wide = torch.promote_types(x_NKD.dtype, torch.float32)
    first, second = x_NKD.to(wide).chunk(2, dim=-1)
    cos, sin = cos_NF[:, None].to(wide), sin_NF[:, None].to(wide)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def kv_append_reference(
    k_NKD: torch.Tensor,
    v_NVE: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    slot_mapping_N: torch.Tensor,
    cos_NF: torch.Tensor | None = None,
    sin_NF: torch.Tensor | None = None,
) -> None:
    """The contract: one token after the other; as ``kv_append``."""
    if cos_NF is not None and sin_NF is not None:
        k_NKD = rotate_half(k_NKD, cos_NF, sin_NF)
    for n, slot in enumerate(slot_mapping_N.tolist()):
        if slot >= 0:
            page, token = divmod(slot, k_pages.shape[1])
            k_pages[page, token] = k_NKD[n].reshape(k_pages.shape[2:]).to(k_pages.dtype)
            v_pages[page, token] = v_NVE[n].reshape(v_pages.shape[2:]).to(v_pages.dtype)


def kv_append(
    k_NKD: torch.Tensor,
    v_NVE: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    slot_mapping_N: torch.Tensor,
    cos_NF: torch.Tensor | None = None,
    sin_NF: torch.Tensor | None = None,
) -> None:
    """Write token n's K and V rows to slot ``slot_mapping_N[n]``, in place.

    k_NKD [N, n_k, d_k] and v_NVE [N, n_v, d_v] in the pages' dtype; pages [P, T, heads, width] or by unit,
    as ``decode_attention`` reads them. A slot is page * T + token of the page, int32 or int64; -1 is
    skipped, so that N may be padded to a fixed size; two tokens must not share one. With ``cos_NF`` and
    ``sin_NF`` [N, d_k / 2] K is rotated in float32 before it is rounded (``rotate_half``).
    Raises ValueError that says the rule for shapes that are not taken.
    """
    _kv_append(k_NKD, v_NVE, k_pages, v_pages, slot_mapping_N, cos_NF, sin_NF)


@triton.jit
def _append(
    k,
    v,
    k_pages,
    v_pages,
    slot_mapping,
    cos,
    sin,
    stride_kn,
    stride_kh,
    stride_vn,
    stride_vh,
    stride_kp,
    stride_kt,
    stride_ku,
    stride_kj,
    stride_vp,
    stride_vt,
    stride_vu,
    stride_vr,
    stride_cn,
    stride_sn,
    K_PER_UNIT: tl.constexpr,
    V_PER_UNIT: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """One (token, unit); grid (N, U)."""
    n = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1)
    slot = tl.load(slot_mapping + n).to(tl.int64)
    if slot < 0:
        return
    page = slot // PAGE_SIZE
    token = slot % PAGE_SIZE

    j = tl.arange(0, BLOCK_J)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    k_valid = (j < K_PER_UNIT) & (d < D)
    k += n * stride_kn + (unit * K_PER_UNIT + j) * stride_kh
    k_tile = tl.load(k + d, mask=k_valid)
    if ROTATE:
        HALF: tl.constexpr = D // 2
        partner = tl.load(k + (d + HALF) % D, mask=k_valid).to(tl.float32)
        partner = tl.where(d < HALF, -partner, partner)
        cos_d = tl.load(cos + n * stride_cn + d % HALF).to(tl.float32)
        sin_d = tl.load(sin + n * stride_sn + d % HALF).to(tl.float32)
        k_tile = k_tile.to(tl.float32) * cos_d + partner * sin_d
    k_slot = k_pages + page * stride_kp + token * stride_kt + unit * stride_ku + j * stride_kj
    tl.store(k_slot + d, k_tile.to(k_pages.dtype.element_ty), mask=k_valid)

    r = tl.arange(0, BLOCK_R)[:, None]
    e = tl.arange(0, BLOCK_E)[None, :]
    v_valid = (r < V_PER_UNIT) & (e < E)
    v_tile = tl.load(v + n * stride_vn + (unit * V_PER_UNIT + r) * stride_vh + e, mask=v_valid)
    v_slot = v_pages + page * stride_vp + token * stride_vt + unit * stride_vu + r * stride_vr
    tl.store(v_slot + e, v_tile, mask=v_valid)


def kv_append_launch(
    k_NKD: torch.Tensor,
    v_NVE: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    slot_mapping_N: torch.Tensor,
    cos_NF: torch.Tensor | None,
    sin_NF: torch.Tensor | None,
) -> KernelCall:
    """Kernel, grid and arguments."""
    heads, k_PTUJD, v_PTURE = pages_by_unit(k_pages, v_pages)
    k_per_unit, d = k_PTUJD.shape[3:]
    v_per_unit, e = v_PTURE.shape[3:]
    arguments = {
        "k": k_NKD,
        "v": v_NVE,
        "k_pages": k_PTUJD,
        "v_pages": v_PTURE,
        "slot_mapping": slot_mapping_N,
        "cos": cos_NF,
        "sin": sin_NF,
        **strides("k", "nh", k_NKD),
        **strides("v", "nh", v_NVE),
        **strides("k", "ptuj", k_PTUJD),
        **strides("v", "ptur", v_PTURE),
        "stride_cn": 0 if cos_NF is None else cos_NF.stride(0),
        "stride_sn": 0 if sin_NF is None else sin_NF.stride(0),
        "K_PER_UNIT": k_per_unit,
        "V_PER_UNIT": v_per_unit,
        "D": d,
        "E": e,
        "BLOCK_J": triton.next_power_of_2(k_per_unit),
        "BLOCK_R": triton.next_power_of_2(v_per_unit),
        "BLOCK_D": triton.next_power_of_2(d),
        "BLOCK_E": triton.next_power_of_2(e),
        "PAGE_SIZE": k_pages.shape[1],
        "ROTATE": cos_NF is not None,
        "num_warps": 1,
        "num_stages": 1,
    }
    return _append, (slot_mapping_N.shape[0], heads.num_units), arguments


def _check(
    k: torch.Tensor,
    v: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    slot_mapping: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
) -> None:
    heads, _, _ = pages_by_unit(k_pages, v_pages)
    check_float(k_pages=k_pages, v_pages=v_pages, k=k, v=v)
    check_index("slot_mapping", slot_mapping, k_pages)
    n, d = slot_mapping.shape[0], k_pages.shape[-1]
    expected = {
        "k": (k, (n, heads.num_k_heads, d)),
        "v": (v, (n, heads.num_v_heads, v_pages.shape[-1])),
        "cos": (cos, (n, d // 2)),
        "sin": (sin, (n, d // 2)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and (tensor.shape != shape or tensor.stride(-1) != 1):
            raise ValueError(
                f"{name} must be of shape {shape}, to fit slot_mapping and the pages, with stride 1 on its "
                f"last axis, not {tuple(tensor.shape)} with {tensor.stride(-1)}"
            )
    if (cos is None) != (sin is None):
        raise ValueError("to rotate K both cos and sin are needed; only one of them is given")


@torch.library.custom_op("diffqkv::kv_append", mutates_args=("k_pages", "v_pages"))
def _kv_append(
    k: torch.Tensor,
    v: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    slot_mapping: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
) -> None:
    _check(k, v, k_pages, v_pages, slot_mapping, cos, sin)
    if slot_mapping.shape[0]:
        run([kv_append_launch(k, v, k_pages, v_pages, slot_mapping, cos, sin)], k)


_kv_append.register_fake(_check)
