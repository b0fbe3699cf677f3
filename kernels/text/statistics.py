"""The counts behind the Gopher, C4 and FineWeb rules, all integers, of a column of texts.

One walk over the bytes finds words and line breaks (``words``); every statistic is made from them.
``reference.py`` says the same in plain Python and is the contract.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa

from kernels.text.buffers import text_buffers
from kernels.text.c4 import C4_FIELDS, count_c4_lines
from kernels.text.repetition import (
    DUPLICATE_NGRAMS,
    TOP_NGRAMS,
    count_duplicate_pieces,
    count_ngrams,
    hash_bytes,
    split_newlines,
)
from kernels.text.words import (
    ENDS_TERMINAL,
    HAS_ALPHA,
    HAS_LETTER_OR_DIGIT,
    NEWLINE,
    RETURN,
    class_table,
    find_words_and_lines,
)

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
_BULLET = 0x2022
# generations of the hash table that one text uses up: three for lines, ten for n-grams
_GENERATIONS = np.uint64(16)
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)


@numba.njit(nogil=True, cache=True)
def split_lines(data, breaks, n_breaks, end_row, newline_only, lines):
    """Lines of a text as ``str.splitlines``, or cut at "\\n" only.

    end_row: (first byte, byte after the last, characters, words) of the text. Writes rows of
    lines, int64 [> n_breaks, 5]: first byte, byte after the last, characters, first word, word
    after the last. Returns their number; nothing after the last break is no line.
    """
    byte, end, end_chars, end_words = end_row
    chars = 0
    word = 0
    n = 0
    for b in range(n_breaks):
        at = breaks[b, 0]
        if at < byte or (newline_only and breaks[b, 1] != NEWLINE):
            continue
        lines[n, 0] = byte
        lines[n, 1] = at
        lines[n, 2] = breaks[b, 2] - chars
        lines[n, 3] = word
        lines[n, 4] = breaks[b, 3]
        n += 1
        pair = breaks[b, 1] == RETURN and at + 1 < end and data[at + 1] == 10
        size = 1 if data[at] < 0x80 else 2 if data[at] < 0xE0 else 3
        byte = at + size + pair
        chars = breaks[b, 2] + 1 + pair
        word = breaks[b, 3]
    if byte < end:
        lines[n, 0] = byte
        lines[n, 1] = end
        lines[n, 2] = end_chars - chars
        lines[n, 3] = word
        lines[n, 4] = end_words
        n += 1
    return n


@numba.njit(nogil=True, cache=True)
def _ends_with_ellipsis(data, start, end):
    if end - start < 3:
        return False
    a, b, c = data[end - 3], data[end - 2], data[end - 1]
    return (a == 46 and b == 46 and c == 46) or (a == 0xE2 and b == 0x80 and c == 0xA6)


@numba.njit(nogil=True, cache=True)
def _starts_with_bullet(data, start, end):
    if data[start] == 45:
        return True
    wide = end - start >= 3 and data[start] == 0xE2
    return wide and data[start + 1] == 0x80 and data[start + 2] == 0xA2


@numba.njit(nogil=True, cache=True)
def _count_quality(data, words, flags, hashes, n_words, lines, n_lines, stop_hashes, out):
    found = np.uint64(0)
    for w in range(n_words):
        if flags[w] & HAS_LETTER_OR_DIGIT:
            out[1] += 1
            out[2] += words[w + 1, 2] - words[w, 2]
        out[3] += (flags[w] & HAS_ALPHA) != 0
        for s in range(stop_hashes.size):
            if hashes[w] == stop_hashes[s]:
                found |= _ONE << np.uint64(s)
    out[0] = n_words
    while found:
        out[4] += 1
        found &= found - _ONE
    out[7] = n_lines
    for q in range(n_lines):
        w0, w1 = lines[q, 3], lines[q, 4]
        if w0 < w1:
            out[8] += _starts_with_bullet(data, words[w0, 0], words[w0, 1])
            out[9] += _ends_with_ellipsis(data, words[w1 - 1, 0], words[w1 - 1, 1])


@numba.njit(nogil=True, cache=True)
def _count_fineweb(words, flags, lines, n_lines, short_chars, out):
    """Counts of the lines that hold a word, which are moved to the front; their number."""
    n = 0
    for q in range(n_lines):
        w1 = lines[q, 4]
        if lines[q, 3] == w1:
            continue
        # a space after the full stop hides it, as in the published code
        at_end = words[w1 - 1, 1] == lines[q, 1]
        out[4] += at_end and (flags[w1 - 1] & ENDS_TERMINAL) != 0
        out[5] += lines[q, 2] <= short_chars
        for j in range(3):
            lines[n, j] = lines[q, j]
        n += 1
    out[3] = n
    return n


@numba.njit(nogil=True, cache=True)
def _stripped(data, words, n_words, breaks, n_breaks, start, end, n_chars):
    """Bounds of the text without white space at its ends: bytes, and characters before them."""
    if n_words == 0:
        return start, start, 0, 0
    first, last = words[0, 0], words[n_words - 1, 1]
    before = 0
    for i in range(start, first):
        before += (data[i] & 0xC0) != 0x80
    after = 0
    for i in range(last, end):
        after += (data[i] & 0xC0) != 0x80
    return first, last, before, n_chars - after


@numba.njit(nogil=True, cache=True)
def _count_all(data, offsets, classes, stop_hashes, wanted, min_words, max_word_length, short_chars, counts):
    longest = np.int64(0)
    for d in range(offsets.size - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    # memory that a text does not reach is never touched
    words = np.empty((longest // 2 + 12, 3), np.int64)
    flags = np.empty(longest // 2 + 12, np.uint8)
    hashes = np.empty(longest // 2 + 12, np.uint64)
    breaks = np.empty((longest + 1, 4), np.int64)
    lines = np.empty((longest + 2, 5), np.int64)
    line = np.empty(longest, np.uint8)
    scratch = np.empty((5, longest // 2 + 12), np.int32)
    rows = np.int64(64)
    while rows < 2 * (longest + 2):
        rows *= 2
    table = np.zeros((rows, 2), np.uint64)
    generation = _ONE
    for d in range(offsets.size - 1):
        start, end = offsets[d], offsets[d + 1]
        out = counts[d]
        n_words, n_breaks, n_chars, n_hashes, n_ellipses = find_words_and_lines(
            data, start, end, classes, words, flags, breaks
        )
        end_row = (start, end, n_chars, n_words)
        if wanted[_QUALITY] or wanted[_REPETITION]:
            for w in range(n_words):
                hashes[w] = hash_bytes(data, words[w, 0], words[w, 1])
        if wanted[_QUALITY] or wanted[_C4]:
            n_lines = split_lines(data, breaks, n_breaks, end_row, False, lines)
            if wanted[_QUALITY]:
                group = out[_QUALITY_AT:_REPETITION_AT]
                _count_quality(data, words, flags, hashes, n_words, lines, n_lines, stop_hashes, group)
                group[5] = n_hashes
                group[6] = n_ellipses
            if wanted[_C4]:
                group = out[_C4_AT:_FINEWEB_AT]
                count_c4_lines(data, words, flags, lines, n_lines, min_words, max_word_length, line, group)
        if wanted[_FINEWEB]:
            group = out[_FINEWEB_AT:_N_FIELDS]
            n_newlines = 0
            for b in range(n_breaks):
                n_newlines += breaks[b, 1] == NEWLINE
            n_lines = split_lines(data, breaks, n_breaks, end_row, True, lines)
            n_lines = _count_fineweb(words, flags, lines, n_lines, short_chars, group)
            group[0] = n_words
            group[1] = n_newlines
            group[2] = n_chars - n_newlines
            group[6] = count_duplicate_pieces(data, lines, n_lines, table, generation)[1]
        if wanted[_REPETITION]:
            group = out[_REPETITION_AT:_C4_AT]
            group[0] = n_chars
            text = (start, end, 0, n_chars)
            n = split_newlines(breaks, n_breaks, text, 1, NEWLINE, lines)
            group[1] = n
            group[2], group[3] = count_duplicate_pieces(data, lines, n, table, generation + _ONE)
            text = _stripped(data, words, n_words, breaks, n_breaks, start, end, n_chars)
            n = split_newlines(breaks, n_breaks, text, 2, NEWLINE, lines)
            group[4] = n
            group[5], group[6] = count_duplicate_pieces(data, lines, n, table, generation + _TWO)
            count_ngrams(words, hashes, n_words, table, generation + _THREE, scratch, group[7:])
        generation += _GENERATIONS


def text_statistics(
    column: pa.Array | pa.ChunkedArray,
    group: str | None = None,
    *,
    stop_words: tuple[str, ...] = STOP_WORDS,
    min_words_per_line: int = 3,
    max_word_length: int = 1000,
    short_line_chars: int = 30,
) -> dict[str, np.ndarray]:
    """Count what the rules of one group ("quality", "repetition", "c4", "fineweb") need.

    Returns {field: int64 [n]}, the fields being GROUPS[group]; with no group all of them, named
    "group.field", from one walk over the text. A null counts as an empty text. ``stop_words`` (at
    most 64, matched as they are written) are of "quality", ``min_words_per_line`` and
    ``max_word_length`` (characters) of "c4", ``short_line_chars`` of "fineweb".
    Raises ValueError for an unknown group, or for a column that is no string column.
    """
    if group is not None and group not in GROUPS:
        raise ValueError(f"no group of text statistics is called {group!r}: {', '.join(GROUPS)}")
    if len(stop_words) > 64:
        raise ValueError(f"{len(stop_words)} stop words; at most 64 can be counted")
    data, offsets = text_buffers(column)
    counts = np.zeros((len(offsets) - 1, _N_FIELDS), np.int64)
    stops = [np.frombuffer(word.encode(), np.uint8) for word in stop_words]
    stop_hashes = np.array([hash_bytes(word, 0, word.size) for word in stops], np.uint64)
    wanted = np.array([group is None or name == group for name in GROUPS])
    _count_all(
        data,
        offsets,
        class_table(),
        stop_hashes,
        wanted,
        min_words_per_line,
        max_word_length,
        short_line_chars,
        counts,
    )
    columns = {
        f"{name}.{field}": counts[:, start + f]
        for (name, fields), start in zip(GROUPS.items(), _STARTS, strict=False)
        for f, field in enumerate(fields)
    }
    if group is None:
        return columns
    return {field: columns[f"{group}.{field}"] for field in GROUPS[group]}
