"""Texts that share a band hash, joined into clusters (locality-sensitive hashing).

A cluster is a tree in a ``parent`` array, int64 [num_documents]: a root is its own parent and the
smallest number of its cluster. So clusters do not depend on the order in which pairs are found.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import njit

from kernels.text.hashing import GOLDEN
from kernels.text.simd import aligned_empty, stream_block

# records in a part: their table stays in a core's second-level cache
_PART_RECORDS = 16_384
# records that leave together: their keys fill two cache lines, their documents one or two
_GROUP = 16
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
def _partition(keys, documents, part_bits, groups, parts, starts, ends):
    """Write the records (hash of the key, document) to ``parts``, each part from ``starts`` to
    ``ends``, a multiple of _GROUP apart. They go by way of ``groups``, one for each part, and from
    there by whole cache lines: written one by one, each line would be read first."""
    group_hashes, group_documents = groups
    part_hashes, part_documents = parts
    line = 64 // part_documents.itemsize
    shift = np.uint64(63 - part_bits)
    ends[:] = 0
    for i in range(keys.size):
        ends[np.int64((keys[i] * GOLDEN) >> shift >> _ONE)] += 1
    start = np.int64(0)
    for part in range(ends.size):
        starts[part] = start
        start += (ends[part] + _GROUP - 1) // _GROUP * _GROUP
        ends[part] = starts[part]
    for i in range(keys.size):
        mixed = keys[i] * GOLDEN
        into = np.int64(mixed >> shift >> _ONE)
        to = ends[into]
        ends[into] = to + 1
        group = into * _GROUP
        place = to % _GROUP
        group_hashes[group + place] = mixed
        group_documents[group + place] = documents[i]
        if place == _GROUP - 1:
            first = to - place
            stream_block(group_hashes, group, part_hashes, first)
            stream_block(group_hashes, group + 8, part_hashes, first + 8)
            for k in range(0, _GROUP, line):
                stream_block(group_documents, group + k, part_documents, first + k)
    for part in range(ends.size):
        left = ends[part] % _GROUP
        for k in range(left):
            part_hashes[ends[part] - left + k] = group_hashes[part * _GROUP + k]
            part_documents[ends[part] - left + k] = group_documents[part * _GROUP + k]


@njit(nogil=True, cache=True)
def _unite_equal(parts, starts, ends, part_bits, parent):
    """Unite the documents of equal hashes, part by part, by a table that stays in a core's
    second-level cache."""
    part_hashes, part_documents = parts
    largest = np.max(ends - starts)
    size_bits = np.int64(1)
    while 1 << size_bits < 2 * largest:
        size_bits += 1
    mask = (1 << size_bits) - 1
    # (hash, stamp of the part | first document) side by side, one cache line to touch; stamps
    # rise, so that what an earlier part wrote counts as free
    table = np.zeros((1 << size_bits, 2), np.uint64)
    # united when the part is done: the cache misses of one union then overlap those of the next
    pairs = np.empty((largest, 2), part_documents.dtype)
    for part in range(ends.size):
        stamp = np.uint64(part + 1) << _DOCUMENT_BITS
        num_pairs = np.int64(0)
        for i in range(starts[part], ends[part]):
            mixed = part_hashes[i]
            slot = np.int64(mixed << np.uint64(part_bits) >> np.uint64(64 - size_bits))
            while table[slot, 1] >= stamp and table[slot, 0] != mixed:
                slot = (slot + 1) & mask
            if table[slot, 1] >= stamp:
                pairs[num_pairs, 0] = table[slot, 1] & _DOCUMENT_MASK
                pairs[num_pairs, 1] = part_documents[i]
                num_pairs += 1
            else:
                table[slot, 0] = mixed
                table[slot, 1] = stamp | np.uint64(part_documents[i])
        _union_pairs(parent, pairs[:num_pairs, 0], pairs[:num_pairs, 1])


def _document_type(num_documents: int) -> np.dtype:
    # half the memory, and half the cache misses, where document numbers fit
    return np.dtype("uint32" if num_documents <= 2**32 else "int64")


def _cluster(bands: Iterable[np.ndarray], documents: np.ndarray, num_documents: int) -> np.ndarray:
    parent = np.arange(num_documents, dtype=_document_type(num_documents))
    part_bits = (len(documents) // _PART_RECORDS).bit_length()
    starts, ends = np.empty((2, 1 << part_bits), np.int64)

    def records(size: int) -> tuple[np.ndarray, np.ndarray]:
        return aligned_empty(size, np.uint64), aligned_empty(size, parent.dtype)

    groups = records(_GROUP << part_bits)
    parts = records(len(documents) + (_GROUP << part_bits))
    for keys in bands:
        _partition(keys, documents, part_bits, groups, parts, starts, ends)
        _unite_equal(parts, starts, ends, part_bits, parent)
    del groups, parts
    _flatten(parent)
    return parent.astype(np.int64)


def cluster_equal(keys: np.ndarray, documents: np.ndarray, num_documents: int) -> np.ndarray:
    """Clusters of the documents that share a key: ``parent`` int64 [num_documents], each its root.

    ``keys`` uint64 [n] are well mixed hashes, ``documents`` int64 [n] the number, below ``num_documents``, of
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
    n = len(num_shingles)
    documents = np.flatnonzero(num_shingles).astype(_document_type(n))
    bands = (keys if len(documents) == n else keys[documents] for keys in hashes)
    return _cluster(bands, documents, n)


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
