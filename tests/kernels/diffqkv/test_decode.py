"""Decode over a paged cache in Triton's interpreter, against the naive reference in float64."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.kernels.sweep import relative
from kernels.diffqkv import decode as decode_module
from kernels.diffqkv.configs import INTERPRETED
from kernels.diffqkv.decode import MAX_DECODE_TOKENS, decode_attention, decode_launches, decode_reference
from kernels.diffqkv.pages import check_paged_call
from kernels.diffqkv.prefill import prefill_reference

PAGE = 16
CHUNK = INTERPRETED["decode"].tiles["CHUNK"]
NESTED = [(8, 2, 4), (8, 4, 2), (4, 4, 4), (6, 1, 2), (6, 3, 1), (3, 1, 3), (8, 1, 8), (8, 8, 1)]
LENGTHS = [0, 1, PAGE - 1, PAGE, PAGE + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3]


def check(case: Any, limit: float = 1e-5, scale: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = decode_attention(*case.arguments, scale, max_seqlen_q=case.max_seqlen_q)
    expected, expected_lse = decode_reference(*case.exact, scale)
    assert out.shape == expected.shape and lse.shape == expected_lse.shape
    assert out.dtype == case.q_NQD.dtype and lse.dtype == torch.float32
    assert relative(out, expected) <= limit
    empty = expected_lse.isinf()
    assert torch.equal(lse.isinf(), empty)
    assert relative(lse[~empty], expected_lse[~empty]) <= 1e-5
    return out, lse


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    heads=st.sampled_from(NESTED),
    dims=st.tuples(st.sampled_from([16, 24, 32]), st.sampled_from([16, 40])),
    sequences=st.lists(st.tuples(st.sampled_from(LENGTHS), st.integers(0, 3)), min_size=1, max_size=3),
    page_size=st.sampled_from([5, PAGE, 4 * PAGE]),
    layout=st.sampled_from(["token-major", "head-major"]),
    scale=st.sampled_from([None, 0.05, 3.0]),
)
def test_equals_the_reference(
    paged_case: Callable[..., Any],
    heads: tuple[int, int, int],
    dims: tuple[int, int],
    sequences: list[tuple[int, int]],
    page_size: int,
    layout: str,
    scale: float | None,
) -> None:
    lengths, q_lengths = zip(*sequences, strict=True)
    check(paged_case(heads, dims, lengths, q_lengths, page_size, layout), scale=scale)


@pytest.mark.parametrize("heads", [(8, 2, 4), (4, 4, 2)])
def test_prefill_in_chunks_against_pages(paged_case: Callable[..., Any], heads: tuple[int, int, int]) -> None:
    """More query tokens than a decode has, among sequences with few, none and only new tokens."""
    many = MAX_DECODE_TOKENS + 3
    check(paged_case(heads, (16, 24), [PAGE + many, 5, 3, many], [many, 1, 0, many]))


def test_sigma_heads_in_float16(paged_case: Callable[..., Any]) -> None:
    check(paged_case((32, 4, 16), (16, 16), [CHUNK + 2], [1], dtype=torch.float16), limit=1e-3)
    check(paged_case((8, 1, 4), (16, 32), [PAGE + 9], [9], dtype=torch.float16), limit=1e-3)


def test_layouts_are_bitwise_one_call(paged_case: Callable[..., Any]) -> None:
    results = []
    for layout in ("token-major", "head-major", "fused token-major", "fused head-major"):
        case = paged_case((8, 2, 4), (16, 24), [CHUNK + 5, 3], [1, 2], layout=layout)
        results.append(check(case))
    # in a fused page the V heads of different units are not uniformly strided
    assert case.v_pages.stride(2) != case.v_pages.stride(3) * case.v_pages.shape[3]
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(lse, results[0][1])


def test_page_ids_do_not_matter(paged_case: Callable[..., Any]) -> None:
    cases = [paged_case((8, 2, 4), (16, 16), [CHUNK + 5, 7], [1, 1], page_seed=seed) for seed in (0, 1)]
    assert not torch.equal(cases[0].block_table_BM, cases[1].block_table_BM)
    first, second = (decode_attention(*case.arguments) for case in cases)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("q_lengths", [[1, 3, 0, 2], [MAX_DECODE_TOKENS + 1, 3, 0, 12]])
def test_a_batch_is_bitwise_its_sequences(paged_case: Callable[..., Any], q_lengths: list[int]) -> None:
    """Also with other bounds: they change the grid and whether there is a combination, not a result."""
    case = paged_case((8, 2, 4), (16, 16), [2 * CHUNK + 3, 4, 9, CHUNK], q_lengths)
    out, lse = decode_attention(*case.arguments, max_seqlen_q=case.max_seqlen_q)
    for b, length in enumerate(case.seq_lens_B.tolist()):
        first, last = case.cu_seqlens_q[b : b + 2].tolist()
        alone, alone_lse = decode_attention(
            *case.sequence(b).arguments, max_seqlen_q=case.max_seqlen_q, max_seqlen_k=length
        )
        assert torch.equal(alone, out[first:last]) and torch.equal(alone_lse, lse[:, first:last])


@pytest.mark.parametrize("length", [1, PAGE, CHUNK + 1])
def test_is_the_last_row_of_prefill(paged_case: Callable[..., Any], length: int) -> None:
    case = paged_case((8, 2, 4), (16, 24), [length], [1], page_size=64)
    page = case.block_table_BM[0, 0]
    k, v = case.k_pages[page, :length].double(), case.v_pages[page, :length].double()
    q = torch.randn(length, 8, 16, dtype=torch.float64)
    q[-1] = case.q_NQD[0]
    expected, expected_lse = prefill_reference(q, k, v, torch.tensor([0, length]))
    out, lse = decode_attention(*case.arguments)
    assert relative(out[0], expected[-1]) <= 1e-5 and relative(lse[:, 0], expected_lse[:, -1]) <= 1e-5


@pytest.mark.parametrize("heads", [(8, 2, 4), (12, 6, 2), (6, 1, 6)])
def test_head_constants_expose_a_wrong_head(
    paged_case: Callable[..., Any], heads: tuple[int, int, int]
) -> None:
    """V head h holds h; then K head h points at token h, whose V rows hold the token."""
    n_q, n_k, n_v = heads
    for many in (1, MAX_DECODE_TOKENS + 1):
        case = paged_case(heads, (16, 16), [PAGE], [many], layout="token-major")
        page = case.block_table_BM[0, 0]
        case.v_pages[page] = torch.arange(float(n_v))[:, None]
        out, _ = decode_attention(*case.arguments, max_seqlen_q=many)
        torch.testing.assert_close(out[-1, :, 0], (torch.arange(n_q) * n_v // n_q).float())
        case.q_NQD[:] = torch.eye(16)[0]
        case.k_pages[page] = 0.0
        for head in range(n_k):
            case.k_pages[page, head, head, 0] = 1e4
        case.v_pages[page] = torch.arange(float(PAGE))[:, None, None]
        out, _ = decode_attention(*case.arguments, max_seqlen_q=many)
        torch.testing.assert_close(out[-1, :, 0], (torch.arange(n_q) * n_k // n_q).float())


@pytest.mark.parametrize("name", ["k_pages", "v_pages"])
def test_addresses_past_32_bits(paged_case: Callable[..., Any], name: str) -> None:
    """A page whose number times its stride is 2**32: in 32 bits it would be page 0, which is zeros."""
    case = paged_case((2, 1, 1), (16, 16), [5], [1], dtype=torch.float16, layout="token-major")
    page = int(case.block_table_BM[0, 0])
    stride = PAGE * 16
    far = 2**32 // stride
    no_reserve = 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    store = torch.frombuffer(mmap.mmap(-1, (far + 1) * stride * 2, flags=flags), dtype=torch.float16)
    pages = {
        "k_pages": case.k_pages[page : page + 1].expand(far + 1, -1, -1, -1),
        "v_pages": case.v_pages[page : page + 1].expand(far + 1, -1, -1, -1),
    }
    held = pages[name][0]
    pages[name] = store.as_strided((far + 1, *held.shape), (stride, *held.stride()))
    pages[name][far] = held
    moved = replace(case, **pages, block_table_BM=torch.full_like(case.block_table_BM, far))
    assert torch.equal(decode_attention(*moved.arguments)[0], decode_attention(*case.arguments)[0])


def test_grid_knows_shapes_only(paged_case: Callable[..., Any]) -> None:
    """Launches made of tensors without data: a CUDA graph of them serves any lengths."""
    for q_length in (1, MAX_DECODE_TOKENS + 1):
        case = paged_case((8, 2, 4), (16, 16), [CHUNK + 1, 40], [q_length] * 2)
        grids = []
        for device in ("cpu", "meta"):
            arguments = [x.to(device) for x in case.arguments]
            call = check_paged_call(*arguments, 1.0, q_length, None)  # type: ignore[arg-type]
            launches = decode_launches(call, *call.empty_results(), "interpreter")
            grids.append([(kernel.__name__, grid) for kernel, grid, _ in launches])
        assert grids[0] == grids[1] and len(grids[0]) == (2 if q_length == 1 else 1)


def test_opcheck_and_whole_graph(paged_case: Callable[..., Any]) -> None:
    case = paged_case((4, 1, 2), (16, 16), [3], [1])
    torch.library.opcheck(decode_module._decode, (*case.arguments, 0.25, 1, None))
    compiled = torch.compile(decode_attention, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(*case.arguments), decode_attention(*case.arguments), strict=True):
        assert torch.equal(found, expected)


def test_refused_with_the_rule(paged_case: Callable[..., Any]) -> None:
    case = paged_case((8, 2, 4), (16, 16), [5, 6], [1, 1])
    for rule, other in {
        "q must be [tokens, heads, dim]": {"q_NQD": case.q_NQD[0]},
        "q and k_pages must have the same head dim, not 24 and 16": {"q_NQD": torch.zeros(2, 8, 24)},
        "num_q_heads must be divisible by num_v_heads": {"q_NQD": torch.zeros(2, 6, 16)},
        "share a block table": {"v_pages": case.v_pages[:, :8]},
        "v_pages has 4 units, but 2 K heads and 4 V heads make 2": {
            "v_pages": case.v_pages.unflatten(2, (4, 1))
        },
        "block_table must have 2 axes": {"block_table_BM": case.block_table_BM[0]},
        "seq_lens must be int32 or int64": {"seq_lens_B": case.seq_lens_B.float()},
        "2 seq_lens need as many rows of block_table and one more of cu_seqlens_q, not 2 and 2": {
            "cu_seqlens_q": case.cu_seqlens_q[1:]
        },
        "the last axis of k_pages must have stride 1": {"k_pages": case.k_pages.mT.contiguous().mT},
        "k_pages must have the dtype of q": {"k_pages": case.k_pages.half()},
    }.items():
        with pytest.raises(ValueError) as error:
            decode_attention(*replace(case, **other).arguments)
        assert rule in str(error.value)
    for rule, options in {
        "max_seqlen_q must be at least 1, not 0": {"max_seqlen_q": 0},
        "max_seqlen_k must be from 1 to the 32 tokens": {"max_seqlen_k": 33},
        "softmax_scale must be positive": {"softmax_scale": 0.0},
    }.items():
        with pytest.raises(ValueError) as error:
            decode_attention(*case.arguments, **options)
        assert rule in str(error.value)
