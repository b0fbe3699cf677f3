"""The start tags of HTML: words of classes and ids, what is hidden, what a page says of itself."""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels.text.html_names import (
    ARIA_ATTRIBUTE,
    ARIA_HIDDEN,
    ATTRIBUTE_KEYS,
    ATTRIBUTE_VALUES,
    CANONICAL,
    CLASS,
    COMMONS,
    CONTENT,
    DATETIME,
    HASH_START,
    HASH_STEP,
    HIDDEN,
    HIDDEN_ATTRIBUTE,
    HREF,
    ID,
    LANG,
    LANGUAGE,
    LICENSE,
    META_KEYS,
    META_VALUES,
    NAME,
    PUBLISHED_DATA,
    PUBLISHED_TIME,
    REL,
    STYLE,
    TAGS,
    TYPE,
    look_up,
    word_of,
)
from kernels.text.html_scan import DOUBLE, EQUALS, GT, SINGLE, SLASH, SPACE, find, holds, lower, stands_at

# class words of an element, bytes of an id and of a name of <meta> that count
MAX_ELEMENT_WORDS, _ID_BYTES, _NAME_BYTES = 24, 40, 64
_A, _HTML, _LINK, _META, _SCRIPT, _TIME = (TAGS[n] for n in ("a", "html", "link", "meta", "script", "time"))
_WHOLE_CLASS = np.uint64(0x5555)
_LD_JSON, _COMMONS_HOST, _DATE_PUBLISHED, _DISPLAY, _NONE, _LICENSE_WORD, _CANONICAL_WORD = (
    np.frombuffer(word, np.uint8)
    for word in (
        b"application/ld+json", b"creativecommons.org/", b'"datepublished"', b"display", b"none", b"license",
        b"canonical",
    )
)  # fmt: skip


@njit(nogil=True, cache=True)
def add_words(data, start, end, words, num_words, room):
    """Write the hashes of the names in ``data[start:end]`` and of their parts (of two letters or more,
    between what is no letter and at camelCase); no further than ``room``. Returns the new count."""
    whole = part = HASH_START
    length = parts = 0
    before = np.int64(0)
    for at in range(start, end + 1):
        if num_words >= room:
            break
        byte = np.int64(data[at]) if at < end else np.int64(SPACE)
        low = lower(byte)
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
        if byte <= SPACE:
            if parts > 1 and num_words < room:
                words[num_words] = word_of(whole ^ _WHOLE_CLASS)
                num_words += 1
            whole, parts = HASH_START, 0
        else:
            whole = whole * HASH_STEP + np.uint64(low)
        before = byte
    return num_words


@njit(nogil=True, cache=True)
def hides(data, start, end):
    """Whether a style says display: none."""
    for at in range(start, end - 11):
        if data[at] | 32 == ord("d") and stands_at(data, at, end, _DISPLAY):
            at += _DISPLAY.size
            while at < end and (data[at] <= SPACE or data[at] == ord(":")):
                at += 1
            return stands_at(data, at, end, _NONE)
    return False


@njit(nogil=True, cache=True)
def set_mark(marks, kind, start, end):
    """Remember what a page says, the first time it says so."""
    if marks[kind, 1] == 0 and end > start:
        marks[kind, 0], marks[kind, 1] = start, end


@njit(nogil=True, cache=True)
def read_attributes(data, at, size, tag, words, num_words, marks, found):
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
        if byte == GT:
            break
        if byte <= SPACE:
            at += 1
            continue
        if byte == SLASH:
            self_closing = 1
            at += 1
            continue
        self_closing = 0
        key = HASH_START * HASH_STEP + np.uint64(lower(data[at]))
        at += 1
        while at < size and data[at] > SPACE and data[at] != EQUALS and data[at] != GT and data[at] != SLASH:
            key = key * HASH_STEP + np.uint64(lower(data[at]))
            at += 1
        kind = look_up(ATTRIBUTE_KEYS, ATTRIBUTE_VALUES, key, -1)
        while at < size and data[at] <= SPACE:
            at += 1
        start = end = at
        if at < size and data[at] == EQUALS:
            at += 1
            while at < size and data[at] <= SPACE:
                at += 1
            if at < size and (data[at] == DOUBLE or data[at] == SINGLE):
                start = at + 1
                end = find(data, start, size, data[at])
                at = end + 1
            else:
                start = at
                while at < size and data[at] > SPACE and data[at] != GT:
                    at += 1
                end = at
        if kind < 0:
            continue
        if kind == CLASS:
            before = num_words
            num_words = add_words(data, start, end, words, num_words, room)
            if num_words > before:
                path = path * HASH_STEP + np.uint64(words[before])
        elif kind == ID:
            num_words = add_words(data, start, min(end, start + _ID_BYTES), words, num_words, room)
        elif kind == HIDDEN_ATTRIBUTE:
            flags |= HIDDEN
        elif kind == ARIA_ATTRIBUTE:
            if end > start and data[start] | 32 == ord("t"):
                flags |= ARIA_HIDDEN
        elif kind == STYLE:
            if hides(data, start, end):
                flags |= HIDDEN
        elif kind == HREF:
            href_from, href_to = start, end
        elif kind == REL:
            if tag == _A or tag == _LINK:
                is_license |= holds(data, start, end, _LICENSE_WORD)
                is_canonical |= stands_at(data, start, end, _CANONICAL_WORD)
        elif kind == NAME:
            if tag == _META or tag == _TIME:
                name_from, name_to = start, end
            num_words = add_words(data, start, min(end, start + _ID_BYTES), words, num_words, room)
        elif kind == CONTENT:
            content_from, content_to = start, end
        elif kind == TYPE:
            is_data = int(tag == _SCRIPT and stands_at(data, start, end, _LD_JSON))
        elif kind == DATETIME:
            datetime_from, datetime_to = start, end
        elif kind == LANG and tag == _HTML:
            set_mark(marks, LANGUAGE, start, end)
    if tag == _A or tag == _LINK:
        if is_license:
            set_mark(marks, LICENSE, href_from, href_to)
        if is_canonical and tag == _LINK:
            set_mark(marks, CANONICAL, href_from, href_to)
        if (
            tag == _A
            and marks[COMMONS, 1] == 0
            and href_to - href_from > 30
            and data[href_from] | 32 == ord("h")
        ):
            host = href_from + (8 if data[href_from + 4] | 32 == ord("s") else 7)
            if stands_at(data, host, href_to, _COMMONS_HOST):
                set_mark(marks, COMMONS, href_from, href_to)
    elif tag == _META or tag == _TIME:
        key = HASH_START
        for k in range(name_from, min(name_to, name_from + _NAME_BYTES)):
            key = key * HASH_STEP + np.uint64(lower(data[k]))
        known = look_up(META_KEYS, META_VALUES, key, -1)
        if tag == _META and known >= 0:
            set_mark(marks, known, content_from, content_to)
        if tag == _TIME and name_to > name_from:
            set_mark(marks, PUBLISHED_TIME, datetime_from, datetime_to)
    found[0], found[1], found[2], found[3] = flags, self_closing, is_data, np.int64(path)
    return at + 1, num_words


@njit(nogil=True, cache=True)
def read_data(data, start, end, marks):
    """Mark the first "datePublished" of a piece of JSON-LD."""
    at = start
    while marks[PUBLISHED_DATA, 1] == 0:
        at = find(data, at, end, DOUBLE)
        if at >= end:
            return
        if stands_at(data, at, end, _DATE_PUBLISHED):
            first = find(data, at + _DATE_PUBLISHED.size, end, DOUBLE) + 1
            set_mark(marks, PUBLISHED_DATA, first, find(data, first, end, DOUBLE))
        at += 1
