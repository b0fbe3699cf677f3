"""The fused path against the naive contract, and the contract against what it must reduce to."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sigma_model.attention import (
    allowed_in_cache,
    allowed_positions,
    head_map,
    reference_attention,
    sdpa_attention,
)

SHAPES = [  # query, K and V heads; width of q and k, width of v; queries, keys
    (8, 2, 4, 16, 16, 9, 9),
    (8, 4, 2, 16, 8, 7, 7),
    (8, 1, 8, 8, 24, 5, 5),
    (32, 4, 16, 8, 8, 6, 6),
    (4, 4, 4, 6, 10, 1, 1),
    (8, 2, 4, 8, 8, 3, 11),
]


def _qkv(n_q: int, n_k: int, n_v: int, d: int, e: int, s: int, t: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, n_q, s, d), (2, n_k, t, d), (2, n_v, t, e)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_head_map_is_contiguous_groups() -> None:
    assert head_map(8, 2) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert head_map(32, 16) == [q // 2 for q in range(32)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("documents", [False, True])
def test_sdpa_equals_the_reference(shape: tuple[int, ...], documents: bool) -> None:
    q, k, v = _qkv(*shape)
    s, t = shape[-2:]
    if s < t:
        allowed = allowed_in_cache(s, torch.tensor([t, t - 1]), t)
    else:
        segments = (torch.arange(t) >= t // 2).long().expand(2, t) if documents else None
        allowed = allowed_positions(t, q.device, segments)
    expected = reference_attention(q, k, v, allowed, scale=0.3)
    assert expected.shape == (2, shape[0], s, shape[4])
    torch.testing.assert_close(sdpa_attention(q, k, v, allowed, 0.3), expected, rtol=1e-12, atol=1e-12)


def test_head_constants_expose_a_wrong_head() -> None:
    q, k, _ = _qkv(8, 2, 4, 4, 4, 5, 5)
    v = torch.arange(4.0, dtype=torch.float64)[None, :, None, None].expand(2, 4, 5, 4)
    for attend in (reference_attention, sdpa_attention):
        out = attend(q, k, v, None, 0.5)
        expected = torch.tensor(head_map(8, 4), dtype=torch.float64)[None, :, None, None]
        torch.testing.assert_close(out, expected.expand_as(out))


@pytest.mark.parametrize("n_kv", [8, 2, 1])
def test_equal_k_and_v_heads_are_mha_gqa_mqa(n_kv: int) -> None:
    q, k, v = _qkv(8, n_kv, n_kv, 16, 16, 9, 9)
    known = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    ours = reference_attention(q, k, v, None, 16**-0.5)
    torch.testing.assert_close(ours, known, rtol=1e-12, atol=1e-12)


def test_allowed_positions() -> None:
    assert allowed_positions(4, torch.device("cpu")) is None
    left_padded = torch.tensor([[0, 1, 1]])
    allowed = allowed_positions(3, torch.device("cpu"), padding_BS=left_padded)
    assert allowed is not None
    assert allowed[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_allowed_in_cache() -> None:
    allowed = allowed_in_cache(3, torch.tensor([4, 2]), max_seq_len=4)
    assert allowed[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    # the first of the three columns is padding: any row, but not an empty one
    assert allowed[1, 0].int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
