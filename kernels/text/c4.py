"""The line rules of C4 (arXiv 1910.10683, section 2.2, and its published code), as counts."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from kernels.text.simd import BLOCK, BLOCKS, block_mask, bytes_of, load_block, low_bits
from kernels.text.words import CLOSER, SPACE, TERMINAL, decode

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
# three letters of each phrase, rare ones: few lines have to be looked at closely
ANCHORS = (b"lor", b"jav", b"rms", b"vac", b"coo")
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


@njit(nogil=True, cache=True)
def _starts_with(data, start, end, phrase):
    size = phrase.size
    if end - start < size:
        return False
    same = True
    for j in range(size):
        same &= data[start + j] == phrase[j]
    return same


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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


def _anchor_table(place: int) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for bit, anchor in enumerate(ANCHORS):
        for letter in (anchor[place], anchor[place] - 32):
            table[letter] |= 1 << bit
    return table


_ANCHOR_0, _ANCHOR_1, _ANCHOR_2 = (_anchor_table(place) for place in range(3))


@intrinsic
def _block_may_matter(_context, data, _index, _valid):
    """Whether a byte of the block is "[" or "{" or an anchor begins there, in lower or upper case;
    reads bytes whose bit of ``valid`` is set."""

    def code(context, builder, signature, args):
        data, index, valid = args
        blocks = []
        for place in range(3):
            shift = ir.Constant(valid.type, place)
            block = load_block(
                context,
                builder,
                signature.args[0],
                data,
                builder.add(index, shift),
                builder.lshr(valid, shift),
            )
            # of letters both cases become one; what else does is not wrong, only looked at in vain
            blocks.append((block, builder.or_(block, bytes_of(0x20))))

        def equal(block, byte):
            return builder.icmp_unsigned("==", block, bytes_of(byte))

        found = builder.or_(equal(blocks[0][0], _BRACKET), equal(blocks[0][0], _CURLY))
        for anchor in ANCHORS:
            same = equal(blocks[0][1], anchor[0])
            for place in (1, 2):
                same = builder.and_(same, equal(blocks[place][1], anchor[place]))
            found = builder.or_(found, same)
        return builder.icmp_unsigned("!=", block_mask(builder, found), ir.Constant(ir.IntType(64), 0))

    return types.boolean(data, types.int64, types.uint64), code


@njit(nogil=True, cache=True)
def _may_matter_by_blocks(data, start, end):
    # two bytes of each block are looked at again, as the first of the next
    for i in range(start, end, BLOCK - 2):
        if _block_may_matter(data, np.int64(i), low_bits(end - i)):
            return True
    return False


@njit(nogil=True, cache=True)
def _may_matter_by_bytes(data, start, end):
    found = False
    for i in range(start, end):
        found |= (data[i] == _BRACKET) | (data[i] == _CURLY)
    for i in range(start, end - 2):
        found |= (_ANCHOR_0[data[i]] & _ANCHOR_1[data[i + 1]] & _ANCHOR_2[data[i + 2]]) != 0
    return found


# (data, start, end) -> whether ``data[start:end]`` may hold a citation mark, a "{" or a phrase; False
# is certain
may_matter = _may_matter_by_blocks if BLOCKS else _may_matter_by_bytes


@njit(nogil=True, cache=True)
def count_sentences(data, start, end, classes):
    """Words whose last character before closing quotes and brackets is TERMINAL, as ``walk``."""
    sentences = 0
    ends = False
    i = start
    while i < end:
        code, width = decode(data, i, end)
        kind = classes[code]
        if kind & SPACE:
            sentences += ends
            ends = False
        elif kind & TERMINAL:
            ends = True
        elif not kind & CLOSER:
            ends = False
        i += width
    return sentences + ends


@njit(nogil=True, cache=True)
def c4_field(data, start, end, n_words, sentences, min_words, classes, line):
    """(the first of C4_FIELDS[2:9] that fits a line, its sentences if it is kept).

    data[start:end], n_words, sentences: the line from its first word to its last; line: uint8
    scratch as long. C4 looks for all but the number of words without citation marks, so that "end.[1]"
    ends a sentence. A kept line counts at least one.
    """
    last = data[end - 1] if n_words else np.uint8(0)
    if last != _CLOSE and not _LINE_ENDS[last]:
        return 2, 0
    if not may_matter(data, start, end):
        if last == _CLOSE or _ends_with_dots(data, start, end):
            return 2, 0
        return (3, 0) if n_words < min_words else (8, max(1, sentences))
    size = _without_citations(data, start, end, line)
    if size == 0 or not _LINE_ENDS[line[size - 1]] or _ends_with_dots(line, 0, size):
        return 2, 0
    if n_words < min_words:
        return 3, 0
    kinds = _find_phrases(line, size)
    if kinds & LOREM:
        return 4, 0
    if kinds & JAVASCRIPT:
        return 5, 0
    for i in range(size):
        if line[i] == _CURLY:
            return 6, 0
    if kinds & POLICY:
        return 7, 0
    if size < end - start:
        sentences = count_sentences(line, 0, size, classes)
    return 8, max(1, sentences)


@njit(nogil=True, cache=True)
def _ends_with_dots(data, start, end):
    if end - start < 3:
        return False
    return data[end - 1] == _DOT and data[end - 2] == _DOT and data[end - 3] == _DOT
