"""What repeats inside one text: duplicate lines and paragraphs, word n-grams (Gopher, Table A1).

Words, lines and paragraphs are compared by a 64-bit hash of their bytes. Word n-grams are exact
from there: words get dense ids, and an n-gram's id is the table entry of (id of its first n - 1
words, id of its last n - 1 words), a 64-bit key without collisions. An n-gram can repeat only where
both of those repeat, so the positions to look at shrink with n.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import pointer_add
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_U0, _U1, _U29, _U32, _U33 = (np.uint64(x) for x in (0, 1, 29, 32, 33))
_LOW32 = np.uint64(0xFFFFFFFF)


@intrinsic
def load_u64(typing_context, data, i):
    """The eight bytes of uint8 array ``data`` from ``i`` on, at any alignment, little-endian."""

    def codegen(context, builder, signature, args):
        array = make_array(signature.args[0])(context, builder, args[0])
        word = ir.IntType(64)
        at = pointer_add(builder, array.data, args[1], word.as_pointer())
        return builder.load(at, align=1)

    return types.uint64(data, types.int64), codegen


@numba.njit(nogil=True, cache=True)
def hash_bytes(data, start, end):
    """64-bit hash of ``data[start:end]``; not meant to resist those who choose their collisions."""
    left = end - start
    h = np.uint64(left) * _GOLDEN
    while left > 8:
        h = (h ^ load_u64(data, start)) * _MIX
        h ^= h >> _U32
        start += 8
        left -= 8
    x = _U0
    if left > 0 and start + 8 <= data.size:
        x = load_u64(data, start) & (~_U0 >> np.uint64(64 - 8 * left))
    else:
        for b in range(left):
            x |= np.uint64(data[start + b]) << np.uint64(8 * b)
    h = (h ^ x) * _MIX
    h = (h ^ (h >> _U32)) * _GOLDEN
    return h ^ (h >> _U29)


@numba.njit(nogil=True, cache=True, inline="always")
def find_or_insert(key, new_id, table, mask, generation):
    """The id of ``key``, which is ``new_id`` if the table did not hold it.

    table: uint64 [mask + 1, 2], rows (key, generation << 32 | id). A row of another generation is
    empty, so one table serves every text without being cleared.
    """
    p = np.int64((key * _GOLDEN) >> _U33) & mask
    k = table[p, 0]
    entry = table[p, 1]
    empty = (entry >> _U32) != generation
    while (k != key) & (not empty):
        p = (p + 1) & mask
        k = table[p, 0]
        entry = table[p, 1]
        empty = (entry >> _U32) != generation
    found = new_id if empty else np.int64(entry & _LOW32)
    table[p, 0] = key
    table[p, 1] = (generation << _U32) | np.uint64(found)
    return found


@numba.njit(nogil=True, cache=True, inline="always")
def table_mask(n):
    """Smallest 2^k - 1 that keeps a table of ``n`` keys at most half full."""
    mask = np.int64(63)
    while mask < 2 * n:
        mask = mask * 2 + 1
    return mask


@numba.njit(nogil=True, cache=True)
def count_duplicate_pieces(data, pieces, n_pieces, table, generation):
    """(number, characters) of the pieces that repeat an earlier one; bytes decide.

    pieces: int64 [n_pieces, >= 3], rows (first byte, byte after the last, characters, ...).
    """
    mask = table_mask(n_pieces)
    number = 0
    chars = 0
    for q in range(n_pieces):
        key = hash_bytes(data, pieces[q, 0], pieces[q, 1])
        if find_or_insert(key, q, table, mask, generation) != q:
            number += 1
            chars += pieces[q, 2]
    return number, chars


@numba.njit(nogil=True, cache=True)
def split_newlines(breaks, n_breaks, text, run, kind, pieces):
    """Cut a text at every run of at least ``run`` line breaks of ``kind``; write (first byte, byte
    after the last, characters) of each piece, empty ones too (as ``re.split("\\n{run,}")``).

    text: (first byte, byte after the last, characters before the first, ... before the end).
    """
    start, end, chars, end_chars = text
    n = 0
    b = 0
    while b < n_breaks:
        if breaks[b, 1] != kind or breaks[b, 0] < start or breaks[b, 0] >= end:
            b += 1
            continue
        last = b
        while last + 1 < n_breaks and breaks[last + 1, 0] == breaks[last, 0] + 1 < end:
            if breaks[last + 1, 1] != kind:
                break
            last += 1
        if last - b + 1 >= run:
            pieces[n, 0] = start
            pieces[n, 1] = breaks[b, 0]
            pieces[n, 2] = breaks[b, 2] - chars
            n += 1
            start = breaks[last, 0] + 1
            chars = breaks[last, 2] + 1
        b = last + 1
    pieces[n, 0] = start
    pieces[n, 1] = end
    pieces[n, 2] = end_chars - chars
    return n + 1


@numba.njit(nogil=True, cache=True)
def count_ngrams(words, hashes, n_words, table, generation, scratch, out):
    """Characters of repeated word n-grams of one text.

    words, hashes  of find_words_and_lines and hash_bytes; words[:, 2] counts characters
    table          of find_or_insert, for 2 n_words keys; ``generation`` and the 9 after it are free
    scratch        int32 [5, > n_words]
    out[0:3]       for n = 2, 3, 4: characters of the most frequent n-gram with its n - 1 spaces,
                   times its count, also when that is 1; of equals the first; 0 if too few words
    out[3:9]       for n = 5 ... 10: characters (no spaces) of n-grams met before. The scan goes on
                   after a repeat with the word behind it, and knows only n-grams it stopped at.
    """
    ids = scratch[0]
    next_ids = scratch[1]
    count = scratch[2]
    first = scratch[3]
    positions = scratch[4]
    for q in range(9):
        n = q + 2
        out[q] = words[n, 2] + n - 1 if n <= 4 and n_words >= n else 0
    n_ids = 0
    mask = table_mask(n_words)
    for w in range(n_words):
        found = find_or_insert(hashes[w], n_ids, table, mask, generation)
        new = found == n_ids
        count[found] = 1 if new else count[found] + 1
        n_ids += new
        ids[w] = found
    n_positions = 0
    for w in range(n_words - 1):
        positions[n_positions] = w
        n_positions += (count[ids[w]] > 1) & (count[ids[w + 1]] > 1)
    for n in range(2, 11):
        if n_positions == 0:
            return
        generation += _U1
        mask = table_mask(n_positions)
        n_ids = 0
        for q in range(n_positions):
            w = positions[q]
            key = np.uint64(ids[w]) << _U32 | np.uint64(ids[w + 1])
            found = find_or_insert(key, n_ids, table, mask, generation)
            # first[n_ids] is overwritten until that id is given away
            first[n_ids] = w
            new = found == n_ids
            count[found] = 1 if new else count[found] + 1
            n_ids += new
            next_ids[q] = found
        if n <= 4:
            best = 1
            for g in range(n_ids):
                if count[g] > best:
                    best = count[g]
                    w = first[g]
                    out[n - 2] = best * (words[w + n, 2] - words[w, 2] + n - 1)
        else:
            for g in range(n_ids):
                first[g] = -1
            free = 0
            for q in range(n_positions):
                w = positions[q]
                if w >= free:
                    g = next_ids[q]
                    if first[g] >= 0:
                        out[n - 2] += words[w + n, 2] - words[w, 2]
                        free = w + n
                    else:
                        first[g] = w
        # on to the positions where this n-gram and the one a word later both repeat
        m = 0
        previous = -2
        for q in range(n_positions):
            w = positions[q]
            ids[w] = next_ids[q]
            repeats = count[next_ids[q]] > 1
            positions[m] = w - 1
            m += repeats & (previous == w - 1)
            previous = w if repeats else previous
        n_positions = m
