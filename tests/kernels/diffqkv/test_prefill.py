"""Prefill and its backward in Triton's interpreter, against the naive reference in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from benchmarks.kernels.sweep import relative
from kernels.diffqkv.configs import INTERPRETED
from kernels.diffqkv.prefill import prefill_attention, prefill_reference
from kernels.diffqkv.shapes import Heads

BLOCK = INTERPRETED["prefill"].tiles["BLOCK_M"]
NESTED = [(8, 1, 4), (8, 4, 1), (8, 2, 2), (4, 4, 4), (6, 1, 2), (6, 2, 1), (9, 3, 3), (5, 1, 5)]


def cumulate(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def tensors(
    heads: tuple[int, int, int], d_k: int, d_v: int, tokens: int, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(tokens, heads[0], d_k), (tokens, heads[1], d_k), (tokens, heads[2], d_v)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def gradients(
    results: tuple[torch.Tensor, torch.Tensor], inputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """With gradients into both results, out and lse."""
    generator = torch.Generator().manual_seed(1)
    into = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in results]
    return torch.autograd.grad(results, inputs, into)


lengths_of = st.lists(st.sampled_from([0, 1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 1]), min_size=1)


# no shrinking: in the interpreter it would take minutes
@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    heads=st.sampled_from(NESTED),
    dims=st.tuples(st.sampled_from([16, 24, 32]), st.sampled_from([16, 40])),
    lengths=lengths_of.filter(lambda lengths: 0 < sum(lengths) <= 3 * BLOCK),
    scale=st.sampled_from([None, 0.05, 30.0]),
)
def test_equals_the_reference(
    heads: tuple[int, int, int], dims: tuple[int, int], lengths: list[int], scale: float | None
) -> None:
    inputs = tensors(heads, *dims, sum(lengths))
    exact = [x.detach().double().requires_grad_() for x in inputs]
    cu = cumulate(lengths)
    found, expected = prefill_attention(*inputs, cu, scale), prefill_reference(*exact, cu, scale)
    # at a scale of 30 the scores' own rounding is a hundred times larger
    limit = 1e-5 if scale != 30.0 else 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert relative(ours, theirs) <= limit
    for ours, theirs in zip(gradients(found, inputs), gradients(expected, exact), strict=True):
        assert ours.shape == theirs.shape
        assert relative(ours, theirs) <= limit


def test_sigma_heads_in_float16() -> None:
    inputs = tensors((32, 4, 16), 16, 16, BLOCK + 1, torch.float16)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    cu = cumulate([BLOCK + 1])
    found, expected = prefill_attention(*inputs, cu), prefill_reference(*exact, cu)
    assert found[0].dtype == torch.float16 and found[1].dtype == torch.float32
    assert relative(found[0], expected[0]) <= 1e-3
    assert relative(found[1], expected[1]) <= 1e-5
    for ours, theirs in zip(gradients(found, inputs), gradients(expected, exact), strict=True):
        assert relative(ours, theirs) <= 2e-3


@pytest.mark.parametrize("heads", [(8, 2, 4), (8, 4, 2), (12, 2, 6)])
def test_head_constants_expose_a_wrong_head(heads: tuple[int, int, int]) -> None:
    """V head h holds h; K head h points the last query at token h, whose V rows hold the token."""
    n_q, n_k, n_v = heads
    tokens = max(n_k, n_v) + 1
    cu = cumulate([tokens])
    q = torch.zeros(tokens, n_q, 16)
    q[..., 0] = 1.0
    k = torch.zeros(tokens, n_k, 16)
    v = torch.arange(float(n_v))[None, :, None].expand(tokens, n_v, 16).contiguous()
    out, _ = prefill_attention(q, k, v, cu)
    expected = torch.arange(n_q) * n_v // n_q
    torch.testing.assert_close(out, expected[None, :, None].expand_as(out).float())

    for head in range(n_k):
        k[head, head, 0] = 1e4
    v = torch.arange(float(tokens))[:, None, None].expand(tokens, n_v, 16).contiguous()
    out, _ = prefill_attention(q, k, v, cu)
    torch.testing.assert_close(out[-1, :, 0], (torch.arange(n_q) * n_k // n_q).float())


def test_a_batch_is_bitwise_its_sequences() -> None:
    lengths = [BLOCK + 1, 0, 1, 0, 2 * BLOCK - 1, 0]
    inputs = tensors((6, 1, 2), 16, 24, sum(lengths))
    cu = cumulate(lengths)
    whole = prefill_attention(*inputs, cu)
    whole_gradients = gradients(whole, inputs)
    again = gradients(prefill_attention(*inputs, cu), inputs)
    assert all(torch.equal(a, b) for a, b in zip(whole_gradients, again, strict=True))
    generator = torch.Generator().manual_seed(1)
    into = [torch.randn(x.shape, generator=generator) for x in whole]
    for start, end in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True):
        if start == end:
            continue
        alone = [x.detach()[start:end].requires_grad_() for x in inputs]
        out, lse = prefill_attention(*alone, cumulate([end - start]))
        assert torch.equal(out, whole[0][start:end]) and torch.equal(lse, whole[1][:, start:end])
        found = torch.autograd.grad((out, lse), alone, (into[0][start:end], into[1][:, start:end]))
        for ours, theirs in zip(found, whole_gradients, strict=True):
            assert torch.equal(ours, theirs[start:end])


def test_a_sequence_of_nan_leaves_its_neighbours_alone() -> None:
    inputs = tensors((4, 1, 2), 16, 16, 3 * BLOCK)
    cu = cumulate([BLOCK - 1, BLOCK + 1, BLOCK])
    clean = gradients(prefill_attention(*inputs, cu), inputs)
    with torch.no_grad():
        for x in inputs:
            x[BLOCK - 1 : 2 * BLOCK] = float("nan")
    dirty = gradients(prefill_attention(*inputs, cu), inputs)
    for ours, theirs in zip(dirty, clean, strict=True):
        assert torch.equal(ours[: BLOCK - 1], theirs[: BLOCK - 1])
        assert torch.equal(ours[2 * BLOCK :], theirs[2 * BLOCK :])
        assert ours[BLOCK - 1 : 2 * BLOCK].isnan().any()


@pytest.mark.parametrize("token_major", [True, False])
@pytest.mark.parametrize("heads", [(8, 2, 4), (8, 4, 2)])
def test_strides_of_a_fused_buffer(heads: tuple[int, int, int], token_major: bool) -> None:
    """K beside its group of V heads, as in vLLM's page, with NaN between them; nothing is copied."""
    counts, d, tokens = Heads(*heads), 16, BLOCK + 1
    q, k, v = (x.detach() for x in tensors(heads, d, d, tokens))
    cu = cumulate([tokens])
    width = heads[1] // counts.num_units * d, heads[2] // counts.num_units * d
    fused = torch.full((counts.num_units, tokens, sum(width) + 8), float("nan"))
    if token_major:
        fused = fused.transpose(0, 1).contiguous().transpose(0, 1)
    by_unit = [x.unflatten(1, (counts.num_units, -1)).flatten(2).transpose(0, 1) for x in (k, v)]
    fused[..., : width[0]], fused[..., width[0] : sum(width)] = by_unit
    views = fused[..., : width[0]], fused[..., width[0] : sum(width)]
    fused_k, fused_v = (x.transpose(0, 1).unflatten(2, (-1, d)) for x in views)
    assert fused_k.data_ptr() == fused.data_ptr()
    plain = prefill_attention(q, k, v, cu)
    for ours, theirs in zip(prefill_attention(q, fused_k, fused_v, cu), plain, strict=True):
        assert torch.equal(ours, theirs)
    inputs, copies = [q, fused_k, fused_v], [q, k, v]
    for x in inputs + copies:
        x.requires_grad_()
    ours = gradients(prefill_attention(*inputs, cu), inputs)
    for found, expected in zip(ours, gradients(prefill_attention(*copies, cu), copies), strict=True):
        assert torch.equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("lengths", [[0], [0, 0, 0]])
def test_no_tokens(lengths: list[int]) -> None:
    inputs = tensors((4, 1, 2), 16, 24, 0)
    out, lse = prefill_attention(*inputs, cumulate(lengths))
    assert out.shape == (0, 4, 24) and lse.shape == (4, 0)
    assert [x.shape for x in gradients((out, lse), inputs)] == [x.shape for x in inputs]


def test_opcheck() -> None:
    inputs = tensors((4, 1, 2), 16, 24, 5)
    torch.library.opcheck(torch.ops.diffqkv.prefill.default, (*inputs, cumulate([2, 3]), 0.25))


def test_full_graph_compile() -> None:
    """Forward and backward as one opaque op each; the interpreter has nothing that inductor could fuse."""

    def loss(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: torch.Tensor) -> torch.Tensor:
        out, lse = prefill_attention(q * 2, k, v, cu)
        return out.square().sum() + lse.sum()

    inputs, cu = tensors((4, 1, 2), 16, 24, 5), cumulate([2, 3])
    expected = torch.autograd.grad(loss(*inputs, cu), inputs)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(torch.autograd.grad(compiled(*inputs, cu), inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
