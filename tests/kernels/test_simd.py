import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from kernels.text.simd import (
    BLOCKS,
    EMIT_SLACK,
    emit,
    low_bits,
    pext,
    popcount,
    store_compress,
    trailing_zeros,
)

MASK = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 1 << 63, 2**64 - 1])
needs_blocks = pytest.mark.skipif(not BLOCKS, reason="a CPU without BMI2 and AVX-512 VBMI2")


@njit
def _bits(mask, base, count, out):
    return popcount(mask), trailing_zeros(mask), emit(mask, base, out, 3), low_bits(count)


@settings(max_examples=200, deadline=None)
@given(MASK, st.integers(0, 70))
def test_bits_of_a_mask(mask, count):
    places = [i for i in range(64) if mask >> i & 1]
    out = np.zeros(3 + EMIT_SLACK, np.uint32)
    number, lowest, at, low = _bits(np.uint64(mask), 1000, count, out)
    assert number == len(places)
    assert lowest == (places[0] if places else 64)
    assert at == 3 + len(places)
    assert out[3:at].tolist() == [1000 + place for place in places]
    assert low == (1 << min(count, 64)) - 1


@needs_blocks
@settings(max_examples=100, deadline=None)
@given(MASK, MASK)
def test_pext(value, mask):
    kept = [value >> i & 1 for i in range(64) if mask >> i & 1]
    assert njit(lambda a, b: pext(a, b))(np.uint64(value), np.uint64(mask)) == sum(
        bit << i for i, bit in enumerate(kept)
    )


@needs_blocks
@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=64, max_size=100), MASK)
def test_store_compress(data, mask):
    start = len(data) - 64
    out = np.full(70, 255, np.uint8)
    _compress(np.frombuffer(data, np.uint8), start, np.uint64(mask), out)
    kept = bytes(data[start + i] for i in range(64) if mask >> i & 1)
    assert out.tobytes() == b"\xff" * 2 + kept.ljust(64, b"\0") + b"\xff" * 4


@njit
def _compress(data, start, mask, out):
    store_compress(data, start, mask, out, 2)


BEYOND = """
import ctypes, mmap, numpy as np
from numba import njit
from kernels.text.simd import low_bits, store_compress
page = mmap.PAGESIZE
pages = mmap.mmap(-1, 2 * page)
data = np.frombuffer(pages, np.uint8)
libc = ctypes.CDLL(None)
assert libc.mprotect(ctypes.c_void_p(data.ctypes.data + page), page, 0) == 0
data[:page] = np.arange(page) % 251
out = np.zeros(128, np.uint8)
f = njit(lambda data, i, mask, out: store_compress(data, i, mask, out, 0))
for left in range(64):
    f(data, page - left, low_bits(left), out)
    assert (out[:left] == data[page - left : page]).all() and not out[left:64].any()
print("read", data[page] if __import__("sys").argv[1:] else "nothing beyond")
"""


@needs_blocks
def test_a_block_over_the_end_reads_nothing_beyond_it():
    run = [sys.executable, "-c", BEYOND]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "read nothing beyond\n"
    # the page is forbidden indeed
    assert subprocess.run([*run, "read it"], capture_output=True).returncode < 0


@pytest.mark.parametrize(
    "setting, blocks",
    [
        ({"CORPUSMILL_PORTABLE": "1"}, False),
        ({"NUMBA_CPU_NAME": "haswell"}, False),
        ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+bmi2"}, False),
        ({"NUMBA_CPU_NAME": "generic"}, False),
        (
            {
                "NUMBA_CPU_NAME": "znver4",
                "NUMBA_CPU_FEATURES": "+avx2,+bmi2,+avx512bw,+avx512vbmi,+avx512vbmi2",
            },
            True,
        ),
    ],
)
def test_which_cpu_has_blocks(setting, blocks):
    run = [sys.executable, "-c", "from kernels.text.simd import BLOCKS; print(BLOCKS)"]
    answer = subprocess.run(run, env=os.environ | setting, capture_output=True, text=True, check=True)
    assert answer.stdout == f"{blocks}\n"
