"""How much of an output is the source's own wording: not nearly all, and not nearly nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from kernels.text.buffers import text_buffers
from kernels.text.shingles import jaccard, shingle_sets
from synth.checks.base import Batch, Verdicts


def containment(batch: Batch, ngram: int) -> np.ndarray:
    """Share of each output's different word n-grams that its source has too, float64 [n]; 0 without words.

    Words are those of kernels/text/folding.py: case and punctuation do not matter.
    """
    texts = [*batch.texts, *(batch.source(row) for row in range(len(batch.texts)))]
    values, starts = shingle_sets(*text_buffers(pa.array(texts, pa.large_string())), ngram)
    n = len(batch.texts)
    mine, theirs = np.arange(n), n + np.arange(n)
    sizes = np.diff(starts)
    share = jaccard(values, starts, mine, theirs)
    # |A and B| of J = |A and B| / (|A| + |B| - |A and B|)
    common = np.rint(share * (sizes[:n] + sizes[n:]) / (1 + share))
    return common / np.maximum(sizes[:n], 1)


@dataclass(frozen=True, kw_only=True)
class Copy:
    """The output is no near copy: a copy is worth nothing beside its source."""

    check: ClassVar = "copy"
    adds: ClassVar[dict[str, str]] = {"synth_copy_ratio": "float64"}

    most: float = 0.7
    """Share of the output's different word n-grams that the source has too."""
    ngram: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.most <= 1 or self.ngram < 1:
            raise ValueError(f"most must lie in 0..1 and ngram be 1 or more: {self.most}, {self.ngram}")

    def run(self, batch: Batch) -> Verdicts:
        ratios = containment(batch, self.ngram)
        verdicts = batch.each(lambda row: f"{ratios[row]:.0%} copied" if ratios[row] > self.most else None)
        verdicts.measured = {"synth_copy_ratio": ratios}
        return verdicts


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The output is about its source: enough of its different words are the source's."""

    check: ClassVar = "drift"
    adds: ClassVar[dict[str, str]] = {"synth_word_overlap": "float64"}

    least: float = 0.3
    """Share of the output's different words that the source has too."""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise ValueError(f"least must lie in 0..1, not {self.least}")

    def run(self, batch: Batch) -> Verdicts:
        ratios = containment(batch, 1)
        verdicts = batch.each(
            lambda row: f"{ratios[row]:.0%} of its words" if ratios[row] < self.least else None
        )
        verdicts.measured = {"synth_word_overlap": ratios}
        return verdicts
