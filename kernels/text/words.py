"""The classes of characters, and the word rule that all statistics share.

The word rule, for every statistic of this package: a word is a longest run of characters that are
not Unicode white space (``str.split``). Punctuation belongs to the word it touches: rules that
count punctuation as words of their own throw away API signatures, tables and code.
"""

from __future__ import annotations

import functools

import numba
import numpy as np

# classes of a code point, bits of the table
SPACE = 1
BREAK = 2  # ends a line for str.splitlines
ALPHA = 4  # str.isalpha
SYMBOL = 8  # Gopher: a word of nothing but these is no word
TERMINAL = 16  # ends a sentence: Unicode property Sentence_Terminal, and the full stops
CLOSER = 32  # may follow a terminal inside its word: quotes and brackets
HASH = 64  # "#"

_TERMINALS = """
21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e
1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e
1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877
a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57
10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df
11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944
11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38
16b44 16e98 1bc9f 1da88
"""
# besides the terminals; ff11 (a full-width one) is in the published list too
_SYMBOLS = """
0-8 b-1f 22-2d 2f 3a-3e 40 5b-60 7b-9f ab b4 bb 2013-2014 2019 201c-201e 2026 2236 2501 25ba 3001
3008-300d 3010-3011 ff05 ff08-ff09 ff0c ff11 ff1a-ff1b ff5e
"""
_CLOSERS = "\"')]}»’”」』）】"
_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def _ranges(text: str) -> list[int]:
    points: list[int] = []
    for item in text.split():
        low, _, high = item.partition("-")
        points.extend(range(int(low, 16), int(high or low, 16) + 1))
    return points


@functools.cache
def class_table() -> np.ndarray:
    """The classes of every code point: uint8 [0x110000], a sum of SPACE ... HASH.

    ALPHA is that of the running interpreter's Unicode version; the rest is fixed.
    """
    table = np.zeros(0x110000, np.uint8)
    for c in map(chr, range(0x110000)):
        if c.isalpha():
            table[ord(c)] = ALPHA
        elif c.isspace():
            table[ord(c)] = SPACE
    table[[ord(c) for c in _BREAKS]] |= BREAK
    table[[ord(c) for c in _CLOSERS]] |= CLOSER
    table[_ranges(_TERMINALS)] |= TERMINAL | SYMBOL
    table[_ranges(_SYMBOLS)] |= SYMBOL
    table[ord("#")] |= HASH
    table.flags.writeable = False
    return table


@numba.njit(nogil=True, cache=True, inline="always")
def decode(data, i, end):
    """(code point, number of bytes) of the character at ``i``; U+FFFD for what is no UTF-8."""
    b = np.int64(data[i])
    if b < 0x80:
        return b, 1
    if b >= 0xF0:
        if i + 4 <= end:
            c = (b & 7) << 18 | (np.int64(data[i + 1]) & 63) << 12
            c |= (np.int64(data[i + 2]) & 63) << 6 | (np.int64(data[i + 3]) & 63)
            if c < 0x110000:
                return c, 4
    elif b >= 0xE0:
        if i + 3 <= end:
            c = (b & 15) << 12 | (np.int64(data[i + 1]) & 63) << 6 | (np.int64(data[i + 2]) & 63)
            return c, 3
    elif b >= 0xC0 and i + 2 <= end:
        return (b & 31) << 6 | (np.int64(data[i + 1]) & 63), 2
    return np.int64(0xFFFD), 1
