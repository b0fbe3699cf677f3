"""What repeats inside one text: lines, paragraphs, word n-grams (Gopher, Table A1).

Words, lines and paragraphs are compared by a 64-bit hash of their bytes. Word n-grams are exact
from there: words get dense ids, and an n-gram's id is that of the pair (id of its first n - 1
words, id of its last n - 1 words), a 64-bit key without collisions. An n-gram can repeat only where
both of those repeat, so the positions to look at shrink with n.

All ids come from one open hash table whose slots are scattered by a random odd multiplier: nobody
can write a text whose keys crowd together, and no result depends on where keys lie.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels.text.hashing import GOLDEN, MIX_A, MIX_B, load64
from kernels.text.simd import popcount
from kernels.text.walk import AT, CHARS, TERMINATED, WORDS

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
# generations of the table that one text uses up: lines and paragraphs, words, n-grams
GENERATIONS = 16

_NEWLINE = 10
_U0, _U1, _U29, _U32, _U64 = (np.uint64(x) for x in (0, 1, 29, 32, 64))
_LOW32 = np.uint64(0xFFFFFFFF)
_HIGH_BITS = np.uint64(0x8080808080808080)
# entry j + 8 keeps the j lowest bytes of a uint64, 0 <= j <= 8, none below, all above
_KEEP = np.array([(1 << 8 * min(max(j - 8, 0), 8)) - 1 for j in range(25)], np.uint64)


@njit(nogil=True, cache=True)
def _load_to(data, i, end):
    """Eight bytes from ``i`` on, those from ``end`` on being 0; reads nothing behind ``end``."""
    word = _U0
    for j in range(min(8, end - i)):
        word |= np.uint64(data[i + j]) << np.uint64(8 * j)
    return word


@njit(nogil=True, cache=True, inline="always")
def _continuations(word):
    """Bytes 0x80 ... 0xBF among eight."""
    return popcount(word & ~(word << _U1) & _HIGH_BITS)


@njit(nogil=True, cache=True, inline="always")
def _hash_and_count(data, start, end):
    """(64-bit hash of ``data[start:end]``, its bytes 0x80 ... 0xBF). Two chains of multiplications
    take eight bytes each a turn; not meant to resist those who choose their collisions."""
    left = end - start
    a = np.uint64(left) * GOLDEN
    b = ~a
    continuations = 0
    while left > 16:
        x = load64(data, start)
        y = load64(data, start + 8)
        if (x | y) & _HIGH_BITS:
            continuations += _continuations(x) + _continuations(y)
        a = (a ^ x) * MIX_A
        b = (b ^ y) * MIX_B
        a ^= a >> _U32
        b ^= b >> _U29
        start += 16
        left -= 16
    if start + 16 <= data.size:
        x = load64(data, start) & _KEEP[np.uint64(left + 8)]
        y = load64(data, start + 8) & _KEEP[np.uint64(left)]
    else:
        x = _load_to(data, start, end)
        y = _load_to(data, start + 8, end)
    if (x | y) & _HIGH_BITS:
        continuations += _continuations(x) + _continuations(y)
    a = (a ^ x) * MIX_A
    b = (b ^ y) * MIX_B
    a = (a ^ (a >> _U32)) * GOLDEN
    h = a + (b ^ (b >> _U29))
    return h ^ (h >> _U32), continuations


@njit(nogil=True, cache=True)
def hash_bytes(data, start, end):
    """64-bit hash of ``data[start:end]``, the same that ``hash_words`` gives a word."""
    return _hash_and_count(data, start, end)[0]


@njit(nogil=True, cache=True)
def hash_words(data, start, bounds, n_words, hashes, chars):
    """Hash of each word of ``walk``, uint64 [n_words], and characters in the words before it, int32
    [n_words + 1]."""
    total = 0
    for w in range(n_words):
        first = bounds[2 * w]
        last = bounds[2 * w + 1]
        hashes[w], continuations = _hash_and_count(data, np.int64(start + first), np.int64(start + last))
        chars[w] = total
        total += last - first - continuations
    chars[n_words] = total


@njit(nogil=True, cache=True, inline="always")
def _find_or_insert(key, new_id, table, bits, generation, scatter):
    """(the id of ``key``, which is ``new_id`` if the table did not hold it; 1 if so, else 0).

    table: uint64 [>= 2 * 2^bits], pairs (key, generation << 32 | id). A pair of another generation
    is empty, so one table serves every text without being cleared. scatter: an odd number. All are
    uint64, as an index too: Numba gives a signed one two more instructions, in case it is negative.
    """
    last = (_U1 << bits) - _U1
    p = (key * scatter) >> (_U64 - bits)
    k = table[p + p]
    entry = table[p + p + _U1]
    empty = (entry >> _U32) != generation
    while (k != key) & (not empty):
        p = (p + _U1) & last
        k = table[p + p]
        entry = table[p + p + _U1]
        empty = (entry >> _U32) != generation
    # no branch on whether it was there, which nobody can foresee
    found = new_id if empty else entry & _LOW32
    table[p + p] = key
    table[p + p + _U1] = (generation << _U32) | found
    return found, np.uint64(empty)


@njit(nogil=True, cache=True)
def _holds(key, table, bits, generation, scatter):
    last = (_U1 << bits) - _U1
    p = (key * scatter) >> (_U64 - bits)
    while (table[p + p + _U1] >> _U32) == generation:
        if table[p + p] == key:
            return True
        p = (p + _U1) & last
    return False


@njit(nogil=True, cache=True)
def _bits_for(n, table):
    """log2 of the pairs to use for ``n`` keys: at most half of them full if all keys are new, and
    no more than there are. Few pairs stay in the cache."""
    bits = 6
    while (1 << bits) < min(2 * n, table.size // 2):
        bits += 1
    return np.uint64(bits)


@njit(nogil=True, cache=True)
def _grow(table, generation, scatter):
    """A table twice as large, with what ``generation`` has in this one."""
    larger = np.zeros(2 * table.size, np.uint64)
    bits = _bits_for(table.size, larger)
    last = (_U1 << bits) - _U1
    for i in range(0, table.size, 2):
        if (table[i + 1] >> _U32) == generation:
            p = (table[i] * scatter) >> (_U64 - bits)
            while larger[p + p + _U1] != _U0:
                p = (p + _U1) & last
            larger[p + p] = table[i]
            larger[p + p + _U1] = table[i + 1]
    return larger


@njit(nogil=True, cache=True, inline="always")
def _count_id(key, n_ids, table, bits, generation, scatter, counts):
    """(id of ``key``, ids given so far), and one more of it in ``counts``."""
    found, new = _find_or_insert(key, n_ids, table, bits, generation, scatter)
    count = counts[found]
    counts[found] = (_U0 if new else np.uint64(count)) + _U1
    return found, n_ids + new


@njit(nogil=True, cache=True)
def _number_words(hashes, n_words, table, generation, scatter, ids, counts):
    """Give words of one hash one id, 0, 1, ... in order of first sight.

    ids: uint32 [n_words]; counts: uint32 [> number of ids], how many words have each; table,
    generation, scatter: of _find_or_insert. Returns (number of ids, bits in use, table); the table
    is a larger one if the ids filled more than half of it.
    """
    bits = _bits_for(n_words, table)
    n_ids = _U0
    w = 0
    while True:
        room = _U1 << (bits - _U1)
        while w < n_words and n_ids < room:
            ids[w], n_ids = _count_id(hashes[w], n_ids, table, bits, generation, scatter, counts)
            w += 1
        if w == n_words:
            return np.int64(n_ids), bits, table
        table = _grow(table, generation, scatter)
        bits += _U1


@njit(nogil=True, cache=True)
def _number_pairs(positions, n, table, generation, scatter, ids, counts):
    """The same for the pairs (ids[w], ids[w + 1]) at ``positions``, uint32 [n], ascending: the id of
    a pair takes the place of ids[w]. Returns (number of ids, table)."""
    bits = _bits_for(n, table)
    n_ids = _U0
    q = 0
    while True:
        room = _U1 << (bits - _U1)
        while q < n and n_ids < room:
            w = np.uint64(positions[q])
            key = np.uint64(ids[w]) << _U32 | np.uint64(ids[w + _U1])
            ids[w], n_ids = _count_id(key, n_ids, table, bits, generation, scatter, counts)
            q += 1
        if q == n:
            return np.int64(n_ids), table
        table = _grow(table, generation, scatter)
        bits += _U1


@njit(nogil=True, cache=True)
def count_pieces(
    data, start, bounds, breaks, n_breaks, short_chars, table, generation, scatter, fineweb, repeated
):
    """Count what stands between "\\n": lines and paragraphs, and those that repeat an earlier one.

    bounds, breaks  of ``walk``
    table, scatter  of _find_or_insert; ``generation`` is free
    fineweb[1, 3:7] newlines; of the lines that hold a word: their number, how many end in a
                    TERMINAL (a space after it hides it, as in the published code), how many have at
                    most ``short_chars`` characters; characters of those that repeat
    repeated[0:6]   of ``re.split("\\n+", text)``: pieces, those that repeat, their characters; the
                    same of ``re.split("\\n{2,}", text.strip())``
    Returns the table, a larger one if it was too small.
    """
    # a paragraph ends at an empty line or at the end: n_breaks + 2 keys at most, and two a turn
    bits = _bits_for(n_breaks + 4, table)
    n_keys = 0
    size = breaks[n_breaks, AT]
    n_words = breaks[n_breaks, WORDS]
    stripped_start = bounds[0] if n_words else 0
    stripped_end = bounds[2 * n_words - 1] if n_words else 0
    paragraph = _U0
    paragraph_chars = -1
    n_paragraphs = 0
    byte = 0
    char = 0
    word = 0
    for b in range(n_breaks + 1):
        at = breaks[b, AT]
        if b < n_breaks:
            if data[start + at] != _NEWLINE:
                continue
            fineweb[1] += 1
        if n_keys + 2 > np.int64(1) << np.int64(bits - _U1):
            table = _grow(table, generation, scatter)
            bits += _U1
        chars = breaks[b, CHARS] - char
        last_word = breaks[b, WORDS]
        if at > byte:
            key = hash_bytes(data, np.int64(start + byte), np.int64(start + at))
            repeats = _find_or_insert(key, np.uint64(b), table, bits, generation, scatter)[1] == _U0
            n_keys += not repeats
            repeated[0] += 1
            repeated[1] += repeats
            repeated[2] += chars if repeats else 0
            if last_word > word:
                fineweb[3] += 1
                fineweb[4] += breaks[b, TERMINATED]
                fineweb[5] += chars <= short_chars
                fineweb[6] += chars if repeats else 0
            # white space at the ends of the text is of no paragraph
            if last_word > 0 and word < n_words:
                if byte < stripped_start or at > stripped_end:
                    first = max(byte, stripped_start)
                    last = min(at, stripped_end)
                    key, continuations = _hash_and_count(
                        data, np.int64(start + first), np.int64(start + last)
                    )
                    chars = last - first - continuations
                paragraph = (paragraph ^ key) * MIX_A
                paragraph ^= paragraph >> _U32
                paragraph_chars += chars + 1
        if paragraph_chars >= 0 and (at == byte or b == n_breaks):
            repeats = _find_or_insert(paragraph, np.uint64(b), table, bits, generation, scatter)[1] == _U0
            n_keys += not repeats
            n_paragraphs += 1
            repeated[4] += repeats
            repeated[5] += paragraph_chars if repeats else 0
            paragraph = _U0
            paragraph_chars = -1
        byte = at + 1
        char = breaks[b, CHARS] + 1
        word = last_word
    # splitting leaves an empty piece at an end where the text breaks, and is never empty itself
    if size == 0:
        repeated[0] = 1
    else:
        leading = data[start] == _NEWLINE
        trailing = data[start + size - 1] == _NEWLINE
        repeated[0] += leading + trailing
        repeated[1] += leading & trailing
    repeated[3] = max(n_paragraphs, 1)
    return table


@njit(nogil=True, cache=True)
def count_ngrams(hashes, chars, n_words, stop_hashes, max_n, table, generation, scatter, scratch, out):
    """Characters of repeated word n-grams of one text, and how many stop words it holds.

    hashes, chars   of hash_words
    max_n           n-grams are counted up to this n, 10 for all and 1 for none
    table, scatter  of _find_or_insert; ``generation`` and the 9 after it are free
    scratch         uint32 [4, > n_words]
    out[0:3]        for n = 2, 3, 4: characters of the most frequent n-gram with its n - 1 spaces,
                    times its count, also when that is 1; of equals the first; 0 if too few words
    out[3:9]        for n = 5 ... 10: characters (no spaces) of n-grams met before. The scan goes on
                    after a repeat with the word behind it, and knows only n-grams it stopped at.
    Returns (different stop words, table); the table is a larger one if it was too small.
    """
    ids, counts, positions, seen = scratch[0], scratch[1], scratch[2], scratch[3]
    for n in TOP_NGRAMS:
        out[n - 2] = chars[n] + n - 1 if n_words >= n else 0
    n_ids, bits, table = _number_words(hashes, n_words, table, generation, scatter, ids, counts)
    stop_words = 0
    for s in range(stop_hashes.size):
        stop_words += _holds(stop_hashes[s], table, bits, generation, scatter)
    m = 0
    for i in range(n_words - 1):
        positions[m] = i
        m += (counts[ids[i]] > 1) & (counts[ids[i + 1]] > 1)
    for n in range(2, max_n + 1):
        if m == 0:
            break
        generation += _U1
        n_ids, table = _number_pairs(positions, m, table, generation, scatter, ids, counts)
        if n <= TOP_NGRAMS[-1]:
            best = np.int64(1)
            for g in range(n_ids):
                best = max(best, np.int64(counts[g]))
            if best > 1:
                q = 0
                while counts[ids[positions[q]]] != best:
                    q += 1
                w = np.int64(positions[q])
                out[n - 2] = best * (chars[w + n] - chars[w] + n - 1)
        else:
            for g in range(n_ids):
                seen[g] = 0
            q = 0
            while q < m:
                w = np.int64(positions[q])
                if seen[ids[w]]:
                    out[n - 2] += chars[w + n] - chars[w]
                    # mostly the positions go on one by one
                    if q + n < m and positions[q + n] == w + n:
                        q += n
                    else:
                        while q < m and positions[q] < w + n:
                            q += 1
                else:
                    seen[ids[w]] = 1
                    q += 1
        # on to the positions where this n-gram and the one a word later both repeat
        left = 0
        previous = np.int64(-2)
        for q in range(m):
            w = np.int64(positions[q])
            repeats = counts[ids[w]] > 1
            positions[left] = w - 1
            left += repeats & (previous == w - 1)
            previous = w if repeats else previous
        m = left
    return stop_words, table
