"""Chunked head and cross-entropy against all logits at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.diffqkv.cross_entropy import (
    IGNORE,
    linear_cross_entropy,
    linear_cross_entropy_reference,
    loss_and_gradients,
)


def _inputs(tokens: int, hidden: int, words: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens * 1000 + words)
    h = torch.randn(tokens, hidden, generator=generator, dtype=dtype)
    w = torch.randn(words, hidden, generator=generator, dtype=dtype)
    labels = torch.randint(0, words, (tokens,), generator=generator)
    labels[torch.rand(tokens, generator=generator) < 0.3] = IGNORE
    return h.requires_grad_(), w.requires_grad_(), labels


def _close(ours: Tensor, known: Tensor) -> None:
    error = (ours.double() - known.double()).norm() / known.double().norm().clamp(min=1e-12)
    assert error <= 1e-5, error


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(0, 23),
    words=st.integers(2, 40),
    chunk=st.sampled_from([1, 2, 3, 5, 7, 1024]),
    z_loss=st.sampled_from([0.0, 1e-4, 0.3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equal_to_all_logits_at_once(
    tokens: int, words: int, chunk: int, z_loss: float, dtype: torch.dtype
) -> None:
    h, w, labels = _inputs(tokens, 6, words, dtype)
    wide = [x.detach().double().requires_grad_() for x in (h, w)]
    entropy, total = linear_cross_entropy(h, w, labels, z_loss, chunk_tokens=chunk)
    known_entropy, known_total = linear_cross_entropy_reference(*wide, labels, z_loss)
    _close(entropy, known_entropy)
    _close(total, known_total)
    ours = torch.autograd.grad(total * 0.7, (h, w))
    known = torch.autograd.grad(known_total * 0.7, wide)
    for a, b in zip(ours, known, strict=True):
        assert a.dtype == dtype
        _close(a, b)


def test_the_reference_against_a_plain_sum() -> None:
    h, w, _ = _inputs(4, 3, 5, torch.float64)
    labels = torch.tensor([1, IGNORE, 4, 0])
    entropy, total = linear_cross_entropy_reference(h, w, labels, z_loss=0.5)
    expected = expected_z = 0.0
    for t in (0, 2, 3):
        log_z = (h[t] @ w.T).exp().sum().log()
        expected += log_z - h[t] @ w[labels[t]]
        expected_z += 0.5 * log_z**2
    torch.testing.assert_close(entropy, expected)
    torch.testing.assert_close(total, expected + expected_z)


def test_gradients_by_finite_differences() -> None:
    h, w, labels = _inputs(7, 3, 11, torch.float64)
    torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, labels, 0.1, chunk_tokens=3)[1], (h, w))


def test_ignored_tokens_count_for_nothing() -> None:
    h, w, labels = _inputs(9, 4, 10, torch.float64)
    asked = labels != IGNORE
    assert 0 < asked.sum() < 9
    all_of_it = linear_cross_entropy(h, w, labels, 0.2, chunk_tokens=4)[1]
    asked_alone = linear_cross_entropy(h[asked], w, labels[asked], 0.2, chunk_tokens=4)[1]
    torch.testing.assert_close(all_of_it, asked_alone)
    (d_hidden,) = torch.autograd.grad(all_of_it, h)
    assert not d_hidden[~asked].any()
    nothing = linear_cross_entropy(h, w, torch.full_like(labels, IGNORE), 0.2)[1]
    assert nothing == 0 and not torch.autograd.grad(nothing, w)[0].any()


class _Largest(TorchDispatchMode):
    """Numbers of elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return result


def test_no_tensor_outgrows_a_chunk() -> None:
    tokens, hidden, words, chunk = 600, 8, 500, 37
    h, w, labels = _inputs(tokens, hidden, words, torch.float32)
    # the body, not the op: a dispatch mode does not look into an op
    with _Largest() as ours:
        loss_and_gradients(h.detach(), w.detach(), labels, 1e-4, chunk, h.dtype, True)
    assert ours.elements == max(chunk * words, words * hidden, tokens * hidden)
    with _Largest() as naive:
        linear_cross_entropy_reference(h, w, labels, 1e-4)[1].backward()
    assert naive.elements == tokens * words


def test_bf16_is_as_good_as_all_logits_in_bf16() -> None:
    h, w, labels = _inputs(200, 32, 300, torch.float32)
    exact = torch.autograd.grad(linear_cross_entropy_reference(h, w, labels, 1e-3)[1], (h, w))
    ours = torch.autograd.grad(
        linear_cross_entropy(h, w, labels, 1e-3, chunk_tokens=16, dtype=torch.bfloat16)[1], (h, w)
    )
    unchunked = linear_cross_entropy_reference(h.bfloat16(), w.bfloat16(), labels, 1e-3)[1]
    naive = torch.autograd.grad(unchunked, (h, w))
    for a, b, c in zip(ours, naive, exact, strict=True):
        assert (a - c).norm() <= 1.5 * (b - c).norm()


def test_full_graph_compile_and_opcheck() -> None:
    h, w, labels = _inputs(11, 4, 9, torch.float32)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    ours, known = compiled(h, w, labels, 0.1, chunk_tokens=4), linear_cross_entropy(h, w, labels, 0.1)
    torch.testing.assert_close(ours, known)
    for a, b in zip(*(torch.autograd.grad(x[1], (h, w)) for x in (ours, known)), strict=True):
        torch.testing.assert_close(a, b)
    op = torch.ops.diffqkv.linear_cross_entropy.default
    torch.library.opcheck(op, (h, w, labels, 0.1, 4, torch.float32, True))
    torch.library.opcheck(op, (h.detach(), w.detach(), labels, 0.0, 4, torch.float32, False))


def test_wrong_calls_say_what_to_do() -> None:
    h, w, labels = _inputs(5, 4, 9, torch.float32)
    with pytest.raises(ValueError, match="flatten batch and positions"):
        linear_cross_entropy(h[None], w, labels)
    with pytest.raises(ValueError, match="one int64 label a token, \\[5\\]"):
        linear_cross_entropy(h, w, labels[1:])
    with pytest.raises(ValueError, match="outside the vocabulary of 9 words"):
        linear_cross_entropy(h, w, labels.clamp(min=9))
    with pytest.raises(ValueError, match="chunk_tokens = 0"):
        linear_cross_entropy(h, w, labels, chunk_tokens=0)
