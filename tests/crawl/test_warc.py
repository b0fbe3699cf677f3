"""WARC parts: what is written is read; damage costs the damaged records and no other."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.warc import PartWriter, Record, count_records, read_records, read_rows, warc_name

HEADERS = [("Content-Type", "text/html; charset=utf-8"), ("Content-Encoding", "gzip"), ("X", "1")]


def write(path: Path, pages: int = 6) -> list[Record]:
    part = PartWriter(path, {"software": "test"})
    part.metadata("http://a.org/robots.txt", {"robots": 404})
    written = []
    for number in range(pages):
        body = "".join(random.Random(number).choices("abcdefgh <>", k=3000)).encode()
        written.append(part.response(f"http://a.org/{number}", 200, HEADERS, body))
    assert part.rows == pages
    part.close()
    return written


def test_what_is_written_is_read(tmp_path):
    written = write(tmp_path / "a.warc.gz")
    assert list(read_rows(tmp_path / "a.warc.gz")) == written
    assert written[0].content_type == "text/html"
    assert written[0].header("content-length") == "3000"
    assert written[0].header("content-encoding") == "", "the body is written decoded"
    assert count_records(tmp_path / "a.warc.gz") == 6
    robots, *_ = read_records(tmp_path / "a.warc.gz")
    assert (robots.kind, robots.body) == ("metadata", b'{"robots": 404}')
    data = (tmp_path / "a.warc.gz").read_bytes()
    assert gzip.decompress(data[written[3].offset :]).startswith(b"WARC/1.1\r\n")


def test_warc_name_is_in_the_file(tmp_path):
    write(tmp_path / "a.warc.gz")
    (tmp_path / "a.warc.gz").rename(tmp_path / "stored")
    assert warc_name(tmp_path / "stored") == "a.warc.gz"
    (tmp_path / "junk").write_bytes(b"junk")
    assert len(warc_name(tmp_path / "junk")) == 32


def test_forms_that_others_write(tmp_path):
    written = write(tmp_path / "a.warc.gz")
    plain = gzip.decompress((tmp_path / "a.warc.gz").read_bytes())
    (tmp_path / "b.warc").write_bytes(plain)
    (tmp_path / "one_member.warc.gz").write_bytes(gzip.compress(plain))
    for name in ("b.warc", "one_member.warc.gz"):
        assert [row.body for row in read_rows(tmp_path / name)] == [row.body for row in written]
        assert warc_name(tmp_path / name) == "a.warc.gz"
    (tmp_path / "empty.warc.gz").write_bytes(b"")
    assert list(read_records(tmp_path / "empty.warc.gz")) == []


def test_coded_bodies_of_others_are_decoded(tmp_path):
    packed = gzip.compress(b"hello" * 9)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)
    http = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    http += chunked
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:x:1>\r\n"
    head += b"WARC-Target-URI: <http://a.org/>\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
    head += b"Content-Type: application/http; msgtype=response\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(http)
    (tmp_path / "a.warc").write_bytes(head + http + b"\r\n\r\n")
    (row,) = read_rows(tmp_path / "a.warc")
    assert (row.body, row.url, row.record_id) == (b"hello" * 9, "http://a.org/", "urn:x:1")


@pytest.mark.parametrize("damage", ["flip", "zeros", "header", "junk", "cut", "end"])
def test_damage_costs_one_row(tmp_path, damage):
    path = tmp_path / "a.warc.gz"
    written = write(path)
    data = bytearray(path.read_bytes())
    at, end = written[3].offset, written[4].offset
    if damage == "flip":
        data[at + 900] ^= 255
    elif damage == "zeros":
        data[at + 500 : at + 600] = bytes(100)
    elif damage == "header":
        data[at : at + 10] = bytes(10)
    elif damage == "junk":
        data[at:end] = b"junk" * 25
    elif damage == "cut":
        del data[at + 700 : end]
    else:
        del data[written[5].offset + 500 :]
    path.write_bytes(data)
    rows = list(read_rows(path))
    bad = [row for row in rows if row.kind == "damaged"]
    lost = written[5] if damage == "end" else written[3]
    good = [(row.record_id, row.body) for row in rows if row.kind != "damaged"]
    assert good == [(row.record_id, row.body) for row in written if row != lost]
    assert [row.offset for row in bad] == [lost.offset] and "damaged" in bad[0].error
    assert count_records(path) == len(rows) == 6


def test_a_record_cut_short_in_a_plain_file(tmp_path):
    write(tmp_path / "a.warc.gz")
    plain = gzip.decompress((tmp_path / "a.warc.gz").read_bytes())
    (tmp_path / "b.warc").write_bytes(plain[:-500])
    *good, last = read_rows(tmp_path / "b.warc")
    assert len(good) == 5 and last.kind == "damaged" and last.url == "http://a.org/5"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**9), st.binary(max_size=40)), min_size=1, max_size=4))
@example([(0, b"WARC/")])
def test_no_damage_raises(tmp_path_factory, patches):
    path = tmp_path_factory.mktemp("damage") / "a.warc.gz"
    written = write(path, 4)
    for plain in (False, True):
        data = path.read_bytes() if not plain else gzip.decompress(path.read_bytes())
        touched = bytearray(data)
        for at, patch in patches:
            at %= len(data)
            touched[at : at + len(patch)] = patch[: len(data) - at]
        broken = path.with_name("b.warc" if plain else "b.warc.gz")
        broken.write_bytes(touched)
        rows = list(read_rows(broken))
        assert count_records(broken) == len(rows)
        if not plain:
            ends = [*[row.offset for row in written[1:]], len(data)]
            whole = [
                row
                for row, end in zip(written, ends, strict=True)
                if touched[row.offset : end] == data[row.offset : end]
            ]
            assert {row.record_id for row in whole} <= {row.record_id for row in rows}
