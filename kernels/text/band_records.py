"""Band records: (band hash, row) of every document, in parts by range of hash; an index of old ones.

Hashes are uint64 and well mixed, so equal ranges of them hold about equally many.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_U32 = np.uint64(32)


@njit(nogil=True, cache=True)
def _count(hashes, chosen, parts, starts):
    for d in range(hashes.shape[1]):
        if chosen[d]:
            for band in range(hashes.shape[0]):
                part = ((hashes[band, d] >> _U32) * parts) >> _U32
                starts[np.int64(part) + 1] += 1
    for part in range(starts.size - 1):
        starts[part + 1] += starts[part]


@njit(nogil=True, cache=True)
def _scatter(hashes, chosen, parts, at, keys, rows):
    for d in range(hashes.shape[1]):
        if chosen[d]:
            for band in range(hashes.shape[0]):
                key = hashes[band, d]
                part = np.int64(((key >> _U32) * parts) >> _U32)
                keys[at[part]] = key
                rows[at[part]] = d
                at[part] += 1


def partition_records(
    hashes: np.ndarray, chosen: np.ndarray, parts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The band hashes of the chosen documents, part by part, rows rising inside a part.

    ``hashes`` uint64 [bands, n], ``chosen`` bool [n]. Returns (keys uint64 [m], rows uint32 [m],
    starts int64 [parts + 1]): part p lies at starts[p]:starts[p + 1] and holds the hashes h with
    floor(h * parts / 2^64) = p, told by the upper half of h.
    """
    assert hashes.shape[1] == chosen.size < 2**32 and parts > 0
    starts = np.zeros(parts + 1, np.int64)
    _count(hashes, chosen, np.uint64(parts), starts)
    keys = np.empty(starts[-1], np.uint64)
    rows = np.empty(starts[-1], np.uint32)
    _scatter(hashes, chosen, np.uint64(parts), starts[:-1].copy(), keys, rows)
    return keys, rows, starts


@njit(nogil=True, cache=True)
def _number_documents(rows, starts, local, first):
    n = np.int64(0)
    for t in range(starts.size - 1):
        previous = np.int64(-1)
        for i in range(starts[t], starts[t + 1]):
            if rows[i] != previous:
                previous = np.int64(rows[i])
                first[n] = i
                n += 1
            local[i] = n - 1
    return n


def number_documents(rows: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers 0, 1, ... for the documents of records that lie table by table, rows rising in each.

    ``rows`` uint32 [n]; table t lies at starts[t]:starts[t + 1]. Returns (local uint32 [n], the
    document of each record; first int64 [documents], the first record of each). One pass, no sort.
    """
    assert len(rows) < 2**32
    local, first = np.empty(len(rows), np.uint32), np.empty(len(rows), np.int64)
    return local, first[: _number_documents(rows, starts, local, first)]


@njit(nogil=True, cache=True)
def _find_sorted(index, first, width, keys, found):
    n = index.size
    for i in range(keys.size):
        key = keys[i]
        # start where the key should lie, then double the step until it is enclosed
        share = min(np.float64(key - first) / width, 1.0) if key > first else 0.0
        low = min(np.int64(share * n), n - 1)
        step = np.int64(16)
        if index[low] < key:
            high = low + step
            while high < n and index[high] < key:
                low = high
                step *= 2
                high = low + step
            high = min(high, n)
        else:
            high = low
            low = high - step
            while low >= 0 and index[low] >= key:
                high = low
                step *= 2
                low = high - step
            low = max(low, -1)
        # index[low] < key <= index[high], the ends taken as infinitely small and large
        while high - low > 1:
            middle = (low + high) >> 1
            if index[middle] < key:
                low = middle
            else:
                high = middle
        found[i] = high if high < n and index[high] == key else -1


def find_sorted(index: np.ndarray, low: int, high: int, keys: np.ndarray) -> np.ndarray:
    """Where each key first stands in a sorted ``index``, int64 [n], -1 where it does not.

    ``index`` uint64 [m], rising, its values spread evenly over [low, high); ``keys`` uint64 [n].
    About 2 log2(sqrt(m)) steps a key, in one or two pages of the index: it may be a mapped file.
    """
    found = np.full(keys.size, -1, np.int64)
    if index.size:
        _find_sorted(index, np.uint64(low), np.float64(high - low), keys, found)
    return found
