"""Bytes of HTML: searches, character references, and where comments and elements without markup end."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from kernels.text.html_names import (
    CODE_PAGE,
    ENTITY_KEYS,
    ENTITY_VALUES,
    HASH_START,
    HASH_STEP,
    LONGEST_BARE_ENTITY,
    LONGEST_ENTITY,
    TAGS,
    look_up,
)
from kernels.text.simd import trailing_zeros

# readable bytes, of white space, behind a page's last
PADDING = 96

SPACE, NEWLINE, RETURN = b" \n\r"
LT, GT, SLASH, BANG, QUESTION, DASH, EQUALS, AMP, DOUBLE, SINGLE = b"<>/!?-=&\"'"
_HASH, _SEMICOLON = b"#;"
# of a no-break space in UTF-8
NBSP_LEAD, NBSP_TAIL, NBSP = 0xC2, 0xA0, 0xA0
_SCRIPT, _SVG, _TEMPLATE = TAGS["script"], TAGS["svg"], TAGS["template"]


@intrinsic
def _equal(_context, array, _index, _byte):
    """Bit k of the uint64: ``array[index + k]`` is the byte; reads 64 bytes, bounds unchecked."""

    def emit(context, builder, signature, args):
        vector = ir.VectorType(ir.IntType(8), 64)
        data = make_array(signature.args[0])(context, builder, args[0]).data
        block = builder.load(builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer()))
        block.align = 1
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), args[2], ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        byte = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)
        return builder.bitcast(builder.icmp_unsigned("==", block, byte), ir.IntType(64))

    return types.uint64(array, types.int64, types.uint8), emit


def _copy(plain: bool):
    """An intrinsic that copies 64 bytes from ``data[at]`` to ``out[to]`` and says, a bit a byte, which of
    them cannot stay as they are: "&", what may begin a no-break space, NUL, a carriage return; and, but
    in preformatted text (``plain`` false), white space other than one space between two words."""

    @intrinsic
    def copy(_context, data, _at, out, _to):
        def emit(context, builder, signature, args):
            vector = ir.VectorType(ir.IntType(8), 64)

            def block(array, index, offset):
                start = make_array(signature.args[array])(context, builder, args[array]).data
                at = builder.add(args[index], ir.IntType(64)(offset))
                return builder.bitcast(builder.gep(start, [at]), vector.as_pointer())

            def load(offset):
                loaded = builder.load(block(0, 1, offset))
                loaded.align = 1
                return loaded

            def compare(how, byte, value):
                return builder.icmp_unsigned(how, byte, ir.Constant(vector, [value] * 64))

            here = load(0)
            builder.store(here, block(2, 3, 0)).align = 1
            stops = builder.or_(compare("==", here, AMP), compare("==", here, NBSP_LEAD))
            if plain:
                behind = load(1)
                ends = builder.or_(compare("<=", behind, SPACE), compare("==", behind, LT))
                stops = builder.or_(stops, compare("<", here, SPACE))
                stops = builder.or_(stops, builder.and_(compare("==", here, SPACE), ends))
            else:
                stops = builder.or_(stops, compare("==", here, RETURN))
                stops = builder.or_(stops, compare("==", here, 0))
            return builder.bitcast(stops, ir.IntType(64))

        return types.uint64(data, types.int64, out, types.int64), emit

    return copy


copy_text, copy_preformatted = _copy(plain=True), _copy(plain=False)


@njit(nogil=True, cache=True, inline="always")
def find(data, at, size, byte):
    """The next place of a byte, ``size`` without one."""
    while at < size:
        mask = _equal(data, at, np.uint8(byte))
        if mask != 0:
            return min(at + trailing_zeros(mask), size)
        at += 64
    return size


@njit(nogil=True, cache=True, inline="always")
def lower(byte):
    return byte + 32 if 65 <= byte <= 90 else byte


@njit(nogil=True, cache=True)
def stands_at(data, at, end, word):
    """Whether ``data[at:end]`` begins with the (lower-case) word, in any case of letters."""
    if at + word.size > end:
        return False
    for k in range(word.size):
        if lower(data[at + k]) != word[k]:
            return False
    return True


@njit(nogil=True, cache=True)
def holds(data, start, end, word):
    for at in range(start, end - word.size + 1):
        if stands_at(data, at, end, word):
            return True
    return False


@njit(nogil=True, cache=True)
def put(out, at, code):
    """Write a code point in UTF-8; the place behind it."""
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at] = 0xC0 | code >> 6
        out[at + 1] = 0x80 | code & 63
        return at + 2
    if code < 0x10000:
        out[at] = 0xE0 | code >> 12
        out[at + 1] = 0x80 | code >> 6 & 63
        out[at + 2] = 0x80 | code & 63
        return at + 3
    out[at] = 0xF0 | code >> 18
    out[at + 1] = 0x80 | code >> 12 & 63
    out[at + 2] = 0x80 | code >> 6 & 63
    out[at + 3] = 0x80 | code & 63
    return at + 4


@njit(nogil=True, cache=True)
def reference(data, at, end):
    """The character reference at the "&" of ``data[at]``: (code point, second one or 0, place behind);
    (-1, 0, at + 1) where there is none."""
    i = at + 1
    code = np.int64(0)
    if data[i] == _HASH:
        i += 1
        hexadecimal = data[i] | 32 == 120
        i += hexadecimal
        first = i
        while i < end:
            byte = np.int64(data[i])
            if 48 <= byte <= 57:
                digit = byte - 48
            elif hexadecimal and 97 <= byte | 32 <= 102:
                digit = (byte | 32) - 87
            else:
                break
            code = min(code * (16 if hexadecimal else 10) + digit, np.int64(0x110000))
            i += 1
        if i == first:
            return np.int64(-1), np.int64(0), at + 1
        if i < end and data[i] == _SEMICOLON:
            i += 1
        if 128 <= code < 160 and CODE_PAGE[code - 128]:
            code = np.int64(CODE_PAGE[code - 128])
        if code == 0 or code >= 0x110000 or 0xD800 <= code < 0xE000:
            code = np.int64(0xFFFD)
        return code, np.int64(0), i
    key = HASH_START
    found, behind = np.int64(-1), at + 1
    while i < end and i - at <= LONGEST_ENTITY:
        byte = np.int64(data[i])
        if byte != _SEMICOLON and not (48 <= byte <= 57 or 97 <= byte | 32 <= 122):
            break
        key = key * HASH_STEP + np.uint64(byte)
        i += 1
        if byte == _SEMICOLON or i - at - 1 <= LONGEST_BARE_ENTITY:
            value = look_up(ENTITY_KEYS, ENTITY_VALUES, key, -1)
            if value >= 0:
                found, behind = value, i
        if byte == _SEMICOLON:
            break
    if found < 0:
        return np.int64(-1), np.int64(0), at + 1
    return found & 0x1FFFFF, found >> 21, behind


@njit(nogil=True, cache=True)
def is_name(data, at, name, length):
    """Whether the tag name of ``data[name:name + length]`` stands at ``data[at]`` as a whole."""
    for k in range(length):
        if lower(data[at + k]) != lower(data[name + k]):
            return False
    behind = data[at + length]
    return behind <= SPACE or behind == SLASH or behind == GT


@njit(nogil=True, cache=True)
def comment_end(data, at, size):
    """The place behind the comment whose text begins at ``data[at]``; ``size`` where it has no end."""
    i = at
    while True:
        i = find(data, i, size, GT)
        if i >= size:
            return size
        # "<!-->" and "<!--->" end too
        if data[i - 1] == DASH and data[i - 2] == DASH:
            return i + 1
        if data[i - 1] == BANG and data[i - 2] == DASH and data[i - 3] == DASH:
            return i + 1
        i += 1


@njit(nogil=True, cache=True)
def ends_svg(data, at):
    """Whether the start tag whose name begins at ``data[at]`` is of HTML, so that an svg was left open."""
    a, b, c = data[at] | 32, data[at + 1] | 32, data[at + 2] | 32
    return (
        (a == ord("d") and b == ord("i") and c == ord("v"))
        or (a == ord("u") and b == ord("l"))
        or (a == ord("l") and b == ord("i") and c != ord("n"))
        or (a == ord("s") and b == ord("p"))
        or (a == ord("b") and b == ord("u"))
        or (a == ord("p") and (data[at + 1] <= SPACE or data[at + 1] == GT))
    )


@njit(nogil=True, cache=True)
def raw_end(data, at, size, name, length, tag, comment):
    """Where the content that begins at ``data[at]`` of an element without markup ends: at its end tag;
    ``size`` where it has none. ``comment`` keeps where a comment in a script began and ended, so that
    none is sought twice."""
    depth = escaped = 0
    behind = at
    while True:
        at = find(data, at, size, LT)
        if at >= size:
            return size
        if at >= behind:
            escaped = 0
        if data[at + 1] == SLASH:
            if is_name(data, at + 2, name, length):
                if escaped == 2:
                    # ends the script that a comment in a script began
                    escaped = 1
                elif depth == 0:
                    return at
                else:
                    depth -= 1
        elif tag == _SCRIPT:
            if escaped == 0 and data[at + 1] == BANG and data[at + 2] == DASH and data[at + 3] == DASH:
                escaped = 1
                if not comment[0] <= at < comment[1]:
                    comment[0], comment[1] = at, comment_end(data, at + 4, size)
                behind = comment[1]
            elif escaped == 1 and is_name(data, at + 1, name, length):
                escaped = 2
        elif tag == _TEMPLATE:
            depth += is_name(data, at + 1, name, length)
        elif tag == _SVG and ends_svg(data, at + 1):
            return at
        at += 1
