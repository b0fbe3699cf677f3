"""The text of the blocks that are kept: lines, tables row by row, preformatted text as it is; or Markdown."""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels.text.html_names import TAGS
from kernels.text.html_tokens import CELL, ELEMENT, END, ITEM, LISTS, PARENT, PRE, ROW, START, TAG

_H1, _H6, _P, _OL, _TABLE = (TAGS[name] for name in ("h1", "h6", "p", "ol", "table"))
_SPACE, _TAB, _NEWLINE, _HASH, _TICK, _BAR, _DASH, _ONE, _DOT = b" \t\n#`|-1."
# of a list item in Markdown: spaces a list, and lists that are shown
_INDENT, _DEEPEST = 4, 8
_LONGEST_MARK = 64


@njit(nogil=True, cache=True)
def _is_cell(blocks, b):
    """Whether a block is all that its table cell holds, so that it can stand in the row's line."""
    cell = blocks[b, CELL]
    if cell == 0 or blocks[b, PRE]:
        return False
    before = blocks[b - 1, CELL] if b > 0 else 0
    behind = blocks[b + 1, CELL] if b + 1 < len(blocks) else 0
    return before != cell and behind != cell


@njit(nogil=True, cache=True)
def _table_of(elements, row):
    while row > 0 and elements[row, TAG] != _TABLE:
        row = elements[row, PARENT]
    return row


@njit(nogil=True, cache=True)
def _repeat(out, at, byte, count):
    for _ in range(count):
        out[at] = byte
        at += 1
    return at


@njit(nogil=True, cache=True)
def _one_line(text, start, end, out, at, escape):
    """Copy with line breaks as spaces, and a backslash before each byte ``escape``."""
    for i in range(start, end):
        byte = text[i]
        if byte == escape:
            out[at] = ord("\\")
            at += 1
        out[at] = _SPACE if byte == _NEWLINE else byte
        at += 1
    return at


@njit(nogil=True, cache=True)
def _fence(text, start, end):
    """Backticks that fence a text: more than it has in a row."""
    run = longest = 0
    for i in range(start, end):
        run = run + 1 if text[i] == _TICK else 0
        longest = max(longest, run)
    return max(3, longest + 1)


@njit(nogil=True, cache=True)
def _end_row(out, at, cells, is_first):
    """Close a table's row in Markdown, and rule off its first one."""
    out[at] = _SPACE
    out[at + 1] = _BAR
    at += 2
    if is_first:
        out[at] = _NEWLINE
        out[at + 1] = _BAR
        at += 2
        for _ in range(cells):
            at = _repeat(out, at, _DASH, 3)
            out[at] = _BAR
            at += 1
    return at


@njit(nogil=True, cache=True)
def lay_out(text, elements, blocks, keep, markdown, out):
    """Write the kept blocks to ``out`` (:func:`room` says how much there must be); the bytes written.

    A block is a line, or as many as it has; an empty line stands around paragraphs, headings and
    preformatted text, and where lists and tables begin and end. Cells of one row are parted by tabs
    if each is one block. Preformatted text is as it is on the page, to the last character.
    """
    at = 0
    last = -1
    last_is_cell, is_first_row, cells = False, False, 0
    for b in range(len(blocks)):
        if not keep[b]:
            continue
        block = blocks[b]
        start, end = block[START], block[END]
        tag = elements[block[ELEMENT], TAG]
        is_cell = _is_cell(blocks, b)
        is_heading = _H1 <= tag <= _H6
        same_row = is_cell and last_is_cell and blocks[last, ROW] == block[ROW]
        if last >= 0 and not same_row:
            if last_is_cell and markdown:
                at = _end_row(out, at, cells, is_first_row)
            if out[at - 1] != _NEWLINE:
                out[at] = _NEWLINE
                at += 1
            before = elements[blocks[last, ELEMENT], TAG]
            same_item = (block[ITEM] > 0) == (blocks[last, ITEM] > 0)
            apart = tag == _P or before == _P or block[PRE] or blocks[last, PRE]
            apart = apart and not (block[ITEM] > 0 and blocks[last, ITEM] > 0 and not block[PRE])
            if is_heading or _H1 <= before <= _H6 or apart or is_cell != last_is_cell or not same_item:
                out[at] = _NEWLINE
                at += 1
        if is_cell:
            if not same_row:
                # a row without cells of its own table before it begins the table
                is_first_row = not last_is_cell or _table_of(elements, blocks[last, ROW]) != _table_of(
                    elements, block[ROW]
                )
                cells = 0
            cells += 1
            if markdown:
                at = _repeat(out, at, _SPACE, int(same_row))
                out[at] = _BAR
                out[at + 1] = _SPACE
                at += 2
            elif same_row:
                out[at] = _TAB
                at += 1
            at = _one_line(text, start, end, out, at, _BAR if markdown else 0)
        elif markdown and block[PRE]:
            ticks = _fence(text, start, end)
            at = _repeat(out, at, _TICK, ticks)
            out[at] = _NEWLINE
            at += 1
            out[at : at + end - start] = text[start:end]
            at += end - start
            if out[at - 1] != _NEWLINE:
                out[at] = _NEWLINE
                at += 1
            at = _repeat(out, at, _TICK, ticks)
        elif markdown and (is_heading or block[ITEM] > 0):
            if is_heading:
                at = _repeat(out, at, _HASH, tag - _H1 + 1)
            else:
                lists = max(0, min(block[LISTS], _DEEPEST) - 1)
                at = _repeat(out, at, _SPACE, _INDENT * lists)
                if last < 0 or blocks[last, ITEM] != block[ITEM]:
                    out[at] = _DASH
                    if elements[elements[block[ITEM], PARENT], TAG] == _OL:
                        out[at] = _ONE
                        out[at + 1] = _DOT
                        at += 1
                    at += 1
                else:
                    at = _repeat(out, at, _SPACE, _INDENT - 1)
            out[at] = _SPACE
            at = _one_line(text, start, end, out, at + 1, 0)
        else:
            out[at : at + end - start] = text[start:end]
            at += end - start
        last, last_is_cell = b, is_cell
    if last_is_cell and markdown:
        at = _end_row(out, at, cells, is_first_row)
    return at


def room(text: np.ndarray, blocks: np.ndarray) -> int:
    """Bytes that are enough for :func:`lay_out`."""
    return 4 * len(text) + _LONGEST_MARK * len(blocks) + _LONGEST_MARK
