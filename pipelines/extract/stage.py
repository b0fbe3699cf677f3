"""The stage ``extract``: WARC records -> documents, with a verdict for each record."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from resiliparse.parse.encoding import detect_mime

from pipelines.extract.charset import decode_page
from pipelines.extract.html import EXTRACTORS, STRUCTURES, extract_body, opts_out
from pipelines.warc import Record, read_rows, warc_name

HTML_TYPES = ("text/html", "application/xhtml+xml")
PLAIN_TYPE = "text/plain"

# A document's columns, in order, as every stage after this one finds them.
DOCUMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("title", pa.string()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("fetched_at", pa.timestamp("us", "UTC")),
        ("content_type", pa.string()),
        ("license", pa.string()),
        ("optout", pa.bool_()),
        ("warc_file", pa.string()),
        ("warc_offset", pa.int64()),
        ("warc_record_id", pa.string()),
        ("split", pa.string()),
        ("parents", pa.list_(pa.string())),
        ("metadata", pa.string()),
    ]
)
# ... and what this one adds: what a page says of itself, and how sure the extractor is of the text
EXTRACTED_SCHEMA = pa.schema(
    [
        *DOCUMENT_SCHEMA,
        ("language", pa.string()),
        ("canonical_url", pa.string()),
        ("published_at", pa.timestamp("us", "UTC")),
        ("extraction_confidence", pa.float32()),
    ]
)
_VERDICT = [("parent_row", pa.int64()), ("drop_rule", pa.string()), ("error", pa.string())]
OUTPUT_SCHEMA = pa.schema([*EXTRACTED_SCHEMA, *(pa.field(*column) for column in _VERDICT)])


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Turn each response of a WARC file into a document, a drop with its rule, or an error.

    Drop rules: ``redirect`` (3xx), ``http_status`` (not 200), ``content_type`` (not wanted),
    ``too_large`` (over ``max_page_bytes``), ``error_page`` (an error that came with status 200),
    ``empty`` (no main content). A damaged record or a page that cannot be read is an error of its own
    row and harms no other. Pages that opt out (noai, noindex, none, tdm-reservation) stay, with
    ``optout`` set: dropping them is for ``decide``.
    """

    stage: ClassVar[str] = "extract"
    shape: ClassVar[str] = "expand"
    version: ClassVar[int] = 2
    determinism: ClassVar[str] = "exact"
    inputs: ClassVar[dict[str, str]] = {"pages": "warc"}
    output: ClassVar[str] = "documents"
    needs: ClassVar[tuple[str, ...]] = ()
    adds: ClassVar[dict[str, str]] = {field.name: str(field.type) for field in EXTRACTED_SCHEMA}

    source: str = "web"
    """Name of the source: a column, and part of every id."""
    extractor: str = "columnar"
    """What finds the main content: columnar (our own), resiliparse, or trafilatura (much slower; it
    does not keep the white space of code)."""
    structure: str = "text"
    """Form of the text: text, or markdown (headings, lists, tables, code; not by resiliparse)."""
    content_types: tuple[str, ...] = (*HTML_TYPES, PLAIN_TYPE)
    """Media types to take; the rest is dropped by the rule content_type."""
    error_page_titles: tuple[str, ...] = (r"^Pydoc: (Error|Problem in)\b",)
    """Regular expressions; a page whose title matches one is dropped by the rule error_page."""
    max_page_bytes: int = 20_000_000
    """A page with more bytes is dropped by the rule too_large; a page takes up to 40 times its bytes of
    memory while it is read."""
    heldout_fraction: float = 0.05
    """Share of documents, chosen by id, whose split is heldout."""

    @property
    def libraries(self) -> tuple[str, ...]:
        chosen = {"columnar": (), "resiliparse": ("lxml",), "trafilatura": ("lxml", "trafilatura")}
        return ("FastWARC", "Resiliparse", *chosen[self.extractor])

    def __post_init__(self) -> None:
        if self.extractor not in EXTRACTORS:
            raise ValueError(f"extractor is {self.extractor!r}: choose {' or '.join(EXTRACTORS)}")
        if self.extractor == "trafilatura" and importlib.util.find_spec("trafilatura") is None:
            raise ValueError("extractor trafilatura is not installed: pip install 'corpusmill[trafilatura]'")
        if self.structure not in STRUCTURES:
            raise ValueError(f"structure is {self.structure!r}: choose {' or '.join(STRUCTURES)}")
        if self.structure == "markdown" and self.extractor == "resiliparse":
            raise ValueError("structure markdown: resiliparse has none, choose another extractor")
        if self.max_page_bytes < 1:
            raise ValueError(f"max_page_bytes is {self.max_page_bytes}: it must be at least 1")
        if not 0 <= self.heldout_fraction <= 1:
            raise ValueError(f"heldout_fraction is {self.heldout_fraction}: it must be in 0 to 1")
        if unknown := set(self.content_types) - {*HTML_TYPES, PLAIN_TYPE}:
            raise ValueError(f"content_types: there is no way to extract {sorted(unknown)}")
        for pattern in self.error_page_titles:
            try:
                re.compile(pattern)
            except re.error as error:
                text = f"error_page_titles: {pattern!r} is no regular expression: {error}"
                raise ValueError(text) from error

    def expand(self, shard: Path) -> pa.Table:
        """One row a record of the WARC file ``shard``, in its order; columns ``OUTPUT_SCHEMA``."""
        return self.documents(read_rows(shard), warc_name(shard))

    def documents(self, records: Iterable[Record], warc_file: str) -> pa.Table:
        """The same of records in memory; ``warc_file`` is the name of the file they are from."""
        rows = [self._row(record, number, warc_file) for number, record in enumerate(records)]
        return pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA)

    def _row(self, record: Record, number: int, warc_file: str) -> dict[str, Any]:
        # A damaged member has no record id: its place stands for it.
        key = record.record_id or f"{warc_file}:{record.offset}"
        identity = document_id(self.source, key)
        row: dict[str, Any] = {
            "id": identity,
            "text": "",
            "title": "",
            "url": record.url,
            "source": self.source,
            "fetched_at": record.date,
            "content_type": record.content_type,
            "license": "",
            "optout": _header_optout(record),
            "warc_file": warc_file,
            "warc_offset": record.offset,
            "warc_record_id": record.record_id,
            "split": split_of(identity, self.heldout_fraction),
            "parents": [],
            "metadata": _facts(record.status),
            "language": "",
            "canonical_url": "",
            "published_at": None,
            "extraction_confidence": None,
            "parent_row": number,
        }
        if record.error is not None:
            return {**row, "error": record.error}
        try:
            return {**row, **self._content(record, row)}
        except Exception as error:  # whatever a page does to a parser, it is that page's error
            return {**row, "error": f"{type(error).__name__}: {error}"}

    def _content(self, record: Record, row: dict[str, Any]) -> dict[str, Any]:
        """The columns that the page fills, and the verdict."""
        if 300 <= record.status < 400:
            return {"drop_rule": "redirect"}
        if record.status != 200:
            return {"drop_rule": "http_status"}
        content_type = row["content_type"] or detect_mime(record.body)
        if content_type not in self.content_types:
            return {"content_type": content_type, "drop_rule": "content_type"}
        if len(record.body) > self.max_page_bytes:
            return {"content_type": content_type, "drop_rule": "too_large"}
        found: dict[str, Any] = {"content_type": content_type}
        if content_type == PLAIN_TYPE:
            text, encoding = decode_page(record.body, record.header("content-type"))
            found["text"] = text.replace("\0", "").replace("\r\n", "\n")
        else:
            header = record.header("content-type")
            page, encoding = extract_body(record.body, header, record.url, self.extractor, self.structure)
            found |= {
                "title": page.title,
                "text": page.text,
                "license": page.license,
                "optout": row["optout"] or page.optout,
                "language": page.language,
                "canonical_url": page.canonical_url,
                "published_at": page.published_at,
                "extraction_confidence": page.confidence,
            }
        found["metadata"] = _facts(record.status, encoding)
        if any(re.search(pattern, found.get("title", "")) for pattern in self.error_page_titles):
            return {**found, "drop_rule": "error_page"}
        return found if found["text"].strip() else {**found, "drop_rule": "empty"}


def document_id(source: str, record_key: str) -> str:
    """32 hex digits of BLAKE2b-128 over the source's name, a zero byte and its own record key."""
    return hashlib.blake2b(f"{source}\0{record_key}".encode(), digest_size=16).hexdigest()


def split_of(identity: str, heldout_fraction: float) -> str:
    """The value "heldout" for this share of ids, else "train": a function of the id alone."""
    return "heldout" if int(identity[:8], 16) < heldout_fraction * 2**32 else "train"


@lru_cache(maxsize=1024)
def _facts(http_status: int, encoding: str = "") -> str:
    """The column ``metadata``."""
    facts: dict[str, Any] = {"http_status": http_status}
    if encoding:
        facts["encoding"] = encoding
    return json.dumps(facts)


def _header_optout(record: Record) -> bool:
    return opts_out(record.header("x-robots-tag")) or record.header("tdm-reservation") == "1"
