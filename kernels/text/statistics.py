"""The counts behind the Gopher, C4 and FineWeb rules, all integers, of a column of texts.

One walk over the bytes finds words and line breaks (``words``); every statistic is made from them.
``reference.py`` says the same in plain Python and is the contract.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numba import njit

from kernels.text.buffers import text_buffers
from kernels.text.c4 import C4_FIELDS, c4_field
from kernels.text.repetition import (
    DUPLICATE_NGRAMS,
    GENERATIONS,
    TOP_NGRAMS,
    count_ngrams,
    count_pieces,
    hash_bytes,
    hash_words,
)
from kernels.text.walk import (
    AT,
    BOUNDS_SLACK,
    BREAK_COLUMNS,
    CHARS,
    SENTENCES,
    WORDS,
    needed_room,
    walk,
)
from kernels.text.words import class_table, decode

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")

GROUPS = {
    "quality": (
        "words",
        "text_words",
        "text_word_chars",
        "alpha_words",
        "stop_words",
        "hashes",
        "ellipses",
        "lines",
        "bullet_lines",
        "ellipsis_lines",
    ),
    "repetition": (
        "chars",
        "lines",
        "duplicate_lines",
        "duplicate_line_chars",
        "paragraphs",
        "duplicate_paragraphs",
        "duplicate_paragraph_chars",
        *(f"top_{n}gram_chars" for n in TOP_NGRAMS),
        *(f"duplicate_{n}gram_chars" for n in DUPLICATE_NGRAMS),
    ),
    "c4": C4_FIELDS,
    "fineweb": (
        "words",
        "newlines",
        "chars_without_newlines",
        "lines",
        "terminal_lines",
        "short_lines",
        "duplicate_line_chars",
    ),
}
_QUALITY, _REPETITION, _C4, _FINEWEB = range(4)
_STARTS = np.cumsum([0] + [len(fields) for fields in GROUPS.values()])
_QUALITY_AT, _REPETITION_AT, _C4_AT, _FINEWEB_AT, _N_FIELDS = (int(s) for s in _STARTS)
_RETURN, _NEWLINE, _DOT, _HYPHEN = (ord(c) for c in "\r\n.-")
_SMALL = 1 << 20
MAX_BYTES = 2**31 - 2 * BOUNDS_SLACK


@njit(nogil=True, cache=True)
def _ends_with_ellipsis(data, start, end):
    if end - start < 3:
        return False
    a, b, c = data[end - 3], data[end - 2], data[end - 1]
    return (a == _DOT) & (b == _DOT) & (c == _DOT) | (a == 0xE2) & (b == 0x80) & (c == 0xA6)


@njit(nogil=True, cache=True)
def _starts_with_bullet(data, start, end):
    if data[start] == _HYPHEN:
        return True
    wide = end - start >= 3 and data[start] == 0xE2
    return wide and data[start + 1] == 0x80 and data[start + 2] == 0xA2


@njit(nogil=True, cache=True)
def _has_long_word(data, start, end, bounds, first_word, last_word, max_chars):
    for w in range(first_word, last_word):
        i = start + bounds[2 * w]
        last = start + bounds[2 * w + 1]
        chars = -max_chars
        # few words have that many bytes
        while last - i > -chars:
            i += decode(data, i, end)[1]
            chars += 1
            if chars > 0:
                return True
    return False


@njit(nogil=True, cache=True)
def _count_lines(
    data, start, bounds, breaks, n_breaks, min_words, max_chars, classes, line, want_c4, quality, c4
):
    """Lines as ``str.splitlines`` has them: all, with a bullet, with an ellipsis to ``quality[0:3]``,
    and each in one of the fields of ``c4``."""
    size = breaks[n_breaks, AT]
    n_words = breaks[n_breaks, WORDS]
    longest = 0
    if want_c4:
        for w in range(n_words):
            longest = max(longest, bounds[2 * w + 1] - bounds[2 * w])
    byte = 0
    word = 0
    sentences = 0
    for b in range(n_breaks + 1):
        at = breaks[b, AT]
        after = at + 1
        if b < n_breaks:
            # the second half of "\r\n" ends no line, and U+0085, U+2028, U+2029 are longer than a byte
            kind = data[start + at]
            if kind == _NEWLINE and at > 0 and data[start + at - 1] == _RETURN:
                byte = after
                continue
            after = at + (1 if kind < 0x80 else 2 if kind < 0xE0 else 3)
        elif byte == size:
            # what a break ends is all there is
            break
        last_word = breaks[b, WORDS]
        last_sentence = breaks[b, SENTENCES]
        quality[0] += 1
        first = np.int64(start)
        last = np.int64(start)
        if word < last_word:
            first = np.int64(start + bounds[2 * word])
            last = np.int64(start + bounds[2 * last_word - 1])
            quality[1] += _starts_with_bullet(data, first, last)
            quality[2] += _ends_with_ellipsis(data, first, last)
        if want_c4:
            c4[0] += 1
            if longest > max_chars and _has_long_word(
                data, start, start + size, bounds, word, last_word, max_chars
            ):
                c4[1] += 1
            else:
                n = last_word - word
                field, found = c4_field(
                    data, first, last, n, last_sentence - sentences, min_words, classes, line
                )
                c4[field] += 1
                c4[9] += found
        byte = after
        word = last_word
        sentences = last_sentence


@njit(nogil=True, cache=True)
def _count_all(
    data, offsets, longest, classes, stop_hashes, scatter, wanted, min_words, max_chars, short_chars, counts
):
    bounds = np.empty(0, np.int32)
    breaks = np.empty((0, BREAK_COLUMNS), np.int32)
    line = np.empty(0, np.uint8)
    hashes = np.empty(0, np.uint64)
    chars = np.empty(0, np.int32)
    scratch = np.empty((4, 0), np.uint32)
    # it grows where this is too little; most words and n-grams of a long text repeat
    table = np.zeros(1 << (17 if longest > _SMALL // 16 else 13), np.uint64)
    generation = np.uint64(1)
    for d in range(offsets.size - 1):
        start, end = offsets[d], offsets[d + 1]
        size = end - start
        quality = counts[d, _QUALITY_AT:_REPETITION_AT]
        repetition = counts[d, _REPETITION_AT:_C4_AT]
        c4 = counts[d, _C4_AT:_FINEWEB_AT]
        fineweb = counts[d, _FINEWEB_AT:_N_FIELDS]
        # memory that a text does not reach is never touched; of a large one it is worth to count first
        n_bounds = size + 2 + BOUNDS_SLACK
        n_rows = size + 1
        if size > _SMALL:
            n_bounds, n_rows = needed_room(data, start, end, classes)
        if bounds.size < n_bounds:
            bounds = np.empty(n_bounds + n_bounds // 4, np.int32)
        if breaks.shape[0] < n_rows:
            breaks = np.empty((n_rows + n_rows // 4, BREAK_COLUMNS), np.int32)
        n_words, n_breaks, alpha_words, text_words, text_word_chars, n_hashes, ellipses = walk(
            data, start, end, classes, bounds, breaks
        )
        n_chars = np.int64(breaks[n_breaks, CHARS])
        if wanted[_QUALITY] or wanted[_C4]:
            if line.size < size:
                line = np.empty(size + size // 4, np.uint8)
            _count_lines(
                data,
                start,
                bounds,
                breaks,
                n_breaks,
                min_words,
                max_chars,
                classes,
                line,
                wanted[_C4],
                quality[7:10],
                c4,
            )
        if wanted[_FINEWEB] or wanted[_REPETITION]:
            table = count_pieces(
                data,
                start,
                bounds,
                breaks,
                n_breaks,
                short_chars,
                table,
                generation,
                scatter,
                fineweb,
                repetition[1:7],
            )
        if wanted[_QUALITY] or wanted[_REPETITION]:
            if hashes.size <= n_words:
                room = n_words + n_words // 4 + 11
                hashes = np.empty(room, np.uint64)
                chars = np.empty(room, np.int32)
                scratch = np.empty((4, room), np.uint32)
            hash_words(data, start, bounds, n_words, hashes, chars)
            stop_words, table = count_ngrams(
                hashes,
                chars,
                n_words,
                stop_hashes,
                DUPLICATE_NGRAMS[-1] if wanted[_REPETITION] else 1,
                table,
                generation + np.uint64(1),
                scatter,
                scratch,
                repetition[7:],
            )
            quality[4] = stop_words
        generation += np.uint64(GENERATIONS)
        quality[0] = n_words
        quality[1] = text_words
        quality[2] = text_word_chars
        quality[3] = alpha_words
        quality[5] = n_hashes
        quality[6] = ellipses
        repetition[0] = n_chars
        fineweb[0] = n_words
        fineweb[2] = n_chars - fineweb[1]


def text_statistics(
    column: pa.Array | pa.ChunkedArray,
    groups: Sequence[str] = tuple(GROUPS),
    *,
    stop_words: Sequence[str] = STOP_WORDS,
    min_words_per_line: int = 3,
    max_word_length: int = 1000,
    short_line_chars: int = 30,
) -> dict[str, np.ndarray]:
    """Count what the rules of ``groups`` ("quality", "repetition", "c4", "fineweb") need.

    Returns {"group.field": int64 [n]}, the fields being those of GROUPS, from one walk over the
    text. A null counts as an empty text. ``stop_words`` (matched as they are written) are of
    "quality", ``min_words_per_line`` and ``max_word_length`` (characters) of "c4",
    ``short_line_chars`` of "fineweb". A text takes, while it is counted, 8 bytes of memory a word
    and 20 a line; for "quality" and "repetition" 32 more a word, and 32 to 96 a different n-gram.
    Raises ValueError for an unknown group, for a column that is no string column, and for a text of
    2 GiB or more.
    """
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise ValueError(f"no group of text statistics is called {unknown[0]!r}: {', '.join(GROUPS)}")
    data, offsets = text_buffers(column)
    longest = int(np.diff(offsets).max(initial=0))
    if longest > MAX_BYTES:
        raise ValueError(f"a text of {longest:,} bytes; at most {MAX_BYTES:,} can be counted: cut it")
    counts = np.zeros((len(offsets) - 1, _N_FIELDS), np.int64)
    stops = [np.frombuffer(word.encode(), np.uint8) for word in sorted(set(stop_words))]
    _count_all(
        data,
        offsets,
        longest,
        class_table(),
        np.array([hash_bytes(word, 0, word.size) for word in stops], np.uint64),
        np.uint64(secrets.randbits(64) | 1),
        np.array([name in groups for name in GROUPS]),
        min_words_per_line,
        max_word_length,
        short_line_chars,
        counts,
    )
    return {
        f"{name}.{field}": counts[:, start + f]
        for (name, fields), start in zip(GROUPS.items(), _STARTS, strict=False)
        for f, field in enumerate(fields)
        if name in groups
    }
