"""The one walk over the bytes of a text that all statistics share: words, line breaks, sentences.

A block of 64 bytes becomes one bit mask for each class of ``words.class_table``; what crosses the
edge of a block is carried as a bit, as a sum of long numbers carries. ASCII is looked up 64 bytes
at once where the CPU can, byte by byte elsewhere (``ascii_classes``, ``emit_bounds``); everything
else is the same code. A character that is not ASCII is looked up by its code point and sets the
bits of its bytes. In bytes that are no UTF-8 each byte but 0x80 ... 0xBF counts as a character.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from kernels.text.simd import (
    BLOCK,
    BLOCKS,
    block_mask,
    bytes_of,
    load_block,
    low_bits,
    popcount,
    trailing_zeros,
)
from kernels.text.words import ALPHA, BREAK, CLOSER, HASH, SPACE, SYMBOL, TERMINAL, decode

# columns of the rows that the walk writes for every line break, and for the end of the text
AT, CHARS, WORDS, SENTENCES, TERMINATED = range(5)
BREAK_COLUMNS = 5
# entries that ``bounds`` needs beyond the last
BOUNDS_SLACK = BLOCK

_CLASSES = (SPACE, BREAK, ALPHA, SYMBOL, TERMINAL, CLOSER, HASH)
_DOT, _ELLIPSIS = 46, 0x2026
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_ALL = ~_ZERO
_LAST = np.uint64(BLOCK - 1)


@intrinsic
def _ascii_classes_of_block(_context, data, _index, _valid, classes):
    """``ascii_classes`` by one byte permutation over the first 128 entries of the table."""

    def code(context, builder, signature, args):
        data, index, valid, classes = args
        block = load_block(context, builder, signature.args[0], data, index, valid)
        vector = block.type
        table = make_array(signature.args[3])(context, builder, classes).data
        halves = []
        for half in (0, BLOCK):
            at = builder.gep(table, [ir.Constant(ir.IntType(64), half)])
            halves.append(builder.load(builder.bitcast(at, vector.as_pointer()), align=1))
        function = ir.FunctionType(vector, [vector, vector, vector])
        permute = get_or_insert_function(builder.module, function, "llvm.x86.avx512.vpermi2var.qi.512")
        found = builder.call(permute, [halves[0], block, halves[1]])
        zero = bytes_of(0)
        other = builder.icmp_signed("<", block, zero)
        ascii_lanes = builder.and_(builder.bitcast(valid, other.type), builder.not_(other))
        found = builder.select(ascii_lanes, found, zero)
        masks = [
            block_mask(builder, builder.icmp_unsigned("!=", builder.and_(found, bytes_of(kind)), zero))
            for kind in _CLASSES
        ]
        masks.append(block_mask(builder, other))
        # 0x80 ... 0xBF are the smallest signed bytes
        masks.append(block_mask(builder, builder.icmp_signed("<", block, bytes_of(0xC0))))
        return context.make_tuple(builder, signature.return_type, masks)

    result = types.UniTuple(types.uint64, len(_CLASSES) + 2)
    return result(data, types.int64, types.uint64, classes), code


@njit(nogil=True, cache=True, inline="always")
def _transpose(x):
    """Bit k of byte j of ``x`` becomes bit j of byte k."""
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        moved = (x ^ (x >> np.uint64(shift))) & np.uint64(mask)
        x = x ^ moved ^ (moved << np.uint64(shift))
    return x


@njit(nogil=True, cache=True)
def _ascii_classes_of_bytes(data, index, valid, classes):
    """``ascii_classes`` byte by byte: eight class bytes are turned into one byte of each mask."""
    space = line_break = alpha = symbol = terminal = closer = hash_sign = other = continuation = _ZERO
    n = popcount(valid)
    byte = np.uint64(0xFF)
    for first in range(0, n, 8):
        found = _ZERO
        high = _ZERO
        for j in range(min(8, n - first)):
            b = data[index + first + j]
            kind = classes[b] if b < 0x80 else np.uint8(0x80 if b < 0xC0 else 0)
            found |= np.uint64(kind) << np.uint64(8 * j)
            high |= np.uint64(b >> 7) << np.uint64(j)
        found = _transpose(found)
        at = np.uint64(first)
        space |= (found & byte) << at
        line_break |= (found >> np.uint64(8) & byte) << at
        alpha |= (found >> np.uint64(16) & byte) << at
        symbol |= (found >> np.uint64(24) & byte) << at
        terminal |= (found >> np.uint64(32) & byte) << at
        closer |= (found >> np.uint64(40) & byte) << at
        hash_sign |= (found >> np.uint64(48) & byte) << at
        continuation |= (found >> np.uint64(56)) << at
        other |= high << at
    return space, line_break, alpha, symbol, terminal, closer, hash_sign, other, continuation


@intrinsic
def _emit_block(_context, mask, base, out, at):
    """``emit_bounds`` by one byte compression of 0 ... 63 for all bits together."""

    def code(context, builder, signature, args):
        mask, base, out, at = args
        vector = bytes_of(0).type
        numbers = ir.Constant(vector, list(range(BLOCK)))
        lanes = builder.bitcast(mask, ir.VectorType(ir.IntType(1), BLOCK))
        function = ir.FunctionType(vector, [vector, vector, lanes.type])
        compress = get_or_insert_function(builder.module, function, "llvm.x86.avx512.mask.compress.v64i8")
        kept = builder.call(compress, [numbers, bytes_of(0), lanes])
        i32 = ir.IntType(32)
        wide = ir.VectorType(i32, 16)
        zero = ir.Constant(wide, ir.Undefined)
        spread = builder.insert_element(zero, builder.trunc(base, i32), ir.Constant(i32, 0))
        spread = builder.shuffle_vector(spread, zero, ir.Constant(wide, [0] * 16))
        pointer = builder.gep(make_array(signature.args[2])(context, builder, out).data, [at])
        for quarter in range(4):
            lane = ir.Constant(wide, list(range(16 * quarter, 16 * quarter + 16)))
            part = builder.zext(builder.shuffle_vector(kept, kept, lane), wide)
            place = builder.gep(pointer, [ir.Constant(i32, 16 * quarter)])
            store = builder.store(builder.add(part, spread), builder.bitcast(place, wide.as_pointer()))
            store.align = 4
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64, out, types.int64), code


@njit(nogil=True, cache=True)
def _emit_bits(mask, base, out, at):
    while mask:
        out[at] = base + trailing_zeros(mask)
        mask &= mask - _ONE
        at += 1


# (data, index, valid, classes) -> masks of the block at ``index``, of the bytes whose bit of
# ``valid`` is set (the lowest n): one for each of _CLASSES, of bytes from 0x80 on (which are of
# none), and of 0x80 ... 0xBF. Reads no other byte.
ascii_classes = _ascii_classes_of_block if BLOCKS else _ascii_classes_of_bytes
# (mask, base, out, at): writes base + i for each bit i of mask to int32 ``out[at:]``, in order; may
# write up to BOUNDS_SLACK entries whatever the mask
emit_bounds = _emit_block if BLOCKS else _emit_bits


@njit(nogil=True, cache=True, inline="always")
def _add(a, b, carry):
    """(a + b + carry, carry out): one digit of a long sum."""
    low = a + b
    total = low + carry
    return total, np.uint64((low < a) | (total < low))


@njit(nogil=True, cache=True)
def walk(data, start, end, classes, bounds, breaks):
    """Find the words, line breaks and sentence ends of one text, ``data[start:end]``.

    classes  of ``words.class_table``
    bounds   int32 [>= 2 n_words + BOUNDS_SLACK]: first byte of each word, byte after its last, ...
    breaks   int32 [> n_breaks, BREAK_COLUMNS]: a row for each line break and one for the end of the
             text: AT its byte; CHARS, WORDS, SENTENCES that begin, begin, end before it;
             TERMINATED, whether the character before it ends a sentence. A sentence ends with a
             word whose last character before closing quotes and brackets is TERMINAL.
    Bytes count from ``start``; room for both arrays is what ``needed_room`` says.
    Returns (n_words, n_breaks, alpha_words, text_words, text_word_chars, hashes, ellipses): words
    with a letter; words with a character that is no SYMBOL, and their characters; "#" in the text;
    "..." (as ``str.count``) plus "…" in it.
    """
    n_bounds = 0
    n_breaks = 0
    n_continuations = 0
    alpha_words = 0
    text_words = 0
    word_chars = 0
    symbol_chars = 0
    sentences = 0
    hashes = 0
    ellipses = 0
    dots = 0
    # bits that cross into the next block: of the byte before it, and of open sums
    in_word = after_terminal = open_alpha = open_text = open_closers = _ZERO
    # ... and of a character whose bytes it splits
    next_space = next_closer = next_terminal = _ZERO
    size = end - start
    for base in range(0, size, BLOCK):
        valid = low_bits(size - base)
        at = start + base
        space, line_break, alpha, symbol, terminal, closer, hash_sign, other, continuation = ascii_classes(
            data, at, valid, classes
        )
        text = valid & ~(space | symbol)
        space |= next_space
        closer |= next_closer
        terminal |= next_terminal
        next_space = next_closer = next_terminal = _ZERO
        if other:
            lead = other & ~continuation
            while lead:
                i = trailing_zeros(lead)
                bit = lead & (~lead + _ONE)
                lead ^= bit
                code, width = decode(data, at + i, end)
                kind = classes[code]
                alpha |= bit if kind & ALPHA else _ZERO
                if kind & ~np.uint8(ALPHA) or code == _ELLIPSIS:
                    whole = low_bits(width) << np.uint64(i)
                    spill = low_bits(i + width - BLOCK) if i + width > BLOCK else _ZERO
                    if kind & SPACE:
                        space |= whole
                        next_space = spill
                    if kind & BREAK:
                        line_break |= bit
                    if kind & SYMBOL:
                        text &= ~whole
                    if kind & CLOSER:
                        closer |= whole
                        next_closer = spill
                    if kind & TERMINAL:
                        if spill:
                            next_terminal = spill & ~(spill >> _ONE)
                        else:
                            terminal |= _ONE << np.uint64(i + width - 1)
                    ellipses += code == _ELLIPSIS
            text &= ~continuation
        word = valid & ~space
        text &= word
        # the first byte of a word and the one after its last, by turns
        bound = word ^ ((word << _ONE) | in_word)
        emit_bounds(bound, base, bounds, n_bounds)
        # a bit anywhere in a run of ones, added to the run, carries out behind its end
        carried, open_alpha = _add(word, alpha & word, open_alpha)
        alpha_words += popcount(carried & ~word)
        carried, open_text = _add(word, text, open_text)
        text_ends = carried & ~word
        text_words += popcount(text_ends)
        word_chars += popcount(word & ~continuation)
        symbol_ends = bound & ~word & ~text_ends
        while symbol_ends:
            below = (symbol_ends & (~symbol_ends + _ONE)) - _ONE
            symbol_ends &= symbol_ends - _ONE
            first = bounds[n_bounds + popcount(bound & below) - 1]
            for i in range(start + first, at + popcount(below)):
                symbol_chars += (data[i] & 0xC0) != 0x80
        # closers behind a terminal carry likewise; the end of the text is as good as a space
        behind = (terminal << _ONE) | after_terminal
        carried, open_closers = _add(closer, behind & closer, open_closers)
        sentence_end = ((carried | behind) & ~closer) & (space | ~valid)
        if terminal & behind:
            run_end = np.int64(after_terminal) - 1
            left = terminal
            while left:
                i = trailing_zeros(left)
                left &= left - _ONE
                dots = 0 if i != run_end or data[at + i] != _DOT else dots
                dots += data[at + i] == _DOT
                ellipses += dots == 3
                dots = 0 if dots == 3 else dots
                run_end = i + 1
            dots = dots if run_end == BLOCK else 0
        else:
            dots = 1 if terminal >> _LAST and data[at + BLOCK - 1] == _DOT else 0
        while line_break:
            i = trailing_zeros(line_break)
            bit = line_break & (~line_break + _ONE)
            line_break ^= bit
            below = bit - _ONE
            row = breaks[n_breaks]
            row[AT] = base + i
            row[CHARS] = base + i - n_continuations - popcount(continuation & below)
            row[WORDS] = (n_bounds + popcount(bound & below) + 1) >> 1
            row[SENTENCES] = sentences + popcount(sentence_end & (below | bit))
            row[TERMINATED] = behind >> np.uint64(i) & _ONE
            n_breaks += 1
        n_bounds += popcount(bound)
        n_continuations += popcount(continuation)
        sentences += popcount(sentence_end)
        hashes += popcount(hash_sign)
        in_word = word >> _LAST
        after_terminal = terminal >> _LAST
    rest = size & (BLOCK - 1)
    if rest:
        # the last block went on behind the text, and closed all that was open
        terminated = behind >> np.uint64(rest) & _ONE
    else:
        terminated = after_terminal
        alpha_words += np.int64(open_alpha)
        text_words += np.int64(open_text)
        sentences += np.int64(open_closers | after_terminal)
        if in_word:
            bounds[n_bounds] = size
            if not open_text:
                for i in range(start + bounds[n_bounds - 1], end):
                    symbol_chars += (data[i] & 0xC0) != 0x80
            n_bounds += 1
    row = breaks[n_breaks]
    row[AT] = size
    row[CHARS] = size - n_continuations
    row[WORDS] = n_bounds >> 1
    row[SENTENCES] = sentences
    row[TERMINATED] = terminated
    return n_bounds >> 1, n_breaks, alpha_words, text_words, word_chars - symbol_chars, hashes, ellipses


@njit(nogil=True, cache=True)
def needed_room(data, start, end, classes):
    """(entries of bounds, rows of breaks) that are enough for one text."""
    spaces = 0
    line_breaks = 0
    for i in range(start, end):
        b = data[i]
        kind = classes[b] if b < 0x80 else np.uint8(SPACE | BREAK if b >= 0xC0 else 0)
        spaces += kind & SPACE
        line_breaks += (kind & BREAK) >> 1
    return 2 * spaces + 2 + BOUNDS_SLACK, line_breaks + 1
