"""The crawl against real servers on loopback."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from pipelines.crawl.stage import Crawl, ReadWarc
from pipelines.warc import Record, count_records, read_records, read_rows


def crawl(folder: Path, **parameters) -> list[Path]:
    """Run the stage as the engine does, committing each part; the committed parts."""
    defaults = {"allow_private_addresses": True, "delay": 0.0, "retries": 0}
    stage = Crawl(**{**defaults, **parameters})
    folder.mkdir(exist_ok=True)
    parts = sorted(folder.iterdir())
    for part in stage.read({}, parts):
        parts.append(Path(shutil.copy(part, folder)))
    return parts


def by_url(parts: list[Path]) -> dict[str, Record]:
    found = [record for part in parts for record in read_records(part) if record.url]
    assert len({(record.kind, record.url) for record in found}) == len(found), "fetched twice"
    return {record.url: record for record in found}


def test_every_kind_of_answer_is_recorded(serve, tmp_path):
    links = ["/a#x", "/a", "/missing", "/loop1", "/moved", "/zip", "/big", "/slow", "/typeless"]
    links += ["/deny/1", "http://elsewhere.invalid/", "mailto:x@example.org", "/packed", "/error"]
    big = gzip.compress(b"x" * 200_000)
    site = serve(
        {
            "/": links,
            "/a": ["/b"],
            "/b": ["/too-deep"],
            "/loop1": dict(status=302, headers={"Location": "/loop2"}),
            "/loop2": dict(status=301, headers={"Location": "/loop1"}),
            "/moved": dict(status=308, headers={"Location": "/target?x=%e9"}),
            "/target?x=%e9": ["/from-target"],
            "/from-target": "<p>two links from the seed: a redirect is not a link</p>",
            "/zip": dict(body=b"PK" + b"\0" * 100_000, content_type="application/zip"),
            "/big": dict(body="x" * 200_000),
            "/packed": dict(body=big, headers={"Content-Encoding": "gzip"}),
            "/slow": dict(body="late", wait=8.0),
            "/typeless": dict(body="<p>x</p>", content_type=None),
            "/error": dict(body="broken", status=500, headers={"Set-Cookie": "id=1"}),
        }
    )
    parts = crawl(
        tmp_path / "parts",
        seeds=(site.url("/"),),
        deny=("/deny/",),
        max_depth=2,
        timeout=2.0,
        max_body_bytes=100_000,
        part_pages=4,
        concurrency=8,
    )
    found = {url.removeprefix(site.root): record for url, record in by_url(parts).items()}
    failed = {
        path: json.loads(record.body)["failed"]
        for path, record in found.items()
        if record.kind == "metadata" and path != "/robots.txt"
    }
    rows = {path: record.status for path, record in found.items() if record.kind == "response"}
    assert rows == {
        "/": 200, "/a": 200, "/b": 200, "/missing": 404, "/loop1": 302, "/loop2": 301,
        "/moved": 308, "/target?x=%e9": 200, "/from-target": 200, "/zip": 200,
        "/typeless": 200, "/error": 500,
    }  # fmt: skip
    assert sorted(failed) == ["/big", "/packed", "/slow"]
    assert "Timeout" in failed["/slow"]
    assert found["/zip"].body == b"" and found["/zip"].truncated
    assert sum(count_records(part) for part in parts) == len(rows)
    assert sorted(site.paths()) == sorted(["/robots.txt", *rows, *failed])
    assert not any("Cookie" in headers for _, _, headers in site.asked)

    before = len(site.asked)
    assert crawl(
        tmp_path / "parts",
        seeds=(site.url("/"),),
        deny=("/deny/",),
        max_depth=2,
        timeout=2.0,
        max_body_bytes=100_000,
    ) == sorted(parts)
    assert len(site.asked) == before, "a complete crawl asks nothing"


def test_robots(serve, tmp_path):
    pages = {"/": ["/open", "/private/x"], "/open": "<p>a</p>", "/private/x": "<p>b</p>"}
    rules = "User-agent: *\nDisallow: /private/\nCrawl-delay: 0.3\n"
    ours = "User-agent: CorpusMill\nDisallow: /open\n\nUser-agent: *\nDisallow: /\n"
    absent = serve(pages)
    ruled = serve({**pages, "/robots.txt": dict(body=rules, content_type="text/plain")})
    named = serve({**pages, "/robots.txt": dict(body=ours, content_type="text/plain")})
    moved = serve({**pages, "/robots.txt": dict(status=301, headers={"Location": "/r"})})
    moved.pages["/r"] = dict(body=rules, content_type="text/plain")
    broken = serve({**pages, "/robots.txt": dict(body="", status=503)})
    hanging = serve({**pages, "/robots.txt": dict(body=rules, wait=8.0)})
    slow = serve({**pages, "/robots.txt": dict(body="User-agent: *\nCrawl-delay: 3600\n")})
    sites = (absent, ruled, named, moved, broken, hanging, slow)
    parts = crawl(
        tmp_path / "parts", seeds=tuple(site.url("/") for site in sites), timeout=2.0, concurrency=3
    )
    assert sorted(absent.paths()) == ["/", "/open", "/private/x", "/robots.txt"]
    assert ruled.paths() == ["/robots.txt", "/", "/open"]
    assert named.paths() == ["/robots.txt", "/", "/private/x"]
    assert moved.paths() == ["/robots.txt", "/r", "/", "/open"]
    assert broken.paths() == hanging.paths() == slow.paths() == ["/robots.txt"]
    times = [when for when, _, _ in ruled.asked]
    assert times[2] - times[1] >= 0.28, "Crawl-delay is kept"
    records = by_url(parts)
    assert json.loads(records[broken.url("/robots.txt")].body)["robots"] == 503
    assert json.loads(records[hanging.url("/robots.txt")].body)["robots"] == 0


def test_delay_between_requests_to_a_host(serve, tmp_path):
    site = serve({"/": ["/1", "/2", "/3"], "/1": "a", "/2": "b", "/3": "c"})
    crawl(tmp_path / "p", seeds=(site.url("/"),), delay=0.2, concurrency=4, obey_robots=False)
    times = [when for when, _, _ in site.asked]
    assert site.paths()[1:] == ["/1", "/2", "/3"]
    assert all(b - a >= 0.18 for a, b in zip(times, times[1:], strict=False)), times


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_private_addresses_are_refused_by_default(serve, tmp_path, host):
    site = serve({"/": "secret"})
    with pytest.raises(RuntimeError, match="no page was fetched.*not a public address"):
        crawl(
            tmp_path / "parts",
            seeds=(f"http://{host}:{site.port}/",),
            allow_private_addresses=False,
            user_agent="TestBot (+https://example.org)",
            obey_robots=False,
        )
    assert site.asked == [] and list((tmp_path / "parts").iterdir()) == []


def test_a_dead_seed_is_an_error_and_not_remembered(serve, tmp_path):
    site = serve({})
    dead = site.url("/")
    site.pages["/robots.txt"] = "<p>no rules</p>"
    with pytest.raises(RuntimeError, match="no page was fetched: .*ConnectionRefused"):
        crawl(tmp_path / "parts", seeds=("http://127.0.0.1:9/",), obey_robots=False)
    assert list((tmp_path / "parts").iterdir()) == []
    assert len(crawl(tmp_path / "parts", seeds=(dead,))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": ("example.org",)}, "not an http"),
        ({"allowed_hosts": ("other.org",)}, "allowed_hosts"),
        ({"deny": ("(",)}, "no regular expression"),
        ({"max_pages": 0}, "max_pages is 0"),
        ({"delay": -1.0}, "delay is -1.0"),
        ({"user_agent": "Bot"}, "no way to reach you"),
        ({"user_agent": "Bot\r\nX: @"}, "printable ASCII"),
    ],
)
def test_bad_parameters_name_the_field(change, message):
    good = {"seeds": ("http://example.org/",), "user_agent": "Bot (me@example.org)"}
    Crawl(**good)
    with pytest.raises(ValueError, match=message):
        Crawl(**{**good, **change})


def test_read_warc_gives_each_file_once(serve, tmp_path):
    site = serve({"/": "<p>x</p>"})
    (part,) = crawl(tmp_path / "parts", seeds=(site.url("/"),))
    stage = ReadWarc(paths=(str(tmp_path / "parts" / "*.warc.gz"), str(part)))
    (item,) = stage.items()
    (given,) = stage.read(item, [])
    assert given == part and [row.url for row in read_rows(given)] == [site.url("/")]
    assert list(stage.read(item, [part])) == []
    part.write_bytes(b"other")
    with pytest.raises(ValueError, match="changed after the run was planned"):
        list(stage.read(item, []))
    with pytest.raises(ValueError, match="no file matches"):
        ReadWarc(paths=(str(tmp_path / "none*"),)).items()
