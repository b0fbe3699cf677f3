"""What a run reads, step by step: phases, their mixtures and batch sizes. Pure functions of the config."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

BLOCK = 4096  # sequences whose datasets are drawn at once
LONGEST_ROUND = 10_000


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of steps over one mixture. Tokens of a budget are positions: sequences x their length."""

    name: str
    weights: dict[str, float]
    """Share of the sequences that each dataset gives, in any unit."""
    stages: tuple[tuple[int, int], ...]
    """(steps, sequences of a step), one after the other."""

    @cached_property
    def _first_step(self) -> list[int]:
        return [0, *itertools.accumulate(steps for steps, _ in self.stages)]

    @cached_property
    def _first_sequence(self) -> list[int]:
        return [0, *itertools.accumulate(steps * batch for steps, batch in self.stages)]

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self._first_step[-1]

    @property
    def sequences(self) -> int:
        """Sequences of all steps."""
        return self._first_sequence[-1]

    def span(self, step: int) -> tuple[int, int]:
        """First sequence of the phase's step ``step``, counted in the phase, and how many it has."""
        if step >= self.steps:
            return self.sequences, 0
        stage = int(np.searchsorted(self._first_step, step, side="right")) - 1
        batch = self.stages[stage][1]
        return self._first_sequence[stage] + (step - self._first_step[stage]) * batch, batch

    def batches_from(self, step: int) -> list[int]:
        """Sequences of a step of the stages that step ``step`` and those after it lie in."""
        return [
            batch for (_, batch), end in zip(self.stages, self._first_step[1:], strict=True) if end > step
        ]

    def step_of(self, sequence: int) -> int:
        """The step of the phase's sequence ``sequence``."""
        stage = int(np.searchsorted(self._first_sequence, sequence, side="right")) - 1
        return self._first_step[stage] + (sequence - self._first_sequence[stage]) // self.stages[stage][1]


def stages_of(
    sequence_length: int, batch_sequences: int, ramp: list[tuple[float, int]], tokens: float | None,
    steps: int | None,
) -> tuple[tuple[int, int], ...]:  # fmt: skip
    """(steps, sequences of a step) of a phase of so many positions, or so many steps.

    ``ramp``: (positions into the phase, sequences of a step from there on), rising.
    """
    marks = [(0.0, batch_sequences), *ramp]
    stages, left = [], math.inf if steps is None else steps
    for number, (begin, batch) in enumerate(marks):
        end = marks[number + 1][0] if number + 1 < len(marks) else math.inf
        end = min(end, math.inf if tokens is None else tokens)
        count = min(
            left, math.ceil(max(end - begin, 0) / (batch * sequence_length)) if end < math.inf else left
        )
        if count:
            stages.append((int(count), batch))
        left -= count
    return tuple(stages)


class Mixture:
    """Which dataset each sequence of a phase comes from.

    Weights become whole numbers without a common divisor; a round takes each dataset so many times, in an
    order of its own. So after every round the shares are exact, and sequence n is found by division.
    """

    def __init__(self, weights: dict[str, float], *identity: Any) -> None:
        shares = [Fraction(str(weight)) for weight in weights.values()]
        unit = math.lcm(*(share.denominator for share in shares))
        counts = [int(share * unit) for share in shares]
        divisor = math.gcd(*counts)
        self.shares = np.array([count // divisor for count in counts], np.int64)
        """Sequences that each dataset gives to a round, int64 [datasets]."""
        if self.shares.sum() > LONGEST_ROUND:
            raise ValueError(f"weights {weights} repeat only after {self.shares.sum()} sequences; round them")
        self._size = int(self.shares.sum())
        self._rounds = max(1, BLOCK // self._size)
        self._identity = identity
        self._block = lru_cache(maxsize=4)(self._make_block)

    def take(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of sequences first .. first + count - 1: the dataset of each, int64 [count], and which of the
        dataset's sequences in this phase it is, int64 [count]."""
        length = self._rounds * self._size
        blocks = range(first // length, -(-(first + count) // length))
        if not blocks:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        begin = first - blocks[0] * length
        sources = np.concatenate([self._block(block) for block in blocks])[begin : begin + count]
        numbers = np.empty(count, np.int64)
        for source, before in enumerate(self.counts(first)):
            mine = sources == source
            numbers[mine] = before + np.arange(np.count_nonzero(mine))
        return sources, numbers

    def counts(self, sequences: int) -> np.ndarray:
        """How many of the first ``sequences`` come from each dataset, int64 [datasets]."""
        rounds, rest = divmod(sequences, self._size)
        block, row = divmod(rounds, self._rounds)
        part = self._block(block)[row * self._size :][:rest]
        return rounds * self.shares + np.bincount(part, minlength=len(self.shares))

    def _make_block(self, block: int) -> np.ndarray:
        """The datasets of some rounds, one after the other, int64 [rounds * size]."""
        words = random_words(self._rounds * self._size, *self._identity, block)
        order = np.argsort(words.reshape(self._rounds, self._size), axis=1, kind="stable")
        return np.repeat(np.arange(len(self.shares)), self.shares)[order].ravel()


def random_words(count: int, *identity: Any) -> np.ndarray:
    """uint64 [count], a pure function of ``identity`` that no NumPy version will change: Philox is frozen."""
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(key, "little")).random_raw(count)
