"""Sets of shingles, to verify near-duplicates by their true Jaccard similarity."""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels.text.folding import character_table, find_words, hash_words, room
from kernels.text.minhash import hash_shingles


@njit(nogil=True, cache=True)
def _text_shingles(data, offsets, ngram, table, values, starts):
    longest = np.int64(0)
    for d in range(starts.size - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    num_bytes, num_ends = room(longest)
    out = np.empty(num_bytes, np.uint8)
    ends = np.empty(num_ends, np.int64)
    long_words = np.empty(num_ends, np.int64)
    hashes = np.empty(num_ends, np.uint64)
    rolled = np.empty(num_ends, np.uint64)
    for d in range(starts.size - 1):
        num_words = find_words(data, offsets[d], offsets[d + 1], table, out, ends)
        hash_words(out, ends, num_words, hashes, long_words)
        length = min(ngram, num_words)
        count = num_words - length + 1 if num_words else 0
        hash_shingles(hashes, count, length, rolled, values[starts[d] :])
        starts[d + 1] = starts[d] + count


def shingle_sets(data: np.ndarray, offsets: np.ndarray, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The different shingles of each text: (values uint32 [m], rising in each text, starts int64 [n + 1]).

    ``data`` and ``offsets`` are those of :func:`text_buffers`; words and shingles are those of
    kernels/text/minhash.py, told by 32-bit hashes: of two sets of 1,000 about 0.0002 meet by chance.
    """
    n = len(offsets) - 1
    # a word takes 2 bytes or more, but for the last
    values = np.empty((offsets[-1] - offsets[0]) // 2 + n, np.uint32)
    starts = np.zeros(n + 1, np.int64)
    _text_shingles(data, offsets, ngram, character_table(), values, starts)
    return _sort_unique(values, starts)


@njit(nogil=True, cache=True)
def _sort_unique(values, starts):
    out = np.empty_like(values)
    ends = np.zeros_like(starts)
    n = 0
    for d in range(starts.size - 1):
        each = np.sort(values[starts[d] : starts[d + 1]])
        for i in range(each.size):
            if i == 0 or each[i] != each[i - 1]:
                out[n] = each[i]
                n += 1
        ends[d + 1] = n
    return out[:n].copy(), ends


@njit(nogil=True, cache=True)
def jaccard(values, starts, left, right):
    """|A and B| / |A or B| of pairs of sets, float64 [n]; 0 for two empty ones.

    values, starts  of shingle_sets
    left, right     int64 [n], which sets
    """
    out = np.empty(left.size, np.float64)
    for p in range(left.size):
        i, i_end = starts[left[p]], starts[left[p] + 1]
        j, j_end = starts[right[p]], starts[right[p] + 1]
        total = (i_end - i) + (j_end - j)
        common = 0
        while i < i_end and j < j_end:
            a, b = values[i], values[j]
            common += a == b
            i += a <= b
            j += b <= a
        out[p] = common / (total - common) if total > common else 0.0
    return out
