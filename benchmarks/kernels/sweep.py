"""Problems and providers: each provider's answer is checked before it is timed, in whatever area.

An area (prefill.py, decode.py, selective.py) is a list of problems, the most important first, and of
providers. A provider prepares its own tensors for a problem; what it answers to a short form of the problem
is compared with float64, and to the whole problem with the first provider.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, zip_longest
from typing import Any, Protocol

import torch

from benchmarks.kernels.measure import Call, Ceilings, Timing, as_graph, extra_bytes, time_call

# of a norm: out, gradients
LIMITS = {torch.float32: (1e-5, 1e-5), torch.float16: (1e-3, 5e-3), torch.bfloat16: (8e-3, 2e-2)}


class Problem(Protocol):
    """What is to be computed; hashable."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> str: ...
    def short(self) -> Any:
        """One small enough for the reference, of the same heads and widths."""

    def work(self, phase: str) -> tuple[float, float]:
        """FLOP, and bytes that must move whoever moves them."""


@dataclass(frozen=True)
class Prepared:
    """``answers``: out, then gradients if there are any. ``phases``: what is timed, by name."""

    answers: Callable[[], list[torch.Tensor]]
    phases: dict[str, Call]
    # phases that are launched from Python, not replayed as a CUDA graph
    eager: tuple[str, ...] = ()


@dataclass(frozen=True)
class Error:
    """Of an answer, as a share of its norm (of the largest V where that is what is promised)."""

    of: str
    size: float
    limit: float


@dataclass(frozen=True)
class Provider:
    prepare: Callable[[Any], Prepared]
    # how far answers to a short problem are from exact ones
    errors: Callable[[Any, list[torch.Tensor]], list[Error]]
    # problems that it is asked for; None: all
    only: Callable[[Any], bool] | None = None
    # computes the same as the area's first provider
    exact: bool = True


@dataclass(frozen=True)
class Area:
    name: str
    problems: list[Any]
    providers: dict[str, Provider]


@dataclass(frozen=True)
class Figure:
    """A line of the CSV. ``share``: of the speed that the ceilings allow; ``error``: the largest checked."""

    area: str
    phase: str
    problem: str
    provider: str
    milliseconds: float
    p20: float
    p80: float
    tflops: float
    gigabytes: float
    share: float
    flop_per_byte: float
    extra_mib: float
    error: float


@dataclass
class Found:
    figures: list[Figure] = field(default_factory=list)
    # "provider, problem" -> in words
    wrong: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    # problems that no time was left for
    dropped: list[str] = field(default_factory=list)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Distance as a share of the norm of what is expected."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def run(areas: list[Area], ceilings: Ceilings, seconds: float, found: Found) -> None:
    """All areas, turn by turn, so that what time leaves out is the least important of each.

    No problem is begun that would end after ``seconds`` if it took as long as one of the eight before it.
    """
    deadline = time.monotonic() + seconds
    lately: deque[float] = deque([0.0], maxlen=8)
    turns = zip_longest(*([(area, problem) for problem in area.problems] for area in areas))
    for number, (area, problem) in enumerate(filter(None, chain.from_iterable(turns))):
        started = time.monotonic()
        if started + max(lately) > deadline:
            found.dropped.append(f"{area.name}, {problem.name}")
            continue
        # nobody always comes first
        names = list(area.providers)
        shift, before = number % len(names), len(found.figures)
        _compare(area, problem, names[shift:] + names[:shift], ceilings, found)
        found.figures[before:] = sorted(found.figures[before:], key=lambda x: names.index(x.provider))
        lately.append(time.monotonic() - started)
        print(f"{area.name}, {problem.name}: {lately[-1]:.1f} s", flush=True)


def _compare(area: Area, problem: Any, names: Iterable[str], ceilings: Ceilings, found: Found) -> None:
    first: torch.Tensor | None = None
    for name in names:
        provider, who = area.providers[name], f"{name}, {problem.name}"
        if provider.only is not None and not provider.only(problem):
            continue
        try:
            errors = _checked(provider, problem.short())
            bad = [error for error in errors if not error.size <= error.limit]
            if bad:
                found.wrong[who] = _in_words(bad[0])
                continue
            prepared = provider.prepare(problem)
            if provider.exact and problem.short() != problem:
                out = prepared.answers()[0]
                first = out if first is None else first
                whole = Error(
                    "out of the whole problem, beside the first provider's,",
                    relative(out, first),
                    2 * errors[0].limit,
                )
                if not whole.size <= whole.limit:
                    found.wrong[who] = _in_words(whole)
                    continue
            for phase, call in prepared.phases.items():
                extra = extra_bytes(call, problem.device)
                if problem.device == "cuda" and phase not in prepared.eager:
                    call = as_graph(call)
                timing = time_call(call, problem.device)
                key = (area.name, phase, problem.name, name)
                worst = max(error.size for error in errors)
                found.figures.append(_figure(key, timing, problem.work(phase), ceilings, extra, worst))
        # whatever one of them raises, the others go on
        except Exception as error:
            found.refused[who] = in_short(error)
        finally:
            # the next one's tensors need the room
            prepared = out = call = None
            if problem.device == "cuda":
                torch.cuda.empty_cache()


@cache
def _checked(provider: Provider, short: Any) -> list[Error]:
    return provider.errors(short, provider.prepare(short).answers())


def in_short(error: Exception) -> str:
    """The first line of what it says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _in_words(error: Error) -> str:
    return f"{error.of} is off by {error.size:.2g}, more than {error.limit:.2g}"


def _figure(
    key: tuple[str, str, str, str],
    timing: Timing,
    work: tuple[float, float],
    ceilings: Ceilings,
    extra: int,
    error: float,
) -> Figure:
    flops, moved = work
    seconds = timing.median / 1e3
    return Figure(
        *key,
        milliseconds=timing.median,
        p20=timing.p20,
        p80=timing.p80,
        tflops=flops / seconds / 1e12,
        gigabytes=moved / seconds / 1e9,
        share=max(flops / ceilings.flops, moved / ceilings.bytes) / seconds,
        flop_per_byte=flops / moved,
        extra_mib=extra / 2**20,
        error=error,
    )
