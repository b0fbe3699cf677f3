"""Decode over a cache, ours beside what PyTorch has, and selective V beside dense, on one GPU.

python -m benchmarks.kernels.decode [--tiny] [--selective]
Needs torch and triton only; ``--tiny`` runs on a CPU. Every provider is checked against float64 before anyone
is timed. GB/s are over the bytes that must be read (each K and V row once), whatever a provider reads.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from benchmarks.kernels.decode_providers import (
    EPSILON,
    EXACT,
    SELECTIVE,
    TOP_K,
    Call,
    Prepare,
    Problem,
    paged,
    reference,
    table_of,
)
from benchmarks.kernels.prefill import LIMITS, ceilings, milliseconds
from benchmarks.results import Row, publish, versions_of
from kernels.diffqkv.topk import topk_decode_reference

SIGMA = (32, 4, 16)
# of the dense problem; peers hold it once more, with K repeated
MOST_BYTES = 12 * 2**30


def problems(tiny: bool, selective: bool) -> list[Problem]:
    """1k to 128k tokens by 1 to 64 sequences; one of these with other heads, widths, pages, lengths."""
    if tiny and selective:
        return [Problem(1, 37, (2, 1, 2), 16, 16, 16, torch.float32, "cpu", sharpness=2.0)]
    if tiny:
        return [Problem(2, 37, (4, 1, 2), 16, 16, 16, torch.float32, "cpu")]
    made = []
    for dim in (64, 128):
        for length in (1024, 2048, 8192, 32768, 131072):
            for batch in (1, 4, 16, 64):
                one = Problem(batch, length, SIGMA, dim, dim, 64, torch.bfloat16, "cuda")
                made.append(one)
                if selective:
                    made[-1:] = [replace(one, sharpness=sharpness) for sharpness in (1.0, 8.0)]
                elif (batch, length) == (16, 8192):
                    made += [replace(one, page_size=size) for size in (16, 128)]
                    made += [replace(one, skewed=True), replace(one, k_head_dim=dim // 2)]
                    made += [replace(one, heads=heads) for heads in ((32, 16, 16), (32, 32, 32))]
    return [problem for problem in made if problem.bytes <= MOST_BYTES]


def check(name: str, prepare: Prepare, problem: Problem) -> str | None:
    """What is wrong with a provider's answer to a short form of the problem, in words; None if nothing."""
    small = problem.short()
    found, expected = prepare(small)(), reference(small)
    limit = LIMITS[problem.dtype][0]
    if name.startswith("V within"):
        largest = float(small.tensors()[2].abs().max())
        error, limit = float((found - expected).abs().max()) / largest, EPSILON + limit
        return None if error <= limit else f"off by {error:.2g} of the largest V, more than {limit:.2g}"
    if name.startswith("top "):
        q, k, v = (x.double() for x in small.tensors())
        table = table_of(small)
        pages = (paged(x, table[0], small.page_size).transpose(1, 2) for x in (k, v))
        expected = topk_decode_reference(q, *pages, *table, small.scale, TOP_K)
        if problem.dtype != torch.float32:
            # rounding decides which of two nearly equal scores is the hundredth
            limit *= 4
    error = float((found - expected).norm() / expected.norm())
    return None if error <= limit else f"off by {error:.2g} of its norm, more than {limit:.2g}"


def replayed(call: Call, device: str) -> Callable[[], object]:
    """The call as a CUDA graph, so that launching from Python is not what is timed."""
    if device != "cuda":
        return call
    for _ in range(2):
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def sweep(
    cases: list[Problem], providers: Mapping[str, Prepare], base: str
) -> tuple[list[Row], list[str], dict[str, str]]:
    """Rows of figures with ratios to ``base``, checks that failed, and who refused which problem why."""
    rows: list[Row] = []
    red, refused = [], {}
    able: dict[Problem, list[str]] = {}
    for problem in cases:
        for name, prepare in providers.items():
            try:
                wrong = check(name, prepare, problem)
            except (RuntimeError, ValueError, NotImplementedError) as error:
                refused[f"{name}: {problem.name}"] = str(error).splitlines()[0]
                continue
            if wrong:
                red.append(f"{name}, {problem.name}: {wrong}")
            able.setdefault(problem, []).append(name)
    if red:
        return [], red, refused
    for number, (problem, names) in enumerate(able.items()):
        # nobody always comes first
        shift = number % len(names)
        times = {}
        for name in names[shift:] + names[:shift]:
            # one provider's cache at a time: two of the largest would not fit
            times[name] = milliseconds(replayed(providers[name](problem), problem.device), problem.device)
        for name in names:
            ratio = times[base] / times[name] if base in times else None
            label = f"{problem.name}: {name}"
            rows.append(Row(label, problem.bytes / times[name] / 1e6, "GB/s", base if ratio else "", ratio))
            rows.append(Row(f"{label}, time", times[name] * 1e3, "microseconds"))
    return rows, red, refused


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="one small problem on the CPU")
    parser.add_argument("--selective", action="store_true", help="selective V beside dense decode")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here: --tiny runs on the CPU")
    providers, base = dict(EXACT), "flash, K repeated"
    if arguments.selective:
        providers, base = {"ours": EXACT["ours"], **SELECTIVE}, "ours"
    elif arguments.tiny:
        # a minute to compile there
        del providers["flex, K repeated"]
    rows, red, refused = sweep(problems(arguments.tiny, arguments.selective), providers, base)
    facts: dict[str, object] = {"refused": refused}
    if not arguments.tiny:
        rows += ceilings()
        facts["gpu"] = torch.cuda.get_device_name()
    for who, why in refused.items():
        print(f"refused by {who}: {why}")
    question = "kernels_selective_v" if arguments.selective else "kernels_decode"
    question += "_tiny" if arguments.tiny else ""
    publish(question, rows, red=red, versions=versions_of("torch", "triton"), **facts)


if __name__ == "__main__":
    main()
