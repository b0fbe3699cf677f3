"""Texts that share a band hash, joined into clusters (locality-sensitive hashing).

A cluster is a tree in a ``parent`` array, int64 [num_documents]: a root is its own parent and the
smallest number of its cluster. So clusters do not depend on the order in which pairs are found.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import njit

from kernels.text.hashing import GOLDEN

# records in a part: their table stays in a core's second-level cache
_PART_RECORDS = 16_384
_ONE = np.uint64(1)
_DOCUMENT_BITS = np.uint64(40)
_DOCUMENT_MASK = np.uint64((1 << 40) - 1)


@njit(nogil=True, cache=True)
def _root(parent, node):
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(nogil=True, cache=True)
def _union(parent, left, right):
    left = _root(parent, left)
    right = _root(parent, right)
    if left < right:
        parent[right] = left
    elif right < left:
        parent[left] = right


@njit(nogil=True, cache=True)
def _union_pairs(parent, left, right):
    for i in range(left.size):
        _union(parent, left[i], right[i])


@njit(nogil=True, cache=True)
def _flatten(parent):
    # a parent is smaller than its child, so it has been flattened before
    for i in range(parent.size):
        parent[i] = parent[parent[i]]


@njit(nogil=True, cache=True)
def _unite_equal(keys, documents, part_keys, part_documents, parent):
    """Partition the records by hash into scratch, [n] each, then find equal keys part by part in a
    table that stays in a core's second-level cache."""
    n = keys.size
    part_bits = np.int64(0)
    while n >> part_bits > _PART_RECORDS:
        part_bits += 1
    shift = np.uint64(63 - part_bits)
    starts = np.zeros((1 << part_bits) + 1, np.int64)
    for i in range(n):
        starts[np.int64((keys[i] * GOLDEN) >> shift >> _ONE) + 1] += 1
    largest = np.int64(0)
    for part in range(1 << part_bits):
        largest = max(largest, starts[part + 1])
        starts[part + 1] += starts[part]
    at = starts.copy()
    for i in range(n):
        mixed = keys[i] * GOLDEN
        into = np.int64(mixed >> shift >> _ONE)
        to = at[into]
        at[into] = to + 1
        part_keys[to] = mixed
        part_documents[to] = documents[i]

    size_bits = np.int64(1)
    while 1 << size_bits < 2 * largest:
        size_bits += 1
    mask = (1 << size_bits) - 1
    # (key, stamp of the part | first document) side by side, one cache line to touch; stamps rise,
    # so that what an earlier part wrote counts as free
    table = np.zeros((1 << size_bits, 2), np.uint64)
    # united when the part is done: the cache misses of one union then overlap those of the next
    pairs = np.empty((largest, 2), part_documents.dtype)
    for part in range(1 << part_bits):
        stamp = np.uint64(part + 1) << _DOCUMENT_BITS
        num_pairs = np.int64(0)
        for i in range(starts[part], starts[part + 1]):
            key = part_keys[i]
            slot = np.int64(key << np.uint64(part_bits) >> np.uint64(64 - size_bits))
            while table[slot, 1] >= stamp and table[slot, 0] != key:
                slot = (slot + 1) & mask
            if table[slot, 1] >= stamp:
                pairs[num_pairs, 0] = table[slot, 1] & _DOCUMENT_MASK
                pairs[num_pairs, 1] = part_documents[i]
                num_pairs += 1
            else:
                table[slot, 0] = key
                table[slot, 1] = stamp | np.uint64(part_documents[i])
        _union_pairs(parent, pairs[:num_pairs, 0], pairs[:num_pairs, 1])


def _singletons(num_documents: int) -> np.ndarray:
    # half the memory, and half the cache misses, where document numbers fit
    return np.arange(num_documents, dtype=np.uint32 if num_documents <= 2**32 else np.int64)


def _cluster(bands: Iterable[np.ndarray], documents: np.ndarray, num_documents: int) -> np.ndarray:
    parent = _singletons(num_documents)
    part_keys = np.empty(len(documents), np.uint64)
    part_documents = np.empty(len(documents), parent.dtype)
    for keys in bands:
        _unite_equal(keys, documents, part_keys, part_documents, parent)
    del part_keys, part_documents
    _flatten(parent)
    return parent.astype(np.int64)


def cluster_equal(keys: np.ndarray, documents: np.ndarray, num_documents: int) -> np.ndarray:
    """Clusters of the documents that share a key: ``parent`` int64 [num_documents], each its root.

    ``keys`` uint64 [n] are hashes, ``documents`` int64 [n] the number, below ``num_documents``, of
    the document each belongs to. Expected time is linear in n and num_documents, however many
    documents share one key; memory beside the arguments 12 bytes a record and 12 a document.
    """
    assert keys.shape == documents.shape
    return _cluster([keys], documents, num_documents)


def cluster_bands(hashes: np.ndarray, num_shingles: np.ndarray) -> np.ndarray:
    """Clusters of the documents that share the hash of a band: :func:`cluster_equal`, band by band.

    ``hashes`` uint64 [bands, n] and ``num_shingles`` int64 [n] are those of
    :func:`kernels.text.minhash.band_signatures`; texts without words match nothing. Memory beside
    the arguments: 20 bytes a document, 28 where some have no words.
    """
    documents = np.flatnonzero(num_shingles)
    if len(documents) == len(num_shingles):
        documents = np.arange(len(documents), dtype=np.uint32 if len(documents) <= 2**32 else np.int64)
        bands: Iterable[np.ndarray] = hashes
    else:
        bands = (band[documents] for band in hashes)
    return _cluster(bands, documents, hashes.shape[1])


def forest_edges(parent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The (child, root) pairs, int64 [m] each, of a flat ``parent``: all that merging needs."""
    children = np.flatnonzero(parent != np.arange(len(parent)))
    return children, parent[children]


def merge_forests(num_documents: int, forests: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The clusters that all ``forests`` (pairs as of :func:`forest_edges`) make together.

    Flat ``parent``, int64 [num_documents]. Order, grouping and repetition of forests do not matter.
    """
    parent = np.arange(num_documents, dtype=np.int64)
    for left, right in forests:
        _union_pairs(parent, left, right)
    _flatten(parent)
    return parent
