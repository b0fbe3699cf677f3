"""What the bytes of an HTML page rule out, in one pass over 64-byte blocks.

A look into the parsed tree for something that nearly no page has must see all of it. Each answer
here is cheap and errs on one side only: where it says no, the tree need not be asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from kernels.text.simd import BLOCK, low_bits, trailing_zeros

# Readable bytes after the last that is scanned; bytes before a word that are looked at.
_AHEAD, _BEHIND = 64, 256
_LESS, _SLASH, _BANG, _EQUALS, _GREATER = b"</!=>"
_QUOTES = np.frombuffer(b"\"'", np.uint8)
# "|" with it makes a letter lower-case and changes no other byte of our words
_FOLD = 32
_REL = np.frombuffer(b"rel", np.uint8)
_LICENSE, _ROBOTS, _RESERVATION, _COMMONS = range(4)
_NUL = 4
_WORDS = (b"license", b"robots", b"tdm-reservation", b"creativecommons.org/")
# three letters of each word that rarely stand so by chance
_PROBES = np.array([[0, 2, 5], [0, 2, 5], [1, 2, 3], [6, 10, 11]])
_LENGTHS = np.array([len(word) for word in _WORDS])
_LETTERS = np.zeros((len(_WORDS), _AHEAD), np.uint8)
for _w, _word in enumerate(_WORDS):
    _LETTERS[_w, : len(_word)] = np.frombuffer(_word, np.uint8)


@dataclass(frozen=True)
class Markup:
    """``depth``: the tags' running balance at its highest, a bound on how deep elements nest where
    every end tag ends something. ``license``: a value of an attribute ``rel`` may hold the word;
    ``robots``: an attribute's value may begin with it; ``reservation`` ("tdm-reservation") and
    ``commons`` ("creativecommons.org/"): it stands somewhere; in any case of letters. A word spelled
    with character references is not seen, nor is "license" over 256 bytes or a ``>`` after its ``=``.
    ``nul``: there is a zero byte.
    """

    depth: int
    license: bool
    robots: bool
    reservation: bool
    commons: bool
    nul: bool


@intrinsic
def _equal(_context, array, _index, _byte, _fold):
    """Bit k of the uint64: (``array[index + k] | fold``) == byte; bounds unchecked, as a masked load of
    bytes is fast on some CPUs only."""

    def emit(context, builder, signature, args):
        vector = ir.VectorType(ir.IntType(8), BLOCK)
        data = make_array(signature.args[0])(context, builder, args[0]).data
        at = builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())
        block = builder.load(at)
        block.align = 1

        def splat(value):
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), BLOCK), [0] * BLOCK)
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)

        equal = builder.icmp_unsigned("==", builder.or_(block, splat(args[3])), splat(args[2]))
        return builder.bitcast(equal, ir.IntType(64))

    return types.uint64(array, types.int64, types.uint8, types.uint8), emit


@njit(nogil=True, cache=True)
def _stands_at(data, at, word, length):
    k = 0
    while k < length and data[at + k] | _FOLD == word[k]:
        k += 1
    return k == length


@njit(nogil=True, cache=True)
def _is_rel_value(data, at):
    """Whether the ``=`` nearest before ``at`` follows ``rel``, with no tag's end between them."""
    i = at - 1
    while i > max(0, at - _BEHIND) and data[i] != _EQUALS and data[i] != _GREATER:
        i -= 1
    if i < 0 or data[i] != _EQUALS:
        return False
    i -= 1
    while i >= 0 and data[i] <= 32:
        i -= 1
    return i >= 2 and _stands_at(data, i - 2, _REL, 3)


@njit(nogil=True, cache=True)
def _begins_value(data, at):
    """Whether nothing but white space and quotes stands between ``at`` and a ``=`` before it."""
    i = at - 1
    while i >= 0 and (data[i] <= 32 or data[i] == _QUOTES[0] or data[i] == _QUOTES[1]):
        i -= 1
    return i >= 0 and data[i] == _EQUALS


@njit(nogil=True, cache=True)
def _scan(data, start, stop, state):
    """``data[start:stop]``, _AHEAD bytes readable after it. ``state`` int64 [4]: balance, its lowest
    and its highest above the lowest so far, a bit for each word found and for NUL."""
    balance, lowest, depth, flags = state
    fold, as_is = np.uint8(_FOLD), np.uint8(0)
    for i in range(start, stop, BLOCK):
        inside = low_bits(stop - i)
        if _equal(data, i, as_is, as_is) & inside:
            flags |= 1 << _NUL
        tags = _equal(data, i, np.uint8(_LESS), as_is) & inside
        while tags:
            at = i + trailing_zeros(tags)
            tags &= tags - np.uint64(1)
            first = data[at + 1]
            if first == _SLASH:
                balance -= 1
                lowest = min(lowest, balance)
            elif first != _BANG and not (first | _FOLD == ord("b") and data[at + 2] | _FOLD == ord("r")):
                balance += 1
                depth = max(depth, balance - lowest)
        for w in range(len(_LENGTHS)):
            a, b, c = _PROBES[w]
            word = _LETTERS[w]
            found = _equal(data, i + a, word[a], fold) & _equal(data, i + b, word[b], fold)
            found &= _equal(data, i + c, word[c], fold) & inside
            while found and not flags & (1 << w):
                at = i + trailing_zeros(found)
                found &= found - np.uint64(1)
                if (
                    _stands_at(data, at, word, _LENGTHS[w])
                    and (w != _LICENSE or _is_rel_value(data, at))
                    and (w != _ROBOTS or _begins_value(data, at))
                ):
                    flags |= 1 << w
    state[:] = balance, lowest, depth, flags


def scan_markup(page: bytes) -> Markup:
    """What the bytes of an HTML page rule out, in UTF-8 or any encoding whose tags are ASCII."""
    data = np.frombuffer(page, np.uint8)
    state = np.zeros(4, np.int64)
    # blocks read past their end, so the last ones are read from a copy
    whole = max(0, len(data) - _AHEAD) // BLOCK * BLOCK
    _scan(data, 0, whole, state)
    begin = max(0, whole - 2 * _BEHIND)
    rest = np.zeros(len(data) - begin + BLOCK + _AHEAD, np.uint8)
    rest[: len(data) - begin] = data[begin:]
    rest.flags.writeable = False
    _scan(rest, whole - begin, len(data) - begin, state)
    flags = int(state[3])
    return Markup(
        depth=int(state[2]),
        license=bool(flags >> _LICENSE & 1),
        robots=bool(flags >> _ROBOTS & 1),
        reservation=bool(flags >> _RESERVATION & 1),
        commons=bool(flags >> _COMMONS & 1),
        nul=bool(flags >> _NUL & 1),
    )


def reference_markup(page: bytes) -> Markup:
    """The contract of :func:`scan_markup` in plain Python."""
    depth = balance = lowest = 0
    for tag in re.finditer(rb"<(/|!|br)?", page, re.IGNORECASE):
        kind = (tag[1] or b"").lower()
        balance += {b"/": -1, b"": 1}.get(kind, 0)
        lowest = min(lowest, balance)
        depth = max(depth, balance - lowest)
    space = rb"[\0-\x20]*"
    patterns = {
        "license": rb"rel" + space + rb"=[^=>]{0,255}license",
        "robots": rb"=[\0-\x20\"']*robots",
        "reservation": rb"tdm-reservation",
        "commons": rb"creativecommons.org/",
        "nul": rb"\0",
    }
    return Markup(
        depth=depth,
        **{name: bool(re.search(pattern, page, re.IGNORECASE)) for name, pattern in patterns.items()},
    )
