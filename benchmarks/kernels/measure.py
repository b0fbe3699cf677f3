"""How long a call takes, what memory it needs beside its inputs, and what the machine does at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median and the percentiles 20 and 80."""

    median: float
    p20: float
    p80: float


@dataclass(frozen=True)
class Ceilings:
    """Of this machine in this run: FLOP a second of a large matmul, bytes a second of a large copy."""

    flops: float
    bytes: float


def time_call(call: Call, device: str, budget_ms: float = 100.0) -> Timing:
    """5 to 50 calls within about ``budget_ms`` by a GPU's events, its L2 cache written over before each.

    On a CPU two calls: that is for tests.
    """
    if device == "cpu":
        times = [_seconds(call) * 1e3 for _ in range(2)]
        return Timing(statistics.median(times), min(times), max(times))
    call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    rounds = min(max(round(budget_ms / 1e3 / (time.perf_counter() - started)), 5), 50)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for start, end in events:
        _l2_sized().zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    times = sorted(start.elapsed_time(end) for start, end in events)
    return Timing(statistics.median(times), times[rounds // 5], times[rounds - 1 - rounds // 5])


def extra_bytes(call: Call, device: str) -> int:
    """Memory that a call takes at its peak beyond what is held already; 0 on a CPU, which does not say."""
    if device == "cpu":
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - held


def as_graph(call: Call) -> Call:
    """The call as a CUDA graph, so that launching from Python is not what is timed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def ceilings(device: str) -> Ceilings:
    """Measured now, with random numbers: zeros are faster."""
    dtype, side, elements = (torch.bfloat16, 8192, 2**28) if device == "cuda" else (torch.float32, 256, 2**20)
    a = torch.randn(side, side, dtype=dtype, device=device)
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    matmul = time_call(lambda: a @ a, device).median
    copy = time_call(lambda: target.copy_(source), device).median
    return Ceilings(2 * side**3 / matmul * 1e3, 2 * source.nbytes / copy * 1e3)


@cache
def _l2_sized() -> torch.Tensor:
    """256 MB, more than any L2 cache."""
    return torch.empty(2**28, dtype=torch.int8, device="cuda")


def _seconds(call: Call) -> float:
    started = time.process_time()
    call()
    return max(time.process_time() - started, 1e-9)
