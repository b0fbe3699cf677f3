"""HTML to columns in one pass over its bytes, without a tree: elements, class words, text, blocks.

A page becomes rows of int32: an element for each start tag that can hold text, a block for each piece
of text between two block-level boundaries, hashes of the words in classes and ids. Open elements lie on
a stack of ``MAX_DEPTH``; deeper ones are counted, no more. Every search is bounded or never repeated,
so time grows with the bytes whatever they are. ``html_reference`` says the same in plain Python.
"""

from __future__ import annotations

import html

import numpy as np
from numba import njit

from kernels.text.html_attributes import MAX_ELEMENT_WORDS, read_attributes, read_data, set_mark
from kernels.text.html_names import (
    BLOCK_TAGS,
    CLOSES,
    END_STOPS,
    HASH_START,
    HASH_STEP,
    NUM_MARKS,
    NUM_TAGS,
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
)
from kernels.text.html_scan import (
    AMP,
    BANG,
    DASH,
    GT,
    LT,
    NBSP,
    NBSP_LEAD,
    NBSP_TAIL,
    NEWLINE,
    PADDING,
    QUESTION,
    RETURN,
    SLASH,
    SPACE,
    comment_end,
    copy_preformatted,
    copy_text,
    find,
    lower,
    put,
    raw_end,
    reference,
)
from kernels.text.simd import trailing_zeros

MAX_DEPTH = 512
# open elements that a start tag, and an end tag, looks through
_START_REACH, _END_REACH = 32, 64

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

_A, _BR, _PRE, _TR, _TD, _TH, _LI = (TAGS[name] for name in ("a", "br", "pre", "tr", "td", "th", "li"))
_UL, _OL, _TABLE, _BODY, _HTML = (TAGS[name] for name in ("ul", "ol", "table", "body", "html"))
_SCRIPT, _STYLE, _SVG, _TITLE, _IMG = (TAGS[name] for name in ("script", "style", "svg", "title", "img"))
_PATH_STEP, _CLASS_STEP = np.uint64(0x9E3779B1), np.uint64(0x85EBCA77)


@njit(nogil=True, cache=True)
def _end_of_block(out, start, end, in_pre):
    """Where the text of a block ends: without white space behind it; preformatted, where it is."""
    at = end
    while at > start and out[at - 1] <= SPACE:
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
    comment = np.zeros(2, np.int64)
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
        is_end = first == SLASH and 97 <= data[at + 2] | 32 <= 122
        is_start = 97 <= first | 32 <= 122
        if data[at] != LT or not (
            is_start or is_end or first == BANG or first == QUESTION or (first == SLASH and at + 2 < size)
        ):
            # ---- text
            stop = find(data, at + 1, size, LT)
            is_pre, is_link = num_open[_PRE] > 0, num_open[_A] > 0
            link_from = written
            while at < stop:
                byte = np.int64(data[at])
                if byte <= SPACE and not is_pre:
                    gap = max(gap, 1)
                    at += 1
                    while at < stop and data[at] <= SPACE:
                        at += 1
                    continue
                code, second = np.int64(-1), np.int64(0)
                if byte == AMP:
                    code, second, at = reference(data, at, stop)
                    byte = code if code >= 0 else byte
                elif byte == NBSP_LEAD and data[at + 1] == NBSP_TAIL:
                    byte = code = np.int64(NBSP)
                    at += 2
                else:
                    at += 1
                if byte <= SPACE:
                    if is_pre and (byte == 0 or (byte == RETURN and data[at] == NEWLINE)):
                        continue
                    if not is_pre:
                        gap = max(gap, 1)
                        continue
                    byte = np.int64(NEWLINE if byte == RETURN else byte)
                    code = np.int64(-1)
                elif code == NBSP:
                    if not (is_pre or is_open):
                        continue
                    byte, code = np.int64(SPACE), np.int64(-1)
                if not is_open:
                    is_open, in_pre = True, is_pre
                    begin, link_from, links, link_bytes, gap = written, written, is_link, 0, 0
                    block = blocks[num_blocks]
                    block[START], block[INNER], block[AT], block[PRE] = written, rows[depth - 1], at, is_pre
                    block[ELEMENT], block[ROW], block[CELL], block[ITEM], block[LISTS] = places[depth - 1]
                if gap:
                    out[written] = SPACE if gap == 1 else NEWLINE
                    out[written + 1] = NEWLINE
                    written += 1 + (gap == 3)
                    gap = 0
                if code < 0:
                    out[written] = byte
                    written += 1
                else:
                    written = put(out, written, code)
                    written = put(out, written, second) if second else written
                # what needs no thought, 64 bytes at a time
                while at < stop:
                    if is_pre:
                        stops = copy_preformatted(data, at, out, written)
                    else:
                        stops = copy_text(data, at, out, written)
                    count = min(trailing_zeros(stops), stop - at)
                    at += count
                    written += count
                    if count < 64:
                        break
            if is_link and is_open:
                link_bytes += written - link_from
            continue
        tag, boundary = np.int64(-1), False
        first_word = num_words
        if is_start or is_end:
            name = at + 1 + is_end
            at = name
            key = HASH_START
            while at < size and data[at] > SPACE and data[at] != GT and data[at] != SLASH:
                key = key * HASH_STEP + np.uint64(lower(data[at]))
                at += 1
            tag = look_up(TAG_KEYS, TAG_VALUES, key, 0)
            boundary = BLOCK_TAGS[tag]
        if is_start:
            length = at - name
            if data[at] == GT:
                at += 1
                found[0] = found[1] = found[2] = 0
                found[3] = tag
            else:
                at, num_words = read_attributes(data, at, size, tag, words, num_words, marks, found)
            if RAW_TAGS[tag]:
                num_words = first_word
                if tag == _SVG and found[1]:
                    continue
                end = size if endless[tag] else raw_end(data, at, size, name, length, tag, comment)
                if end >= size:
                    # without an end it counts as empty, and none is sought again
                    endless[tag] = True
                    if tag == _SCRIPT or tag == _STYLE:
                        at = size
                    continue
                if found[2]:
                    read_data(data, at, end, marks)
                if tag == _TITLE:
                    set_mark(marks, TITLE, at, end)
                at = find(data, end, size, GT) + 1 if data[end + 1] == SLASH else end
                continue
            if VOID_TAGS[tag]:
                num_words = first_word
                images += tag == _IMG
                if tag == _BR and num_open[_PRE] == 0:
                    gap = 2 if gap < 2 else 3
                elif tag == _BR and is_open:
                    out[written] = NEWLINE
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
            at = find(data, at, size, GT) + 1
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
        elif first == BANG and data[at + 2] == DASH and data[at + 3] == DASH:
            at = comment_end(data, at + 4, size)
        else:
            at = find(data, at + 1, size, GT) + 1
        if boundary and is_open and in_pre and num_open[_PRE] > 0:
            if out[written - 1] != NEWLINE:
                out[written] = NEWLINE
                written += 1
        elif boundary:
            if is_open:
                written = _end_of_block(out, begin, written, in_pre)
                if written > begin:
                    block[END], block[LINK_BYTES], block[LINKS], block[IMAGES] = (
                        written,
                        link_bytes,
                        links,
                        images,
                    )
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
            at += data[at] == RETURN
            at += data[at] == NEWLINE
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
        self.elements, self.words, self.blocks = (
            elements[: counts[0]],
            words[: counts[1]],
            blocks[: counts[2]],
        )
        self.text = text[: counts[3]]
        self.balance = counts[4]

    def said(self, mark: int) -> str:
        """What the page says of itself in a mark, character references replaced; "" where it does not."""
        start, end = self.marks[mark]
        return html.unescape(self.page[start:end].decode("utf-8", "replace"))
