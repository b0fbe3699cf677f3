"""Word n-grams that texts share with evaluation items, for decontamination.

Words are those of kernels/text/folding.py: case, punctuation and line breaks do not matter. An
item of w words is looked for by its runs of min(n, w) words, so that a short item is one run, the
whole of it. A run is known by a 64-bit hash: among D words of text and G n-grams about D G / 2^64
matches are chance, 10^-2 for 10^12 words and 10^5 n-grams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from kernels.text.folding import LONG_WORDS, character_table, find_words, hash_words, reference_words, room
from kernels.text.hashing import GOLDEN, MIX_A

_EMPTY = np.int32(-1)


@dataclass(frozen=True)
class NgramIndex:
    """The distinct n-grams of items, numbered from 0 in the order of their hashes."""

    hashes: np.ndarray
    """Hash of each n-gram, uint64 [num_ngrams], rising."""
    words: np.ndarray
    """Words of each n-gram, int64 [num_ngrams]."""
    item_starts: np.ndarray
    """Where each item's n-grams begin in ``item_ngrams``, int64 [num_items + 1]."""
    item_ngrams: np.ndarray
    """The distinct n-grams of each item, rising, one item after the other, int64."""
    ngram_starts: np.ndarray
    """Where each n-gram's items begin in ``ngram_items``, int64 [num_ngrams + 1]."""
    ngram_items: np.ndarray
    """The items of each n-gram, rising, one n-gram after the other, int64."""
    slots: np.ndarray
    """Hash table of n-gram numbers, int32 [a power of two], -1 where empty."""
    bits: np.ndarray
    """A bit for the lowest bits of each hash, uint64: most words of most texts go no further, and
    it fits a cache that the table does not."""

    @property
    def num_items(self) -> int:
        return len(self.item_starts) - 1


@njit(nogil=True, cache=True)
def _sum_words(hashes, num_words):
    """Turn word hashes into sums of the words before: [num_words] -> [num_words + 1], in place."""
    total = np.uint64(0)
    for w in range(num_words):
        word = hashes[w]
        hashes[w] = total
        total = total * GOLDEN + word
    hashes[num_words] = total


@njit(nogil=True, cache=True)
def _ngram_hash(sums, first, length, power):
    # the words' polynomial in GOLDEN, whatever stands before them
    value = (sums[first + length] - sums[first] * power) * MIX_A
    return value ^ (value >> np.uint64(32))


@njit(nogil=True, cache=True)
def _powers(longest):
    powers = np.ones(longest + 1, np.uint64)
    for n in range(longest):
        powers[n + 1] = powers[n] * GOLDEN
    return powers


@njit(nogil=True, cache=True)
def _scratch(offsets):
    """For the longest text: folded bytes, ends of words, hashes of words, what hashing works in."""
    longest = np.int64(0)
    for d in range(offsets.size - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    num_bytes, num_ends = room(longest)
    out = np.empty(num_bytes, np.uint8)
    ends = np.empty(num_ends, np.int64)
    return out, ends, np.empty(num_ends, np.uint64), np.empty(LONG_WORDS, np.int64)


@njit(nogil=True, cache=True)
def _count_item_ngrams(data, offsets, table, ngram, min_ngram, starts, lengths):
    out, ends, _, _ = _scratch(offsets)
    for d in range(lengths.size):
        num_words = find_words(data, offsets[d], offsets[d + 1], table, out, ends)
        lengths[d] = min(ngram, num_words) if num_words >= min_ngram else 0
        starts[d + 1] = starts[d] + (num_words - lengths[d] + 1 if lengths[d] else 0)


@njit(nogil=True, cache=True)
def _hash_item_ngrams(data, offsets, table, powers, starts, lengths, hashes):
    out, ends, sums, long_words = _scratch(offsets)
    for d in range(lengths.size):
        num_words = find_words(data, offsets[d], offsets[d + 1], table, out, ends)
        hash_words(out, ends, num_words, sums, long_words)
        _sum_words(sums, num_words)
        for i in range(starts[d + 1] - starts[d]):
            hashes[starts[d] + i] = _ngram_hash(sums, i, lengths[d], powers[lengths[d]])


@njit(nogil=True, cache=True)
def _has_bit(bits, value):
    at = value & np.uint64(64 * bits.size - 1)
    return (bits[np.int64(at >> np.uint64(6))] >> (at & np.uint64(63))) & np.uint64(1)


@njit(nogil=True, cache=True)
def _fill_slots(hashes, slots, bits):
    mask = slots.size - 1
    for number in range(hashes.size):
        bit = hashes[number] & np.uint64(64 * bits.size - 1)
        bits[np.int64(bit >> np.uint64(6))] |= np.uint64(1) << (bit & np.uint64(63))
        at = np.int64(hashes[number] & np.uint64(mask))
        while slots[at] != _EMPTY:
            at = (at + 1) & mask
        slots[at] = number


def build_index(data: np.ndarray, offsets: np.ndarray, ngram: int = 13, min_ngram: int = 8) -> NgramIndex:
    """The n-grams of items, whose texts are ``data`` and ``offsets`` as of :func:`text_buffers`.

    An item of fewer than ``min_ngram`` words has none: so short a text is found everywhere.
    """
    if not 1 <= min_ngram <= ngram:
        raise ValueError(f"min_ngram ({min_ngram}) must lie in 1..ngram ({ngram})")
    num_items = len(offsets) - 1
    table = character_table()
    starts, lengths = np.zeros(num_items + 1, np.int64), np.zeros(num_items, np.int64)
    _count_item_ngrams(data, offsets, table, ngram, min_ngram, starts, lengths)
    found = np.empty(starts[-1], np.uint64)
    _hash_item_ngrams(data, offsets, table, _powers(ngram), starts, lengths, found)
    hashes, first, number = np.unique(found, return_index=True, return_inverse=True)
    items = np.repeat(np.arange(num_items), np.diff(starts))
    pairs = np.unique(items * max(len(hashes), 1) + number)
    items, ngrams = np.divmod(pairs, max(len(hashes), 1))
    by_ngram = np.argsort(ngrams, kind="stable")
    # at least two slots and sixteen bits for each n-gram
    size = 1 << max(4, (2 * len(hashes) - 1).bit_length())
    slots, bits = np.full(size, _EMPTY, np.int32), np.zeros(size // 8, np.uint64)
    _fill_slots(hashes, slots, bits)
    return NgramIndex(
        hashes=hashes,
        words=np.repeat(lengths, np.diff(starts))[first],
        item_starts=np.searchsorted(items, np.arange(num_items + 1)),
        item_ngrams=ngrams,
        ngram_starts=np.searchsorted(ngrams[by_ngram], np.arange(len(hashes) + 1)),
        ngram_items=items[by_ngram],
        slots=slots,
        bits=bits,
    )


@njit(nogil=True, cache=True)
def _find_ngrams(data, offsets, table, lengths, powers, hashes, slots, bits):
    out, ends, sums, long_words = _scratch(offsets)
    mask = slots.size - 1
    found = np.empty((1024, 3), np.int64)
    count = np.int64(0)
    for d in range(offsets.size - 1):
        num_words = find_words(data, offsets[d], offsets[d + 1], table, out, ends)
        if num_words < lengths[0]:
            continue
        hash_words(out, ends, num_words, sums, long_words)
        _sum_words(sums, num_words)
        for i in range(num_words - lengths[0] + 1):
            for length in lengths:
                if i + length > num_words:
                    break
                value = _ngram_hash(sums, i, length, powers[length])
                if not _has_bit(bits, value):
                    continue
                at = np.int64(value & np.uint64(mask))
                while slots[at] != _EMPTY and hashes[slots[at]] != value:
                    at = (at + 1) & mask
                if slots[at] == _EMPTY:
                    continue
                if count == found.shape[0]:
                    more = np.empty((2 * count, 3), np.int64)
                    more[:count] = found
                    found = more
                found[count, 0] = d
                found[count, 1] = i
                found[count, 2] = slots[at]
                count += 1
    return found[:count]


def find_ngrams(
    data: np.ndarray, offsets: np.ndarray, index: NgramIndex
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the texts hold n-grams of the index: (text, its first word, n-gram), int64 [n] each.

    In order of text and word; a place where n-grams of several lengths begin comes once for each.
    """
    lengths = np.unique(index.words)
    if not len(lengths):
        return (np.empty(0, np.int64),) * 3
    powers = _powers(lengths[-1])
    found = _find_ngrams(
        data, offsets, character_table(), lengths, powers, index.hashes, index.slots, index.bits
    )
    text, word, ngram = np.ascontiguousarray(found.T)
    return text, word, ngram


@njit(nogil=True, cache=True)
def _find_items(texts, ngrams, ngram_starts, ngram_items, sizes, min_share, min_ngrams):
    seen = np.zeros(sizes.size, np.int64)
    touched = np.empty(sizes.size, np.int64)
    found = np.empty((16, 2), np.int64)
    count = np.int64(0)
    end = np.int64(0)
    while end < texts.size:
        text = texts[end]
        num_touched = np.int64(0)
        while end < texts.size and texts[end] == text:
            for k in range(ngram_starts[ngrams[end]], ngram_starts[ngrams[end] + 1]):
                item = ngram_items[k]
                if seen[item] == 0:
                    touched[num_touched] = item
                    num_touched += 1
                seen[item] += 1
            end += 1
        for item in np.sort(touched[:num_touched]):
            if seen[item] >= min_ngrams and seen[item] / sizes[item] >= min_share:
                if count == found.shape[0]:
                    more = np.empty((2 * count, 2), np.int64)
                    more[:count] = found
                    found = more
                found[count, 0] = text
                found[count, 1] = item
                count += 1
            seen[item] = 0
    return found[:count]


def find_items(
    texts: np.ndarray,
    ngrams: np.ndarray,
    index: NgramIndex,
    sizes: np.ndarray,
    min_share: float,
    min_ngrams: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Which items the texts hold: (text, item), int64 [n] each, in this order.

    ``texts`` and ``ngrams``, int64 [m], are distinct pairs in order of text; ``sizes`` [num_items]
    is how many n-grams of each item count. A text holds an item by at least ``min_ngrams`` of
    them and at least the share ``min_share``. Memory depends on the items, not on the texts.
    """
    found = _find_items(
        texts, ngrams, index.ngram_starts, index.ngram_items, sizes, float(min_share), min_ngrams
    )
    text, item = np.ascontiguousarray(found.T)
    return text, item


@njit(nogil=True, cache=True)
def _word_start(data, offsets, table, word, out, ends):
    """Where the code point stands that begins the word, or the end of the text."""
    low, high = offsets[0], offsets[1] + 1
    # the words of a beginning of the text are no fewer the longer it is
    while low < high:
        middle = (low + high) // 2
        if middle > offsets[1] or find_words(data, offsets[0], middle, table, out, ends) > word:
            high = middle
        else:
            low = middle + 1
    if low > offsets[1]:
        return offsets[1]
    low -= 1
    while low > offsets[0] and data[low] & 0xC0 == 0x80:
        low -= 1
    return low


@njit(nogil=True, cache=True)
def _word_span(data, offsets, table, first, last):
    out, ends, _, _ = _scratch(offsets)
    start = _word_start(data, offsets, table, first, out, ends)
    return start, _word_start(data, offsets, table, last + 1, out, ends)


def word_span(data: np.ndarray, offsets: np.ndarray, text: int, first: int, last: int) -> tuple[int, int]:
    """Bytes (start, end) of ``data`` from word ``first`` of a text up to where word ``last`` + 1
    begins. Reads the text some forty times: for an excerpt here and there."""
    start, end = _word_span(data, offsets[text : text + 2], character_table(), first, last)
    return int(start), int(end)


def reference_ngrams(text: str, ngram: int, min_ngram: int) -> list[tuple[str, ...]]:
    """The n-grams of an item in plain Python, in order of place."""
    words = reference_words(text)
    length = min(ngram, len(words))
    if length < min_ngram:
        return []
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]


def reference_matches(text: str, items: list[set[tuple[str, ...]]]) -> set[tuple[int, int, int]]:
    """(first word, words, item) of every n-gram of ``items`` in the text, in plain Python."""
    words = reference_words(text)
    lengths = {len(ngram) for item in items for ngram in item}
    return {
        (i, n, number)
        for n in lengths
        for i in range(len(words) - n + 1)
        for number, item in enumerate(items)
        if tuple(words[i : i + n]) in item
    }
