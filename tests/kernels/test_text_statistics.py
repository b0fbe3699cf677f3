"""The counts of kernels.text.statistics against the plain Python that is their contract."""

import ctypes
import hashlib
import mmap
import os
import random
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit

from kernels.text import c4, walk
from kernels.text.reference import REFERENCES
from kernels.text.simd import BLOCKS, low_bits
from kernels.text.statistics import GROUPS, text_statistics
from kernels.text.words import class_table

needs_blocks = pytest.mark.skipif(
    not BLOCKS, reason="this CPU has no blocks: the portable path is all there is"
)

SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000"
PIECES = [
    *SPACES, "\n", "\n\n", "\r\n", "a", "b", "the", "of", "have", "word", "é", "ж", "語", "𝔘", "💾",
    ".", "...", "…", "!", "?", '"', ")", "»", "。", "#", "-", "•", "{", "1", "_", "\u200b", "\x00",
    "[1]", "[edit]", "[citation needed]", "[", "]", "Lorem Ipsum", "JavaScript", "use cookies",
    "privacy policy", "terms of use", "a b c a b c a b c d", "x" * 1001,
]  # fmt: skip
anything = st.text() | st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


def assert_contract(texts: list[str]) -> None:
    for group, reference in REFERENCES.items():
        got = text_statistics(pa.array(texts, pa.large_string()), (group,))
        assert list(got) == [f"{group}.{field}" for field in GROUPS[group]]
        for row, text in enumerate(texts):
            counts = {name.split(".")[1]: int(values[row]) for name, values in got.items()}
            assert counts == reference(text), (group, text[:200])


@settings(max_examples=300, deadline=None)
@given(st.lists(anything, max_size=4))
@example(["", " ", "\n", "\r\n", "a\r\n", "\n\na\n\na", "...", "....", "..[1].", "[[1]2]."])
@example(["a a a a a a a a a a a a a a a a a a a a a a a", "\u2028\u2029", "word. \n", "a.\x85b."])
def test_counts_equal_the_reference_on_arbitrary_unicode(texts):
    assert_contract(texts)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ab", "ccc"]), max_size=80).map(" ".join))
def test_ngrams_of_few_words_equal_the_reference(text):
    assert_contract([text])


def mixtures(seed: int, n: int, pieces: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randrange(pieces))) for _ in range(n)]


def test_long_mixtures_equal_the_reference():
    assert_contract(mixtures(1, 60, 4000))
    lines = ["a line of words", "another line.", "", " ", "x", "- one", "it ends here [1]."]
    rng = random.Random(2)
    assert_contract(["\n".join(rng.choices(lines, k=k)) for k in (10, 100, 5000)])


@pytest.mark.parametrize(
    "char", [*"aé語💾", " ", "\u2028", "\x85", "\u3000", "。", "»", "・", "…", ".", ")", "\n", "#", "{"]
)
def test_every_place_in_a_block(char):
    """Runs of the character at each offset up to two blocks, behind and before other characters."""
    texts = []
    for before in range(132):
        for run in (1, 2, 3):
            for left, right in (("x", ""), (" ", "y"), ("w", ") y"), ("-", " -")):
                texts.append(left * before + char * run + right)
    assert_contract(texts)


@pytest.mark.parametrize("length", [*range(60, 70), *range(124, 132), 191, 192, 193, 4095, 4096, 4097])
def test_lengths_about_multiples_of_a_block(length):
    tails = [".", ".)", "...", "-", " ", "\n", "\r\n", "é", "語", "💾", "。", "\u3000", "»"]
    fills = ["word ", "x", "- ", "a.\n", "é", "語"]
    assert_contract([(fill * length)[: length - len(tail)] + tail for fill in fills for tail in tails])


def digest() -> str:
    texts = mixtures(3, 200, 300) + ["word " * 5000, "- é語" * 700]
    counts = text_statistics(pa.array(texts, pa.large_string()))
    return hashlib.sha256(b"".join(values.tobytes() for values in counts.values())).hexdigest()


@needs_blocks
def test_the_portable_path_counts_the_same():
    code = "import test_text_statistics as t; assert not t.BLOCKS; print(t.digest())"
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    env = os.environ | {"CORPUSMILL_PORTABLE": "1", "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.stdout.strip() == digest(), run.stderr


@njit
def classes_of_both(data, valid, classes):
    return (
        walk._ascii_classes_of_block(data, 0, valid, classes),
        walk._ascii_classes_of_bytes(data, 0, valid, classes),
    )


@njit
def emit_both(mask, out):
    walk._emit_block(mask, 1000, out[0], 3)
    walk._emit_bits(mask, 1000, out[1], 3)


@needs_blocks
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1), st.integers(0, 64))
def test_both_paths_have_the_same_bits(data, mask, size):
    data = np.frombuffer(data, np.uint8)
    size = min(size, data.size)
    by_block, by_bytes = classes_of_both(data, np.uint64(low_bits(size)), class_table())
    assert by_block == by_bytes
    bounds = np.zeros((2, 64 + walk.BOUNDS_SLACK), np.int32)
    emit_both(np.uint64(mask), bounds)
    n = mask.bit_count()
    np.testing.assert_array_equal(bounds[0, : n + 3], bounds[1, : n + 3])
    assert c4._may_matter_by_blocks(data, 0, data.size) == c4._may_matter_by_bytes(data, 0, data.size)


def test_no_phrase_is_without_an_anchor():
    assert all(any(anchor in phrase for anchor in c4.ANCHORS) for phrase in c4.PHRASES)


def test_nothing_behind_the_text_is_read():
    """The text ends where memory does: the page behind it may not be read."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 4 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    assert mprotect(ctypes.c_void_p(address + 3 * page), page, 0) == 0
    column = None
    try:
        for text in ("word", "a.", "é", "It ends [1] here. 語" * 40, "x" * 64, "é" * 32, "\n" * 65, "w" * 17):
            raw = text.encode()
            for size in range(max(1, len(raw) - 20), len(raw) + 1):
                memory[3 * page - size : 3 * page] = raw[:size]
                data = pa.foreign_buffer(address + 3 * page - size, size)
                offsets = pa.array([0, size // 2, size], pa.int64()).buffers()[1]
                column = pa.Array.from_buffers(pa.large_string(), 2, [None, offsets, data])
                got = text_statistics(column)
                halves = pa.array([raw[: size // 2], raw[size // 2 : size]], pa.large_binary())
                copy = pa.Array.from_buffers(pa.large_string(), 2, halves.buffers())
                for name, values in text_statistics(copy).items():
                    np.testing.assert_array_equal(got[name], values, name)
    finally:
        mprotect(ctypes.c_void_p(address + 3 * page), page, 3)


@pytest.mark.parametrize(
    "unit", ["word ", "a b ", "a b c d e f g h i j k ", "word\n", "é\n\n", "...", ") ", "\r\n"]
)
def test_a_million_of_the_same(unit):
    n = 1_000_000
    got = {name: int(values[0]) for name, values in text_statistics(pa.array([unit * n])).items()}
    words = len(unit.split()) * n
    # without white space in it the unit makes one word
    words = words if unit != "".join(unit.split()) else 1
    assert got["quality.words"] == words
    assert got["repetition.chars"] == len(unit) * n
    if words == n:
        # the scan registers the first 10-gram, and from there each tenth word repeats it
        size = len(unit.split()[0])
        assert got["repetition.duplicate_10gram_chars"] == (n - 1) // 10 * 10 * size


def test_a_table_that_grows_gives_the_same():
    """More different n-grams than the table has room for at first, then a short text again."""
    rng = random.Random(4)
    words = [f"w{rng.randrange(3000)}" for _ in range(60_000)]
    assert_contract(["a b a b a b", " ".join(words), "a b a b a b"])


def test_golden_counts():
    text = "The map of the kernel:\n- page tables...\n- page tables...\n\nIt ends here [1].\n"
    got = {k: int(v[0]) for k, v in text_statistics(pa.array([text])).items()}
    assert [got[f"quality.{f}"] for f in GROUPS["quality"]] == [15, 13, 58, 12, 2, 0, 2, 5, 2, 2]
    assert [got[f"repetition.{f}"] for f in GROUPS["repetition"]] == [
        76, 5, 1, 16, 2, 0, 0, 12, 32, 14, 0, 0, 0, 0, 0, 0,
    ]  # fmt: skip
    assert [got[f"c4.{f}"] for f in GROUPS["c4"]] == [5, 0, 4, 0, 0, 0, 0, 0, 1, 1]
    assert [got[f"fineweb.{f}"] for f in GROUPS["fineweb"]] == [15, 5, 71, 4, 3, 4, 16]


def test_shapes_of_columns_make_no_difference():
    texts = ["one two", None, "", "drei vier\nfünf", "word", "?!... --", "語 語"]
    expected = text_statistics(pa.array(["" if t is None else t for t in texts], pa.string()))
    columns = [
        pa.array(texts, pa.string()),
        pa.array(texts, pa.large_string()),
        pa.array(["before", *texts, "after"], pa.large_string()).slice(1, len(texts)),
        pa.chunked_array([texts[:3], [], texts[3:]], pa.string()),
        pa.array(texts).dictionary_encode(),
    ]
    for column in columns:
        for name, values in text_statistics(column).items():
            np.testing.assert_array_equal(values, expected[name], name)
    # a null row may hide bytes
    hidden = pa.Array.from_buffers(
        pa.string(), 2, [pa.py_buffer(b"\x01"), *pa.array(["a b", "c d"]).buffers()[1:]]
    )
    assert text_statistics(hidden, ("quality",))["quality.words"].tolist() == [2, 0]


def test_empty_columns():
    for column in (pa.array([], pa.string()), pa.chunked_array([], pa.large_string())):
        assert all(values.shape == (0,) for values in text_statistics(column).values())


def test_a_megabyte_without_a_line_break():
    assert_contract(["word " * 200_000, "x" * 1_000_000, "é" * 500_000, "\n" * 1_000_000])


def test_bytes_that_are_no_utf8_do_no_harm():
    surrogate = "\ud800".encode("utf-8", "surrogatepass")
    rows = [b"\xf0\x9f", b"\xe2", b"a \xc3", b"\xff\xfe b", surrogate, b"\x80\x80", b"x" * 63 + b"\xe2\x80"]
    column = pa.Array.from_buffers(pa.string(), len(rows), pa.array(rows, pa.binary()).buffers())
    assert text_statistics(column, ("quality",))["quality.words"].tolist() == [1, 1, 2, 2, 1, 1, 1]


def test_errors_name_the_cure():
    with pytest.raises(ValueError, match="string or large_string, not int64"):
        text_statistics(pa.array([1]))
    with pytest.raises(ValueError, match=re.escape("quality, repetition, c4, fineweb")):
        text_statistics(pa.array(["a"]), ("gopher",))
