"""The line rules of C4 (arXiv 1910.10683, section 2.2, and its published code), as counts."""

from __future__ import annotations

import numba
import numpy as np

from kernels.text.words import ENDS_SENTENCE

C4_FIELDS = (
    "lines",
    "long_word_lines",
    "unterminated_lines",
    "short_lines",
    "lorem_ipsum_lines",
    "javascript_lines",
    "curly_bracket_lines",
    "policy_lines",
    "kept_lines",
    "kept_sentences",
)

LOREM, JAVASCRIPT, POLICY = 1, 2, 4
PHRASES = {
    b"lorem ipsum": LOREM,
    b"javascript": JAVASCRIPT,
    b"terms of use": POLICY,
    b"privacy policy": POLICY,
    b"cookie policy": POLICY,
    b"uses cookies": POLICY,
    b"use of cookies": POLICY,
    b"use cookies": POLICY,
}
_PHRASE_BYTES = np.zeros((len(PHRASES), 16), np.uint8)
_PHRASE_SIZE = np.array([len(p) for p in PHRASES])
_PHRASE_KIND = np.array(list(PHRASES.values()))
# bit p: phrase p has this first byte; this second byte
_FIRST = np.zeros(256, np.uint8)
_SECOND = np.zeros(256, np.uint8)
for _p, _phrase in enumerate(PHRASES):
    _PHRASE_BYTES[_p, : len(_phrase)] = np.frombuffer(_phrase, np.uint8)
    _FIRST[_phrase[0]] |= 1 << _p
    _SECOND[_phrase[1]] |= 1 << _p
_EDIT = np.frombuffer(b"edit]", np.uint8)
_NEEDED = np.frombuffer(b"citation needed]", np.uint8)
_DOT, _BRACKET, _CLOSE, _CURLY = (ord(c) for c in ".[]{")
_LINE_ENDS = np.zeros(256, np.bool_)
_LINE_ENDS[list(b".?!\"'")] = True


@numba.njit(nogil=True, cache=True)
def _starts_with(data, start, end, phrase):
    size = phrase.size
    if end - start < size:
        return False
    same = True
    for j in range(size):
        same &= data[start + j] == phrase[j]
    return same


@numba.njit(nogil=True, cache=True)
def _citation_size(data, start, end):
    """Bytes of the citation mark "[12]", "[]", "[edit]", "[citation needed]" at ``start``, or 0."""
    i = start + 1
    while i < end and 48 <= data[i] <= 57:
        i += 1
    if i < end and data[i] == _CLOSE:
        return i + 1 - start
    for mark in (_EDIT, _NEEDED):
        if _starts_with(data, start + 1, end, mark):
            return mark.size + 1
    return 0


@numba.njit(nogil=True, cache=True)
def _without_citations(data, start, end, line):
    """Copy a line into ``line`` without citation marks, ASCII letters lower-cased; its new size."""
    size = 0
    i = start
    while i < end:
        b = data[i]
        if b == _BRACKET:
            skip = _citation_size(data, i, end)
            if skip:
                i += skip
                continue
        line[size] = b + 32 if 65 <= b <= 90 else b
        size += 1
        i += 1
    return size


@numba.njit(nogil=True, cache=True)
def _find_phrases(line, size):
    """The sum of the kinds of phrases in ``line[:size]``."""
    kinds = 0
    for i in range(size - 1):
        maybe = _FIRST[line[i]] & _SECOND[line[i + 1]]
        if maybe:
            for p in range(_PHRASE_SIZE.size):
                phrase = _PHRASE_BYTES[p, : _PHRASE_SIZE[p]]
                if maybe >> p & 1 and _starts_with(line, i, size, phrase):
                    kinds |= _PHRASE_KIND[p]
    return kinds


@numba.njit(nogil=True, cache=True)
def count_c4_lines(data, words, flags, lines, n_lines, min_words, max_word_length, line, out):
    """Sort every line of ``str.splitlines`` into the first of C4_FIELDS[1:9] that fits it.

    lines: int64 [n_lines, 5] of split_lines; line: uint8 scratch as long as the longest line;
    out: int64 [10] in the order of C4_FIELDS, zeros. A kept line counts at least one sentence:
    a word whose last character before closing quotes and brackets ends a sentence.
    """
    out[0] = n_lines
    for q in range(n_lines):
        w0 = lines[q, 3]
        w1 = lines[q, 4]
        longest = 0
        sentences = 0
        for w in range(w0, w1):
            longest = max(longest, words[w + 1, 2] - words[w, 2])
            sentences += (flags[w] & ENDS_SENTENCE) != 0
        if longest > max_word_length:
            out[1] += 1
            continue
        size = 0
        if w1 > w0:
            size = _without_citations(data, words[w0, 0], words[w1 - 1, 1], line)
        last = line[size - 1] if size > 0 else 0
        dots = size > 2 and last == _DOT and line[size - 2] == _DOT and line[size - 3] == _DOT
        if not _LINE_ENDS[last] or dots:
            out[2] += 1
            continue
        if w1 - w0 < min_words:
            out[3] += 1
            continue
        kinds = _find_phrases(line, size)
        curly = False
        for i in range(size):
            curly |= line[i] == _CURLY
        if kinds & LOREM:
            out[4] += 1
        elif kinds & JAVASCRIPT:
            out[5] += 1
        elif curly:
            out[6] += 1
        elif kinds & POLICY:
            out[7] += 1
        else:
            out[8] += 1
            out[9] += max(1, sentences)
