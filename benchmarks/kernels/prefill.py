"""Prefill and its backward, ours beside what PyTorch has, on one GPU; ``--tiny`` on a CPU.

python -m benchmarks.kernels.prefill [--tiny] [--flex-on-cpu]
Needs torch and triton only. Every provider is checked against float64 before anyone is timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from benchmarks.kernels.providers import PROVIDERS, Problem, Provider, reference
from benchmarks.results import Row, publish, versions_of

# relative to the norm of the reference: out, gradients
LIMITS = {torch.float32: (1e-5, 1e-5), torch.float16: (1e-3, 5e-3), torch.bfloat16: (8e-3, 2e-2)}


def problems(tiny: bool) -> list[Problem]:
    """16k tokens in sequences of 512 to 32k (the last one of 32k); Sigma's heads and others."""
    if tiny:
        return [Problem(2, 17, (8, 2, 4), 16, 16, torch.float32, "cpu")]
    made = []
    for heads in ((32, 4, 16), (32, 4, 4), (32, 16, 16), (32, 32, 32)):
        for dim in (64, 128):
            for length in (512, 1024, 2048, 4096, 8192, 16384, 32768):
                if heads != (32, 4, 16) and length not in (2048, 8192):
                    continue
                batch = max(16384 // length, 1)
                made.append(Problem(batch, length, heads, dim, dim, torch.bfloat16, "cuda"))
    return made


def check(provider: Provider, problem: Problem) -> str | None:
    """What is wrong with a provider's answer to a short form of the problem, in words; None if nothing."""
    small = replace(problem, batch=2, length=min(problem.length, 257))
    inputs = small.tensors(provider.token_major)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected, found = reference(*exact), provider.attend(*inputs)
    into = torch.randn(
        expected.shape, generator=torch.Generator(small.device).manual_seed(1), device=small.device
    )
    pairs = [(found, expected)]
    pairs += zip(
        torch.autograd.grad(found, inputs, into.to(found.dtype)),
        torch.autograd.grad(expected, exact, into.double()),
        strict=True,
    )
    out_limit, gradient_limit = LIMITS[problem.dtype]
    names = ("out", "dq", "dk", "dv")
    for name, (ours, theirs) in zip(names, pairs, strict=True):
        error = float((ours.detach() - theirs.detach()).norm() / theirs.detach().norm())
        limit = out_limit if name == "out" else gradient_limit
        if not error <= limit:
            return f"{name} is off by {error:.2g} of its norm, more than {limit:.2g}"
    return None


def milliseconds(call: Callable[[], object], device: str) -> float:
    """The median of one call; on a GPU with its L2 cache cleared before each."""
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(call, warmup=50, rep=200, quantiles=[0.5]))
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times) * 1e3


def time_both(provider: Provider, problem: Problem) -> tuple[float, float]:
    """Milliseconds of a forward and of a backward pass."""
    attend, inputs = provider.attend, problem.tensors(provider.token_major)
    out = attend(*inputs)
    into = torch.randn_like(out)

    def backward() -> object:
        return torch.autograd.grad(out, inputs, into, retain_graph=True)

    with torch.no_grad():
        forward_ms = milliseconds(lambda: attend(*inputs), problem.device)
    return forward_ms, milliseconds(backward, problem.device)


def sweep(
    cases: list[Problem], providers: dict[str, Provider]
) -> tuple[list[Row], list[str], dict[str, str]]:
    """Rows of figures, checks that failed, and who refused which problem why."""
    rows, red, refused = [], [], {}
    able: dict[Problem, list[str]] = {}
    for problem in cases:
        for name, provider in providers.items():
            try:
                wrong = check(provider, problem)
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
        times = {name: time_both(providers[name], problem) for name in names[shift:] + names[:shift]}
        base = "cudnn" if "cudnn" in times else "flash, K repeated"
        for phase, work in ((0, problem.flops), (1, 2.5 * problem.flops)):
            for name in names:
                if name not in times:
                    continue
                speed = work / times[name][phase] / 1e9
                ratio = times[base][phase] / times[name][phase] if base in times else None
                label = f"{('forward', 'backward')[phase]}, {problem.name}: {name}"
                rows.append(Row(label, speed, "TFLOP/s", base if ratio else "", ratio))
    return rows, red, refused


def ceilings() -> list[Row]:
    """What this GPU does at best in this run: a large matmul, a large copy."""
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    big = torch.randn(2**28, dtype=torch.float32, device="cuda")
    there = torch.empty_like(big)
    matmul = 2 * 8192**3 / milliseconds(lambda: a @ a, "cuda") / 1e9
    copy = 2 * big.nbytes / milliseconds(lambda: there.copy_(big), "cuda") / 1e6
    return [Row("ceiling: matmul 8192", matmul, "TFLOP/s"), Row("ceiling: copy", copy, "GB/s")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="one small problem on the CPU")
    parser.add_argument(
        "--flex-on-cpu", action="store_true", help="compile FlexAttention there too, a minute"
    )
    arguments = parser.parse_args()
    providers = dict(PROVIDERS)
    if arguments.tiny and not arguments.flex_on_cpu:
        del providers["flex, K repeated"]
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here: --tiny runs on the CPU")
    rows, red, refused = sweep(problems(arguments.tiny), providers)
    facts = {"refused": refused}
    if not arguments.tiny:
        rows += ceilings()
        facts["gpu"] = torch.cuda.get_device_name()
    for who, why in refused.items():
        print(f"refused by {who}: {why}")
    question = "kernels_prefill_tiny" if arguments.tiny else "kernels_prefill"
    publish(question, rows, red=red, versions=versions_of("torch", "triton"), **facts)


if __name__ == "__main__":
    main()
