"""text-dedup's recipe, written after its description: it needs a newer Python than ours.

Lower-cased words between runs of other characters, the set of their 5-grams as bytes, 32 bits of
xxh3, then (a x + b) mod (2^61 - 1), its low 32 bits, in NumPy.
"""

from __future__ import annotations

import re

import numpy as np
from xxhash import xxh3_64_intdigest

from benchmarks.curation.engines.common import SLOTS, ngrams, run

_PRIME = np.uint64((1 << 61) - 1)
_LOW = np.uint64((1 << 32) - 1)
_words = re.compile(r"\w+").findall
_draw = np.random.default_rng(1)
_a = _draw.integers(1, int(_PRIME), SLOTS, dtype=np.uint64)
_b = _draw.integers(0, int(_PRIME), SLOTS, dtype=np.uint64)


def sign(texts: list[str]) -> np.ndarray:
    slots = np.empty((len(texts), SLOTS), np.uint32)
    for row, text in enumerate(texts):
        grams = {gram.encode() for gram in ngrams(_words(text.lower()))}
        hashes = np.array([xxh3_64_intdigest(gram) & 0xFFFFFFFF for gram in grams], np.uint64)
        slots[row] = (((hashes[:, None] * _a + _b) % _PRIME) & _LOW).min(axis=0)
    return slots


run(sign)
