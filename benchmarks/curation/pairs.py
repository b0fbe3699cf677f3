"""Pairs of texts of known Jaccard similarity, on which the recall of any MinHash can be counted.

A text is 300 random words of 8 lower-case letters, so that every engine's normalization leaves it as
it is and finds the same words; its partner has some words replaced.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import CACHE

WORDS, LETTERS, NGRAM = 300, 8, 5
_SHINGLES = WORDS - NGRAM + 1
# places of replaced words are at least this far apart: no shingle sees two of them by chance
_APART = 2 * NGRAM
# pairs made at a time
_CHUNK = 2_000


def make_pairs(jaccard: float, count: int, seed: int = 1) -> tuple[Path, np.ndarray]:
    """(Parquet file with the columns left and right, true similarity of each pair float64 [count]).

    The true similarity is counted over the sets of word 5-grams of the two texts. As many words are
    replaced as bring it nearest to ``jaccard``.
    """
    CACHE.mkdir(exist_ok=True)
    file = CACHE / f"pairs-{jaccard}-{count}-{seed}.parquet"
    draw = np.random.default_rng([seed, round(jaccard * 100)])
    similarity, tables = [], []
    for start in range(0, count, _CHUNK):
        left, right = _words(draw, jaccard, min(_CHUNK, count - start))
        similarity.append(_jaccard(left, right))
        tables.append(pa.table({"left": _texts(left), "right": _texts(right)}))
    pq.write_table(pa.concat_tables(tables), file, compression="zstd", use_dictionary=False)
    return file, np.concatenate(similarity)


def expected_recall(similarity: np.ndarray, bands: int, rows: int) -> float:
    """The mean over pairs of the S-curve, 1 - (1 - J^rows)^bands."""
    return float((1 - (1 - similarity**rows) ** bands).mean())


def _words(draw: np.random.Generator, jaccard: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Words as numbers below 26^8, int64 [count, WORDS] each."""
    # J = (S - x) / (S + x), where x shingles of either side are broken
    broken = round(_SHINGLES * (1 - jaccard) / (1 + jaccard))
    replaced, more = divmod(broken, NGRAM)
    left = draw.integers(0, 26**LETTERS, (count, WORDS))
    right = left.copy()
    lanes = (WORDS - 2 * (NGRAM - 1)) // _APART
    order = np.argsort(draw.random((count, lanes)), axis=1)[:, :replaced]
    # inside both ends, where a word is in 5 shingles
    places = NGRAM - 1 + order * _APART + draw.integers(0, NGRAM, (count, 1))
    if more:
        # a word replaced d places after another breaks d shingles more
        places = np.hstack([places, places[:, :1] + more])
    rows = np.arange(count)[:, None]
    right[rows, places] = draw.integers(0, 26**LETTERS, places.shape)
    return left, right


def _jaccard(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of the sets of 5-grams, each told by a 64-bit hash of its words."""
    grams = [_grams(side) for side in (left, right)]
    sizes = [_distinct(side) for side in grams]
    union = _distinct(np.hstack(grams))
    return (sizes[0] + sizes[1] - union) / union


def _grams(words: np.ndarray) -> np.ndarray:
    value = np.zeros((len(words), _SHINGLES), np.uint64)
    for j in range(NGRAM):
        value = (value ^ words[:, j : j + _SHINGLES].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    return value


def _distinct(values: np.ndarray) -> np.ndarray:
    values = np.sort(values, axis=1)
    return 1 + (values[:, 1:] != values[:, :-1]).sum(axis=1)


def _texts(words: np.ndarray) -> pa.Array:
    """The numbers spelled in letters, joined by spaces."""
    powers = 26 ** np.arange(LETTERS)
    letters = (words[:, :, None] // powers % 26 + ord("a")).astype(np.uint8)
    spaces = np.full((*words.shape, 1), ord(" "), np.uint8)
    data = np.concatenate([letters, spaces], axis=2).reshape(len(words), -1)[:, :-1]
    offsets = np.arange(len(words) + 1, dtype=np.int64) * data.shape[1]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.large_string(), len(words), buffers)
