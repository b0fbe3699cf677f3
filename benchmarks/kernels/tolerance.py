"""Every op against float64 in every dtype that the machine runs, and what must be the same to the last bit.

On a GPU: bfloat16, float16 and float32, compiled; on a CPU: float32, interpreted. An error is a share of
the norm of the exact answer; in 16 bits it may also be at most twice that of unfused torch in the same
dtype. Memory that nobody wrote is NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from benchmarks.kernels.cases import Case, empty_pages, paged_case
from benchmarks.kernels.measure import as_graph
from benchmarks.kernels.sweep import LIMITS, relative
from kernels.diffqkv.append import kv_append, kv_append_reference
from kernels.diffqkv.bounded import bounded_decode_attention
from kernels.diffqkv.cross_entropy import linear_cross_entropy, linear_cross_entropy_reference
from kernels.diffqkv.decode import decode_attention, decode_reference
from kernels.diffqkv.prefill import prefill_attention, prefill_reference
from kernels.diffqkv.topk import topk_decode_attention, topk_decode_reference

TOP_K, EPSILON = 16, 0.05
Heads = tuple[int, int, int]
Dims = tuple[int, int]
Tensors = tuple[torch.Tensor, ...]


class Check(NamedTuple):
    op: str
    case: str
    dtype: str
    of: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


class Shape(NamedTuple):
    heads: Heads
    dims: Dims
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"{'/'.join(map(str, self.heads))}, d {self.dims[0]}/{self.dims[1]}"


def shapes(device: str) -> list[Shape]:
    """Sigma's heads in each dtype and width, roles swapped, odd head dims."""
    if device == "cpu":
        return [Shape((4, 1, 2), (16, 24), torch.float32)]
    sigma, half = (32, 4, 16), torch.bfloat16
    return [
        *(Shape(sigma, dims, half) for dims in ((64, 64), (128, 128), (32, 64))),
        *(Shape(sigma, (64, 64), dtype) for dtype in (torch.float16, torch.float32)),
        Shape((32, 16, 4), (64, 64), half),
        Shape((8, 1, 8), (24, 40), half),
    ]


def report(device: str) -> bool:
    """Print the worst of each op and dtype, and all that fails; whether nothing does."""
    worst: dict[tuple[str, str], Check] = {}
    passed = True
    for check in checks(device):
        key = check.op, check.dtype
        if key not in worst or _strain(check) > _strain(worst[key]):
            worst[key] = check
        if not check.passed:
            passed = False
            print(f"WRONG: {check.op}, {check.case}, {check.dtype}: {check.of} is off by {check.error:.2g}, "
                  f"more than {check.limit:.2g}", flush=True)  # fmt: skip
    for (op, dtype), check in worst.items():
        print(f"{op:18}{dtype:10}{check.error:10.2g} of {check.limit:.2g}  {check.of}, {check.case}")
    return passed


def checks(device: str) -> Iterator[Check]:
    """Each op in each shape; then what must be bitwise the same."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings():
        # a matrix product of the reference may differ in its last bits
        warnings.filterwarnings("ignore", message=".*deterministic.*")
        try:
            for shape in shapes(device):
                yield from _prefill(shape, device)
                yield from _over_pages(shape, device)
                yield from _append(shape, device)
                yield from _cross_entropy(shape.dtype, device)
            yield from _same_bits(shapes(device)[0], device)
        finally:
            torch.use_deterministic_algorithms(False)


def _prefill(shape: Shape, device: str) -> Iterator[Check]:
    (n_q, n_k, n_v), (d_k, d_v), dtype = shape
    lengths = [1, 17, 0] if device == "cpu" else [1, 63, 0, 257, 130]
    cu = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
    tokens = sum(lengths)
    generator = torch.Generator(device).manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=device).to(dtype)

    inputs = random(tokens, n_q, d_k), random(tokens, n_k, d_k), random(tokens, n_v, d_v)
    into = random(tokens, n_q, d_v), torch.randn(n_q, tokens, generator=generator, device=device)

    def results(attend: Callable[..., Tensors], wide: torch.dtype) -> Tensors:
        leaves = [x.to(wide).requires_grad_() for x in inputs]
        out, lse = attend(*leaves, cu)
        gradients = torch.autograd.grad((out, lse), leaves, (into[0].to(out.dtype), into[1].to(lse.dtype)))
        return out, lse, *gradients

    found = results(prefill_attention, dtype)
    exact, unfused = results(prefill_reference, torch.float64), results(prefill_reference, dtype)
    for name, ours, known, naive in zip(("out", "lse", "dq", "dk", "dv"), found, exact, unfused, strict=True):
        yield _check("prefill", shape, name, ours, known, naive)


def _over_pages(shape: Shape, device: str) -> Iterator[Check]:
    few, many = [1, 2, 0, 1, 3, 1], [0, 9, 1, 20, 3, 12]
    lengths = [0, 18, 33] if device == "cpu" else [0, 1, 64, 65, 700, 1500]
    fused = shape.heads[2] % shape.heads[1] == 0
    for op, q_lengths, page_size, layout in (
        ("decode", few, 64, "head-major"),
        ("decode", few, 16, "fused head-major" if fused else "token-major"),
        ("decode", few, 64, "fused token-major" if fused else "token-major"),
        ("extend", many, 64, "head-major"),
    )[:: 3 if device == "cpu" else 1]:
        count = len(lengths)
        case = paged_case(
            shape.heads, shape.dims, lengths, q_lengths[:count], page_size, layout, shape.dtype, device=device
        )
        most = case.max_seqlen_q
        out, lse = decode_attention(*case.arguments, max_seqlen_q=most)
        exact, exact_lse = decode_reference(*case.exact)
        unfused, _ = decode_reference(*case.arguments)
        yield _check(op, shape, f"out, {layout}", out, exact, unfused)
        seen = ~exact_lse.isinf()
        yield _check(op, shape, f"lse, {layout}", lse[seen], exact_lse[seen])
        if op == "extend" or layout != "head-major":
            continue
        top, _ = topk_decode_attention(*case.arguments, max_seqlen_q=most, top_k=TOP_K)
        known = topk_decode_reference(*case.exact, top_k=TOP_K)
        # rounding decides which of two nearly equal scores is the last
        slack = 1 if shape.dtype == torch.float32 else 4
        yield _check("top-k", shape, f"out, {layout}", top, known, slack=slack)
        within, _ = bounded_decode_attention(*case.arguments, EPSILON, max_seqlen_q=most)
        largest = float(case.v_pages.nan_to_num(0.0).abs().max())
        off = float((within.double() - exact).abs().max()) / largest
        limit = EPSILON + LIMITS[shape.dtype][0]
        yield Check("bounded", shape.name, _short(shape.dtype), "out by the largest V", off, limit)


def _append(shape: Shape, device: str) -> Iterator[Check]:
    (_, n_k, n_v), (d_k, d_v), dtype = shape
    slots = torch.tensor([3, -1, 17, 9, 64, 127, 0], device=device)
    generator = torch.Generator(device).manual_seed(0)
    k, v, angle = (
        torch.randn(len(slots), *size, generator=generator, device=device)
        for size in ((n_k, d_k), (n_v, d_v), (d_k // 2,))
    )
    for layout in ("token-major", "head-major"):
        found, known = (empty_pages(layout, 2, 64, (n_k, n_v), (d_k, d_v), dtype, device) for _ in range(2))
        rows = k.to(dtype), v.to(dtype)
        kv_append(*rows, *found, slots, angle.cos(), angle.sin())
        kv_append_reference(*rows, *known, slots, angle.cos(), angle.sin())
        for name, ours, theirs in zip(("K", "V"), found, known, strict=True):
            # what no slot names is NaN on both sides, and nothing else is
            places = float((ours.isnan() != theirs.isnan()).sum())
            yield Check("append", shape.name, _short(dtype), f"{name}'s slots, {layout}", places, 0.0)
            yield _check("append", shape, f"{name}, {layout}", ours.nan_to_num(0.0), theirs.nan_to_num(0.0))


def _cross_entropy(dtype: torch.dtype, device: str) -> Iterator[Check]:
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(70, 64, generator=generator, device=device).to(dtype)
    weight = torch.randn(501, 64, generator=generator, device=device).to(dtype) / 8
    labels = torch.randint(501, (70,), generator=generator, device=device)
    labels[::7] = -100

    def results(loss: Callable[..., Tensors], wide: torch.dtype, **more: int) -> Tensors:
        leaves = [x.to(wide).requires_grad_() for x in (hidden, weight)]
        entropy, total = loss(*leaves, labels, 1e-4, **more)
        return entropy, *torch.autograd.grad(total, leaves)

    found = results(linear_cross_entropy, dtype, chunk_tokens=32)
    exact = results(linear_cross_entropy_reference, torch.float64)
    for name, ours, known in zip(("loss", "d hidden", "d weight"), found, exact, strict=True):
        limit = LIMITS[dtype][1]
        yield Check("cross-entropy", "70 x 64 x 501", _short(dtype), name, relative(ours, known), limit)


def _same_bits(shape: Shape, device: str) -> Iterator[Check]:
    """Twice, alone or in a batch, on other pages, from a CUDA graph that was captured on other lengths."""

    def same(op: str, what: str, ours: Tensors, theirs: Tensors) -> Check:
        different = sum(float((a != b).sum()) for a, b in zip(ours, theirs, strict=True))
        return Check(op, shape.name, _short(shape.dtype), f"bits, {what}", different, 0.0)

    lengths = [2, 18] if device == "cpu" else [3, 700]
    first, moved = (
        paged_case(shape.heads, shape.dims, lengths, [1, 1], dtype=shape.dtype, page_seed=seed, device=device)
        for seed in (0, 1)
    )
    for op, attend in _ops():
        found = attend(first)
        yield same(op, "twice", attend(first), found)
        yield same(op, "other pages", attend(moved), found)
        out, lse = attend(first.sequence(1))
        yield same(op, "alone", (out, lse), (found[0][1:], found[1][:, 1:]))
        if device == "cuda":
            yield same(op, "from a graph", _replayed(attend, first, lengths), found)


def _replayed(attend: Callable[[Case], Tensors], case: Case, lengths: list[int]) -> Tensors:
    """Captured while all sequences have one token, replayed when they have ``lengths``."""
    case.seq_lens_B.fill_(1)
    results: list[Tensors] = []
    replay = as_graph(lambda: results.append(attend(case)))
    case.seq_lens_B.copy_(torch.tensor(lengths))
    replay()
    torch.cuda.synchronize()
    return results[-1]


def _ops() -> Iterator[tuple[str, Callable[[Case], Tensors]]]:
    yield "decode", lambda case: decode_attention(*case.arguments)
    yield "top-k", lambda case: topk_decode_attention(*case.arguments, top_k=TOP_K)
    yield "bounded", lambda case: bounded_decode_attention(*case.arguments, EPSILON)


def _check(
    op: str,
    shape: Shape,
    of: str,
    found: torch.Tensor,
    exact: torch.Tensor,
    unfused: torch.Tensor | None = None,
    slack: float = 1.0,
) -> Check:
    """Gradients may be further off than results; log-sum-exps, in float32 whatever the inputs, less."""
    limit = LIMITS[shape.dtype][of.startswith("d")] * slack
    if unfused is not None and shape.dtype != torch.float32 and not of.startswith("lse"):
        limit = min(limit, 2 * relative(unfused, exact))
    return Check(op, shape.name, _short(shape.dtype), of, relative(found, exact), limit)


def _strain(check: Check) -> float:
    return check.error / check.limit if check.limit else check.error


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
