"""Text by blocks of 64 bytes: a block is loaded once, compared, and lives on as bits of a uint64.

Bit i of a mask speaks of byte i of the block. Compares become masks (:func:`block_mask`), word and
line ends come from shifts of masks, :func:`pext` drops the bits of bytes that vanish,
:func:`store_compress` drops the bytes themselves, :func:`emit` writes down where bits are set.

A kernel that is built on blocks has a scalar walk beside it that gives the same numbers, and takes
one of them when it is imported: ``walk = walk_blocks if BLOCKS else walk_bytes``. ``pext``,
``store_compress`` and ``store_block`` compile only where ``BLOCKS`` is true; the others anywhere.

Nothing in this file is cached on disk: the place of the cache depends on ``BLOCKS``.

For intrinsics of your own: ``load_block``, ``bytes_of``, ``between``, ``lower_ascii`` and
``block_mask`` take and give LLVM values, <64 x i8> or <64 x i1>.
"""

from __future__ import annotations

import os

import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.cgutils import get_or_insert_function
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

BLOCK = 64
NEEDED = ("bmi2", "avx512bw", "avx512vbmi", "avx512vbmi2")
EMIT_SLACK = 64

_I1, _I8, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_V64 = ir.VectorType(_I8, BLOCK)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)


def has_blocks() -> bool:
    """Whether the CPU that Numba compiles for has what block kernels need: ``NEEDED``.

    ``CORPUSMILL_PORTABLE=1`` says no: the portable scalar walks everywhere. So does a
    ``NUMBA_CPU_NAME``, unless ``NUMBA_CPU_FEATURES`` names all that is needed: Numba would go on
    with the features of this machine, which the CPU named may not have.
    """
    if os.environ.get("CORPUSMILL_PORTABLE", "0") != "0":
        return False
    if numba.config.CPU_NAME is not None and numba.config.CPU_FEATURES is None:
        return False
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return {f"+{name}" for name in NEEDED} <= set(features.split(","))


BLOCKS = has_blocks()


def bytes_of(value: int) -> ir.Constant:
    """<64 x i8> with ``value`` in each byte."""
    return ir.Constant(_V64, [value] * BLOCK)


def load_block(context, builder, array_type, array, index, valid):
    """<64 x i8> from ``array[index]`` on, at any alignment; bytes whose bit of ``valid`` (i64) is
    not set are 0 and are not read: a block may hang over the end of the buffer."""
    data = make_array(array_type)(context, builder, array).data
    at = builder.bitcast(builder.gep(data, [index]), _V64.as_pointer())
    mask = builder.bitcast(valid, ir.VectorType(_I1, BLOCK))
    signature = ir.FunctionType(_V64, [at.type, _I32, mask.type, _V64])
    load = get_or_insert_function(builder.module, signature, "llvm.masked.load.v64i8.p0")
    return builder.call(load, [at, ir.Constant(_I32, 1), mask, bytes_of(0)])


def block_mask(builder, compared):
    """i64 of a compare, <64 x i1>: bit i is its lane i."""
    return builder.bitcast(compared, _I64)


def between(builder, block, low: int, high: int):
    """<64 x i1>: the bytes from ``low`` to ``high``, both included, unsigned."""
    shifted = builder.sub(block, bytes_of(low))
    return builder.icmp_unsigned("<=", shifted, bytes_of(high - low))


def lower_ascii(builder, block):
    """The block with A-Z in lower case."""
    upper = between(builder, block, ord("A"), ord("Z"))
    return builder.select(upper, builder.or_(block, bytes_of(0x20)), block)


def store_block(context, builder, block, mask, array_type, array, index):
    """Store the bytes of ``block`` whose bit of ``mask`` (i64) is set, back to back, from
    ``array[index]`` on. Always writes 64 bytes: what follows the kept ones is arbitrary."""
    data = make_array(array_type)(context, builder, array).data
    at = builder.bitcast(builder.gep(data, [index]), _V64.as_pointer())
    builder.store(_compress(builder, block, mask), at).align = 1


def _compress(builder, block, mask):
    lanes = builder.bitcast(mask, ir.VectorType(_I1, BLOCK))
    signature = ir.FunctionType(_V64, [_V64, _V64, lanes.type])
    compress = get_or_insert_function(builder.module, signature, "llvm.x86.avx512.mask.compress.v64i8")
    return builder.call(compress, [block, bytes_of(0), lanes])


@intrinsic
def popcount(_context, mask):
    """int64: how many bits of a uint64 are set."""

    def code(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.uint64), code


@intrinsic
def trailing_zeros(_context, mask):
    """int64: the lowest set bit of a uint64, 64 where none is."""

    def code(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(_I1, 0))

    return types.int64(types.uint64), code


@intrinsic
def pext(_context, value, mask):
    """uint64: the bits of ``value`` where ``mask`` is set, moved together to the low end (BMI2)."""

    def code(context, builder, signature, args):
        function = ir.FunctionType(_I64, [_I64, _I64])
        extract = get_or_insert_function(builder.module, function, "llvm.x86.bmi.pext.64")
        return builder.call(extract, args)

    return types.uint64(types.uint64, types.uint64), code


@intrinsic
def store_compress(_context, array, _index, _mask, out, _at):
    """Copy the bytes of the block at ``array[index]`` whose bit of ``mask`` is set to ``out[at:]``,
    back to back. Reads those bytes only; always writes 64, what follows the kept ones is 0."""

    def code(context, builder, signature, args):
        array, index, mask, out, at = args
        block = load_block(context, builder, signature.args[0], array, index, mask)
        store_block(context, builder, block, mask, signature.args[3], out, at)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64, out, types.int64), code


@intrinsic
def stream_block(_context, array, _index, out, _at):
    """Copy the 64 bytes from ``array[index]`` on to ``out[at]``, both at the start of a cache line,
    past the caches: a line written as a whole need not be read first."""

    def code(context, builder, signature, args):
        def block_at(argument):
            data = make_array(signature.args[argument])(context, builder, args[argument]).data
            at = builder.gep(data, [args[argument + 1]])
            return builder.bitcast(at, _V64.as_pointer())

        block = builder.load(block_at(0))
        store = builder.store(block, block_at(2))
        block.align = store.align = BLOCK
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))
        return context.get_dummy_value()

    return types.void(array, types.int64, out, types.int64), code


def aligned_empty(size: int, dtype: np.dtype | type) -> np.ndarray:
    """``np.empty(size, dtype)`` that begins at the start of a cache line."""
    array = np.empty(size + BLOCK, dtype)
    first = -array.ctypes.data % BLOCK // array.itemsize
    return array[first : first + size]


@njit(nogil=True, inline="always")
def low_bits(count):
    """uint64 with the lowest ``count`` bits set, 0 <= count; all of them from 64 on."""
    return (_ONE << np.uint64(count)) - _ONE if count < 64 else ~_ZERO


@intrinsic
def _emit_sixteen(_context, mask, _base, out, _at):
    """Write ``base`` + i for the sixteen lowest set bits i of ``mask`` to ``out[at:]``."""

    def code(context, builder, signature, args):
        mask, base, out, at = args
        item = context.get_value_type(signature.args[2].dtype)
        lanes = ir.VectorType(item, 16)
        places = _compress(builder, ir.Constant(_V64, list(range(BLOCK))), mask)
        sixteen = ir.Constant(ir.VectorType(_I32, 16), list(range(16)))
        places = builder.zext(builder.shuffle_vector(places, bytes_of(0), sixteen), lanes)
        if item.width < 64:
            base = builder.trunc(base, item)
        first_lane = builder.insert_element(ir.Constant(lanes, ir.Undefined), base, ir.Constant(_I32, 0))
        zeros = ir.Constant(sixteen.type, [0] * 16)
        bases = builder.shuffle_vector(first_lane, first_lane, zeros)
        data = make_array(signature.args[2])(context, builder, out).data
        at = builder.bitcast(builder.gep(data, [at]), lanes.as_pointer())
        builder.store(builder.add(bases, places), at).align = item.width // 8
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64, out, types.int64), code


@njit(nogil=True, inline="always")
def _emit_by_sixteen(mask, base, out, at):
    count = popcount(mask)
    _emit_sixteen(mask, base, out, at)
    for done in range(16, count, 16):
        for _ in range(16):
            mask &= mask - _ONE
        _emit_sixteen(mask, base, out, at + done)
    return at + count


@njit(nogil=True, inline="always")
def _emit_one_by_one(mask, base, out, at):
    count = popcount(mask)
    for i in range(8):
        out[at + i] = base + trailing_zeros(mask)
        mask &= mask - _ONE
    if count > 8:
        for i in range(8, 16):
            out[at + i] = base + trailing_zeros(mask)
            mask &= mask - _ONE
        i = 16
        while mask != _ZERO:
            out[at + i] = base + trailing_zeros(mask)
            mask &= mask - _ONE
            i += 1
    return at + count


emit = _emit_by_sixteen if BLOCKS else _emit_one_by_one
"""``emit(mask, base, out, at)``: write ``base`` + i for each set bit i of ``mask`` to ``out[at:]``,
in order; gives the new ``at``. So many are written always that no branch depends on where the bits
are: ``out``, of 32 or 64-bit integers, has room for ``EMIT_SLACK`` entries from ``at`` on."""
