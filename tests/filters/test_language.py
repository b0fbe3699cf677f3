"""The ``language`` stage sees exactly the first characters, whatever their bytes."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resiliparse.parse.lang import detect_fast

from filters.language import Language, _starts

TEXTS = [
    "The kernel maps a page of memory, and the process reads it. " * 20,
    "Der schnelle braune Fuchs springt über den faulen Hund. " * 20,
    "Ядро отображает страницу памяти, и процесс читает её. " * 20,
    "内核映射一页内存，进程读取它。" * 40,
    "🙂" * 300,
]


@pytest.mark.parametrize("first_chars", [1, 7, 200, 4000, 10**9])
def test_a_column_gets_what_single_texts_get(first_chars):
    table = pa.table({"text": pa.array(TEXTS, pa.large_string())})
    result = Language(first_chars=first_chars).annotate(table)
    found = list(zip(*(result[name].to_pylist() for name in Language.adds), strict=True))
    assert found == [detect_fast(text[:first_chars]) for text in TEXTS]


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), max_size=6), st.integers(1, 50))
def test_starts_are_cut_by_characters(texts, chars):
    column = pa.chunked_array([pa.array(["before", *texts], pa.string()).slice(1)])
    assert list(_starts(column, chars)) == [text[:chars] for text in texts]


def test_bytes_that_are_not_utf8_stop_nothing():
    text = pa.array([b"\xff\xfe" + TEXTS[0].encode(), b"\xe5\x86"]).view(pa.string())
    result = Language().annotate(pa.table({"text": text}))
    assert result["language_label"].to_pylist() == ["en", "unknown"]
