"""WARC records -> documents: what is kept, what is dropped by which rule, what is an error."""

from __future__ import annotations

import codecs
import pydoc
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.extract.charset import decode, decode_page
from pipelines.extract.html import EXTRACTORS, MAX_DEPTH
from pipelines.extract.stage import DOCUMENT_SCHEMA, OUTPUT_SCHEMA, Extract, document_id, split_of
from pipelines.warc import PartWriter, count_records

HTML = [("Content-Type", "text/html; charset=utf-8")]
PROSE = "<p>" + "A sentence about schedulers and locks. " * 8 + "</p>"


def shard(path: Path, *answers: tuple[int, list, str | bytes]) -> Path:
    part = PartWriter(path, {"software": "test"})
    part.metadata("http://a.org/robots.txt", {"robots": 404})
    for number, (status, headers, body) in enumerate(answers):
        data = body.encode() if isinstance(body, str) else body
        part.response(f"http://a.org/{number}", status, headers, data)
    return part.close()


def rows(path: Path, **parameters) -> list[dict]:
    table = Extract(**parameters).expand(path)
    assert table.schema == OUTPUT_SCHEMA
    assert table["parent_row"].to_pylist() == list(range(count_records(path)))
    return table.to_pylist()


def test_each_record_has_a_verdict(tmp_path):
    page = f"<html><title> A\n title </title><body><main>{PROSE}</main>"
    path = shard(
        tmp_path / "a.warc.gz",
        (200, HTML, page),
        (301, [("Location", "/x"), *HTML], "moved"),
        (404, HTML, "gone"),
        (200, [("Content-Type", "application/pdf")], "%PDF-1.4"),
        (200, HTML, "<html><title>Pydoc: Error - x</title><body>" + PROSE),
        (200, HTML, "<html><body><script>x()</script>"),
        (200, HTML, ""),
        (200, HTML, "<html><body>" + "<div>" * 20_000 + "x"),
        (200, HTML, page + "<p>too long" * 10_000),
        (200, [("Content-Type", "text/plain")], "line 1\r\n  line\0 2\n"),
        (200, [], page),
        (200, [("X-Robots-Tag", "noindex"), *HTML], page),
        (204, HTML, ""),
    )
    found = rows(path, source="docs", max_page_bytes=110_000)
    verdicts = [row["drop_rule"] or (row["error"] or "kept").partition(":")[0] for row in found]
    assert verdicts == [
        "kept", "redirect", "http_status", "content_type", "error_page", "empty", "empty",
        "kept", "too_large", "kept", "kept", "kept", "http_status",
    ]  # fmt: skip
    first = found[0]
    assert first["title"] == "A title" and first["text"].startswith("A sentence about schedulers")
    assert (first["url"], first["source"]) == ("http://a.org/0", "docs")
    assert first["warc_file"] == "a.warc.gz" and first["fetched_at"].tzinfo is not None
    assert first["id"] == document_id("docs", first["warc_record_id"])
    assert found[9]["text"] == "line 1\n  line 2\n"
    assert [row["optout"] for row in found] == [False] * 11 + [True, False]
    assert len({row["id"] for row in found}) == len(found)


def test_the_stored_name_does_not_matter(tmp_path):
    path = shard(tmp_path / "a.warc.gz", (200, HTML, PROSE))
    first = Extract().expand(path)
    path.rename(tmp_path / "stored-0123.warc.gz")
    assert Extract().expand(tmp_path / "stored-0123.warc.gz").equals(first)


def test_a_damaged_record_loses_no_other(tmp_path):
    path = shard(tmp_path / "a.warc.gz", *[(200, HTML, PROSE)] * 5)
    offsets = [row["warc_offset"] for row in rows(path)]
    data = bytearray(path.read_bytes())
    data[offsets[2] + 200] ^= 255
    path.write_bytes(data)
    found = rows(path)
    assert [row["error"] is None for row in found] == [True, True, False, True, True]
    assert "damaged gzip member" in found[2]["error"] and found[2]["id"]
    assert [row["warc_offset"] for row in found] == offsets


def test_white_space_of_code_is_kept(tmp_path):
    code = "def f(x):\n\tif x:\n\n        return  {\n  'a':   1}   # two  blanks"
    body = f"<html><body><main>{PROSE}<pre><code>{code}</code></pre>{PROSE}"
    body += "<pre>\n<span>for</span> <b>i</b> in&nbsp;&nbsp;x&lt;y:\n    pass\n</pre></main>"
    (row,) = rows(shard(tmp_path / "a.warc.gz", (200, HTML, body)))
    assert code in row["text"]
    assert "for i in  x<y:\n    pass" in row["text"]


def test_a_page_of_pydoc(tmp_path):
    page = pydoc._url_handler("textwrap.html", "text/html")
    path = shard(tmp_path / "a.warc.gz", (200, HTML, page))
    (row,) = rows(path)
    assert row["title"] == "Pydoc: module textwrap" and row["drop_rule"] is None
    assert ">>> wrapper" in row["text"] or "fill(text, width=70, **kwargs)" in row["text"]
    assert "\xa0" not in row["text"]
    assert "\n    " in row["text"], "indentation made of &nbsp; stays"


def test_license_and_optout_in_the_page(tmp_path):
    pages = [
        "<link rel='license' href='/license.html'>",
        "<a rel='nofollow license' href='https://example.org/mit'>x</a>",
        "<a href='https://creativecommons.org/licenses/by/4.0/'>x</a>",
        "<a href='https://example.org/?creativecommons.org/licenses/'>x</a>",
        "<meta name='Robots' content='max-snippet:5, NOAI'>",
        "<meta name='robots' content='index, follow'>",
        "<meta name='tdm-reservation' content='1'>",
        "<a rel='next' href='/2'>The license</a><a rel = 'nofollow\nLICENSE' href='/mit'>x</a>",
    ]
    path = shard(tmp_path / "a.warc.gz", *[(200, HTML, head + PROSE) for head in pages])
    found = rows(path)
    assert [row["license"] for row in found] == [
        "http://a.org/license.html",
        "https://example.org/mit",
        "https://creativecommons.org/licenses/by/4.0/",
        *[""] * 4,
        "http://a.org/mit",
    ]
    assert [row["optout"] for row in found] == [False] * 4 + [True, False, True, False]


def test_what_a_page_says_of_itself(tmp_path):
    head = """<html lang="de-AT">
        <link rel=canonical href="/a?b=1&amp;c=2"><meta property="article:published_time"
        content="2024-05-06T07:08:09+02:00">"""
    data = '<script type="application/ld+json">{"datePublished": "2023-01-02"}</script>'
    pages = [
        head + data,
        data,
        "<time itemprop=datePublished datetime='no date'>",
        "<html lang='{{ lang }}'>",
    ]
    path = shard(tmp_path / "a.warc.gz", *[(200, HTML, page + PROSE) for page in pages])
    for extractor in EXTRACTORS:
        found = rows(path, extractor=extractor)
        assert [row["language"] for row in found] == ["de-AT", "", "", ""]
        assert [row["canonical_url"] for row in found] == ["http://a.org/a?b=1&c=2", "", "", ""]
        dates = [row["published_at"] and row["published_at"].isoformat() for row in found]
        assert dates == ["2024-05-06T05:08:09+00:00", "2023-01-02T00:00:00+00:00", None, None]
        sure = [row["extraction_confidence"] for row in found]
        assert all(0 < value <= 1 for value in sure) if extractor == "columnar" else sure == [None] * 4


def test_lies_cost_their_page_only(tmp_path):
    german = "<p>Füße über Straßenbäume hören Öl, und das ist ein langer Satz mit vielen Wörtern.</p>" * 5
    lying = [("Content-Type", "text/html; charset=utf-8")]
    path = shard(
        tmp_path / "a.warc.gz",
        (200, lying, german.encode("latin-1")),
        (200, HTML, b"\xff\xfe\x00" + PROSE.encode()),
        (200, HTML, b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)) * 40),
        (200, HTML, PROSE),
    )
    found = rows(path)
    assert "Füße über Straßenbäume" in found[0]["text"]
    assert all(row["error"] is None for row in found)
    assert found[3]["text"].startswith("A sentence about schedulers")


def test_markdown_by_choice(tmp_path):
    body = f"<h2>Locks</h2>{PROSE}<ul><li>{PROSE}</ul><pre>lock()\n  wait()</pre>{PROSE}"
    (row,) = rows(shard(tmp_path / "a.warc.gz", (200, HTML, f"<main>{body}</main>")), structure="markdown")
    assert "## Locks\n\nA sentence" in row["text"] and "- A sentence" in row["text"]
    assert "```\nlock()\n  wait()\n```" in row["text"]


ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "iso-2022-jp", "shift_jis", "gb18030", "koi8-r")


def test_what_a_page_says_in_other_encodings(tmp_path):
    page = "<meta name=robots content=noindex>\0<a rel=license href=/mit>x</a>" + PROSE
    headers = [[("Content-Type", f"text/html; charset={name}")] for name in ENCODINGS]
    answers = [(200, header, page.encode(header[0][1].split("=")[1])) for header in headers]
    found = rows(shard(tmp_path / "a.warc.gz", *answers))
    assert [(row["license"], row["optout"]) for row in found] == [("http://a.org/mit", True)] * len(ENCODINGS)
    assert all("A sentence" in row["text"] and "\0" not in row["text"] for row in found)


def test_depth_is_what_the_tree_says(tmp_path):
    # links end themselves: the balance of tags is higher than any element lies
    deep = "<link>" * 9 + "<div>" * (MAX_DEPTH - 2)
    pages = [deep, deep + "x", "<p>" * 2 * MAX_DEPTH + PROSE, "<br>" * 2 * MAX_DEPTH + PROSE]
    path = shard(tmp_path / "a.warc.gz", *[(200, HTML, page) for page in pages])
    found = rows(path, extractor="resiliparse")
    errors = [row["error"] for row in found]
    assert errors == [None, f"TooDeep: elements are nested {MAX_DEPTH + 1} deep, more than 3000", None, None]


TEXT = "Ünïcode — “naïve” Ωmega 漢字"


@pytest.mark.parametrize(
    ("body", "header", "expected"),
    [
        (TEXT.encode("utf-8"), "text/html; charset=UTF-8", "utf-8"),
        (TEXT.encode("utf-8"), "text/html", "utf-8"),
        (codecs.BOM_UTF8 + TEXT.encode("utf-8"), "text/html; charset=latin-1", "utf-8"),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "text/html", "utf-16-le"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "", "utf-16-be"),
        (TEXT.encode("gb18030"), 'text/html; charset="GB18030"', "gb18030"),
        (b"<meta charset=shift_jis>" + "漢字".encode("shift_jis"), "text/html", "shift_jis"),
        (b"<meta charset='utf-16'>" + TEXT.encode(), "text/html; charset=nonsense", "utf-8"),
        (b'<META content="text/html; charset=koi8-r" http-equiv=x>', "text/html", "koi8-r"),
        ("naïve café".encode("latin-1"), "text/html; charset=iso-8859-1", "cp1252"),
        (b"", "", "utf-8"),
    ],
)
def test_charset(body, header, expected):
    assert codecs.lookup(decode_page(body, header)[1]).name == codecs.lookup(expected).name


def test_decoding_never_fails():
    assert decode(TEXT.encode("gb18030"), "gb18030") == TEXT
    text, _ = decode_page("Füße über Straßenbäume hören Öl".encode("latin-1") * 9, "text/html")
    assert "Füße" in text
    assert decode(b"ab\xff\xfe", "utf-8") == "ab\ufffd\ufffd"


def test_trafilatura_by_choice(tmp_path):
    path = shard(tmp_path / "a.warc.gz", (200, HTML, f"<html><body><article>{PROSE * 3}</article>"))
    (row,) = rows(path, extractor="trafilatura")
    assert row["drop_rule"] is None and "schedulers and locks" in row["text"]


def test_ids_and_splits_do_not_move():
    """Golden: moving these re-identifies every document of every user."""
    assert document_id("web", "urn:uuid:0") == "da9a00a4f57f80f61587943031838825"
    ids = [document_id("web", str(number)) for number in range(2000)]
    held = sum(split_of(identity, 0.05) == "heldout" for identity in ids)
    assert 60 < held < 140
    assert {split_of(identity, 1.0) for identity in ids} == {"heldout"}
    assert {split_of(identity, 0.0) for identity in ids} == {"train"}


def test_columns_are_those_of_the_design():
    names = "id text title url source fetched_at content_type license optout warc_file warc_offset"
    names += " warc_record_id split parents metadata"
    assert names.split() == DOCUMENT_SCHEMA.names
    assert DOCUMENT_SCHEMA.field("text").type == pa.large_string()
    assert DOCUMENT_SCHEMA.field("fetched_at").type == pa.timestamp("us", "UTC")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extractor": "magic"}, "extractor is 'magic'"),
        ({"structure": "html"}, "structure is 'html'"),
        ({"extractor": "resiliparse", "structure": "markdown"}, "resiliparse has none"),
        ({"max_page_bytes": 0}, "max_page_bytes is 0"),
        ({"heldout_fraction": 1.5}, "heldout_fraction is 1.5"),
        ({"content_types": ("image/png",)}, "image/png"),
        ({"error_page_titles": ("(",)}, "no regular expression"),
    ],
)
def test_bad_parameters_name_the_field(change, message):
    with pytest.raises(ValueError, match=message):
        Extract(**change)
