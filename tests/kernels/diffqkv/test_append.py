"""kv_append in Triton's interpreter: bitwise the naive loop, every other slot untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.diffqkv import append
from kernels.diffqkv.append import kv_append, kv_append_reference
from kernels.diffqkv.decode import decode_attention

PAGE = 5
SLOTS = [3, -1, 17, 9, -1, 20, 0]


def rows(heads: tuple[int, int], dims: tuple[int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(len(SLOTS), dims[0] // 2, generator=generator) * 100
    k = torch.randn(len(SLOTS), heads[0], dims[0], generator=generator).to(dtype)
    v = torch.randn(len(SLOTS), heads[1], dims[1], generator=generator).to(dtype)
    return [k, v, angles.cos(), angles.sin()]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    heads=st.sampled_from([(2, 4), (4, 2), (3, 3), (1, 6), (5, 1)]),
    dims=st.tuples(st.sampled_from([16, 24, 40]), st.sampled_from([16, 72])),
    layout=st.sampled_from(["token-major", "head-major", "fused token-major", "fused head-major"]),
    rotate=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_equals_the_reference(
    empty_pages: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    heads: tuple[int, int],
    dims: tuple[int, int],
    layout: str,
    rotate: bool,
    dtype: torch.dtype,
) -> None:
    if heads[0] > heads[1] and layout.startswith("fused"):
        layout = "token-major"
    k, v, *angles = rows(heads, dims, dtype)
    cos, sin = angles if rotate else (None, None)
    found, expected = (empty_pages(layout, 6, PAGE, heads, dims, dtype) for _ in range(2))
    kv_append(k, v, *found, torch.tensor(SLOTS), cos, sin)
    kv_append_reference(k, v, *expected, torch.tensor(SLOTS), cos, sin)
    for ours, theirs in zip(found, expected, strict=True):
        # the slots of no token are still NaN; a multiply-add may round once where the loop rounds twice
        torch.testing.assert_close(
            ours, theirs, equal_nan=True, rtol=1e-6 if dtype == torch.float32 else 1e-3, atol=1e-6
        )
        assert int((~ours.isnan()).sum()) == sum(slot >= 0 for slot in SLOTS) * theirs[0, 0].numel()


def test_rotates_as_the_model_does(empty_pages: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Turning q and k by their positions leaves a score that depends on the distance alone."""
    k = torch.randn(1, 1, 16).expand(4, 1, 16).contiguous()
    positions = torch.tensor([0.0, 1.0, 2.0, 7.0])
    angles = positions[:, None] / 10.0 ** torch.arange(8)
    pages = empty_pages("head-major", 1, 4, (1, 1), (16, 16), torch.float32)
    kv_append(k, k, *pages, torch.arange(4), angles.cos(), angles.sin())
    turned = pages[0][0, :, 0]
    torch.testing.assert_close(turned[0], k[0, 0])
    torch.testing.assert_close(turned[0] @ turned[1], turned[1] @ turned[2])
    torch.testing.assert_close(turned.norm(dim=-1), k[:, 0].norm(dim=-1))


def test_a_token_at_a_time_equals_all_at_once(paged_case: Callable[..., Any]) -> None:
    """Append, then decode, token by token: the cache that the kernels keep is the one that they read."""
    case = paged_case((4, 1, 2), (16, 16), [PAGE + 2], [PAGE + 2], page_size=PAGE)
    table = case.block_table_BM[0].tolist()
    slots = torch.tensor([table[t // PAGE] * PAGE + t % PAGE for t in range(PAGE + 2)])
    k, v = (pages.flatten(0, 1)[slots] for pages in (case.k_pages, case.v_pages))
    expected, _ = decode_attention(*case.arguments, max_seqlen_q=PAGE + 2)
    case.k_pages.fill_(float("nan"))
    case.v_pages.fill_(float("nan"))
    for t in range(PAGE + 2):
        here = slice(t, t + 1)
        kv_append(k[here], v[here], case.k_pages, case.v_pages, slots[here])
        out, _ = decode_attention(
            case.q_NQD[here], case.k_pages, case.v_pages, case.block_table_BM,
            torch.tensor([0, 1]), torch.tensor([t + 1]),
        )  # fmt: skip
        assert torch.equal(out[0], expected[t])


def test_opcheck_and_whole_graph(empty_pages: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
    k, v, cos, sin = rows((2, 4), (16, 16), torch.float32)
    pages = tuple(x.zero_() for x in empty_pages("head-major", 6, PAGE, (2, 4), (16, 16), torch.float32))
    torch.library.opcheck(append._kv_append, (k, v, *pages, torch.tensor(SLOTS), cos, sin))
    torch.library.opcheck(append._kv_append, (k, v, *pages, torch.tensor(SLOTS), None, None))
    expected = tuple(x.clone().zero_() for x in pages)
    compiled = torch.compile(kv_append, fullgraph=True, backend="aot_eager")
    compiled(k, v, *pages, torch.tensor(SLOTS), cos, sin)
    kv_append(k, v, *expected, torch.tensor(SLOTS), cos, sin)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(pages, expected, strict=True))


def test_refused_with_the_rule(empty_pages: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
    k, v, cos, sin = rows((2, 4), (16, 16), torch.float32)
    pages = empty_pages("head-major", 6, PAGE, (2, 4), (16, 16), torch.float32)
    slots = torch.tensor(SLOTS)
    for rule, arguments in {
        "v must be of shape (7, 4, 16)": (k, v[:, :2], *pages, slots),
        "k must be of shape (3, 2, 16)": (k, v[:3], *pages, slots[:3]),
        "sin must be of shape (7, 8)": (k, v, *pages, slots, cos, sin[:, :4]),
        "both cos and sin are needed": (k, v, *pages, slots, cos),
        "k must have the dtype of k_pages": (k.half(), v, *pages, slots),
        "slot_mapping must be int32 or int64": (k, v, *pages, slots.float()),
        "num_k_heads must divide num_v_heads": (k, v, pages[0], pages[1][:, :, :3], slots),
    }.items():
        with pytest.raises(ValueError) as error:
            kv_append(*arguments)
        assert rule in str(error.value)
