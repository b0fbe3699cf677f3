"""Compile every text kernel into Numba's cache, once a machine: ``python -m kernels.text.warm``."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from kernels.text.band_records import find_sorted, number_documents, partition_records
from kernels.text.bpe import warm_encoder
from kernels.text.buffers import text_buffers
from kernels.text.hashing import content_hashes
from kernels.text.html_model import warm_html
from kernels.text.lines import unit_hashes, without_units
from kernels.text.lsh import cluster_bands, cluster_equal, forest_edges, merge_forests
from kernels.text.minhash import band_hashes, band_signatures, signatures
from kernels.text.overlap import build_index, find_items, find_ngrams, word_span
from kernels.text.pii import find_pii
from kernels.text.statistics import text_statistics


def warm() -> None:
    """Run each kernel on a few bytes. About half a minute on a new machine, a second after that."""
    column = pa.array(["a text to compile with", ""], pa.large_string())
    text_statistics(column)
    find_pii(column)
    warm_encoder().encode(column)
    warm_html()
    data, offsets = text_buffers(column)
    content_hashes(data, offsets)
    hashes, _ = unit_hashes(column, "line", 1)
    without_units(column, np.zeros(len(hashes), bool), "line", 1)
    slots, _ = signatures(data, offsets)
    bands, num_shingles = band_signatures(data, offsets)
    band_signatures(data, offsets, out=np.empty((14, 3), np.uint64)[:, :2])
    find_sorted(partition_records(bands, num_shingles > 0, 1)[0], 0, 1 << 64, bands[0])
    number_documents(np.zeros(1, np.uint32), np.array([0, 1]))
    cluster_bands(bands, num_shingles)
    keys = np.ascontiguousarray(band_hashes(slots, 14, 8)[:, 0])
    parent = cluster_equal(keys, np.arange(len(keys)), len(keys))
    merge_forests(len(keys), [forest_edges(parent)])
    index = build_index(data, offsets, 2, 1)
    text, _, ngram = find_ngrams(data, offsets, index)
    find_items(text, ngram, index, np.diff(index.item_starts), 0.5, 1)
    word_span(data, offsets, 0, 0, 1)


if __name__ == "__main__":
    from kernels.text.cache import warm_once

    warm_once()
