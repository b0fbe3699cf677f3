"""Ours without the engine: a Parquet file to a keep mask by the bare kernels."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq

from benchmarks.curation.engines.common import BANDS, NGRAM, ROWS, reader
from benchmarks.peers import serve
from kernels.text.buffers import text_buffers
from kernels.text.lsh import cluster_bands, forest_edges, merge_forests
from kernels.text.minhash import band_signatures


def dedup(file: str, threads: int, out: str) -> dict:
    """Save ``parent`` (a document is kept where it is its own); seconds of each phase, over threads."""
    metadata = pq.ParquetFile(file).metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    first = np.concatenate([[0], np.cumsum(sizes)])
    n = int(first[-1])
    hashes = np.empty((BANDS, n), np.uint64)
    num_shingles = np.empty(n, np.int64)
    spent = {"read": 0.0, "sign": 0.0, "unite": 0.0}

    def sign(group: int) -> int:
        rows = slice(first[group], first[group + 1])
        started = time.perf_counter()
        table = reader(file).read_row_group(group, columns=["text"], use_threads=False)
        spent["read"] += time.perf_counter() - started
        started = time.perf_counter()
        data, offsets = text_buffers(table["text"])
        _, num_shingles[rows] = band_signatures(data, offsets, BANDS, ROWS, NGRAM, out=hashes[:, rows])
        spent["sign"] += time.perf_counter() - started
        return int(offsets[-1] - offsets[0])

    def unite(bands: slice) -> np.ndarray:
        return cluster_bands(hashes[bands], num_shingles)

    with ThreadPoolExecutor(threads) as pool:
        text_bytes = sum(pool.map(sign, range(len(sizes))))
        started = time.perf_counter()
        step = BANDS // threads
        parents = list(pool.map(unite, [slice(band, band + step) for band in range(0, BANDS, step)]))
        parent = parents[0] if threads == 1 else merge_forests(n, [forest_edges(each) for each in parents])
        spent["unite"] = time.perf_counter() - started
    np.save(out, parent)
    return {"bytes": text_bytes, **spent}


serve(dedup=dedup)
