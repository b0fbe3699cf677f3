"""HTML to columns in one pass over its bytes, without a tree: elements, class words, text, blocks.

A page becomes rows of int32: an element for each start tag that can hold text, a block for each piece
of text between two block-level boundaries, hashes of the words in classes and ids. Open elements lie on
a stack of ``MAX_DEPTH``; deeper ones are counted, no more. Every search is bounded or never repeated,
so time grows with the bytes whatever they are. ``html_reference`` says the same in plain Python.
"""

from __future__ import annotations

import html

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from kernels.text.html_names import (
    ARIA_HIDDEN,
    BLOCK_TAGS,
    CANONICAL,
    CLOSES,
    CODE_PAGE,
    COMMONS,
    END_STOPS,
    ENTITY_KEYS,
    ENTITY_VALUES,
    HASH_START,
    HASH_STEP,
    HIDDEN,
    LANGUAGE,
    LICENSE,
    LONGEST_BARE_ENTITY,
    LONGEST_ENTITY,
    META_KEYS,
    META_VALUES,
    NUM_MARKS,
    NUM_TAGS,
    PUBLISHED_DATA,
    PUBLISHED_TIME,
    RAW_TAGS,
    STOPS,
    TABLE_PARTS,
    TAG_FLAGS,
    TAG_KEYS,
    TAG_VALUES,
    TAGS,
    TITLE,
    VOID_TAGS,
    look_up,
    word_of,
)

# readable bytes, of white space, behind a page's last
PADDING = 96
MAX_DEPTH = 512
# open elements that a start tag, and an end tag, looks through
_START_REACH, _END_REACH = 32, 64
# class words of an element, bytes of an id that count
MAX_ELEMENT_WORDS, _ID_BYTES = 24, 40

# columns of an element: its tag, the row of the one it lies in, the flags of all it lies in and its
# own, its class words [WORDS_FROM, WORDS_TO), a hash of the tags and first classes from the root to it
TAG, PARENT, FLAGS, WORDS_FROM, WORDS_TO, PATH, DEPTH = range(7)
ELEMENT_COLUMNS = 8
# columns of a block: its text [START, END) in the page's text, the block-level element and the
# innermost one it begins in, its bytes in links, the links and images since the block before, where in
# the page it begins, the rows of the table row, the cell and the list item it lies in (0: none), how
# many lists it lies in, and whether it is preformatted
START, END, ELEMENT, INNER, LINK_BYTES, LINKS, IMAGES, AT, ROW, CELL, ITEM, LISTS, PRE = range(13)
BLOCK_COLUMNS = 16

(_LT, _GT, _SLASH, _BANG, _QUESTION, _DASH, _EQUALS, _AMP, _HASH, _SEMICOLON, _DOUBLE, _SINGLE) = b"<>/!?-=&#;\"'"
_SPACE, _NEWLINE, _RETURN, _NBSP_LEAD, _NBSP_TAIL, _NBSP = 32, 10, 13, 0xC2, 0xA0, 0xA0
_A, _BR, _PRE, _TR, _TD, _TH, _LI, _UL, _OL, _TABLE, _BODY, _HTML = (
    TAGS[name] for name in "a br pre tr td th li ul ol table body html".split()
)
_SCRIPT, _STYLE, _SVG, _TEMPLATE, _IFRAME, _TITLE, _META, _LINK, _IMG, _TIME = (
    TAGS[name] for name in "script style svg template iframe title meta link img time".split()
)
_WHOLE_CLASS = np.uint64(0x5555)
_PATH_STEP, _CLASS_STEP = np.uint64(0x9E3779B1), np.uint64(0x85EBCA77)
# attributes that tell something, by name
(
    _CLASS,
    _ID,
    _HIDDEN,
    _ARIA_HIDDEN,
    _STYLE_ATTRIBUTE,
    _REL,
    _HREF,
    _NAME,
    _CONTENT,
    _TYPE,
    _LANG,
    _DATETIME,
) = range(12)


def _letters(*words: str) -> np.ndarray:
    width = max(map(len, words))
    return np.array([list(word.encode().ljust(width, b"\0")) for word in words], np.uint8)


_LD_JSON, _COMMONS_HOST, _DATE_PUBLISHED = (
    np.frombuffer(word, np.uint8)
    for word in (b"application/ld+json", b"creativecommons.org/", b'"datepublished"')
)
_DISPLAY, _NONE, _LICENSE_WORD, _CANONICAL_WORD = (
    np.frombuffer(word, np.uint8) for word in (b"display", b"none", b"license", b"canonical")
)


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


@intrinsic
def _first_bit(_context, mask):
    def emit(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), emit


@njit(nogil=True, cache=True, inline="always")
def _find(data, at, size, byte):
    """The next place of a byte, ``size`` without one."""
    while at < size:
        mask = _equal(data, at, np.uint8(byte))
        if mask != 0:
            return min(at + _first_bit(mask), size)
        at += 64
    return size


@njit(nogil=True, cache=True, inline="always")
def _lower(byte):
    return byte + 32 if 65 <= byte <= 90 else byte


@njit(nogil=True, cache=True)
def _stands_at(data, at, end, word):
    """Whether ``data[at:end]`` begins with the (lower-case) word, in any case of letters."""
    if at + word.size > end:
        return False
    for k in range(word.size):
        if _lower(data[at + k]) != word[k]:
            return False
    return True


@njit(nogil=True, cache=True)
def _holds(data, start, end, word):
    for at in range(start, end - word.size + 1):
        if _stands_at(data, at, end, word):
            return True
    return False


@njit(nogil=True, cache=True)
def _add_words(data, start, end, words, num_words, room):
    """Write the hashes of the names in ``data[start:end]`` and of their parts (of two letters or more,
    between what is no letter and at camelCase); no further than ``room``. Returns the new count."""
    whole = part = HASH_START
    length = parts = 0
    before = np.int64(0)
    for at in range(start, end + 1):
        if num_words >= room:
            break
        byte = np.int64(data[at]) if at < end else np.int64(_SPACE)
        low = _lower(byte)
        letter = 97 <= low <= 122
        if length > 0 and (not letter or (low != byte and 97 <= before <= 122)):
            if length > 1:
                words[num_words] = word_of(part)
                num_words += 1
                parts += 1
            part, length = HASH_START, 0
        if letter:
            part = part * HASH_STEP + np.uint64(low)
            length += 1
        if byte <= _SPACE:
            if parts > 1 and num_words < room:
                words[num_words] = word_of(whole ^ _WHOLE_CLASS)
                num_words += 1
            whole, parts = HASH_START, 0
        else:
            whole = whole * HASH_STEP + np.uint64(low)
        before = byte
    return num_words


@njit(nogil=True, cache=True)
def _put(out, at, code):
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
def _reference(data, at, end):
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
            code = min(code * (16 if hexadecimal else 10) + digit, 0x110000)
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
def _is_name(data, at, name, length):
    """Whether the tag name of ``data[name:name + length]`` stands at ``data[at]`` as a whole."""
    for k in range(length):
        if _lower(data[at + k]) != _lower(data[name + k]):
            return False
    behind = data[at + length]
    return behind <= _SPACE or behind == _SLASH or behind == _GT


@njit(nogil=True, cache=True)
def _comment_end(data, at, size):
    """The place behind the comment whose text begins at ``data[at]``; ``size`` where it has no end."""
    i = at
    while True:
        i = _find(data, i, size, _GT)
        if i >= size:
            return size
        # "<!-->" and "<!--->" end too
        if data[i - 1] == _DASH and data[i - 2] == _DASH:
            return i + 1
        if data[i - 1] == _BANG and data[i - 2] == _DASH and data[i - 3] == _DASH and i - 3 >= at:
            return i + 1
        i += 1


@njit(nogil=True, cache=True)
def _ends_svg(data, at):
    """Whether the start tag whose name begins at ``data[at]`` is of HTML, so that an svg was left open."""
    a, b, c = data[at] | 32, data[at + 1] | 32, data[at + 2] | 32
    return (
        (a == ord("d") and b == ord("i") and c == ord("v"))
        or (a == ord("u") and b == ord("l"))
        or (a == ord("l") and b == ord("i") and c != ord("n"))
        or (a == ord("s") and b == ord("p"))
        or (a == ord("b") and b == ord("u"))
        or (a == ord("p") and (data[at + 1] <= _SPACE or data[at + 1] == _GT))
    )


@njit(nogil=True, cache=True)
def _raw_end(data, at, size, name, length, tag):
    """Where the content that begins at ``data[at]`` of an element without markup ends: at its end tag;
    ``size`` where it has none."""
    depth = escaped = 0
    comment_end = at
    while True:
        at = _find(data, at, size, _LT)
        if at >= size:
            return size
        if at >= comment_end:
            escaped = 0
        if data[at + 1] == _SLASH:
            if _is_name(data, at + 2, name, length):
                if escaped == 2:
                    # ends the script that a comment in a script began
                    escaped = 1
                elif depth == 0:
                    return at
                else:
                    depth -= 1
        elif tag == _SCRIPT:
            if escaped == 0 and data[at + 1] == _BANG and data[at + 2] == _DASH and data[at + 3] == _DASH:
                escaped = 1
                comment_end = _comment_end(data, at + 4, size)
            elif escaped == 1 and _is_name(data, at + 1, name, length):
                escaped = 2
        elif tag == _TEMPLATE:
            depth += _is_name(data, at + 1, name, length)
        elif tag == _SVG and _ends_svg(data, at + 1):
            return at
        at += 1


@njit(nogil=True, cache=True)
def _attribute_kind(data, at, length):
    """What an attribute's name says, -1: nothing."""
    a, b = data[at] | 32, data[at + 1] | 32
    if length == 5 and a == ord("c") and b == ord("l"):
        return _CLASS
    if length == 4:
        if a == ord("h") and b == ord("r"):
            return _HREF
        if a == ord("r") and b == ord("o"):
            return _ID
        if a == ord("n") and b == ord("a"):
            return _NAME
        if a == ord("t") and b == ord("y"):
            return _TYPE
        if a == ord("l") and b == ord("a"):
            return _LANG
    elif length == 2 and a == ord("i") and b == ord("d"):
        return _ID
    elif length == 5 and a == ord("s") and b == ord("t"):
        return _STYLE_ATTRIBUTE
    elif length == 3 and a == ord("r") and b == ord("e"):
        return _REL
    elif length == 8:
        if a == ord("i") and b == ord("t") and data[at + 4] | 32 == ord("p"):
            return _NAME
        if a == ord("p") and b == ord("r"):
            return _NAME
        if a == ord("d") and b == ord("a"):
            return _DATETIME
    elif length == 7 and a == ord("c") and b == ord("o"):
        return _CONTENT
    elif length == 6 and a == ord("h") and b == ord("i"):
        return _HIDDEN
    elif length == 10 and a == ord("a") and b == ord("r"):
        return _ID
    elif length == 11 and a == ord("a") and b == ord("r"):
        return _ARIA_HIDDEN
    return -1


@njit(nogil=True, cache=True)
def _hides(data, start, end):
    """Whether a style says display: none."""
    for at in range(start, end - 11):
        if data[at] | 32 == ord("d") and _stands_at(data, at, end, _DISPLAY):
            at += _DISPLAY.size
            while at < end and (data[at] <= _SPACE or data[at] == ord(":")):
                at += 1
            return _stands_at(data, at, end, _NONE)
    return False


@njit(nogil=True, cache=True)
def _set_mark(marks, kind, start, end):
    """Remember what a page says, the first time it says so."""
    if marks[kind, 1] == 0 and end > start:
        marks[kind, 0], marks[kind, 1] = start, end


@njit(nogil=True, cache=True)
def _attributes(data, at, size, tag, words, num_words, marks, found):
    """Read a start tag from behind its name: class words, marks, and into ``found`` its flags,
    whether it ends itself, is of JSON-LD, and a hash of its tag and first class word.
    Returns (place behind the tag, new count of words)."""
    room = num_words + MAX_ELEMENT_WORDS
    flags, self_closing, is_data = 0, 0, 0
    path = np.uint64(tag)
    is_license = is_canonical = False
    href_from = href_to = content_from = content_to = name_from = name_to = datetime_from = datetime_to = 0
    while at < size:
        byte = data[at]
        if byte == _GT:
            break
        if byte <= _SPACE:
            at += 1
            continue
        if byte == _SLASH:
            self_closing = 1
            at += 1
            continue
        self_closing = 0
        name = at
        at += 1
        while at < size and data[at] > _SPACE and data[at] != _EQUALS and data[at] != _GT and data[at] != _SLASH:
            at += 1
        kind = _attribute_kind(data, name, at - name)
        while at < size and data[at] <= _SPACE:
            at += 1
        start = end = at
        if at < size and data[at] == _EQUALS:
            at += 1
            while at < size and data[at] <= _SPACE:
                at += 1
            if at < size and (data[at] == _DOUBLE or data[at] == _SINGLE):
                start = at + 1
                end = _find(data, start, size, data[at])
                at = end + 1
            else:
                start = at
                while at < size and data[at] > _SPACE and data[at] != _GT:
                    at += 1
                end = at
        if kind < 0:
            continue
        if kind == _CLASS:
            before = num_words
            num_words = _add_words(data, start, end, words, num_words, room)
            if num_words > before:
                path = path * HASH_STEP + np.uint64(words[before])
        elif kind == _ID:
            num_words = _add_words(data, start, min(end, start + _ID_BYTES), words, num_words, room)
        elif kind == _HIDDEN:
            flags |= HIDDEN
        elif kind == _ARIA_HIDDEN:
            if end > start and data[start] | 32 == ord("t"):
                flags |= ARIA_HIDDEN
        elif kind == _STYLE_ATTRIBUTE:
            if _hides(data, start, end):
                flags |= HIDDEN
        elif kind == _HREF:
            href_from, href_to = start, end
        elif kind == _REL:
            if tag == _A or tag == _LINK:
                is_license |= _holds(data, start, end, _LICENSE_WORD)
                is_canonical |= _stands_at(data, start, end, _CANONICAL_WORD)
        elif kind == _NAME:
            if tag == _META or tag == _TIME:
                name_from, name_to = start, end
            num_words = _add_words(data, start, min(end, start + _ID_BYTES), words, num_words, room)
        elif kind == _CONTENT:
            content_from, content_to = start, end
        elif kind == _TYPE:
            is_data = int(tag == _SCRIPT and _stands_at(data, start, end, _LD_JSON))
        elif kind == _DATETIME:
            datetime_from, datetime_to = start, end
        elif kind == _LANG:
            if tag == _HTML:
                _set_mark(marks, LANGUAGE, start, end)
    if tag == _A or tag == _LINK:
        if is_license:
            _set_mark(marks, LICENSE, href_from, href_to)
        if is_canonical and tag == _LINK:
            _set_mark(marks, CANONICAL, href_from, href_to)
        if tag == _A and marks[COMMONS, 1] == 0 and href_to - href_from > 30 and data[href_from] | 32 == ord("h"):
            host = href_from + (8 if data[href_from + 4] | 32 == ord("s") else 7)
            if _stands_at(data, host, href_to, _COMMONS_HOST):
                _set_mark(marks, COMMONS, href_from, href_to)
    elif tag == _META or tag == _TIME:
        key = HASH_START
        for k in range(name_from, min(name_to, name_from + 64)):
            key = key * HASH_STEP + np.uint64(_lower(data[k]))
        known = look_up(META_KEYS, META_VALUES, key, -1)
        if tag == _META and known >= 0:
            _set_mark(marks, known, content_from, content_to)
        if tag == _TIME and name_to > name_from:
            _set_mark(marks, PUBLISHED_TIME, datetime_from, datetime_to)
    found[0], found[1], found[2], found[3] = flags, self_closing, is_data, np.int64(path)
    return at + 1, num_words


@njit(nogil=True, cache=True)
def _read_data(data, start, end, marks):
    """Mark the first "datePublished" of a piece of JSON-LD."""
    at = start
    while marks[PUBLISHED_DATA, 1] == 0:
        at = _find(data, at, end, _DOUBLE)
        if at >= end:
            return
        if _stands_at(data, at, end, _DATE_PUBLISHED):
            first = _find(data, at + _DATE_PUBLISHED.size, end, _DOUBLE) + 1
            _set_mark(marks, PUBLISHED_DATA, first, _find(data, first, end, _DOUBLE))
        at += 1


@njit(nogil=True, cache=True)
def _end_of_block(out, start, end, in_pre):
    """Where the text of a block ends: without white space behind it; preformatted, where it is."""
    at = end
    while at > start and out[at - 1] <= _SPACE:
        at -= 1
    return end if in_pre and at > start else at


@njit(nogil=True, cache=True)
def tokenize(data, size, out, elements, words, blocks, marks):
    """Columns of the page ``data[:size]``, UTF-8 with ``PADDING`` bytes of white space behind it.

    out       uint8, the text of all blocks, back to back
    elements  int32 [n, ELEMENT_COLUMNS], row 0 is the page itself
    words     int32, places in a word table
    blocks    int32 [n, BLOCK_COLUMNS]
    marks     int64 [NUM_MARKS, 2], the bytes of the page that say something of it; 0, 0 without
    Room for them is what :func:`workspace` makes. Bytes that are no UTF-8 are copied as they are.
    Returns (elements, words, blocks, bytes of text, balance): the last is how far start tags ran ahead
    of end tags, a bound on how deep elements nest where every end tag ends something.
    """
    tags = np.empty(MAX_DEPTH, np.int64)
    rows = np.empty(MAX_DEPTH, np.int64)
    # what an open element lies in: block-level element, table row, cell, list item, number of lists
    places = np.zeros((MAX_DEPTH, 5), np.int64)
    num_open = np.zeros(NUM_TAGS, np.int64)
    endless = np.zeros(NUM_TAGS, np.bool_)
    found = np.zeros(4, np.int64)
    marks[:] = 0
    elements[0] = 0
    tags[0] = rows[0] = 0
    depth, over = 1, 0
    num_elements, num_words, num_blocks, written = 1, 0, 0, 0
    balance = lowest = highest = 0
    # of the block that is being read; gap is the white space since its last character: 1 a space, 2 a
    # line break, 3 more than one
    is_open = in_pre = False
    gap = images = links = link_bytes = begin = 0
    block = blocks[0]
    at = 0
    while at < size:
        first = data[at + 1]
        is_end = first == _SLASH and 97 <= data[at + 2] | 32 <= 122
        is_start = 97 <= first | 32 <= 122
        if data[at] != _LT or not (
            is_start or is_end or first == _BANG or first == _QUESTION or (first == _SLASH and at + 2 < size)
        ):
            # ---- text
            stop = _find(data, at + 1, size, _LT)
            is_pre, is_link = num_open[_PRE] > 0, num_open[_A] > 0
            while at < stop:
                byte = np.int64(data[at])
                code, second = np.int64(-1), np.int64(0)
                at += 1
                if byte == _AMP:
                    code, second, at = _reference(data, at - 1, stop)
                    byte = code if code >= 0 else byte
                elif byte == _NBSP_LEAD and data[at] == _NBSP_TAIL:
                    byte = np.int64(_NBSP)
                    code = byte
                    at += 1
                if byte <= _SPACE:
                    if byte == 0 or (byte == _RETURN and data[at] == _NEWLINE):
                        continue
                    if not is_pre:
                        gap = max(gap, 1)
                        continue
                    byte = np.int64(_NEWLINE if byte == _RETURN else byte)
                    code = np.int64(-1)
                elif code == _NBSP:
                    if not (is_pre or is_open):
                        continue
                    byte, code = np.int64(_SPACE), np.int64(-1)
                if not is_open:
                    is_open, in_pre = True, is_pre
                    begin, links, link_bytes, gap = written, is_link, 0, 0
                    block = blocks[num_blocks]
                    block[START], block[INNER], block[AT], block[PRE] = written, rows[depth - 1], at, is_pre
                    block[ELEMENT], block[ROW], block[CELL], block[ITEM], block[LISTS] = places[depth - 1]
                if gap:
                    out[written] = _SPACE if gap == 1 else _NEWLINE
                    out[written + 1] = _NEWLINE
                    written += 1 + (gap == 3)
                    gap = 0
                link_bytes += is_link
                if code < 0:
                    out[written] = byte
                    written += 1
                else:
                    written = _put(out, written, code)
                    written = _put(out, written, second) if second else written
            continue
        tag, boundary = np.int64(-1), False
        first_word = num_words
        if is_start or is_end:
            name = at + 1 + is_end
            at = name
            key = HASH_START
            while at < size and data[at] > _SPACE and data[at] != _GT and data[at] != _SLASH:
                key = key * HASH_STEP + np.uint64(_lower(data[at]))
                at += 1
            tag = look_up(TAG_KEYS, TAG_VALUES, key, 0)
            boundary = BLOCK_TAGS[tag]
        if is_start:
            length = at - name
            at, num_words = _attributes(data, at, size, tag, words, num_words, marks, found)
            if RAW_TAGS[tag]:
                num_words = first_word
                if tag == _SVG and found[1]:
                    continue
                end = size if endless[tag] else _raw_end(data, at, size, name, length, tag)
                if end >= size:
                    # without an end it counts as empty, and none is sought again
                    endless[tag] = True
                    if tag == _SCRIPT or tag == _STYLE:
                        at = size
                    continue
                if found[2]:
                    _read_data(data, at, end, marks)
                if tag == _TITLE:
                    _set_mark(marks, TITLE, at, end)
                at = _find(data, end, size, _GT) + 1 if data[end + 1] == _SLASH else end
                continue
            if VOID_TAGS[tag]:
                num_words = first_word
                images += tag == _IMG
                if tag == _BR and num_open[_PRE] == 0:
                    gap = 2 if gap < 2 else 3
                elif tag == _BR and is_open:
                    out[written] = _NEWLINE
                    written += 1
                if not boundary:
                    continue
            else:
                balance += 1
                highest = max(highest, balance - lowest)
                closes, stops = CLOSES[tag], STOPS[tag]
                keep = depth
                k = depth - 1
                last = max(1, depth - _START_REACH)
                if tag == _A and num_open[_A] > 0:
                    while k >= last and not BLOCK_TAGS[tags[k]]:
                        keep = k if tags[k] == _A else keep
                        k -= 1
                elif closes:
                    while k >= last:
                        bit = np.uint64(1) << np.uint64(tags[k]) if tags[k] < 64 else np.uint64(0)
                        if closes & bit:
                            keep = k
                        elif stops & bit:
                            break
                        k -= 1
                while depth > keep:
                    depth -= 1
                    num_open[tags[depth]] -= 1
        elif is_end:
            at = _find(data, at, size, _GT) + 1
            balance -= 1
            lowest = min(lowest, balance)
            if over > 0:
                over -= not VOID_TAGS[tag]
            elif num_open[tag] > 0 and tag != _BODY and tag != _HTML:
                k = depth - 1
                last = max(1, depth - _END_REACH)
                while k >= last and tags[k] != tag:
                    if boundary:
                        stop_bit = END_STOPS >> np.uint64(tags[k]) if tags[k] < 64 else np.uint64(0)
                        if stop_bit & np.uint64(1) and not TABLE_PARTS[tag]:
                            k = 0
                    elif BLOCK_TAGS[tags[k]]:
                        k = 0
                    k -= 1
                if k >= last:
                    while depth > k:
                        depth -= 1
                        num_open[tags[depth]] -= 1
        elif first == _BANG and data[at + 2] == _DASH and data[at + 3] == _DASH:
            at = _comment_end(data, at + 4, size)
        else:
            at = _find(data, at + 1, size, _GT) + 1
        if boundary and is_open and in_pre and num_open[_PRE] > 0:
            if out[written - 1] != _NEWLINE:
                out[written] = _NEWLINE
                written += 1
        elif boundary:
            if is_open:
                written = _end_of_block(out, begin, written, in_pre)
                if written > begin:
                    block[END], block[LINK_BYTES], block[LINKS], block[IMAGES] = written, link_bytes, links, images
                    num_blocks += 1
                    images = 0
                is_open = False
            gap = 0
        if not is_start or VOID_TAGS[tag]:
            continue
        # ---- open the element
        if depth == MAX_DEPTH:
            over += 1
            num_words = first_word
            continue
        row = num_elements
        parent = rows[depth - 1]
        element = elements[row]
        element[TAG], element[PARENT], element[DEPTH] = tag, parent, depth
        element[FLAGS] = elements[parent, FLAGS] | TAG_FLAGS[tag] | found[0]
        element[WORDS_FROM], element[WORDS_TO] = first_word, num_words
        path = np.uint64(elements[parent, PATH]) * _PATH_STEP + np.uint64(found[3]) * _CLASS_STEP
        element[PATH] = np.int64(path >> np.uint64(7)) & 0x7FFFFFFF
        tags[depth], rows[depth] = tag, row
        place = places[depth]
        place[:] = places[depth - 1]
        if boundary:
            place[0] = row
        if tag == _TABLE:
            place[1] = place[2] = 0
        elif tag == _TR:
            place[1], place[2] = row, 0
        elif tag == _TD or tag == _TH:
            place[2] = row
        elif tag == _LI:
            place[3] = row
        elif tag == _UL or tag == _OL:
            place[4] += 1
        elif tag == _PRE:
            # a line break right behind the tag is not part of it
            at += data[at] == _RETURN
            at += data[at] == _NEWLINE
        links += tag == _A
        num_open[tag] += 1
        depth += 1
        num_elements += 1
    if is_open:
        written = _end_of_block(out, begin, written, in_pre)
        if written > begin:
            block[END], block[LINK_BYTES], block[LINKS], block[IMAGES] = written, link_bytes, links, images
            num_blocks += 1
    return num_elements, num_words, num_blocks, written, highest


class Workspace:
    """The arrays of :func:`tokenize`, kept from page to page; memory that no page touched costs nothing.

    A page of n bytes takes at most 40 n bytes. What a page of over ``_KEPT`` bytes took is given back.
    """

    _KEPT = 8 << 20

    def __init__(self) -> None:
        self._size = -1

    def tokenize(self, page: bytes) -> None:
        """Fill ``elements``, ``words``, ``blocks`` and ``text`` (cut to size), ``marks``, ``balance``."""
        size = len(page)
        if size > self._size or self._size > self._KEPT >= size:
            self._size = max(size, 1 << 16)
            self._arrays = (
                np.empty(2 * self._size + PADDING, np.uint8),
                np.empty((self._size // 3 + 2, ELEMENT_COLUMNS), np.int32),
                np.empty(self._size + MAX_ELEMENT_WORDS, np.int32),
                np.empty((self._size // 4 + 2, BLOCK_COLUMNS), np.int32),
                np.empty((NUM_MARKS, 2), np.int64),
            )
        self.page = page
        data = np.frombuffer(page + b" " * PADDING, np.uint8)
        text, elements, words, blocks, self.marks = self._arrays
        counts = tokenize(data, size, *self._arrays)
        self.elements, self.words, self.blocks = elements[: counts[0]], words[: counts[1]], blocks[: counts[2]]
        self.text = text[: counts[3]]
        self.balance = counts[4]

    def said(self, mark: int) -> str:
        """What the page says of itself in a mark, character references replaced; "" where it does not."""
        start, end = self.marks[mark]
        return html.unescape(self.page[start:end].decode("utf-8", "replace"))
