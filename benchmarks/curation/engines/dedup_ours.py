"""Ours without the engine: a Parquet file to a keep mask by the bare kernels."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq

from benchmarks.curation.engines.common import BANDS, NGRAM, ROWS
from benchmarks.peers import serve
from kernels.text.buffers import text_buffers
from kernels.text.lsh import cluster_equal, forest_edges, merge_forests
from kernels.text.minhash import band_signatures


def dedup(file: str, threads: int, out: str) -> dict:
    """Save ``parent`` (a document is kept where it is its own); seconds of each phase, over threads."""
    metadata = pq.ParquetFile(file).metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    first = np.concatenate([[0], np.cumsum(sizes)])
    n = int(first[-1])
    keys = [np.empty(n, np.uint64) for _ in range(BANDS)]
    documents = np.arange(n)
    spent = {"read": 0.0, "sign": 0.0, "unite": 0.0}

    def sign(group: int) -> int:
        started = time.perf_counter()
        table = pq.ParquetFile(file).read_row_group(group, columns=["text"], use_threads=False)
        spent["read"] += time.perf_counter() - started
        started = time.perf_counter()
        data, offsets = text_buffers(table["text"])
        hashes, _ = band_signatures(data, offsets, BANDS, ROWS, NGRAM)
        for band in range(BANDS):
            keys[band][first[group] : first[group + 1]] = hashes[:, band]
        spent["sign"] += time.perf_counter() - started
        return int(offsets[-1] - offsets[0])

    def unite(band: int) -> tuple[np.ndarray, np.ndarray]:
        edges = forest_edges(cluster_equal(keys[band], documents, n))
        keys[band] = None
        return edges

    with ThreadPoolExecutor(threads) as pool:
        text_bytes = sum(pool.map(sign, range(len(sizes))))
        started = time.perf_counter()
        parent = merge_forests(n, list(pool.map(unite, range(BANDS))))
        spent["unite"] = time.perf_counter() - started
    np.save(out, parent)
    return {"bytes": text_bytes, **spent}


serve(dedup=dedup)
