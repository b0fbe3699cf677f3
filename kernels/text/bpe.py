"""Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) from Arrow's buffers to token ids.

A text is cut into pre-tokens (``bpe_split``); most of them were seen before, so a table gives their
ids. Only a pre-token that it does not know is put together from its bytes by the tokenizer's
merges. The ids are those of the ``tokenizers`` library, which is the contract.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit

from kernels.text.bpe_model import (
    NONE,
    byte_characters,
    find_merge,
    hash_bytes,
    read_model,
    same_bytes,
    whole_word,
)
from kernels.text.bpe_split import (
    END_BYTE,
    byte_at,
    half_at,
    next_piece,
    store_word,
    unicode_classes,
    word_at,
)
from kernels.text.buffers import text_buffers
from kernels.text.hashing import GOLDEN, MIX_A, MIX_B

_BLANK = ord(" ")
_LOW32 = np.uint64(0xFFFFFFFF)
_ZERO = np.uint64(0)

# An entry of the cache is four words: two of key, two of ids. Pre-tokens of up to 14 bytes are
# their own key: bytes, their number in the highest byte, the number of ids below it. Longer ones
# have a hash for a key, and their bytes in the pool behind their ids. More than four ids are in
# the pool too; the third word says where.
_CACHE_BITS = 18
_CACHE_WAYS = 4
_ENTRY_BYTES = 32
_POOL_WORDS = 1 << 20
_EXACT_BYTES = 14
_CACHED_BYTES = 255
_INLINE_IDS = 4
_SIZE_SHIFT, _COUNT_SHIFT, _BYTE = np.uint64(56), np.uint64(48), np.uint64(255)
_KEY_BITS = np.uint64(0xFF00FFFFFFFFFFFF)
_LONG = np.uint64(0xFF << 56)
_HOME_SHIFT = np.uint64(64 - _CACHE_BITS)
_S32 = np.uint64(32)
# which bits of the first and of the second eight bytes belong to a pre-token of n bytes
_FIRST = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(_EXACT_BYTES + 1)], np.uint64)
_SECOND = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(_EXACT_BYTES + 1)], np.uint64)
# above this a heap finds the next merge, so that no pre-token takes quadratic time
_SCAN_BYTES = 64


@njit(nogil=True, cache=True)
def _merge_by_scan(ids, count, pairs, merges, shift):
    """Merge ids[:count] in place, lowest rank first, leftmost of equals; the new count."""
    for i in range(count - 1):
        pairs[i] = find_merge(merges, shift, ids[i], ids[i + 1])
    while count > 1:
        best = 0
        for i in range(1, count - 1):
            if pairs[i] < pairs[best]:
                best = i
        if pairs[best] == NONE:
            break
        ids[best] = pairs[best] & _LOW32
        count -= 1
        for i in range(best + 1, count):
            ids[i] = ids[i + 1]
            pairs[i - 1] = pairs[i]
        # pairs[best] is now that of the pair after the merged one
        if best < count - 1:
            pairs[best] = find_merge(merges, shift, ids[best], ids[best + 1])
        if best > 0:
            pairs[best - 1] = find_merge(merges, shift, ids[best - 1], ids[best])
    return count


@njit(nogil=True, cache=True)
def _push(heap, size, value):
    at = size
    while at > 0 and heap[(at - 1) >> 1] > value:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = value


@njit(nogil=True, cache=True)
def _pop(heap, size):
    """Take the smallest off; heap[size - 1] is free after it."""
    smallest = heap[0]
    value = heap[size - 1]
    size -= 1
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value
    return smallest


@njit(nogil=True, cache=True)
def _merge_by_heap(ids, count, merges, shift):
    """As :func:`_merge_by_scan`, in time count x log(count)."""
    after = np.arange(1, count + 1)
    before = np.arange(-1, count - 1)
    # the merge of each id with the one after it; all ones when there is none, or no such id
    pairs = np.full(count, NONE, np.uint64)
    # rank << 32 | position; an entry that no longer fits its position is skipped
    heap = np.empty(2 * count, np.uint64)
    size = 0
    for i in range(count - 1):
        pairs[i] = find_merge(merges, shift, ids[i], ids[i + 1])
        if pairs[i] != NONE:
            _push(heap, size, (pairs[i] & ~_LOW32) | np.uint64(i))
            size += 1
    while size > 0:
        entry = _pop(heap, size)
        size -= 1
        i = int(entry & _LOW32)
        if pairs[i] == NONE or (pairs[i] ^ entry) >> _S32 != 0:
            continue
        ids[i] = pairs[i] & _LOW32
        gone = after[i]
        pairs[gone] = NONE
        after[i] = after[gone]
        pairs[i] = NONE
        if after[i] < count:
            before[after[i]] = i
            pairs[i] = find_merge(merges, shift, ids[i], ids[after[i]])
            if pairs[i] != NONE:
                _push(heap, size, (pairs[i] & ~_LOW32) | np.uint64(i))
                size += 1
        h = before[i]
        if h >= 0:
            pairs[h] = find_merge(merges, shift, ids[h], ids[i])
            if pairs[h] != NONE:
                _push(heap, size, (pairs[h] & ~_LOW32) | np.uint64(h))
                size += 1
    kept = 0
    i = 0
    while i < count:
        ids[kept] = ids[i]
        kept += 1
        i = after[i]
    return kept


@njit(nogil=True, cache=True)
def _merge(at, size, model, pairs, ids):
    """Write the ids of a pre-token to ``ids`` without the cache; how many."""
    word = whole_word(at, size, model)
    if word >= 0:
        ids[0] = word
        return np.int64(1)
    for i in range(size):
        ids[i] = model.byte_ids[byte_at(at + i)]
    if size <= _SCAN_BYTES:
        return np.int64(_merge_by_scan(ids, size, pairs, model.merges, model.merge_shift))
    return np.int64(_merge_by_heap(ids, size, model.merges, model.merge_shift))


@njit(nogil=True, cache=True)
def _key(at, size):
    """(key, tail, address of its first entry) of a pre-token of 1 to 255 bytes."""
    if size <= _EXACT_BYTES:
        key = word_at(at) & _FIRST[size]
        tail = (word_at(at + 8) & _SECOND[size]) | (np.uint64(size) << _SIZE_SHIFT)
    else:
        key = hash_bytes(at, size)
        tail = _LONG | np.uint64(size)
    value = (key ^ (tail * MIX_A)) * GOLDEN
    value = (value ^ (value >> _S32)) * MIX_B
    return key, tail, np.int64(value >> _HOME_SHIFT)


@njit(nogil=True, cache=True)
def _copy_known(at, stop, pattern, classes, cache, pool, out):
    """Write the ids of pre-tokens up to the first that is not in the cache.

    All are integers; all but ``pattern`` are addresses. Returns (at, out): where it stands now.
    """
    while at < stop:
        end = next_piece(at, pattern, classes)
        size = end - at
        if size > _CACHED_BYTES:
            return at, out
        key, tail, home = _key(at, size)
        entry = cache + home * _ENTRY_BYTES
        found = word_at(entry + 8)
        if (found & _KEY_BITS) != tail or word_at(entry) != key:
            last = entry + (_CACHE_WAYS - 1) * _ENTRY_BYTES
            while (found & _KEY_BITS) != tail or word_at(entry) != key:
                if found == _ZERO or entry == last:
                    return at, out
                entry += _ENTRY_BYTES
                found = word_at(entry + 8)
        count = np.int64((found >> _COUNT_SHIFT) & _BYTE)
        if size <= _EXACT_BYTES and count <= _INLINE_IDS:
            # four always, as many as there are count: no branch on their number
            store_word(out, word_at(entry + 16))
            store_word(out + 8, word_at(entry + 24))
        else:
            start = pool + 4 * np.int64(word_at(entry + 16))
            if size > _EXACT_BYTES and not same_bytes(start + 4 * count, at, size):
                return at, out
            for i in range(0, count, 2):
                store_word(out + 4 * i, word_at(start + 4 * i))
        out += 4 * count
        at = end
    return at, out


@njit(nogil=True, cache=True)
def _remember(at, size, ids, cache, pool, pool_used):
    """Put a pre-token into the cache with its ids, over another one where there is no room."""
    count = ids.size
    key, tail, entry = _key(at, size)
    first = entry
    while cache[entry, 1] != 0 and entry < first + _CACHE_WAYS:
        entry += 1
    if entry == first + _CACHE_WAYS:
        entry = first
    exact = size <= _EXACT_BYTES
    if not exact or count > _INLINE_IDS:
        need = count + (0 if exact else (size + 11) // 4)
        if pool_used[0] + need >= pool.size:
            # begin anew: what is in use will soon be back
            cache[:] = 0
            pool_used[0] = 0
        start = pool_used[0]
        pool_used[0] += need
        pool[start : start + count] = ids
        if not exact:
            for i in range((size + 3) // 4):
                pool[start + count + i] = half_at(at + 4 * i)
        cache[entry, 2] = start
    else:
        for i in range(count):
            half = np.uint64(ids[i]) << np.uint64(32 * (i & 1))
            cache[entry, 2 + i // 2] = half if i % 2 == 0 else cache[entry, 2 + i // 2] | half
    cache[entry, 0] = key
    cache[entry, 1] = tail | (np.uint64(count) << _COUNT_SHIFT)


@njit(nogil=True, cache=True)
def _encode_text(at, stop, model, pairs, cache, pool, pool_used, ids, k):
    """Write the ids of the text between two addresses to ids[k:]; where they end."""
    classes = np.int64(model.classes.ctypes.data)
    first = np.int64(ids.ctypes.data)
    while True:
        at, out = _copy_known(
            at,
            stop,
            model.pattern,
            classes,
            np.int64(cache.ctypes.data),
            np.int64(pool.ctypes.data),
            first + 4 * k,
        )
        k = (out - first) // 4
        if at >= stop:
            return k
        size = next_piece(at, model.pattern, classes) - at
        count = _merge(at, size, model, pairs, ids[k:])
        if size <= _CACHED_BYTES:
            _remember(at, size, ids[k : k + count], cache, pool, pool_used)
        at += size
        k += count


@njit(nogil=True, cache=True)
def _next_added(data, i, end, model):
    """(start, bytes, id) of the first added token in data[i:end]; (end, 0, -1) without one."""
    while i < end:
        first = np.int64(data[i])
        second = np.int64(data[i + 1]) if i + 1 < end else np.int64(0)
        if not model.added_begin[first << 8 | second]:
            i += 1
            continue
        size = np.int64(0)
        for token in range(model.added_starts[first], model.added_starts[first + 1]):
            start = model.added_offsets[token]
            length = model.added_offsets[token + 1] - start
            if length > end - i:
                continue
            same = True
            for j in range(length):
                if data[i + j] != model.added[start + j]:
                    same = False
                    break
            if same:
                size = length
                if model.added_ids[token] >= 0:
                    return i, size, model.added_ids[token]
                break
        # one that stays text is passed whole, as tokenizers does
        i += max(size, 1)
    return end, np.int64(0), np.int64(-1)


@njit(nogil=True, cache=True)
def _encode(data, offsets, model, text, pairs, cache, pool, pool_used, ids, id_offsets):
    """text: uint8 scratch, 32 bytes longer than the longest text."""
    k = np.int64(0)
    any_added = model.added_ids.size > 0
    address = np.int64(text.ctypes.data)
    text[0] = _BLANK
    id_offsets[0] = 0
    for d in range(offsets.size - 1):
        i = offsets[d]
        end = offsets[d + 1]
        while i < end:
            stop = end
            size = np.int64(0)
            token = np.int64(-1)
            if any_added:
                stop, size, token = _next_added(data, i, end, model)
            if stop > i:
                # a copy with room behind it: words of eight bytes may be read past its end
                length = stop - i
                text[1 : 1 + length] = data[i:stop]
                text[1 + length] = END_BYTE
                begin = address + np.int64(not (model.add_blank and data[i] != _BLANK))
                k = _encode_text(begin, address + 1 + length, model, pairs, cache, pool, pool_used, ids, k)
            if size:
                ids[k] = token
                k += 1
            i = stop + size
        id_offsets[d + 1] = k
    return k


class BytePairEncoder:
    """A byte-level BPE tokenizer that reads Arrow columns.

    settings: the parsed ``tokenizer.json``. classes: uint8 [0x110000], the class of each code point
    in ``bpe_split``'s terms, by default those of this Python's Unicode tables. With
    ``special_tokens_as_text`` a text that spells a special token becomes ordinary tokens; other
    added tokens are found in any case. Truncation, padding and post-processing are left out.
    Threads may share an encoder. Raises ValueError ("not byte-level BPE: ...") for a tokenizer of
    another kind or with a step we do not know, which is a matter for the library itself.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        classes: np.ndarray | None = None,
        *,
        special_tokens_as_text: bool = True,
    ) -> None:
        classes = unicode_classes() if classes is None else classes
        self._model = read_model(settings, classes, special_tokens_as_text)
        # One for each thread that is encoding: taken while in use, then put back.
        self._caches: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        classes: np.ndarray | None = None,
        *,
        special_tokens_as_text: bool = True,
    ) -> BytePairEncoder:
        """The tokenizer of a ``tokenizer.json``; the rest as for the class."""
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(settings, classes, special_tokens_as_text=special_tokens_as_text)

    def encode(self, column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of each text of a string column: (ids uint32, offsets int64 [n + 1]).

        The ids of row i are ``ids[offsets[i]:offsets[i + 1]]``; a null or empty text has none.
        Raises ValueError for a column of another type, or with bytes that are not UTF-8.
        """
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"a text is not valid UTF-8 ({error})") from error
        data, offsets = text_buffers(column)
        size = int(offsets[-1] - offsets[0])
        longest = int(np.diff(offsets).max(initial=0))
        # no more ids than bytes, and one for each blank that is put in front
        ids = np.empty((1 + self._model.add_blank) * size + 8, np.uint32)
        id_offsets = np.empty(len(offsets), np.int64)
        text = np.empty(longest + 32, np.uint8)
        pairs = np.empty(_SCAN_BYTES, np.uint64)
        try:
            cache = self._caches.pop()
        except IndexError:
            cache = _new_cache()
        count = _encode(data, offsets, self._model, text, pairs, *cache, ids, id_offsets)
        self._caches.append(cache)
        ids.resize(count, refcheck=False)
        return ids, id_offsets


def warm_encoder() -> BytePairEncoder:
    """An encoder that gives each byte its own number: enough to compile the kernels."""
    vocabulary = {char: byte for byte, char in enumerate(byte_characters())}
    return BytePairEncoder(
        {
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        }
    )


def _new_cache() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    words = np.zeros(4 * ((1 << _CACHE_BITS) + _CACHE_WAYS), np.uint64)
    return words.reshape(-1, 4), np.empty(_POOL_WORDS, np.uint32), np.zeros(1, np.int64)
