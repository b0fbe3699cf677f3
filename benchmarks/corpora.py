"""Real pages and texts that benchmarks run on, kept in ``.corpora/`` of the checkout.

The documentation comes from Debian's packages, which any Debian machine can fetch without being
root: ``python -m benchmarks.corpora`` downloads about 230 MB, once, and needs 3 minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.extract.charset import utf8_page
from pipelines.extract.html import extract_page

CACHE = Path(__file__).parents[1] / ".corpora"
# site -> its package, or the one that stands for its current version, or a pattern of its name
SITES = {
    "apache": "apache2-doc",
    "boost": "libboost-doc",
    "django": "python-django-doc",
    "erlang": "erlang-doc",
    "ghc": "ghc-doc",
    "git": "git-doc",
    "java": "default-jdk-doc",
    "libstdcxx": r"libstdc\+\+-[0-9]+-doc",
    "linux": "linux-doc",
    "pandas": "python-pandas-doc",
    "postgresql": "postgresql-doc",
    "python": "python3-doc",
    "qtbase": "qtbase5-doc-html",
    "qtdeclarative": "qtdeclarative5-doc-html",
    "racket": "racket-doc",
    "rust": "rust-doc",
    "sqlite": "sqlite3-doc",
}
PAGES = pa.schema([("site", pa.string()), ("path", pa.string()), ("html", pa.binary())])
TEXTS = pa.schema([("id", pa.string()), ("text", pa.large_string())])
_BATCH = 500


def pages(limit: int | None = None, seed: int = 1) -> pa.Table:
    """Documentation pages: site, path, html (binary), ordered by site and path, no two alike.

    All of them (about 1.6 GB), or ``limit`` pages drawn with ``seed``.
    """
    _build()
    return _read(CACHE / "pages.parquet", limit, seed)


def texts(limit: int | None = None, seed: int = 1) -> pa.Table:
    """Main content of those pages that have any: id (site/path), text, in the same order.

    All of them, or ``limit`` texts drawn with ``seed``.
    """
    _build()
    return _read(CACHE / "texts.parquet", limit, seed)


def wcxb(path: str | Path) -> pa.Table:
    """Pages of a split of the WCXB benchmark, as of :func:`pages`; the site is the URL's host."""
    try:
        table = pq.read_table(path, columns=["file_id", "url", "html"])
    except (OSError, pa.ArrowInvalid) as error:
        raise SystemExit(f"{path} is no Parquet file of WCXB (file_id, url, html): {error}") from error
    hosts = [urlsplit(url).netloc for url in table["url"].to_pylist()]
    return pa.table([pa.array(hosts), table["file_id"], table["html"]], schema=PAGES)


def wcxb_texts(path: str | Path) -> pa.Table:
    """Main content of the pages of :func:`wcxb`, as of :func:`texts`."""
    file = CACHE / f"wcxb-{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}.parquet"
    if not file.exists():
        CACHE.mkdir(exist_ok=True)
        _write(file, TEXTS, _texts_of(wcxb(path).to_batches(_BATCH)))
    return pq.read_table(file)


def packages() -> dict[str, str]:
    """Package -> version of what :func:`pages` was made from."""
    _build()
    return json.loads((CACHE / "packages.json").read_text())


def package_files(package: str, paths: Iterable[str]) -> tuple[str, dict[str, bytes]]:
    """Version of a package, and the bytes of those files of it that are there, by path from its root.

    Not kept. The version is "" where this Debian has no such package.
    """
    if not _command("apt-cache", "show", "--no-all-versions", package, missing="No packages found"):
        return "", {}
    CACHE.mkdir(exist_ok=True)
    with _unpacked(package) as (version, root):
        return version, {path: (root / path).read_bytes() for path in paths if (root / path).is_file()}


def extract(table: pa.Table) -> pa.Table:
    """id (site/path) and text of each page that has main content, found by resiliparse."""
    return pa.Table.from_batches(_texts_of(table.to_batches(_BATCH)), TEXTS)


def write_texts(table: pa.Table, file: Path) -> None:
    """Parquet as a dataset's documents are written: zstd; 250 rows a group, so that threads share them."""
    _write(file, table.schema, table.combine_chunks().to_batches(250))


def progress(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def _read(file: Path, limit: int | None, seed: int) -> pa.Table:
    """The whole file, or some of its rows, without holding the rest in memory."""
    parquet = pq.ParquetFile(file)
    rows = parquet.metadata.num_rows
    if limit is None:
        return parquet.read()
    if limit > rows:
        raise ValueError(f"{file.name} has {rows} rows, not {limit}")
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:limit])
    parts, start = [], 0
    for group in range(parquet.num_row_groups):
        end = start + parquet.metadata.row_group(group).num_rows
        mine = chosen[(chosen >= start) & (chosen < end)] - start
        if len(mine):
            parts.append(parquet.read_row_group(group).take(mine))
        start = end
    return pa.concat_tables(parts)


def _build() -> None:
    """Fetch all packages into pages.parquet, texts.parquet and packages.json; the last is written last."""
    if (CACHE / "packages.json").exists():
        return
    CACHE.mkdir(exist_ok=True)
    versions: dict[str, str] = {}
    _write(CACHE / "pages.parquet", PAGES, _fetch_all(versions))
    progress("main content of all pages")
    batches = pq.ParquetFile(CACHE / "pages.parquet").iter_batches(_BATCH)
    _write(CACHE / "texts.parquet", TEXTS, _texts_of(batches))
    (CACHE / "packages.json").write_text(json.dumps(versions, indent=2))


def _fetch_all(versions: dict[str, str]) -> Iterator[pa.RecordBatch]:
    seen: set[bytes] = set()
    for site, pattern in SITES.items():
        package = _package(pattern)
        with _unpacked(package) as (version, root):
            versions[package] = version
            yield from _read_pages(site, root / "usr/share", seen)


@contextmanager
def _unpacked(package: str) -> Iterator[tuple[str, Path]]:
    """Version of a package and a folder with its files, which goes afterwards."""
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        progress(f"{package}: download and unpack")
        _command("apt-get", "download", "-q", package, cwd=folder)
        [archive] = Path(folder).glob("*.deb")
        version = _command("dpkg-deb", "-f", str(archive), "Version").strip()
        root = Path(folder) / "root"
        _command("dpkg-deb", "-x", str(archive), str(root))
        yield version, root


def _read_pages(site: str, root: Path, seen: set[bytes]) -> Iterator[pa.RecordBatch]:
    files = sorted(path for path in root.rglob("*.htm*") if path.suffix in (".html", ".htm"))
    for some in _chunks(files, _BATCH):
        rows = []
        for file in some:
            # a link points to a page that is here as itself, or out of the package
            if file.is_symlink() or not file.is_file():
                continue
            html = file.read_bytes()
            digest = hashlib.blake2b(html, digest_size=16).digest()
            if html and digest not in seen:
                seen.add(digest)
                rows.append({"site": site, "path": str(file.relative_to(root)), "html": html})
        yield pa.RecordBatch.from_pylist(rows, PAGES)


def _package(pattern: str) -> str:
    """The package that holds the pages: the newest that matches, or what that one depends on."""
    found = _command("apt-cache", "search", "--names-only", f"^{pattern}$").splitlines()
    if not found:
        raise SystemExit(f"no package matches {pattern}: run `apt-get update`, on a Debian machine")
    names = [line.split()[0] for line in found]
    name = max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    depends = re.findall(
        r"Depends: (\S+-doc(?:-[0-9.]+)?)$", _command("apt-cache", "depends", name), re.MULTILINE
    )
    return depends[0] if depends else name


def _command(*command: str, cwd: str | None = None, missing: str | None = None) -> str:
    """Standard output; "" where the command fails and its errors hold ``missing``."""
    try:
        return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise SystemExit(f"no {command[0]} here: the documentation needs a Debian machine") from error
    except subprocess.CalledProcessError as error:
        if missing is not None and missing in error.stderr:
            return ""
        raise SystemExit(f"`{' '.join(command)}` failed:\n{error.stderr}") from error


def _texts_of(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    done = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        # a few at a time: `map` would read all pages into memory first
        for some in _chunks(batches, 16):
            yield from pool.map(_texts_of_batch, some)
            done += sum(batch.num_rows for batch in some)
            progress(f"  {done} pages extracted")


def _texts_of_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    rows = []
    for page in batch.to_pylist():
        try:
            html, _ = utf8_page(page["html"], "")
            # not our own: what other benchmarks measure must not move with it
            text = extract_page(html, "", "resiliparse").text
        except Exception:  # as in the stage: whatever a page does to a parser is that page's error
            continue
        if text.strip():
            rows.append({"id": f"{page['site']}/{page['path']}", "text": text})
    return pa.RecordBatch.from_pylist(rows, TEXTS)


def _chunks(items: Iterable, size: int) -> Iterator[list]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _write(file: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    part = file.with_suffix(".part")
    with pq.ParquetWriter(part, schema, compression="zstd", use_dictionary=False) as writer:
        for batch in batches:
            writer.write_batch(batch)
    part.rename(file)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = pages()
    for site in SITES:
        of_site = found.filter(pc.equal(found["site"], site))
        print(f"{site:16}{of_site.num_rows:8} pages{of_site['html'].nbytes / 1e6:10.1f} MB of HTML")
    table = texts()
    print(f"{found.num_rows} pages, {table.num_rows} texts, {table['text'].nbytes / 1e6:.1f} MB of text")


if __name__ == "__main__":
    main()
