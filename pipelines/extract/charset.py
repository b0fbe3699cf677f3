"""Which characters the bytes of a page stand for."""

from __future__ import annotations

import codecs
import re

import pyarrow as pa
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]+)", re.IGNORECASE)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Where HTML's standard looks for a <meta> that names the encoding.
_META_BYTES = 1024
_META = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w.:+-]+)", re.IGNORECASE)


def decode_page(body: bytes, content_type: str) -> tuple[str, str]:
    """The page's text and its encoding.

    The encoding: byte order mark, HTTP header, <meta>, valid UTF-8, then a guess; ``content_type`` is
    the whole header value. The order is that of the HTML standard; a label that no one knows counts
    as absent, and so does one that the bytes break where another reads them all.
    """
    declared = _declared(body, content_type)
    for encoding in (
        declared,
        "utf-8",
        detect_encoding(body) if declared is None or declared == "utf-8" else None,
    ):
        if encoding is not None:
            try:
                return body.decode(encoding).removeprefix("\ufeff"), encoding
            except UnicodeDecodeError:
                pass
    encoding = declared or detect_encoding(body) or "windows-1252"
    return decode(body, encoding), encoding


def utf8_page(body: bytes, content_type: str) -> tuple[bytes, str]:
    """The page in UTF-8, and the encoding it came in. What is declared as UTF-8 is believed: where the
    text turns out to have U+FFFD, ask :func:`checked_page`."""
    declared = _declared(body, content_type)
    if declared == "utf-8" or (declared is None and is_utf8(body)):
        return body.removeprefix(codecs.BOM_UTF8), "utf-8"
    return checked_page(body, content_type)


def checked_page(body: bytes, content_type: str) -> tuple[bytes, str]:
    """The page in UTF-8, and the encoding it came in, as :func:`decode_page` finds it."""
    text, encoding = decode_page(body, content_type)
    return text.encode("utf-8", "replace"), encoding


def is_utf8(body: bytes) -> bool:
    """Whether the bytes are UTF-8, without making a string of them."""
    if body.isascii():
        return True
    offsets = pa.array([0, len(body)], pa.int64())
    buffers = [None, offsets.buffers()[1], pa.py_buffer(body)]
    try:
        pa.Array.from_buffers(pa.large_binary(), 1, buffers).cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def decode(body: bytes, encoding: str) -> str:
    """The page's text; bytes that its encoding does not know become U+FFFD, never an error."""
    return body.decode(encoding, errors="replace").removeprefix("\ufeff")


def _declared(body: bytes, content_type: str) -> str | None:
    for bom, name in _BOMS:
        if body.startswith(bom):
            return name
    match = _CHARSET.search(content_type)
    if match and (declared := _known(match[1])):
        return declared
    meta = _META.search(body, 0, _META_BYTES)
    if meta and (declared := _known(meta[1].decode("ascii"))):
        # A <meta> that could be read as ASCII cannot be in UTF-16: the standard says UTF-8.
        return "utf-8" if declared.startswith("utf-16") else declared
    return None


def _known(label: str) -> str | None:
    name = map_encoding_to_html5(label, False)
    try:
        return codecs.lookup(name).name if name else None
    except LookupError:
        return None
