"""WARC files (ISO 28500): parts that we write with warcio, any file read with FastWARC.

A row of a WARC file is a response record. What a crawl asked and got no page for (robots.txt, a
refused or failed request) lies beside the rows as ``metadata`` records. A gzip member that cannot
be read is a row too, with an ``error``: it may have been a page, and nothing may vanish silently.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

GZIP_MAGIC = b"\x1f\x8b\x08"
METADATA_TYPE = "application/json"
# Compressed bytes that are inflated at once: a page's member is short, and what lies behind its end is
# copied for nothing.
_FIRST_CHUNK, _CHUNK = 1 << 14, 1 << 18


@dataclass(frozen=True, kw_only=True)
class Record:
    """One response or metadata record, or one damaged member (``error`` set, ``kind`` damaged).

    ``offset`` counts bytes of the file to the record (its gzip member); ``date`` is UTC;
    ``headers`` are HTTP's, in order, names in lower case; ``body`` is decoded (no gzip, no chunks).
    """

    offset: int
    kind: str
    record_id: str = ""
    url: str = ""
    date: datetime | None = None
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    truncated: str = ""
    error: str | None = None

    def header(self, name: str) -> str:
        """All values of the HTTP header ``name`` (lower case), joined by ", "."""
        return ", ".join(value for key, value in self.headers if key == name)

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; "" when the server named none."""
        return self.header("content-type").partition(";")[0].strip().lower()


class PartWriter:
    """One WARC file, a gzip member a record; on disk only after ``close``.

    The first record is a ``warcinfo`` that holds ``info`` and the file's name (WARC-Filename).
    """

    def __init__(self, path: Path, info: dict[str, str]):
        self.path = path
        self.rows = 0
        self._file = path.open("xb")
        self._writer = WARCWriter(self._file, gzip=True, warc_version="1.1")
        self._writer.write_record(self._writer.create_warcinfo_record(path.name, info))

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def response(
        self,
        url: str,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        truncated: str = "",
    ) -> Record:
        """One row, returned as a reader will see it.

        ``body`` is the decoded body: its encoding headers are replaced by its length.
        """
        offset = self.size
        coded = ("content-encoding", "transfer-encoding", "content-length")
        kept = [(name, value) for name, value in headers if name.lower() not in coded]
        kept.append(("Content-Length", str(len(body))))
        http = StatusAndHeaders(f"{status} ", kept, protocol="HTTP/1.1")
        record = self._writer.create_warc_record(
            url,
            "response",
            payload=io.BytesIO(body),
            http_headers=http,
            warc_headers_dict={"WARC-Truncated": truncated} if truncated else {},
        )
        self._writer.write_record(record)
        self.rows += 1
        return Record(
            offset=offset,
            kind="response",
            record_id=record.rec_headers.get_header("WARC-Record-ID").strip("<>"),
            url=url,
            date=datetime.fromisoformat(record.rec_headers.get_header("WARC-Date")),
            status=status,
            headers=tuple((name.lower(), value) for name, value in kept),
            body=body,
            truncated=truncated,
        )

    def metadata(self, url: str, value: dict) -> None:
        """What is to be remembered about ``url`` beside the rows, as JSON."""
        record = self._writer.create_warc_record(
            url,
            "metadata",
            payload=io.BytesIO(json.dumps(value, sort_keys=True).encode()),
            warc_content_type=METADATA_TYPE,
        )
        self._writer.write_record(record)

    def close(self) -> Path:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self.path


def read_records(path: Path) -> Iterator[Record]:
    """Response, metadata and damaged records of a .warc or .warc.gz file, in the file's order."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # a damaged .gz may begin so, too: its other members are still whole
        if data[:5] == b"WARC/" and path.suffix != ".gz":
            yield from _parse(data[:], None)
            return
        for offset, member, error in _members(data):
            if error:
                yield Record(offset=offset, kind="damaged", error=error)
            else:
                yield from _parse(member, offset)


def read_rows(path: Path) -> Iterator[Record]:
    """The rows of a WARC file: its responses and its damaged members."""
    return (record for record in read_records(path) if record.kind != "metadata")


def count_records(path: Path) -> int:
    """Number of rows of a WARC file, as ``read_rows`` yields them."""
    return sum(1 for _ in read_rows(path))


def warc_name(path: Path) -> str:
    """A name that the file's content fixes: WARC-Filename of its warcinfo, else its hash.

    A dataset may store a file under any name, so ``path`` would not be the same in every run.
    """
    with path.open("rb") as file:
        try:
            for record in ArchiveIterator(file, record_types=WarcRecordType.any_type):
                if record.record_type != WarcRecordType.warcinfo:
                    break
                if name := record.headers.get("WARC-Filename"):
                    return name
        except (OSError, ValueError):
            pass
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _members(data: mmap.mmap) -> Iterator[tuple[int, bytes, str | None]]:
    """(offset, decompressed bytes, error) of each gzip member; after damage, from the next one."""
    start = 0
    while start < len(data):
        try:
            member, end = _inflate(data, start)
        except (zlib.error, EOFError) as error:
            end = _next_member(data, start + 1)
            yield start, b"", f"damaged gzip member, {end - start} bytes: {error}"
        else:
            yield start, member, None
        start = end


def _inflate(data: mmap.mmap, start: int) -> tuple[bytes, int]:
    """The member that begins at ``start``, and the offset of its end."""
    inflater = zlib.decompressobj(wbits=31)
    chunks = []
    position, size = start, _FIRST_CHUNK
    while not inflater.eof:
        chunk = data[position : position + size]
        if not chunk:
            raise EOFError("the file ends inside it")
        chunks.append(inflater.decompress(chunk))
        position += len(chunk)
        size = min(2 * size, _CHUNK)
    return b"".join(chunks), position - len(inflater.unused_data)


def _next_member(data: mmap.mmap, start: int) -> int:
    """Offset of the next gzip member that holds a WARC record, or the end of the file."""
    while (start := data.find(GZIP_MAGIC, start)) >= 0:
        try:
            if zlib.decompressobj(wbits=31).decompress(data[start : start + 4096], 5) == b"WARC/":
                return start
        except zlib.error:
            pass
        start += 1
    return len(data)


def _parse(data: bytes, member: int | None) -> Iterator[Record]:
    """Records in plain bytes. ``member``: offset of their gzip member, None if uncompressed."""
    found = 0
    position = member or 0
    try:
        for record in ArchiveIterator(
            io.BytesIO(data), parse_http=False, record_types=WarcRecordType.any_type
        ):
            found += 1
            position = record.stream_pos if member is None else member
            if record.record_type in (WarcRecordType.response, WarcRecordType.metadata):
                yield _record(record, position)
    except (OSError, ValueError) as error:
        yield Record(offset=position, kind="damaged", error=f"damaged WARC record: {error}")
        return
    if not found and data.strip():
        yield Record(offset=position, kind="damaged", error="no WARC record where one must begin")


def _record(record: WarcRecord, offset: int) -> Record:
    common: dict[str, Any] = {
        "offset": offset,
        "record_id": (record.record_id or "").strip("<>"),
        "url": (record.headers.get("WARC-Target-URI") or "").strip("<>"),
        "date": record.record_date,
    }
    if record.record_type == WarcRecordType.metadata:
        return Record(kind="metadata", body=record.reader.read(), **common)
    try:
        record.parse_http(auto_decode="all")
        if record.http_headers is None:
            raise ValueError("it does not hold HTTP")
        headers = tuple((name.lower(), value) for name, value in record.http_headers.items())
        body = record.reader.read()
        coded = {"content-encoding", "transfer-encoding"} & {name for name, _ in headers}
        if not coded and len(body) != record.content_length:
            raise ValueError(f"{len(body)} of {record.content_length} bytes are there")
    except (OSError, ValueError) as error:
        return Record(kind="damaged", error=f"damaged HTTP response: {error}", **common)
    return Record(
        kind="response",
        status=record.http_headers.status_code or 0,
        headers=headers,
        body=body,
        truncated=record.headers.get("WARC-Truncated") or "",
        **common,
    )
