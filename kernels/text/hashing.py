"""128-bit hashes of texts, straight from Arrow's buffers."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

# Odd 64-bit constants with about half their bits set (golden ratio, and those of SplitMix64).
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_A = np.uint64(0xBF58476D1CE4E5B9)
MIX_B = np.uint64(0x94D049BB133111EB)
_MASK64 = (1 << 64) - 1


@intrinsic
def load64(_context, array, _index):
    """Little-endian uint64 of the eight bytes at ``array[index]``: unaligned, bounds unchecked."""

    def emit(context, builder, signature, args):
        data = make_array(signature.args[0])(context, builder, args[0]).data
        at = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(64).as_pointer())
        value = builder.load(at)
        value.align = 1
        return value

    return types.uint64(array, types.int64), emit


@njit(nogil=True, cache=True)
def _last_word(data, start, end):
    # a load of eight bytes could read past the buffer
    word = np.uint64(0)
    for i in range(end - 1, start - 1, -1):
        word = (word << np.uint64(8)) | np.uint64(data[i])
    return word


@njit(nogil=True, cache=True)
def _content_hashes(data, offsets, out):
    s32, s29 = np.uint64(32), np.uint64(29)
    for d in range(out.shape[0]):
        start, end = offsets[d], offsets[d + 1]
        full = end - ((end - start) & 7)
        a = np.uint64(end - start) * GOLDEN
        b = ~a
        for i in range(start, full, 8):
            word = load64(data, i)
            a = (a ^ word) * MIX_A
            a ^= a >> s32
            b = (b + word) * MIX_B
            b ^= b >> s29
        word = _last_word(data, full, end)
        a = (a ^ word) * MIX_A
        b = (b + word) * MIX_B
        a = (a ^ (a >> s32)) * GOLDEN
        b = (b ^ (b >> s29)) * GOLDEN
        out[d, 0] = a ^ (a >> s29)
        out[d, 1] = b ^ (b >> s32)


def content_hashes(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Hash of each text, uint64 [n, 2]; equal bytes give equal hashes.

    ``data`` uint8 and ``offsets`` int64 [n + 1] are those of :func:`text_buffers`. Two 64-bit
    multiply-and-shift chains read the text eight bytes at a time; they differ in multiplier, in
    shift, and in how a word goes in (xor, addition). Among n texts that nobody chose to collide,
    some pair does with odds of about n^2 / 2^129: 10^-15 for 10^12 texts. Not cryptographic: who
    knows the function can make two texts collide.
    """
    out = np.empty((len(offsets) - 1, 2), np.uint64)
    _content_hashes(data, offsets, out)
    return out


def reference_content_hash(text: bytes) -> tuple[int, int]:
    """The contract of :func:`content_hashes` in plain Python, for one text."""
    golden, mix_a, mix_b = int(GOLDEN), int(MIX_A), int(MIX_B)
    a = len(text) * golden & _MASK64
    b = a ^ _MASK64
    # the last word is there even when it is empty
    words = [text[i : i + 8] for i in range(0, len(text) - len(text) % 8, 8)]
    for chunk in [*words, text[len(words) * 8 :]]:
        word = int.from_bytes(chunk, "little")
        a = (a ^ word) * mix_a & _MASK64
        a ^= a >> 32
        b = (b + word) * mix_b & _MASK64
        b ^= b >> 29
    a = a * golden & _MASK64
    b = b * golden & _MASK64
    return a ^ a >> 29, b ^ b >> 32
