"""Ours: texts to signatures to band hashes, over Arrow's buffers; each thread signs other documents."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.curation.engines.common import BANDS, NGRAM, ROWS, reader
from benchmarks.peers import serve
from kernels.text.buffers import text_buffers
from kernels.text.minhash import band_signatures

# texts that a thread takes at a time
_BATCH = 500
_loaded: list[pa.Array] = []


def load(file: str, rows: int | None = None) -> None:
    column = pq.read_table(file, columns=["text"]).slice(0, rows)["text"].combine_chunks()
    _loaded[:] = [column.slice(start, _BATCH) for start in range(0, len(column), _BATCH)]


def memory(threads: int) -> str:
    return _checksum(_each(_bands, _loaded, threads))


def parquet(file: str, threads: int) -> str:
    def of_group(group: int) -> np.ndarray:
        table = reader(file).read_row_group(group, columns=["text"], use_threads=False)
        return _bands(table["text"])

    return _checksum(_each(of_group, range(pq.ParquetFile(file).num_row_groups), threads))


def pairs(file: str, rows: int) -> int:
    table = pq.read_table(file, columns=["left", "right"]).slice(0, rows)
    left, right = (_bands(table[side]) for side in ("left", "right"))
    return int((left == right).any(axis=0).sum())


def _bands(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    hashes, _ = band_signatures(*text_buffers(column), BANDS, ROWS, NGRAM)
    return hashes


def _each(work, items: Iterable, threads: int) -> list[np.ndarray]:
    if threads == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def _checksum(bands: list[np.ndarray]) -> str:
    """Of the band hashes: two ways to the same documents must agree in it."""
    return f"{np.bitwise_xor.reduce(np.concatenate(bands, axis=1).ravel()):016x}"


serve(load=load, memory=memory, parquet=parquet, pairs=pairs)
