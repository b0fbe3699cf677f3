"""MinHash signatures of texts (Broder 1997), from Arrow's buffers to band hashes.

Words. Characters are Unicode code points, each taken alone, by their general category:
separators and control characters (Z*, Cc) end a word; punctuation, symbols, format and private-use
characters (P*, S*, Cf, Co) vanish, and the word goes on ("don't" is "dont", "x_1" is "x1"); all
others are kept: letters case-folded (where that is one code point, else lower-cased, else as they
are), digits, marks, and what this Python's Unicode does not know yet. In the scripts written
without spaces (CJK ideographs, kana, Thai, Lao, Khmer) each code point kept is a word.

Shingles. A word is hashed to 64 bits, n words in a row to 32. A text of fewer than n words has one
shingle, of what is there; a text without words has none, and an all-ones signature.

Slots. Those of datasketch 2.0's ``affine32`` for the same shingles and seed: the shingle through
MurmurHash3's finalizer, then min(a x + b mod 2^32), a odd.

Numba widens uint32 arithmetic to uint64, so each step below is narrowed again by hand.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np
from numba import njit

from kernels.text.hashing import GOLDEN, MIX_A, MIX_B, load64

EMPTY_SLOT = 0xFFFFFFFF
_SPACE = 32
_ALONE = 1 << 31  # flag in the table: this code point is a word of its own
_SPACELESS = (
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0xFF66, 0xFF9F),
    (0x3400, 0x4DBF),  # CJK ideographs
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_TAIL_MASKS = np.array([(1 << 8 * k) - 1 for k in range(9)], np.uint64)
_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1


@cache
def character_table() -> np.ndarray:
    """What becomes of each code point, uint32 [0x110000]: 0 vanishes, 32 ends the word, else the
    code point it is folded to, with the highest bit set where it is a word of its own."""
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    # Planes 2 and 3 are ideographs, 4 to 13 are not assigned, 15 and 16 are private use.
    for code in (*range(0x20000), *range(0xE0000, 0xE1000)):
        table[code] = _character(chr(code))
    table[0x20000:0x40000] |= np.uint32(_ALONE)
    table[0xF0000:] = 0
    return table


def _character(char: str) -> int:
    category = unicodedata.category(char)
    if category[0] == "Z" or category == "Cc":
        return _SPACE
    if category[0] in "PS" or category in ("Cf", "Co", "Cs"):
        return 0
    code = ord(char)
    if category[0] == "L" and category != "Lo":
        code = ord(next(c for c in (char.casefold(), char.lower(), char) if len(c) == 1))
    return code | _ALONE if any(low <= ord(char) <= high for low, high in _SPACELESS) else code


@cache
def permutations(num_slots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The multipliers (odd) and addends of the slots, both uint32 [num_slots].

    Drawn as datasketch 2.0 draws those of ``MinHash(num_slots, seed, scheme="affine32")``.
    """
    draw = np.random.RandomState(seed).randint
    multipliers = draw(0, 1 << 31, num_slots, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return multipliers, draw(0, 1 << 32, num_slots, dtype=np.uint32)


@njit(nogil=True, cache=True)
def _find_words(data, start, end, table, out, ends):
    """Write the kept bytes of data[start:end] back to back, and where each word ends."""
    size = np.int64(0)
    last = np.int64(0)
    num_words = np.int64(0)
    i = start
    while i < end:
        byte = data[i]
        if byte < 128:
            # written always, kept by moving on: no branch to mispredict
            mapped = table[byte]
            out[size] = mapped
            is_space = mapped == _SPACE
            size += np.int64(mapped > _SPACE)
            ends[num_words] = size
            num_words += np.int64(is_space & (size != last))
            last = size if is_space else last
            i += 1
            continue
        width = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        if i + width > end:
            break
        code = np.int64(byte & (0x7F >> width))
        for j in range(1, width):
            code = (code << 6) | np.int64(data[i + j] & 63)
        i += width
        mapped = table[code] if code < table.size else np.uint32(0)
        if mapped == 0:
            continue
        alone = mapped >= _ALONE
        if (alone or mapped == _SPACE) and size != last:
            ends[num_words] = size
            num_words += 1
            last = size
        if mapped == _SPACE:
            continue
        size = _write_utf8(out, size, np.int64(mapped) & (_ALONE - 1))
        if alone:
            ends[num_words] = size
            num_words += 1
            last = size
    if size != last:
        ends[num_words] = size
        num_words += 1
    return num_words


@njit(nogil=True, cache=True)
def _write_utf8(out, at, code):
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at] = 0xC0 | (code >> 6)
        out[at + 1] = 0x80 | (code & 63)
        return at + 2
    if code < 0x10000:
        out[at] = 0xE0 | (code >> 12)
        out[at + 1] = 0x80 | ((code >> 6) & 63)
        out[at + 2] = 0x80 | (code & 63)
        return at + 3
    out[at] = 0xF0 | (code >> 18)
    out[at + 1] = 0x80 | ((code >> 12) & 63)
    out[at + 2] = 0x80 | ((code >> 6) & 63)
    out[at + 3] = 0x80 | (code & 63)
    return at + 4


@njit(nogil=True, cache=True)
def _hash_words(out, ends, num_words, hashes):
    at = np.int64(0)
    for w in range(num_words):
        end = np.int64(ends[w])
        value = np.uint64(end - at) * GOLDEN
        while end - at > 8:
            value = (value ^ load64(out, at)) * MIX_A
            value ^= value >> np.uint64(32)
            at += 8
        value = (value ^ (load64(out, at) & _TAIL_MASKS[end - at])) * MIX_A
        hashes[w] = value ^ (value >> np.uint64(29))
        at = end


@njit(nogil=True, cache=True)
def _hash_shingles(hashes, num_words, ngram, shingles):
    """Shingles of the words, already through MurmurHash3's finalizer; returns how many."""
    length = min(ngram, num_words)
    count = num_words - length + 1 if num_words else 0
    for i in range(count):
        value = hashes[i]
        for j in range(1, length):
            value = value * GOLDEN + hashes[i + j]
        shingle = np.uint32((value * MIX_B) >> np.uint64(32))
        shingle = np.uint32(shingle ^ (shingle >> np.uint32(16)))
        shingle = np.uint32(shingle * np.uint32(0x85EBCA6B))
        shingle = np.uint32(shingle ^ (shingle >> np.uint32(13)))
        shingle = np.uint32(shingle * np.uint32(0xC2B2AE35))
        shingles[i] = np.uint32(shingle ^ (shingle >> np.uint32(16)))
    return count


@njit(nogil=True, cache=True)
def _update_slots(shingles, count, multipliers, addends, slots):
    for k in range(slots.size):
        a = multipliers[k]
        b = addends[k]
        lowest = np.uint32(EMPTY_SLOT)
        for j in range(count):
            lowest = min(lowest, np.uint32(np.uint32(a * shingles[j]) + b))
        slots[k] = lowest


@njit(nogil=True, cache=True)
def _signatures(data, offsets, ngram, table, multipliers, addends, slots, num_shingles):
    longest = np.int64(0)
    for d in range(num_shingles.size):
        longest = max(longest, offsets[d + 1] - offsets[d])
    # folding lengthens a code point from 2 bytes to 3 at most; each word takes 2 bytes or more
    out = np.empty(longest + longest // 2 + 16, np.uint8)
    ends = np.empty(longest // 2 + 2, np.int64)
    hashes = np.empty(longest // 2 + 2, np.uint64)
    shingles = np.empty(longest // 2 + 2, np.uint32)
    for d in range(num_shingles.size):
        num_words = _find_words(data, offsets[d], offsets[d + 1], table, out, ends)
        _hash_words(out, ends, num_words, hashes)
        num_shingles[d] = _hash_shingles(hashes, num_words, ngram, shingles)
        _update_slots(shingles, num_shingles[d], multipliers, addends, slots[d])


def signatures(
    data: np.ndarray, offsets: np.ndarray, num_slots: int = 112, ngram: int = 5, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """(slots uint32 [n, num_slots], shingles of each text int64 [n], 0 where it has no words).

    ``data`` uint8 and ``offsets`` int64 [n + 1] are those of :func:`text_buffers`. Bytes that are
    not UTF-8 give arbitrary words, but no read outside the text.
    """
    if num_slots < 1 or ngram < 1:
        raise ValueError(f"num_slots ({num_slots}) and ngram ({ngram}) must be at least 1")
    n = len(offsets) - 1
    slots = np.empty((n, num_slots), np.uint32)
    num_shingles = np.empty(n, np.int64)
    a, b = permutations(num_slots, seed)
    _signatures(data, offsets, ngram, character_table(), a, b, slots, num_shingles)
    return slots, num_shingles


@njit(nogil=True, cache=True)
def _band_hashes(slots, rows, out):
    for d in range(out.shape[0]):
        for band in range(out.shape[1]):
            # the band's number goes in, so that a hash belongs to one band
            value = np.uint64(band + 1) * GOLDEN
            for k in range(band * rows, (band + 1) * rows):
                value = (value ^ np.uint64(slots[d, k])) * MIX_A
                value ^= value >> np.uint64(32)
            out[d, band] = value


def band_hashes(slots: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """One hash for each band of ``rows`` slots, uint64 [n, bands]; equal where the slots are equal.

    Slots beyond bands x rows are not used. Among n texts about bands n^2 / 2^65 pairs meet by
    chance.
    """
    if bands < 1 or rows < 1 or bands * rows > slots.shape[1]:
        raise ValueError(f"{bands} bands of {rows} rows do not fit {slots.shape[1]} slots")
    out = np.empty((len(slots), bands), np.uint64)
    _band_hashes(slots, rows, out)
    return out


def band_signatures(data, offsets, bands, rows, ngram=5, seed=1):
    """Band hashes uint64 [n, bands] and shingles int64 [n]."""
    slots, num_shingles = signatures(data, offsets, bands * rows, ngram, seed)
    return band_hashes(slots, bands, rows), num_shingles


@njit(nogil=True, cache=True)
def _text_shingles(data, offsets, ngram, table, values, starts):
    longest = np.int64(0)
    for d in range(starts.size - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    out = np.empty(longest + longest // 2 + 16, np.uint8)
    ends = np.empty(longest // 2 + 2, np.int64)
    hashes = np.empty(longest // 2 + 2, np.uint64)
    for d in range(starts.size - 1):
        num_words = _find_words(data, offsets[d], offsets[d + 1], table, out, ends)
        _hash_words(out, ends, num_words, hashes)
        at = starts[d]
        starts[d + 1] = at + _hash_shingles(hashes, num_words, ngram, values[at:])


def text_shingles(data: np.ndarray, offsets: np.ndarray, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Shingles of the texts in their order, finalized: (values uint32 [m], starts int64 [n + 1])."""
    values = np.empty((offsets[-1] - offsets[0]) // 2 + len(offsets), np.uint32)
    starts = np.zeros(len(offsets), np.int64)
    _text_shingles(data, offsets, ngram, character_table(), values, starts)
    return values[: starts[-1]], starts


def reference_words(text: str) -> list[str]:
    """The word rule above in plain Python, the contract of the kernel."""
    words = [""]
    for char in text:
        mapped = _character(char)
        kept = chr(mapped & ~_ALONE) if mapped not in (0, _SPACE) else ""
        if mapped == _SPACE or mapped & _ALONE:
            words += [kept, ""]
        else:
            words[-1] += kept
    return [word for word in words if word]


def reference_shingles(text: str, ngram: int = 5) -> list[int]:
    """32-bit hash of each run of ``ngram`` words, before the finalizer, in plain Python."""
    hashes = [_reference_word_hash(word.encode()) for word in reference_words(text)]
    length = min(ngram, len(hashes))
    shingles = []
    for i in range(len(hashes) - length + 1 if hashes else 0):
        value = 0
        for word_hash in hashes[i : i + length]:
            value = value * int(GOLDEN) + word_hash & _MASK64
        shingles.append((value * int(MIX_B) & _MASK64) >> 32)
    return shingles


def _reference_word_hash(word: bytes) -> int:
    value = len(word) * int(GOLDEN) & _MASK64
    for i in range(0, len(word), 8):
        value = (value ^ int.from_bytes(word[i : i + 8], "little")) * int(MIX_A) & _MASK64
        value ^= value >> (32 if i + 8 < len(word) else 29)
    return value


def reference_signature(shingles: list[int], num_slots: int = 112, seed: int = 1) -> list[int]:
    """The slots of a set of shingles in plain Python."""

    def finalize(x: int) -> int:
        x = (x ^ x >> 16) * 0x85EBCA6B & _MASK32
        x = (x ^ x >> 13) * 0xC2B2AE35 & _MASK32
        return x ^ x >> 16

    mixed = [finalize(shingle) for shingle in shingles]
    a, b = (array.tolist() for array in permutations(num_slots, seed))
    return [min(((a[k] * x + b[k]) & _MASK32 for x in mixed), default=EMPTY_SLOT) for k in range(num_slots)]
