"""The counts of kernels.text.statistics against the plain Python that is their contract."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.text.reference import REFERENCES
from kernels.text.statistics import GROUPS, text_statistics

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
    broken = pa.array([b"\xf0\x9f", b"\xe2", b"a \xc3", b"\xff\xfe b"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 4, broken.buffers())
    assert text_statistics(column, ("quality",))["quality.words"].tolist() == [1, 1, 2, 2]


def test_errors_name_the_cure():
    with pytest.raises(ValueError, match="string or large_string, not int64"):
        text_statistics(pa.array([1]))
    with pytest.raises(ValueError, match=re.escape("quality, repetition, c4, fineweb")):
        text_statistics(pa.array(["a"]), ("gopher",))
