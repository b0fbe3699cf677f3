"""Texts that share a band hash, joined into clusters (locality-sensitive hashing).

A cluster is a tree in a ``parent`` array, int64 [num_documents]: a root is its own parent and the
smallest number of its cluster. So clusters do not depend on the order in which pairs are found.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels.text.hashing import GOLDEN

# records in a part: their table stays in a core's second-level cache
_PART_RECORDS = 16_384


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
def _unite_equal(keys, documents, part_bits, parent):
    """Partition the records by hash, then find equal keys in a small table, part by part."""
    n = keys.size
    shift = np.uint64(64 - part_bits)
    starts = np.zeros((1 << part_bits) + 1, np.int64)
    for i in range(n):
        starts[np.int64((keys[i] * GOLDEN) >> shift) + 1] += 1
    largest = np.int64(0)
    for part in range(1 << part_bits):
        largest = max(largest, starts[part + 1])
        starts[part + 1] += starts[part]
    at = starts.copy()
    part_keys = np.empty(n, np.uint64)
    part_documents = np.empty(n, np.int64)
    for i in range(n):
        into = np.int64((keys[i] * GOLDEN) >> shift)
        part_keys[at[into]] = keys[i]
        part_documents[at[into]] = documents[i]
        at[into] += 1

    size = 2
    while size < 2 * largest:
        size *= 2
    # the part that wrote an entry: entries of the parts before count as free
    written = np.full(size, -1, np.int64)
    first_key = np.empty(size, np.uint64)
    first_document = np.empty(size, np.int64)
    for part in range(1 << part_bits):
        for i in range(starts[part], starts[part + 1]):
            key = part_keys[i]
            slot = np.int64((key * GOLDEN) >> np.uint64(16)) & (size - 1)
            while written[slot] == part and first_key[slot] != key:
                slot = (slot + 1) & (size - 1)
            if written[slot] == part:
                _union(parent, first_document[slot], part_documents[i])
            else:
                written[slot] = part
                first_key[slot] = key
                first_document[slot] = part_documents[i]


def cluster_equal(keys: np.ndarray, documents: np.ndarray, num_documents: int) -> np.ndarray:
    """Clusters of the documents that share a key: ``parent`` int64 [num_documents], each its root.

    ``keys`` uint64 [n] are well mixed hashes, ``documents`` int64 [n] the number, below
    ``num_documents``, of the document each belongs to. Expected time is linear in n and
    num_documents, however many documents share one key.
    """
    assert keys.shape == documents.shape
    parent = np.arange(num_documents, dtype=np.int64)
    part_bits = min(20, max(1, (len(keys) // _PART_RECORDS).bit_length()))
    _unite_equal(keys, documents, part_bits, parent)
    _flatten(parent)
    return parent


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
