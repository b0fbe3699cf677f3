"""MinHash signatures of texts (Broder 1997), from Arrow's buffers to band hashes.

Words are those of kernels/text/folding.py.

Shingles. A word is hashed to 64 bits, n words in a row to 32. A text of fewer than n words has one
shingle, of what is there; a text without words has none, and an all-ones signature.

Slots. Those of datasketch 2.0's ``affine32`` for the same shingles and seed: the shingle through
MurmurHash3's finalizer, then min(a x + b mod 2^32), a odd.

A text is signed chunk by chunk: scratch is some 100 kB a call, however long the texts are, and
beyond that 1.5 times the longest word. Numba widens uint32 arithmetic to uint64, so each step below
is narrowed again by hand. The kernels hold no lock: threads may sign ranges of rows side by side.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from kernels.text.folding import (
    LONG_WORDS,
    character_table,
    hash_words,
    reference_word_hash,
    reference_words,
    room,
    walk,
)
from kernels.text.hashing import GOLDEN, MIX_A, MIX_B
from kernels.text.simd import BLOCKS

EMPTY_SLOT = 0xFFFFFFFF
CHUNK = 16_384  # bytes of text at a time: what is made of them stays in the second-level cache
_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1

# of 512 or 256 bits: LLVM by itself takes 256 even where 512 are faster
_LANES = 16 if BLOCKS else 8


@cache
def permutations(num_slots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The multipliers (odd) and addends of the slots, both uint32 [num_slots].

    Drawn as datasketch 2.0 draws those of ``MinHash(num_slots, seed, scheme="affine32")``.
    """
    draw = np.random.RandomState(seed).randint
    multipliers = draw(0, 1 << 31, num_slots, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return multipliers, draw(0, 1 << 32, num_slots, dtype=np.uint32)


@cache
def _padded_permutations(num_slots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    # whole vectors; what is in the slots beyond num_slots is not used
    pad = (0, -num_slots % _LANES)
    a, b = permutations(num_slots, seed)
    return np.pad(a, pad), np.pad(b, pad)


@njit(nogil=True, cache=True)
def hash_shingles(hashes, count, ngram, values, shingles):
    """``count`` shingles of ``ngram`` words each, already through MurmurHash3's finalizer."""
    for i in range(count):
        values[i] = hashes[i]
    for j in range(1, ngram):
        for i in range(count):
            values[i] = values[i] * GOLDEN + hashes[i + j]
    for i in range(count):
        shingle = np.uint32((values[i] * MIX_B) >> np.uint64(32))
        shingle = np.uint32(shingle ^ (shingle >> np.uint32(16)))
        shingle = np.uint32(shingle * np.uint32(0x85EBCA6B))
        shingle = np.uint32(shingle ^ (shingle >> np.uint32(13)))
        shingle = np.uint32(shingle * np.uint32(0xC2B2AE35))
        shingles[i] = np.uint32(shingle ^ (shingle >> np.uint32(16)))


@intrinsic
def _lower_slots(_context, shingles, _count, multipliers, addends, slots, _first):
    """Bring the _LANES slots from ``first`` on down to what ``count`` >= 1 shingles map to."""
    i32, i64 = ir.IntType(32), ir.IntType(64)
    lanes = ir.VectorType(i32, _LANES)
    zeros = ir.Constant(lanes, [0] * _LANES)
    undefined = ir.Constant(lanes, ir.Undefined)

    def code(context, builder, signature, args):
        def vector_at(argument):
            data = make_array(signature.args[argument])(context, builder, args[argument]).data
            return builder.bitcast(builder.gep(data, [args[5]]), lanes.as_pointer())

        a, b, before = (builder.load(vector_at(argument)) for argument in (2, 3, 4))
        for load in (a, b, before):
            load.align = 4
        minimum = get_or_insert_function(
            builder.module, ir.FunctionType(lanes, [lanes, lanes]), f"llvm.umin.v{_LANES}i32"
        )
        shingle_at = make_array(signature.args[0])(context, builder, args[0]).data
        entry, loop = builder.block, builder.append_basic_block("shingles")
        builder.branch(loop)
        builder.position_at_end(loop)
        index, lowest = builder.phi(i64), builder.phi(lanes)
        shingle = builder.load(builder.gep(shingle_at, [index]))
        shingle = builder.insert_element(undefined, shingle, ir.Constant(i32, 0))
        shingle = builder.shuffle_vector(shingle, undefined, zeros)
        lower = builder.call(minimum, [lowest, builder.add(builder.mul(a, shingle), b)])
        following = builder.add(index, ir.Constant(i64, 1))
        for phi, first, then in ((index, ir.Constant(i64, 0), following), (lowest, before, lower)):
            phi.add_incoming(first, entry)
            phi.add_incoming(then, loop)
        after = builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed("<", following, args[1]), loop, after)
        builder.position_at_end(after)
        builder.store(lower, vector_at(4)).align = 4
        return context.get_dummy_value()

    return types.void(shingles, types.int64, multipliers, addends, slots, types.int64), code


@njit(nogil=True, cache=True)
def _update_slots(shingles, count, multipliers, addends, slots):
    # one vector of slots after the other, all shingles for each: they are in the cache, and the
    # multiplication is what takes the time
    for first in range(0, slots.size, _LANES):
        _lower_slots(shingles, count, multipliers, addends, slots, first)


@njit(nogil=True, cache=True)
def _scratch(offsets, ngram):
    longest = np.int64(0)
    for d in range(offsets.size - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    num_bytes, num_ends = room(min(longest, CHUNK))
    num_hashes = num_ends + min(ngram, longest // 2 + 2)
    return (
        np.empty(num_bytes, np.uint8),
        np.empty(num_ends, np.int64),
        np.empty(LONG_WORDS, np.int64),
        np.empty(num_hashes, np.uint64),
        np.empty(num_hashes, np.uint64),
        np.empty(num_hashes, np.uint32),
    )


@njit(nogil=True, cache=True)
def _sign(data, at, end, ngram, table, multipliers, addends, scratch, slots):
    """Sign ``data[at:end]`` to ``slots``: the number of shingles, and the scratch to go on with."""
    out, ends, long_words, hashes, values, shingles = scratch
    slots[:] = np.uint32(EMPTY_SLOT)
    num_shingles = np.int64(0)
    size = np.int64(0)  # bytes of the open word
    held = np.int64(0)  # hashes of words whose shingles are not complete
    while at < end:
        stop = min(at + CHUNK, end)
        num_bytes, _ = room(stop - at)
        if out.size < size + num_bytes:
            # a word longer than a chunk: room doubles, so that moving it takes linear time
            larger = np.empty(2 * (size + num_bytes), np.uint8)
            larger[:size] = out[:size]
            out = larger
        at, size, num_words = walk(data, at, stop, end, table, out, size, ends, np.int64(0))
        closed = ends[num_words - 1] if num_words else np.int64(0)
        if at == end and size != closed:
            ends[num_words] = size
            num_words += 1
            closed = size
        hash_words(out, ends, num_words, hashes[held:], long_words)
        if closed:
            size -= closed
            for i in range(size):
                out[i] = out[closed + i]
        held += num_words
        if held >= ngram:
            count = held - ngram + 1
            hash_shingles(hashes, count, ngram, values, shingles)
            _update_slots(shingles, count, multipliers, addends, slots)
            num_shingles += count
            held = ngram - 1
            for i in range(held):
                hashes[i] = hashes[count + i]
    if num_shingles == 0 and held > 0:
        num_shingles = np.int64(1)
        hash_shingles(hashes, num_shingles, held, values, shingles)
        _update_slots(shingles, num_shingles, multipliers, addends, slots)
    return num_shingles, (out, ends, long_words, hashes, values, shingles)


@njit(nogil=True, cache=True)
def _signatures(data, offsets, ngram, table, multipliers, addends, out, num_shingles):
    scratch = _scratch(offsets, ngram)
    slots = np.empty(multipliers.size, np.uint32)
    for d in range(num_shingles.size):
        num_shingles[d], scratch = _sign(
            data, offsets[d], offsets[d + 1], ngram, table, multipliers, addends, scratch, slots
        )
        out[d] = slots[: out.shape[1]]


def signatures(
    data: np.ndarray, offsets: np.ndarray, num_slots: int = 112, ngram: int = 5, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """(slots uint32 [n, num_slots], shingles of each text int64 [n], 0 where it has no words).

    ``data`` uint8 and ``offsets`` int64 [n + 1] are those of :func:`text_buffers`. Bytes that are
    not UTF-8 give arbitrary words, but no read outside the text.
    """
    _check(num_slots, ngram)
    n = len(offsets) - 1
    slots = np.empty((n, num_slots), np.uint32)
    num_shingles = np.empty(n, np.int64)
    a, b = _padded_permutations(num_slots, seed)
    _signatures(data, offsets, ngram, character_table(), a, b, slots, num_shingles)
    return slots, num_shingles


def _check(num_slots: int, ngram: int) -> None:
    if num_slots < 1 or ngram < 1:
        raise ValueError(f"num_slots ({num_slots}) and ngram ({ngram}) must be at least 1")


@njit(nogil=True, inline="always")
def _band_hash(slots, band, rows):
    # the band's number goes in, so that a hash belongs to one band
    value = np.uint64(band + 1) * GOLDEN
    for k in range(band * rows, (band + 1) * rows):
        value = (value ^ np.uint64(slots[k])) * MIX_A
        value ^= value >> np.uint64(32)
    return value


@njit(nogil=True, cache=True)
def _band_hashes(slots, rows, out):
    for d in range(out.shape[0]):
        for band in range(out.shape[1]):
            out[d, band] = _band_hash(slots[d], band, rows)


def band_hashes(slots: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """One hash for each band of ``rows`` slots, uint64 [n, bands]; equal where the slots are equal.

    Slots beyond bands x rows are not used. Among n texts about bands n^2 / 2^65 pairs meet by
    chance.
    """
    if bands < 1 or rows < 1 or bands * rows > slots.shape[1]:
        raise ValueError(f"{bands} bands of {rows} rows do not fit {slots.shape[1]} slots")
    out = np.empty((len(slots), bands), np.uint64)
    _band_hashes(slots, rows, out)
    return out


@njit(nogil=True, cache=True)
def _band_signatures(data, offsets, ngram, table, multipliers, addends, rows, out, num_shingles):
    scratch = _scratch(offsets, ngram)
    slots = np.empty(multipliers.size, np.uint32)
    for d in range(num_shingles.size):
        num_shingles[d], scratch = _sign(
            data, offsets[d], offsets[d + 1], ngram, table, multipliers, addends, scratch, slots
        )
        for band in range(out.shape[0]):
            out[band, d] = _band_hash(slots, band, rows)


def band_signatures(
    data: np.ndarray,
    offsets: np.ndarray,
    bands: int = 14,
    rows: int = 8,
    ngram: int = 5,
    seed: int = 1,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(hashes uint64 [bands, n], shingles of each text int64 [n], 0 where it has no words).

    The hashes are :func:`band_hashes` of :func:`signatures`, band by band as
    :func:`kernels.text.lsh.cluster_bands` reads them; the signatures themselves are never all
    there. They go to ``out`` where it is given, so threads that sign ranges of the rows,
    ``offsets[low : high + 1]`` each, fill one array by its slices ``[:, low:high]``.
    """
    _check(bands * rows, ngram)
    n = len(offsets) - 1
    if out is None:
        out = np.empty((bands, n), np.uint64)
    elif out.shape != (bands, n) or out.dtype != np.uint64:
        raise ValueError(f"out is {out.dtype} {out.shape}, not uint64 {(bands, n)}")
    num_shingles = np.empty(n, np.int64)
    a, b = _padded_permutations(bands * rows, seed)
    _band_signatures(data, offsets, ngram, character_table(), a, b, rows, out, num_shingles)
    return out, num_shingles


def reference_shingles(text: str, ngram: int = 5) -> list[int]:
    """32-bit hash of each run of ``ngram`` words, before the finalizer, in plain Python."""
    hashes = [reference_word_hash(word.encode()) for word in reference_words(text)]
    length = min(ngram, len(hashes))
    shingles = []
    for i in range(len(hashes) - length + 1 if hashes else 0):
        value = 0
        for word_hash in hashes[i : i + length]:
            value = value * int(GOLDEN) + word_hash & _MASK64
        shingles.append((value * int(MIX_B) & _MASK64) >> 32)
    return shingles


def reference_signature(shingles: list[int], num_slots: int = 112, seed: int = 1) -> list[int]:
    """The slots of a set of shingles in plain Python."""

    def finalize(x: int) -> int:
        x = (x ^ x >> 16) * 0x85EBCA6B & _MASK32
        x = (x ^ x >> 13) * 0xC2B2AE35 & _MASK32
        return x ^ x >> 16

    mixed = [finalize(shingle) for shingle in shingles]
    a, b = (array.tolist() for array in permutations(num_slots, seed))
    return [min(((a[k] * x + b[k]) & _MASK32 for x in mixed), default=EMPTY_SLOT) for k in range(num_slots)]
