"""Selective V beside dense decode, on flat and on sharp scores; GB/s are over the bytes of dense decode."""

from __future__ import annotations

import torch

from benchmarks.kernels.decode import MOST_BYTES, Problem, errors, exact, exact_arguments, over_pages
from benchmarks.kernels.prefill import SIGMA
from benchmarks.kernels.sweep import LIMITS, Area, Error, Provider, relative
from kernels.diffqkv.bounded import bounded_decode_attention
from kernels.diffqkv.decode import decode_attention
from kernels.diffqkv.topk import topk_decode_attention, topk_decode_reference

TOP_K, EPSILON = 100, 1e-3


def problems(tiny: bool) -> list[Problem]:
    """Where it might pay: 8k to 128k tokens in all, and what it costs where it does not."""
    if tiny:
        return [Problem(1, 37, (2, 1, 2), 16, 16, 16, torch.float32, "cpu", sharpness=2.0)]
    sizes = [(16, 32768), (1, 131072), (4, 32768), (1, 32768), (16, 8192), (64, 8192), (4, 131072), (1, 8192)]
    made = [
        Problem(batch, length, SIGMA, dim, dim, sharpness=sharpness)
        for batch, length in sizes
        for dim in (64, 128)
        for sharpness in (8.0, 1.0)
    ]
    return [problem for problem in made if problem.bytes <= MOST_BYTES]


def _top_k(*arguments: torch.Tensor, softmax_scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    return topk_decode_attention(*arguments, softmax_scale=softmax_scale, top_k=TOP_K)


def _bounded(*arguments: torch.Tensor, softmax_scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    return bounded_decode_attention(*arguments, EPSILON, softmax_scale)


def _top_k_errors(problem: Problem, answers: list[torch.Tensor]) -> list[Error]:
    expected = topk_decode_reference(*exact_arguments(problem), problem.scale, TOP_K)
    # rounding decides which of two nearly equal scores is the hundredth
    limit = LIMITS[problem.dtype][0] * (1 if problem.dtype == torch.float32 else 4)
    return [Error("out", relative(answers[0], expected), limit)]


def _bounded_errors(problem: Problem, answers: list[torch.Tensor]) -> list[Error]:
    """The bound is over the largest V."""
    largest = float(problem.tensors()[2].abs().max())
    error = float((answers[0].double() - exact(problem)).abs().max()) / largest
    return [Error("out, as a share of the largest V,", error, EPSILON + LIMITS[problem.dtype][0])]


def area(tiny: bool) -> Area:
    providers = {
        "ours, dense": Provider(over_pages(decode_attention), errors),
        f"top {TOP_K} V rows": Provider(over_pages(_top_k), _top_k_errors, exact=False),
        f"V within {EPSILON}": Provider(over_pages(_bounded), _bounded_errors, exact=False),
    }
    return Area("selective V", problems(tiny), providers)
