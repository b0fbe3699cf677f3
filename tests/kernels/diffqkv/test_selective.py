"""Selective V in Triton's interpreter: top-k against its reference, the bounded skip against its bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.kernels.sweep import relative
from kernels.diffqkv import bounded, topk
from kernels.diffqkv.bounded import bounded_decode_attention, bounded_decode_reference
from kernels.diffqkv.configs import INTERPRETED
from kernels.diffqkv.decode import decode_attention
from kernels.diffqkv.topk import topk_decode_attention, topk_decode_reference

TILE = INTERPRETED["score"].tiles["BLOCK_N"]
BLOCK = INTERPRETED["select"].tiles["BLOCK_L"]
CHUNK = INTERPRETED["bounded"].tiles["CHUNK"]


@pytest.mark.parametrize(
    ("heads", "lengths", "q_lengths", "options"),
    [
        ((2, 1, 2), [2 * BLOCK + 3, 0, 1], [1, 1, 1], {"top_k": 10}),
        ((4, 2, 1), [BLOCK + 1], [1], {"top_k": 1}),
        ((2, 1, 1), [20, 4], [1, 2], {"top_k": 7, "renormalize": True}),
        ((2, 1, 2), [2 * BLOCK], [1], {"top_k": 9, "keep_first": 2, "keep_last": 3}),
        ((2, 2, 2), [3], [2], {"top_k": 5, "keep_first": 2, "keep_last": 3, "renormalize": True}),
    ],
)
def test_topk_equals_the_reference(
    paged_case: Callable[..., Any],
    heads: tuple[int, int, int],
    lengths: list[int],
    q_lengths: list[int],
    options: dict[str, Any],
) -> None:
    """Whole numbers make many scores equal; of equal ones the earlier stay."""
    case = paged_case(heads, (16, 24), lengths, q_lengths, whole=True, layout="token-major")
    out, lse = topk_decode_attention(*case.arguments, 0.25, case.max_seqlen_q, **options)
    assert relative(out, topk_decode_reference(*case.exact, 0.25, **options)) <= 1e-5
    _, expected = decode_attention(*case.arguments, 0.25, case.max_seqlen_q)
    torch.testing.assert_close(lse, expected)


def test_topk_of_all_keys_is_decode(paged_case: Callable[..., Any]) -> None:
    case = paged_case((2, 1, 2), (16, 16), [BLOCK + 5], [1], layout="fused head-major", dtype=torch.float16)
    out, _ = topk_decode_attention(*case.arguments, top_k=BLOCK + 5)
    expected, _ = decode_attention(*case.arguments)
    assert relative(out, expected) <= 1e-3


def test_topk_reads_the_kept_rows_only(paged_case: Callable[..., Any]) -> None:
    """All other V rows are NaN; with V of ones out is the kept weight, or 1 if renormalized."""
    case = paged_case((2, 1, 1), (16, 16), [30], [1], page_size=64, layout="token-major")
    page = case.block_table_BM[0, 0]
    scores = case.q_NQD[0] @ case.k_pages[page, :30, 0].T * 0.25
    kept = scores.topk(4).indices
    case.v_pages[:] = float("nan")
    case.v_pages[page, kept.flatten()] = 1.0
    for renormalize in (False, True):
        out, _ = topk_decode_attention(*case.arguments, 0.25, top_k=4, renormalize=renormalize)
        mass = torch.ones(2) if renormalize else scores.softmax(-1).topk(4).values.sum(-1)
        torch.testing.assert_close(out[0], mass[:, None].expand(2, 16))


def test_topk_is_bitwise_the_same_in_a_batch(paged_case: Callable[..., Any]) -> None:
    results = []
    for seed in (0, 1):
        case = paged_case((2, 1, 2), (16, 16), [BLOCK + 3, 6], [1, 1], page_seed=seed)
        results.append(topk_decode_attention(*case.arguments, top_k=5))
    alone = topk_decode_attention(*case.sequence(0).arguments, max_seqlen_k=BLOCK + 3, top_k=5)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert torch.equal(alone[0], results[0][0][:1]) and torch.equal(alone[1], results[0][1][:, :1])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    heads=st.sampled_from([(8, 2, 4), (4, 4, 2), (6, 1, 1), (3, 1, 3)]),
    sequences=st.lists(
        st.tuples(st.sampled_from([0, 1, TILE, CHUNK + 1, 2 * CHUNK + 5]), st.sampled_from([0, 1, 3, 9])),
        min_size=1,
        max_size=2,
    ),
    page_size=st.sampled_from([5, TILE, 64]),
    epsilon=st.sampled_from([0.0, 1e-3, 0.1, 0.5, 1.0]),
    scale=st.sampled_from([0.25, 2.0]),
)
def test_bounded_keeps_its_bound(
    paged_case: Callable[..., Any],
    heads: tuple[int, int, int],
    sequences: list[tuple[int, int]],
    page_size: int,
    epsilon: float,
    scale: float,
) -> None:
    """Also where a sequence has several query tokens: all queries of a tile skip a V tile, or none does."""
    lengths, q_lengths = zip(*sequences, strict=True)
    case = paged_case(heads, (16, 24), lengths, q_lengths, page_size)
    out, lse = bounded_decode_attention(*case.arguments, epsilon, scale, case.max_seqlen_q)
    assert relative(out, bounded_decode_reference(*case.exact, epsilon, TILE, scale)) <= 1e-5
    exact, exact_lse = decode_attention(*case.arguments, scale, case.max_seqlen_q)
    torch.testing.assert_close(lse, exact_lse)
    largest = case.v_pages.nan_to_num(0.0).abs().max()
    assert ((out - exact).abs() <= epsilon * largest + 1e-5).all()


def test_bounded_does_not_read_light_tiles(paged_case: Callable[..., Any]) -> None:
    """One key takes all weight of its sequence; every other V tile is NaN, at epsilon 0 as well as above."""
    length = CHUNK + 20
    case = paged_case((4, 1, 2), (16, 16), [length], [3], page_size=128, layout="token-major")
    page = case.block_table_BM[0, 0]
    case.q_NQD[:] = torch.eye(16)[0]
    case.k_pages[page] = 0.0
    case.k_pages[page, TILE + 2, 0, 0] = 100.0
    heavy = case.v_pages[page, TILE : 2 * TILE].clone()
    case.v_pages[page] = float("nan")
    case.v_pages[page, TILE : 2 * TILE] = heavy
    for epsilon, scale in ((1e-3, 1.0), (0.0, 4.0)):
        out, _ = bounded_decode_attention(*case.arguments, epsilon, scale, max_seqlen_q=3)
        torch.testing.assert_close(out, heavy[2].repeat_interleave(2, dim=0).expand_as(out))
    case.v_pages[page] = 1.0
    out, _ = bounded_decode_attention(*case.arguments, 0.0, 0.01, max_seqlen_q=3)
    torch.testing.assert_close(out, torch.ones_like(out))


def test_bounded_is_bitwise_the_same_in_a_batch(paged_case: Callable[..., Any]) -> None:
    results = []
    for seed in (0, 1):
        case = paged_case((4, 1, 2), (16, 16), [CHUNK + 3, 6], [2, 1], page_seed=seed, dtype=torch.float16)
        results.append(bounded_decode_attention(*case.arguments, 0.3, max_seqlen_q=2))
    alone = bounded_decode_attention(*case.sequence(0).arguments, 0.3, max_seqlen_q=2, max_seqlen_k=CHUNK + 3)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert torch.equal(alone[0], results[0][0][:2]) and torch.equal(alone[1], results[0][1][:, :2])


@pytest.mark.parametrize(
    ("op", "attend", "options"),
    [
        (topk._topk_decode, topk_decode_attention, {"top_k": 2, "renormalize": True, "keep_first": 1}),
        (bounded._bounded_decode, bounded_decode_attention, {"epsilon": 0.1}),
    ],
    ids=["top-k", "bounded"],
)
def test_opcheck_and_whole_graph(
    paged_case: Callable[..., Any], op: Any, attend: Callable[..., Any], options: dict[str, Any]
) -> None:
    case = paged_case((2, 1, 1), (16, 16), [3], [1])
    keep_last = (0,) if "top_k" in options else ()
    torch.library.opcheck(op, (*case.arguments, None, 1, None, *options.values(), *keep_last))
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    found, expected = (call(*case.arguments, **options) for call in (compiled, attend))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_refused_with_the_rule(paged_case: Callable[..., Any]) -> None:
    case = paged_case((2, 1, 1), (16, 16), [3], [1])
    for rule, options in {
        "top_k must be from 1 to 512, not 0": {"top_k": 0},
        "top_k must be from 1 to 512, not 513": {"top_k": 513},
        "fit into top_k = 4 together, not 2 and 3": {"top_k": 4, "keep_first": 2, "keep_last": 3},
        "must not be negative": {"keep_first": -1},
    }.items():
        with pytest.raises(ValueError) as error:
            topk_decode_attention(*case.arguments, **options)
        assert rule in str(error.value)
    for epsilon in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="epsilon is a share of a query's weight, from 0 to 1"):
            bounded_decode_attention(*case.arguments, epsilon)
    wrong = replace(case, q_NQD=torch.zeros(1, 2, 24))
    for refused in (topk_decode_attention, lambda *x: bounded_decode_attention(*x, 0.1)):
        with pytest.raises(ValueError, match="q and k_pages must have the same head dim"):
            refused(*wrong.arguments)
