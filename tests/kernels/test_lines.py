"""kernels.text.lines against the plain Python that is its contract."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.text.lines import (
    reference_hash,
    reference_normalized,
    reference_units,
    reference_without,
    unit_hashes,
    without_units,
)

PIECES = [
    "\n", "\n", "\n\n", "\r\n", " ", "\t", "\v", "\x1c", "\x85", "\u2028", "\u3000", "a", "B", "é",
    "É", "İ", "Ⱥ", "ẞ", "語", "𝔘", "𐐀", "٣", "7", "𝟗", "²", "💾", "\x00", "one two", "longer words",
]  # fmt: skip
anything = st.text() | st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
UNITS = ("line", "paragraph")


def eligible(text, unit, min_chars, **ignore):
    """Of each unit of a text: its bounds, its normalized text, whether it is long enough."""
    found = [(s, e, reference_normalized(text[s:e], **ignore)) for s, e in reference_units(text, unit)]
    return [(s, e, t, len(t) >= min_chars) for s, e, t in found]


def assert_contract(texts, unit, min_chars, case, digits, draw):
    ignore = {"ignore_case": case, "ignore_digits": digits}
    column = pa.array(texts, pa.large_string())
    hashes, rows = unit_hashes(column, unit, min_chars, **ignore)
    units = [eligible(text, unit, min_chars, **ignore) for text in texts]
    expected = [(reference_hash(t), k) for k, found in enumerate(units) for _, _, t, long in found if long]
    assert list(zip(hashes.tolist(), rows.tolist(), strict=True)) == expected
    chosen = np.array([draw(st.booleans()) for _ in expected], bool)
    got, counts = without_units(column, chosen, unit, min_chars)
    marks = iter(chosen)
    for k, (text, found) in enumerate(zip(texts, units, strict=True)):
        stays = [not (long and next(marks)) for *_, long in found]
        assert got[k].as_py() == reference_without(text, [(s, e) for s, e, *_ in found], stays)
        assert {name: int(count[k]) for name, count in counts.items()} == {
            "removed": len(stays) - sum(stays),
            "left": sum(stays),
            "chars": len(text),
            "chars_left": len(got[k].as_py()),
        }
    same, _ = without_units(column, np.zeros(len(expected), bool), unit, min_chars)
    assert same == column


@settings(max_examples=200, deadline=None)
@given(
    st.lists(anything, max_size=4), st.sampled_from(UNITS), st.integers(1, 6), st.booleans(), st.booleans(),
    st.data(),
)  # fmt: skip
def test_equals_the_reference_on_arbitrary_unicode(texts, unit, min_chars, case, digits, data):
    assert_contract(texts, unit, min_chars, case, digits, data.draw)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "bc", "\n", "\n\n", " \n"]), max_size=30).map("".join), st.data())
@example("", None)
@example("\n\n", None)
def test_equals_the_reference_on_few_characters(text, data):
    draw = data.draw if data else (lambda _: True)
    for unit in UNITS:
        assert_contract([text], unit, 1, False, False, draw)


@pytest.mark.parametrize(
    ("unit", "text", "stays"),
    [
        ("line", "x\na\nx\nb\nx", "a\nb"),
        ("line", "Title\n\nx\ntext\n", "Title\n\ntext\n"),
        ("line", "a\n\nx\n\nb", "a\n\nb"),
        ("line", "\n a\r\n  x \r\nb", "\n a\r\nb"),
        ("line", "x\nx\n", "\n"),
        ("paragraph", "x\ny\n\na\n\nx\ny\n\n\nb\nx\ny\n", "a\n\n\nb\nx\ny\n"),
        ("paragraph", "a\n \t\n x\n   y\n", "a\n"),
    ],
)
def test_what_stays_reads_well(unit, text, stays):
    column = pa.array([text])
    goes = unit_hashes(pa.array(["x" if unit == "line" else "x\ny"]), unit, 1)[0]
    chosen = np.isin(unit_hashes(column, unit, 1)[0], goes)
    assert without_units(column, chosen, unit, 1)[0].to_pylist() == [stays]


def test_units_are_compared_normalized():
    def n_hashes(*texts, **ignore):
        return len(set(unit_hashes(pa.array(texts), "line", 1, **ignore)[0].tolist()))

    assert n_hashes("a b", "  a \t b\r", "\u3000a\u2003b") == 1
    assert n_hashes("a b", "ab", "A b", "a b.") == 4
    assert n_hashes("Ab 12", "aB 34", "AB ٣٤", ignore_case=True, ignore_digits=True) == 1
    assert n_hashes("Ab 12", "aB 34", ignore_case=True) == 2
    assert n_hashes("9", "10", ignore_digits=True) == 2
    words = [f"line {n}" for n in range(100_000)]
    assert n_hashes(*words) == len(words)


def test_shapes_of_columns_make_no_difference():
    texts = ["one\ntwo", None, "", "drei\n\nvier", "\n", "五\n六"]
    plain = pa.array(["" if t is None else t for t in texts], pa.string())
    hashes, rows = unit_hashes(plain, "line", 1)
    chosen = np.arange(len(hashes)) % 2 == 0
    expected = without_units(plain, chosen, "line", 1)[0]
    for column in (
        pa.array(texts, pa.string()),
        pa.array(["before\nit", *texts, "after"], pa.large_string()).slice(1, len(texts)),
        pa.chunked_array([texts[:2], [], texts[2:]], pa.string()),
    ):
        got = unit_hashes(column, "line", 1)
        assert got[0].tolist() == hashes.tolist() and got[1].tolist() == rows.tolist()
        assert without_units(column, chosen, "line", 1)[0] == expected


def test_bytes_that_are_no_utf8_stay_as_they_are():
    raw = b"\xff\xfe first\nso \xed\xa0\x80 it\xc0 is\nlast \xf0\x9f"
    offsets = pa.py_buffer(np.array([0, len(raw)], np.int64))
    column = pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(raw)])
    hashes, _ = unit_hashes(column, "line", 1)
    assert len(hashes) == 3
    kept, _ = without_units(column, np.array([True, False, True]), "line", 1)
    assert kept.view(pa.large_binary())[0].as_py() == b"so \xed\xa0\x80 it\xc0 is"


def test_a_long_text_of_breaks_and_one_of_one_line():
    column = pa.array(["\n" * 3_000_000, "x" * 3_000_000, "y\n" * 1_000_000])
    hashes, rows = unit_hashes(column, "line", 1)
    assert rows.tolist() == [1] + [2] * 1_000_000
    texts, counts = without_units(column, np.ones(len(hashes), bool), "line", 1)
    assert texts.to_pylist() == ["\n" * 3_000_000, "", "\n"]
    assert counts["removed"].tolist() == [0, 1, 1_000_000]
