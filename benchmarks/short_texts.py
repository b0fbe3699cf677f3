"""Any number of short documents made from real text, of which a known part are near-duplicates.

A document is 60 to 120 words, joined from cuts of 4 to 8 words at random places of the documentation:
its words and bytes are real, but no two documents are alike by chance, however many there are. One
in five is a copy of an earlier document with 1 to 4 words replaced by new ones. A document is a
function of the seed and its number alone, so 10^7 of them need no more memory than 10^5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from benchmarks.corpora import CACHE, progress, texts
from kernels.text.buffers import text_buffers
from kernels.text.hashing import GOLDEN, MIX_A, MIX_B

MAX_EDITS = 4
# texts that the cuts are taken from, about 90 MB
_TEXTS = 20_000
# longer words are left out, so that a document's size has a bound
_MAX_WORD_BYTES = 24
_MAX_DOCUMENT_BYTES = 120 * (_MAX_WORD_BYTES + 1)
_ROW_GROUP = 2_000
# documents made at a time
_CHUNK = 10 * _ROW_GROUP
_ID_DIGITS = 32
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int64()),
        ("text", pa.large_string()),
        ("source_row", pa.int64()),
        ("edits", pa.int64()),
    ]
)


def short_texts(n: int, seed: int = 1) -> Path:
    """A zstd Parquet file of ``n`` documents, about 640 bytes of text each; kept for the next time.

    Columns: id, row (its number), text, source_row (the document that this one copies, -1 for an
    original), edits (how many of its words were replaced).
    """
    file = CACHE / f"short-{n}-{seed}.parquet"
    if file.exists():
        return file
    data, offsets = text_buffers(texts(_TEXTS, seed)["text"])
    starts, ends = _find_words(data, offsets)
    part = file.with_suffix(".part")
    with pq.ParquetWriter(part, _SCHEMA, compression="zstd", use_dictionary=False) as writer:
        for row in range(0, n, _CHUNK):
            count = min(_CHUNK, n - row)
            writer.write_table(_documents(data, starts, ends, seed, row, count), _ROW_GROUP)
            if row and row % 1_000_000 == 0:
                progress(f"{file.name}: {row:,} documents")
    part.rename(file)
    return file


def _documents(data, starts, ends, seed: int, row: int, count: int) -> pa.Table:
    ids = np.empty(count * _ID_DIGITS, np.uint8)
    out = np.empty(count * _MAX_DOCUMENT_BYTES, np.uint8)
    offsets = np.zeros(count + 1, np.int64)
    source_row = np.empty(count, np.int64)
    edits = np.empty(count, np.int64)
    _write_documents(data, starts, ends, np.uint64(seed), row, ids, out, offsets, source_row, edits)
    id_offsets = np.arange(count + 1, dtype=np.int32) * _ID_DIGITS
    text = [None, pa.py_buffer(offsets), pa.py_buffer(out)]
    columns = [
        pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(id_offsets), pa.py_buffer(ids)]),
        pa.array(np.arange(row, row + count)),
        pa.Array.from_buffers(pa.large_string(), count, text),
        pa.array(source_row),
        pa.array(edits),
    ]
    return pa.table(columns, schema=_SCHEMA)


@njit(cache=True)
def _find_words(data, offsets):
    """Where the words between ASCII white space start and end; of those with a letter or digit."""
    starts = np.empty(data.size // 2 + 1, np.int64)
    ends = np.empty(data.size // 2 + 1, np.int64)
    count = 0
    for text in range(offsets.size - 1):
        start = offsets[text]
        good = False
        for i in range(start, offsets[text + 1] + 1):
            byte = data[i] if i < offsets[text + 1] else 32
            if byte <= 32:
                if good and i - start <= _MAX_WORD_BYTES:
                    starts[count] = start
                    ends[count] = i
                    count += 1
                start = i + 1
                good = False
            else:
                lower = byte | 32
                good |= (97 <= lower <= 122) | (48 <= byte <= 57)
    return starts[:count].copy(), ends[:count].copy()


@njit(cache=True)
def _draw(seed, row, number):
    """The ``number``-th random uint64 of a document (SplitMix64's finalizer)."""
    value = seed * GOLDEN + np.uint64(row)
    value = (value ^ (value >> np.uint64(30))) * MIX_A + np.uint64(number) * GOLDEN
    value = (value ^ (value >> np.uint64(27))) * MIX_B
    value = (value ^ (value >> np.uint64(31))) * MIX_A
    return value ^ (value >> np.uint64(29))


@njit(cache=True)
def _below(seed, row, number, bound):
    return np.int64(_draw(seed, row, number) % np.uint64(bound))


@njit(cache=True)
def _is_copy(seed, row):
    return row > 0 and _below(seed, row, 0, 5) == 0


@njit(cache=True)
def _write_hex(value, digits, out, at):
    for k in range(digits):
        digit = np.int64((value >> np.uint64(4 * k)) & np.uint64(15))
        out[at + k] = 48 + digit if digit < 10 else 87 + digit
    return at + digits


@njit(cache=True)
def _write_documents(data, starts, ends, seed, first_row, ids, out, offsets, source_row, edits):
    replaced = np.empty(MAX_EDITS, np.int64)
    at = np.int64(0)
    for d in range(source_row.size):
        row = first_row + d
        source = row
        while _is_copy(seed, source):
            source = _below(seed, source, 1, source)
        source_row[d] = source if source != row else -1
        num_words = 60 + _below(seed, source, 2, 61)
        edits[d] = 1 + _below(seed, row, 3, MAX_EDITS) if source != row else 0
        replaced[:] = -1
        for k in range(edits[d]):
            # the next place that is free
            place = _below(seed, row, 4 + k, num_words)
            while (replaced == place).any():
                place = (place + 1) % num_words
            replaced[k] = place
        word = np.int64(0)
        left_in_cut = 0
        cut = 0
        for w in range(num_words):
            if left_in_cut == 0:
                cut += 1
                left_in_cut = 4 + _below(seed, source, 10 + 2 * cut, 5)
                word = _below(seed, source, 11 + 2 * cut, starts.size - 8)
            if w:
                out[at] = 32
                at += 1
            if (replaced == w).any():
                at = _write_hex(_draw(seed, row, 1000 + w), 8, out, at)
            else:
                for i in range(starts[word], ends[word]):
                    out[at] = data[i]
                    at += 1
            word += 1
            left_in_cut -= 1
        offsets[d + 1] = at
        _write_hex(_draw(seed, row, 2000), 16, ids, d * _ID_DIGITS)
        _write_hex(_draw(seed, row, 2001), 16, ids, d * _ID_DIGITS + 16)
