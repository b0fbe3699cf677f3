"""Words as near-duplicates and contamination are compared by: folded, without punctuation.

Words. Characters are Unicode code points, each taken alone, by their general category:
separators and control characters (Z*, Cc) end a word; punctuation, symbols, format and private-use
characters (P*, S*, Cf, Co) vanish, and the word goes on ("don't" is "dont", "x_1" is "x1"); all
others are kept: letters case-folded (where that is one code point, else lower-cased, else as they
are), digits, marks, and what this Python's Unicode does not know yet. In the scripts written
without spaces (CJK ideographs, kana, Thai, Lao, Khmer) each code point kept is a word.

A walk over ``data[at:stop]`` writes the kept bytes back to back to ``out`` and where words end in
it to ``ends``. It can stop anywhere and go on: the word that is open lies between the last end and
``size``. So a text of any length goes through scratch of one size, chunk by chunk.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from kernels.text.hashing import GOLDEN, MIX_A, load64
from kernels.text.simd import (
    BLOCK,
    BLOCKS,
    between,
    block_mask,
    bytes_of,
    emit,
    load_block,
    low_bits,
    lower_ascii,
    pext,
    popcount,
    store_block,
)

SPACE = 32
ALONE = 1 << 31  # flag in the table: this code point is a word of its own
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
LONG_WORDS = 1024
_TAIL_MASKS = np.array([(1 << 8 * k) - 1 for k in range(9)], np.uint64)
_ONE = np.uint64(1)
_ALL = ~np.uint64(0)
_MASK64 = (1 << 64) - 1


@cache
def character_table() -> np.ndarray:
    """What becomes of each code point, uint32 [0x110000]: 0 vanishes, 32 ends the word, else the
    code point it is folded to, with the highest bit set where it is a word of its own."""
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    # Planes 2 and 3 are ideographs, 4 to 13 are not assigned, 15 and 16 are private use.
    for code in (*range(0x20000), *range(0xE0000, 0xE1000)):
        table[code] = _character(chr(code))
    table[0x20000:0x40000] |= np.uint32(ALONE)
    table[0xF0000:] = 0
    return table


def _character(char: str) -> int:
    category = unicodedata.category(char)
    if category[0] == "Z" or category == "Cc":
        return SPACE
    if category[0] in "PS" or category in ("Cf", "Co", "Cs"):
        return 0
    code = ord(char)
    if category[0] == "L" and category != "Lo":
        code = ord(next(c for c in (char.casefold(), char.lower(), char) if len(c) == 1))
    return code | ALONE if any(low <= ord(char) <= high for low, high in _SPACELESS) else code


@njit(nogil=True, inline="always")
def room(num_bytes):
    """(bytes, ends) that a walk over so many bytes of text may write, beside what was open."""
    # folding lengthens a code point from 2 bytes to 3 at most; each word takes 2 bytes or more;
    # blocks and `emit` write up to 64 entries beyond what they keep
    return num_bytes + num_bytes // 2 + 2 * BLOCK, num_bytes // 2 + 2 * BLOCK


@njit(nogil=True, inline="always")
def _take_code_point(data, at, end, table, out, size, ends, num_words, last):
    """Take the code point at ``data[at]``, no ASCII: the new (at, size, num_words, last)."""
    byte = data[at]
    width = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
    mapped = np.uint32(0)
    if at + width > end:
        # cut off by the end of the text: nothing comes after it
        at = end
    else:
        code = np.int64(byte & (0x7F >> width))
        for j in range(1, width):
            code = (code << 6) | np.int64(data[at + j] & 63)
        at += width
        mapped = table[code] if code < table.size else np.uint32(0)
    if mapped != 0:
        alone = mapped >= ALONE
        if (alone or mapped == SPACE) and size != last:
            ends[num_words] = size
            num_words += 1
            last = size
        if mapped != SPACE:
            code = np.int64(mapped) & (ALONE - 1)
            if code < 0x80:
                out[size] = code
                size += 1
            elif code < 0x800:
                out[size] = 0xC0 | (code >> 6)
                out[size + 1] = 0x80 | (code & 63)
                size += 2
            elif code < 0x10000:
                out[size] = 0xE0 | (code >> 12)
                out[size + 1] = 0x80 | ((code >> 6) & 63)
                out[size + 2] = 0x80 | (code & 63)
                size += 3
            else:
                out[size] = 0xF0 | (code >> 18)
                out[size + 1] = 0x80 | ((code >> 12) & 63)
                out[size + 2] = 0x80 | ((code >> 6) & 63)
                out[size + 3] = 0x80 | (code & 63)
                size += 4
            if alone:
                ends[num_words] = size
                num_words += 1
                last = size
    return at, size, num_words, last


@njit(nogil=True, cache=True)
def walk_bytes(data, at, stop, end, table, out, size, ends, num_words):
    """Walk ``data[at:stop]`` of the text that ends at ``end``: the new (at, size, num_words).

    Stops between code points, so up to 3 bytes after ``stop`` but never after ``end``.
    """
    last = ends[num_words - 1] if num_words else np.int64(0)
    while at < stop:
        byte = data[at]
        if byte < 128:
            # written always, kept by moving on: no branch to mispredict
            mapped = table[byte]
            out[size] = mapped
            is_space = mapped == SPACE
            size += np.int64(mapped > SPACE)
            ends[num_words] = size
            num_words += np.int64(is_space & (size != last))
            last = size if is_space else last
            at += 1
        else:
            at, size, num_words, last = _take_code_point(
                data, at, end, table, out, size, ends, num_words, last
            )
    return at, size, num_words


@intrinsic
def _take_block(_context, data, _at, _valid, out, _size):
    """Write the word bytes of a block, up to its first byte that is no ASCII, to ``out[size:]``.

    Returns masks of the block: (bytes before that byte, those of words, those that end a word).
    """
    masks = types.UniTuple(types.uint64, 3)

    def code(context, builder, signature, args):
        data, at, valid, out, size = args
        block = load_block(context, builder, signature.args[0], data, at, valid)
        other = block_mask(builder, builder.icmp_signed("<", block, bytes_of(0)))
        before = builder.and_(builder.sub(other, ir.Constant(other.type, 1)), builder.not_(other))
        before = builder.and_(before, valid)
        letters = between(builder, builder.or_(block, bytes_of(0x20)), ord("a"), ord("z"))
        word = builder.or_(letters, between(builder, block, ord("0"), ord("9")))
        space = builder.or_(
            builder.icmp_unsigned("<=", block, bytes_of(SPACE)),
            builder.icmp_unsigned("==", block, bytes_of(0x7F)),
        )
        word = builder.and_(block_mask(builder, word), before)
        space = builder.and_(block_mask(builder, space), before)
        lower = lower_ascii(builder, block)
        store_block(context, builder, lower, word, signature.args[3], out, size)
        return context.make_tuple(builder, masks, [before, word, space])

    return masks(data, types.int64, types.uint64, out, types.int64), code


@njit(nogil=True, cache=True)
def walk_blocks(data, at, stop, end, table, out, size, ends, num_words):
    """The same as :func:`walk_bytes`, 64 bytes at a time where they are ASCII."""
    last = ends[num_words - 1] if num_words else np.int64(0)
    is_open = np.uint64(size != last)
    while at < stop:
        before, word, space = _take_block(data, at, low_bits(stop - at), out, size)
        # punctuation is neither: it vanishes, and the word goes on
        kept = word | space
        if kept:
            words = pext(word, kept)
            num_kept = popcount(kept)
            # a space right after a byte of a word
            closing = ~words & ((words << _ONE) | is_open) & low_bits(num_kept)
            # that word may have begun in the block before
            ends[num_words] = size
            num_words += np.int64(closing & _ONE)
            num_words = emit(pext(closing >> _ONE, words), size + 1, ends, num_words)
            is_open = (words >> np.uint64(num_kept - 1)) & _ONE
            size += popcount(word)
        if before == _ALL:
            at += BLOCK
            continue
        at += popcount(before)
        last = size - np.int64(is_open)
        while at < stop and data[at] >= 128:
            at, size, num_words, last = _take_code_point(
                data, at, end, table, out, size, ends, num_words, last
            )
        is_open = np.uint64(size != last)
    return at, size, num_words


@intrinsic
def _count_other(_context, data, _at, _valid):
    """int64: how many bytes of a block are no ASCII."""

    def code(context, builder, signature, args):
        block = load_block(context, builder, signature.args[0], *args)
        return builder.ctpop(block_mask(builder, builder.icmp_signed("<", block, bytes_of(0))))

    return types.int64(data, types.int64, types.uint64), code


@njit(nogil=True, cache=True)
def _is_ascii_mostly(data, at, stop):
    other = np.int64(0)
    for i in range(at, stop, BLOCK):
        other += _count_other(data, i, low_bits(stop - i))
    return 2 * other <= stop - at


@njit(nogil=True, cache=True)
def _walk_either(data, at, stop, end, table, out, size, ends, num_words):
    # by blocks Cyrillic and Chinese take a tenth longer than byte by byte
    if _is_ascii_mostly(data, at, stop):
        return walk_blocks(data, at, stop, end, table, out, size, ends, num_words)
    return walk_bytes(data, at, stop, end, table, out, size, ends, num_words)


walk = _walk_either if BLOCKS else walk_bytes


@njit(nogil=True, cache=True)
def find_words(data, start, end, table, out, ends):
    """Walk the whole text ``data[start:end]``: the number of its words. ``out`` and ``ends`` hold
    what :func:`room` says for its length."""
    _, size, num_words = walk(data, start, end, end, table, out, np.int64(0), ends, np.int64(0))
    if size != (ends[num_words - 1] if num_words else 0):
        ends[num_words] = size
        num_words += 1
    return num_words


@njit(nogil=True, cache=True)
def hash_words(out, ends, num_words, hashes, long_words):
    """Hash the words to ``hashes[:num_words]``. ``out`` is readable 8 bytes beyond the last word;
    ``long_words``, int64 [LONG_WORDS], is scratch."""
    for first in range(0, num_words, LONG_WORDS):
        # words of up to eight bytes in one step; the longer ones, whose steps no branch predictor
        # guesses, after them
        num_long = np.int64(0)
        at = np.int64(ends[first - 1]) if first else np.int64(0)
        for w in range(first, min(first + LONG_WORDS, num_words)):
            end = np.int64(ends[w])
            length = end - at
            value = np.uint64(length) * GOLDEN
            value = (value ^ (load64(out, at) & _TAIL_MASKS[length if length < 8 else 8])) * MIX_A
            hashes[w] = value ^ (value >> np.uint64(29))
            long_words[num_long] = w
            num_long += np.int64(length > 8)
            at = end
        for i in range(num_long):
            w = long_words[i]
            at = np.int64(ends[w - 1]) if w else np.int64(0)
            end = np.int64(ends[w])
            value = np.uint64(end - at) * GOLDEN
            while end - at > 8:
                value = (value ^ load64(out, at)) * MIX_A
                value ^= value >> np.uint64(32)
                at += 8
            value = (value ^ (load64(out, at) & _TAIL_MASKS[end - at])) * MIX_A
            hashes[w] = value ^ (value >> np.uint64(29))


def reference_words(text: str) -> list[str]:
    """The word rule above in plain Python, the contract of the walks."""
    words = [""]
    for char in text:
        mapped = _character(char)
        kept = chr(mapped & ~ALONE) if mapped not in (0, SPACE) else ""
        if mapped == SPACE or mapped & ALONE:
            words += [kept, ""]
        else:
            words[-1] += kept
    return [word for word in words if word]


def reference_word_hash(word: bytes) -> int:
    """The contract of :func:`hash_words` in plain Python, for one word."""
    value = len(word) * int(GOLDEN) & _MASK64
    for i in range(0, len(word), 8):
        value = (value ^ int.from_bytes(word[i : i + 8], "little")) * int(MIX_A) & _MASK64
        value ^= value >> (32 if i + 8 < len(word) else 29)
    return value
