"""Where byte-level BPE cuts a text into pre-tokens, the pieces that no token crosses.

``PATTERNS`` holds the regular expressions we know, ``reference_split`` is their plain meaning and
``next_piece`` the same as a Numba kernel, which walks UTF-8 bytes through a table of classes.
"""

from __future__ import annotations

import re
import sys
import unicodedata

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# What a code point is. MARK is no class of the kernel: a pattern takes marks as letters or as OTHER.
OTHER, LETTER, NUMBER, SPACE, NEWLINE, MARK = range(6)
# The byte after a text: no UTF-8 holds it, so a walk over characters stops there by itself.
END_BYTE = 0xFF
_END = 7
_APOSTROPHE, _BLANK = ord("'"), ord(" ")

# The pattern of our own tokenizers: pieces that no token crosses, in order of preference; every
# character falls into one of them. None is longer than 128: merging within a piece takes quadratic time.
SPLIT_PATTERN = "|".join(
    [
        # English contractions, but not the start of a quoted word
        r"'(?:[sdmt]|ll|re|ve)(?![\p{L}\p{M}\p{N}])",
        # a word with the blank before it
        r" ?[\p{L}\p{M}]{1,128}",
        # numbers in groups of three digits, so that no long number is one token
        r" ?\p{N}{1,3}",
        # punctuation and symbols
        r" ?[^\s\p{L}\p{M}\p{N}]{1,128}",
        # line ends with the white space before them
        r"\s{0,128}[\r\n]{1,128}",
        # indentation, leaving the last blank to the word after it
        r"\s{1,128}(?!\S)",
        r"\s",
    ]
)
GPT2, LLAMA3, BOUNDED = range(3)
PATTERNS = {
    # GPT-2, which is also what a ByteLevel pre-tokenizer does on its own
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": GPT2,
    # Llama 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": LLAMA3,
    # the stage train_tokenizer
    SPLIT_PATTERN: BOUNDED,
}
_BOUND = np.int64(128)
_UNBOUNDED = np.int64(1 << 62)


def unicode_classes() -> np.ndarray:
    """The class of each code point by this Python's Unicode tables, uint8 [0x110000].

    A library with newer tables knows more letters: pass its own classes where ids must be equal.
    """
    classes = np.full(sys.maxunicode + 1, OTHER, np.uint8)
    of_category = {"L": LETTER, "N": NUMBER, "M": MARK}
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        # 0x1C to 0x1F: white space to Python, not to Unicode's White_Space
        if char.isspace() and not 0x1C <= code <= 0x1F:
            classes[code] = NEWLINE if char in "\r\n" else SPACE
        else:
            classes[code] = of_category.get(unicodedata.category(char)[0], OTHER)
    return classes


def pattern_classes(pattern: int, classes: np.ndarray) -> np.ndarray:
    """``classes`` as the kernel reads them: MARK is what the pattern takes it for."""
    mark = LETTER if pattern == BOUNDED else OTHER
    return np.where(classes == MARK, np.uint8(mark), classes).astype(np.uint8)


# One ASCII character stands for all that are not ASCII and of its class.
_STANDS_FOR = {OTHER: "!", LETTER: "Z", NUMBER: "0", SPACE: "\t", NEWLINE: "\n"}
_LETTER, _NUMBER, _OTHER = "[a-zA-Zſ]", "[0-9]", r"[^\sa-zA-Z0-9ſ]"
_REFERENCE = {
    GPT2: rf"'[stmd]|'re|'ve|'ll| ?{_LETTER}+| ?{_NUMBER}+| ?{_OTHER}+|\s+(?!\S)|\s+",
    LLAMA3: r"'[stmdSTMDſ]|'[rR][eE]|'[vV][eE]|'[lL][lL]"
    rf"|(?:[ \t\f\v]|{_OTHER})?{_LETTER}+|{_NUMBER}{{1,3}}| ?{_OTHER}+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    BOUNDED: rf"'(?:[sdmt]|ll|re|ve)(?!{_LETTER}|{_NUMBER})| ?{_LETTER}{{1,128}}"
    rf"| ?{_NUMBER}{{1,3}}| ?{_OTHER}{{1,128}}|\s{{0,128}}[\r\n]{{1,128}}|\s{{1,128}}(?!\S)|\s",
}


def reference_split(text: str, pattern: int, classes: np.ndarray) -> list[str]:
    """The contract of :func:`next_piece`: the pattern, as Python's ``re`` reads it, on a text in
    which every character but the long s stands as an ASCII character of its class."""
    known = pattern_classes(pattern, classes)
    ascii_text = "".join(c if c.isascii() or c == "ſ" else _STANDS_FOR[int(known[ord(c)])] for c in text)
    pieces = re.finditer(_REFERENCE[pattern], ascii_text, re.ASCII)
    return [text[piece.start() : piece.end()] for piece in pieces]


# The kernel takes addresses, not arrays: Numba counts references to arrays in the middle of a loop
# (measured on whole texts: more than twice as slow), and there is nothing to count in a number.


def _load(bits: int):
    def load(_context, _address):
        def emit(_context, builder, _signature, args):
            value = builder.load(builder.inttoptr(args[0], ir.IntType(bits).as_pointer()))
            value.align = 1
            return value

        return getattr(types, f"uint{bits}")(types.int64), emit

    load.__doc__ = f"Little-endian uint{bits} at a memory address: unaligned, unchecked."
    return intrinsic(load)


byte_at = _load(8)
half_at = _load(32)
word_at = _load(64)


@intrinsic
def store_word(_context, _address, _value):
    """Write a uint64 to a memory address: little-endian, unaligned, unchecked."""

    def emit(context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        builder.store(args[1], pointer).align = 1
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), emit


@intrinsic
def _trailing_zeros(_context, _value):
    def emit(_context, builder, _signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), emit


@njit(nogil=True, cache=True)
def _character(at, classes):
    """(class, bytes) of the character at an address."""
    byte = np.int64(byte_at(at))
    if byte < 0x80:
        return np.int64(byte_at(classes + byte)), np.int64(1)
    if byte == END_BYTE:
        return np.int64(_END), np.int64(1)
    code = np.int64(byte_at(at + 1)) & 63
    if byte < 0xE0:
        return np.int64(byte_at(classes + ((byte & 31) << 6 | code))), np.int64(2)
    code = code << 6 | np.int64(byte_at(at + 2)) & 63
    if byte < 0xF0:
        return np.int64(byte_at(classes + ((byte & 15) << 12 | code))), np.int64(3)
    code = code << 6 | np.int64(byte_at(at + 3)) & 63
    return np.int64(byte_at(classes + ((byte & 7) << 18 | code))), np.int64(4)


_EACH = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_LOW7 = np.uint64(0x7F7F7F7F7F7F7F7F)
_TO_LOWER = np.uint64(0x20) * _EACH
_FROM_A = np.uint64(0x80 - ord("a")) * _EACH
_PAST_Z = np.uint64(0x80 - ord("z") - 1) * _EACH


@njit(nogil=True, cache=True)
def _letters_end(at, most, classes):
    """The end of the letters from an address on; no further than some bytes past ``most`` bytes."""
    stop = at + most
    while at < stop:
        # eight bytes at once: the high bit of each byte says whether it is no ASCII letter
        word = word_at(at)
        low = (word | _TO_LOWER) & _LOW7
        stops = (~(low + _FROM_A) | (low + _PAST_Z) | word) & _HIGH
        if stops == 0:
            at += 8
            continue
        at += _trailing_zeros(stops) >> 3
        if byte_at(at) < 0x80:
            return at
        kind, size = _character(at, classes)
        if kind != LETTER:
            return at
        at += size
    return at


@njit(nogil=True, cache=True)
def _run_end(at, kind, most, classes):
    """The end of the characters of one class from an address on, ``most`` of them at most."""
    for _ in range(most):
        found, size = _character(at, classes)
        if found != kind:
            break
        at += size
    return at


@njit(nogil=True, cache=True)
def _contraction(at, pattern):
    """Bytes of 's, 't, 'm, 'd, 're, 've or 'll at an apostrophe, or 0."""
    first = byte_at(at + 1)
    second = byte_at(at + 2)
    if pattern == LLAMA3:
        # the long s is an s to a pattern that ignores case; its bytes are C5 BF
        if first == 0xC5 and second == 0xBF:
            return 3
        # only letters may be folded: the high bit of a byte keeps others apart
        first |= 0x20 if 65 <= first <= 90 else 0
        second |= 0x20 if 65 <= second <= 90 else 0
    if first == 115 or first == 116 or first == 109 or first == 100:
        return 2
    if second == 101 and (first == 114 or first == 118):
        return 3
    if second == 108 and first == 108:
        return 3
    return 0


@njit(nogil=True, cache=True)
def _space_end(at, pattern, classes):
    """The end of the piece that begins with white space at an address."""
    most = _BOUND if pattern == BOUNDED else _UNBOUNDED
    end = at
    last = at
    after_newline = np.int64(0)
    count = 0
    kind, size = _character(end, classes)
    while kind in (SPACE, NEWLINE) and count < most:
        last = end
        end += size
        count += 1
        if kind == NEWLINE:
            after_newline = end
        kind, size = _character(end, classes)
    if pattern == BOUNDED and kind == NEWLINE:
        return _run_end(end, NEWLINE, _BOUND, classes)
    if pattern != GPT2 and after_newline:
        return after_newline
    # the last blank goes to the word after it
    if kind in (_END, SPACE, NEWLINE) or count == 1:
        return end
    return last


@njit(nogil=True, cache=True)
def next_piece(at, pattern, classes):
    """The end of the pre-token that begins at an address; all three are integers.

    at: of UTF-8 bytes, valid and followed by END_BYTE and seven bytes that may be read;
    classes: of a table of :func:`pattern_classes`. The first byte must not be END_BYTE.
    """
    byte = byte_at(at)
    if byte == _APOSTROPHE:
        size = _contraction(at, pattern)
        if size:
            if pattern != BOUNDED:
                return at + size
            kind, _ = _character(at + size, classes)
            if kind != LETTER and kind != NUMBER:
                return at + size
    start = at + np.int64(byte == _BLANK)
    kind, size = _character(start, classes)
    if kind == LETTER:
        if pattern != BOUNDED:
            return _letters_end(start, _UNBOUNDED, classes)
        end = _letters_end(start, _BOUND, classes)
        return end if end - start < _BOUND else _run_end(start, LETTER, _BOUND, classes)
    if pattern == LLAMA3:
        # any one character but a line end or a number goes with the letters after it
        first, width = (np.int64(SPACE), np.int64(1)) if start > at else (kind, size)
        if first in (SPACE, OTHER):
            follower, _ = _character(at + width, classes)
            if follower == LETTER:
                return _letters_end(at + width, _UNBOUNDED, classes)
        if first == NUMBER:
            return _run_end(at, NUMBER, np.int64(3), classes)
        if kind == OTHER:
            end = _run_end(start, OTHER, _UNBOUNDED, classes)
            return _run_end(end, NEWLINE, _UNBOUNDED, classes)
        return _space_end(at, pattern, classes)
    bounded = pattern == BOUNDED
    if kind == NUMBER:
        return _run_end(start, NUMBER, np.int64(3) if bounded else _UNBOUNDED, classes)
    if kind == OTHER:
        return _run_end(start, OTHER, _BOUND if bounded else _UNBOUNDED, classes)
    return _space_end(at, pattern, classes)
