"""What the engines of the signature benchmark share: the same documents, shingles and bands.

An engine is a script that :func:`run` turns into a process: it reads texts, signs them (word 5-grams,
112 slots), and says how many of some pairs agree in a whole band. It runs in its peer's environment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow.parquet as pq

from benchmarks.peers import serve

NGRAM, BANDS, ROWS = 5, 14, 8
SLOTS = BANDS * ROWS
_threads = threading.local()


def texts(file: str, rows: int | None = None, column: str = "text") -> list[str]:
    """The first ``rows`` texts of a Parquet file, or all."""
    return pq.read_table(file, columns=[column]).slice(0, rows)[column].to_pylist()


def reader(file: str) -> pq.ParquetFile:
    """This thread's reader: threads must not share one, and its footer is parsed once."""
    if getattr(_threads, "file", None) != file:
        _threads.file, _threads.reader = file, pq.ParquetFile(file)
    return _threads.reader


def ngrams(words: Sequence[str]) -> list[str]:
    """Runs of 5 words joined by spaces; of a shorter text, all of it."""
    return [" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))]


def some_band_equal(left: np.ndarray, right: np.ndarray) -> int:
    """Of the pairs of signatures, [n, 112] each, how many agree in a whole band."""
    return int((left == right).reshape(-1, BANDS, ROWS).all(axis=2).any(axis=1).sum())


def run(sign: Callable[[list[str]], np.ndarray]) -> None:
    """Serve an engine that signs a list of texts: [n, 112], one row a text."""
    loaded: list[str] = []

    def load(file: str, rows: int | None = None) -> None:
        loaded[:] = texts(file, rows)

    def memory() -> None:
        sign(loaded)

    def pairs(file: str, rows: int) -> int:
        return some_band_equal(*(sign(texts(file, rows, side)) for side in ("left", "right")))

    serve(load=load, memory=memory, pairs=pairs)
