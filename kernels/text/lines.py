"""Lines and paragraphs of a column: a hash of each, and the texts without chosen ones.

A line is what stands between two ``"\\n"``, a paragraph a longest run of lines that are not blank;
a line of nothing but white space is no line here, only a part of what separates units. Units are
compared by their normalized text: no white space at the ends, one space for each run inside, and,
when asked, lower-case letters (where that is one character) and 0 for each decimal digit. None
of this moves the number of characters but the white space does, so ``min_chars`` counts after it.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache
from typing import Literal

import numpy as np
import pyarrow as pa
from numba import njit

from kernels.text.buffers import text_buffers
from kernels.text.hashing import GOLDEN, MIX_A, MIX_B
from kernels.text.words import SPACE, class_table, decode

Unit = Literal["line", "paragraph"]
# line breaks in a row that end a unit
BREAKS = {"line": 1, "paragraph": 2}
COUNTS = ("removed", "left", "chars", "chars_left")
_SPACE, _NEWLINE = 32, 10
_U29, _U32 = np.uint64(29), np.uint64(32)
_MASK64 = (1 << 64) - 1


@cache
def fold_table(ignore_case: bool, ignore_digits: bool) -> np.ndarray:
    """What each code point is compared as, uint32 [0x110000]; 32 stands for all white space."""
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    # no letter with a lower case, no digit and no white space lies above plane 1
    for code in range(0x20000):
        table[code] = ord(_folded(chr(code), ignore_case, ignore_digits))
    table[(class_table() & SPACE) != 0] = _SPACE
    table.flags.writeable = False
    return table


def _folded(char: str, ignore_case: bool, ignore_digits: bool) -> str:
    if ignore_digits and unicodedata.category(char) == "Nd":
        return "0"
    if ignore_case and len(char.lower()) == 1:
        return char.lower()
    return char


@njit(nogil=True, cache=True, inline="always")
def _step(state, code):
    state = (state ^ np.uint64(code)) * MIX_A
    return state ^ (state >> _U32)


@njit(nogil=True, cache=True)
def _next_unit(data, i, end, fold, breaks):
    """(first byte, byte after the last, where to go on, characters, hash) of the first unit of
    ``data[i:end]``, ``i`` the first byte of a line; 0 characters when there is none."""
    first = i
    last = end
    num_breaks = 0
    chars = 0
    state = GOLDEN
    after_space = False
    while i < end:
        code = np.int64(data[i])
        size = 1
        if code >= 0x80:
            code, size = decode(data, i, end)
        folded = fold[code]
        if folded != _SPACE:
            if after_space:
                state = _step(state, _SPACE)
                chars += 1
                after_space = False
                num_breaks = 0
            state = _step(state, folded)
            chars += 1
        elif chars == 0:
            if code == _NEWLINE:
                first = i + 1
        else:
            after_space = True
            if code == _NEWLINE:
                num_breaks += 1
                if num_breaks == 1:
                    last = i
                if num_breaks == breaks:
                    i += 1
                    break
        i += size
    if num_breaks == 0:
        last = end
    state = (state ^ np.uint64(chars)) * MIX_B
    return first, last, i, chars, state ^ (state >> _U29)


@njit(nogil=True, cache=True)
def _unit_hashes(data, offsets, fold, breaks, min_chars, hashes, rows):
    n = 0
    for row in range(offsets.size - 1):
        i = offsets[row]
        end = offsets[row + 1]
        while i < end:
            _, _, i, chars, value = _next_unit(data, i, end, fold, breaks)
            if chars >= min_chars:
                hashes[n] = value
                rows[n] = row
                n += 1
    return n


def unit_hashes(
    column: pa.Array | pa.ChunkedArray,
    unit: Unit,
    min_chars: int,
    ignore_case: bool = False,
    ignore_digits: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each unit of at least ``min_chars`` characters (>= 1): its hash and its row.

    Returns (hashes uint64 [n], rows int64 [n]) in the order of the texts; a unit that repeats in a
    text is there each time. Equal normalized texts have equal hashes; among n units that nobody
    chose to collide, some pair does with odds of about n^2 / 2^65. Memory: 16 bytes a unit.
    """
    data, offsets = text_buffers(column)
    hashes = np.empty(_most_units(offsets, min_chars), np.uint64)
    rows = np.empty(len(hashes), np.int64)
    fold = fold_table(ignore_case, ignore_digits)
    n = _unit_hashes(data, offsets, fold, BREAKS[unit], min_chars, hashes, rows)
    return hashes[:n].copy(), rows[:n].copy()


def _most_units(offsets: np.ndarray, min_chars: int) -> int:
    # each has min_chars bytes or more, and a line break where it is not the last
    return int(offsets[-1] - offsets[0] + len(offsets) - 1) // (min_chars + 1)


@njit(nogil=True, cache=True)
def _count_chars(data, start, end):
    n = 0
    for i in range(start, end):
        n += (data[i] & 0xC0) != 0x80
    return n


@njit(nogil=True, cache=True)
def _append(data, start, end, out, size):
    out[size : size + end - start] = data[start:end]
    return size + end - start


@njit(nogil=True, cache=True)
def _without_units(data, offsets, fold, breaks, min_chars, chosen, out, out_offsets, counts):
    size = 0
    u = 0
    for row in range(offsets.size - 1):
        i = offsets[row]
        end = offsets[row + 1]
        # what separates the next unit that stays from the one before it
        gap_start = gap_end = last = i
        while i < end:
            first, unit_end, i, chars, _ = _next_unit(data, i, end, fold, breaks)
            if chars == 0:
                break
            # before the first that stays: only what the text begins with
            is_first = counts[row, 0] == 0
            if (counts[row, 1] > 0 or is_first) and first - last > gap_end - gap_start:
                gap_start, gap_end = last, first
            last = unit_end
            is_chosen = chars >= min_chars and chosen[u]
            u += chars >= min_chars
            if is_chosen:
                counts[row, 0] += 1
                continue
            counts[row, 1] += 1
            size = _append(data, gap_start, gap_end, out, size)
            size = _append(data, first, unit_end, out, size)
            gap_start = gap_end = last
        size = _append(data, last, end, out, size)
        out_offsets[row + 1] = size
        counts[row, 2] = _count_chars(data, offsets[row], end)
        counts[row, 3] = _count_chars(out, out_offsets[row], size)


def without_units(
    column: pa.Array | pa.ChunkedArray, chosen: np.ndarray, unit: Unit, min_chars: int
) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """The texts without the units for which ``chosen`` (bool [n], as ``unit_hashes`` lists them)
    holds, large_string, missing ones empty; and the COUNTS of each text, {name: int64 [rows]}.

    Of the gaps (line breaks and blank lines) that a cut brings together the longest stays, the
    earliest among equals, so paragraphs stay apart; what the text begins and ends with stays, but
    a text that keeps no unit keeps only its end. Counts: units removed, units left (of any
    length), characters before, characters left.
    """
    data, offsets = text_buffers(column)
    rows = len(offsets) - 1
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    out_offsets = np.zeros(rows + 1, np.int64)
    counts = np.zeros((rows, len(COUNTS)), np.int64)
    # which code points are white space is all that the table is asked here
    fold = fold_table(False, False)
    breaks = BREAKS[unit]
    _without_units(data, offsets, fold, breaks, min_chars, chosen, out, out_offsets, counts)
    buffers = [None, pa.py_buffer(out_offsets), pa.py_buffer(out[: out_offsets[-1]])]
    texts = pa.Array.from_buffers(pa.large_string(), rows, buffers)
    return texts, dict(zip(COUNTS, counts.T, strict=True))


def reference_units(text: str, unit: Unit) -> list[tuple[int, int]]:
    """First character and character after the last of each unit, in plain Python."""
    units: list[tuple[int, int]] = []
    at = 0
    for line in text.split("\n"):
        end = at + len(line)
        if line.strip():
            joins = unit == "paragraph" and units and units[-1][1] == at - 1
            first = units.pop()[0] if joins else at
            units.append((first, end))
        at = end + 1
    return units


def reference_normalized(text: str, ignore_case: bool = False, ignore_digits: bool = False) -> str:
    """The text that a unit is compared by."""
    return "".join(_folded(c, ignore_case, ignore_digits) for c in " ".join(text.split()))


def reference_hash(normalized: str) -> int:
    """The hash that :func:`unit_hashes` gives to a unit of this normalized text."""
    state = int(GOLDEN)
    for char in normalized:
        state = (state ^ ord(char)) * int(MIX_A) & _MASK64
        state ^= state >> 32
    state = (state ^ len(normalized)) * int(MIX_B) & _MASK64
    return state ^ state >> 29


def reference_without(text: str, units: list[tuple[int, int]], stays: list[bool]) -> str:
    """What :func:`without_units` makes of a text, given its units and which of them stay."""
    gaps = [text[a:b] for a, b in zip([0, *(e for _, e in units)], [s for s, _ in units], strict=False)]
    kept = [k for k, stay in enumerate(stays) if stay]
    out = ""
    for before, k in zip([None, *kept], kept, strict=False):
        out += gaps[0] if before is None else max(gaps[before + 1 : k + 1], key=lambda gap: len(gap.encode()))
        out += text[units[k][0] : units[k][1]]
    return out + text[units[-1][1] if units else 0 :]
