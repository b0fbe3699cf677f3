"""Extractors on pages that we labelled, of sites outside WCXB: ``python -m benchmarks.extraction.labelled``.

``pages.csv`` names 145 pages of packages that anyone can fetch, and for each which of its nodes are
main content; LABELS.md says by which rules. It holds no text of the pages. An extractor has a row when
``EXTRACTORS`` names it: a function from the page's bytes to the text of its main content.
"""

from __future__ import annotations

import csv
import hashlib
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import corpora
from benchmarks.extraction.gold import gold_text, parse
from benchmarks.results import Row, publish, versions_of

LABELS = Path(__file__).with_name("pages.csv")
FEWEST_PAGES, FEWEST_SITES = 60, 20
_WORD = re.compile(r"\w+")
_PAGES = pa.schema([("package", pa.string()), ("path", pa.string()), ("html", pa.binary())])


@dataclass(frozen=True)
class Page:
    """``path`` is that inside the package, ``text`` the main content."""

    package: str
    path: str
    site: str
    type: str
    html: bytes
    text: str


def read_labels() -> list[dict[str, str]]:
    """package, path, sha256, site, type, words, keep, drop; of each page."""
    with LABELS.open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def pages() -> list[Page]:
    """The labelled pages that the packages hold as they were labelled; fetched once.

    Raises ValueError where a label gives another number of words than when it was written.
    """
    labels = read_labels()
    html = {(page["package"], page["path"]): page["html"] for page in _fetched(labels).to_pylist()}
    found = []
    for label in labels:
        body = html.get((label["package"], label["path"]), b"")
        if hashlib.sha256(body).hexdigest() != label["sha256"]:
            continue
        text = gold_text(parse(body), label["keep"], label["drop"])
        if (words := len(_WORD.findall(text))) != int(label["words"]):
            raise ValueError(f"{label['path']}: {words} words of main content, not {label['words']}")
        found.append(Page(label["package"], label["path"], label["site"], label["type"], body, text))
    return found


def score(extract: Callable[[bytes], str]) -> list[dict]:
    """type, f1, precision, recall of the extractor, in words, for each labelled page.

    A page on which it raises counts as empty text.
    """
    rows = []
    for page in pages():
        try:
            text = extract(page.html)
        except Exception:  # whatever a page does to an extractor is that page's result
            text = ""
        rows.append({"type": page.type, **word_f1(text, page.text)})
    return rows


def word_f1(text: str, gold: str) -> dict[str, float]:
    """f1, precision and recall of the words of ``text``, each as often as it occurs; in lower case."""
    ours, theirs = Counter(_WORD.findall(text.lower())), Counter(_WORD.findall(gold.lower()))
    shared = (ours & theirs).total()
    precision, recall = shared / max(1, ours.total()), shared / max(1, theirs.total())
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}


def columnar(html: bytes) -> str:
    from pipelines.extract.html import extract_body

    return extract_body(html, "text/html", "")[0].text


def resiliparse(html: bytes, comments: bool = True) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    text = bytes_to_str(html, detect_encoding(html))
    return extract_plain_text(text, main_content=True, comments=comments)


def trafilatura(html: bytes, **options: bool) -> str:
    from trafilatura import extract

    return extract(html, **options) or ""


def justext(html: bytes) -> str:
    from justext import get_stoplist, justext

    paragraphs = justext(html, get_stoplist("English"))
    return "\n".join(paragraph.text for paragraph in paragraphs if not paragraph.is_boilerplate)


# the labels count comments under an article as boilerplate, so the peers may leave them out too
EXTRACTORS: dict[str, Callable[[bytes], str]] = {
    "columnar": columnar,
    "resiliparse": resiliparse,
    "resiliparse, no comments": partial(resiliparse, comments=False),
    "trafilatura": trafilatura,
    "trafilatura, no comments": partial(trafilatura, include_comments=False),
    "trafilatura, fast": partial(trafilatura, fast=True),
    "jusText": justext,
}


def figures(extractor: str, scores: Iterable[dict]) -> list[Row]:
    """Mean F1 with the half of its 95 % interval, precision and recall: of all pages, then of each type."""
    groups = defaultdict(list)
    for page in scores:
        for group in ("all", page["type"]):
            groups[group].append(page)
    rows = []
    for group in sorted(groups, key=lambda group: (group != "all", group)):
        some = groups[group]
        f1, precision, recall = (sum(p[k] for p in some) / len(some) for k in ("f1", "precision", "recall"))
        half = 1.96 * statistics.stdev(page["f1"] for page in some) / len(some) ** 0.5
        rows.append(
            Row(
                f"{extractor}: {group}",
                round(f1, 3),
                f"F1 of {len(some)} pages",
                f"+-{half:.3f}, precision {precision:.3f}, recall {recall:.3f}",
            )
        )
    return rows


def _fetched(labels: list[dict[str, str]]) -> pa.Table:
    """package, path and html of those of the labelled pages that the packages hold."""
    wanted = "".join(label["package"] + label["path"] + label["sha256"] for label in labels)
    file = corpora.CACHE / f"extraction-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}.parquet"
    if not file.exists():
        corpora.CACHE.mkdir(exist_ok=True)
        rows = []
        for package in sorted({label["package"] for label in labels}):
            paths = [label["path"] for label in labels if label["package"] == package]
            kind, _, name = package.partition(":")
            found = _FETCH[kind](name, paths)
            rows += [{"package": package, "path": path, "html": html} for path, html in found.items()]
        pq.write_table(pa.Table.from_pylist(rows, _PAGES), file, compression="zstd")
    return pq.read_table(file)


def _debian(package: str, paths: list[str]) -> dict[str, bytes]:
    return corpora.package_files(package, paths)[1]


def _npm(package: str, paths: list[str]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _download("npm", "pack", "--silent", "--ignore-scripts", package, folder=folder)
        found = {}
        for archive in Path(folder).glob("*.tgz"):
            with tarfile.open(archive) as tar:
                for path in set(paths) & set(tar.getnames()):
                    if member := tar.extractfile(path):
                        found[path] = member.read()
    return found


def _python(package: str, paths: list[str]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
        _download(*pip, package, folder=folder)
        found = {}
        for archive in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(archive) as wheel:
                found |= {path: wheel.read(path) for path in set(paths) & set(wheel.namelist())}
    return found


_FETCH: dict[str, Callable[[str, list[str]], dict[str, bytes]]] = {
    "deb": _debian,
    "npm": _npm,
    "pypi": _python,
}


def _download(*command: str, folder: str) -> None:
    """Run a package manager in a folder; where it fails, its pages are missing, which the count tells."""
    corpora.progress(f"{command[-1]}: download")
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        corpora.progress(f"no {command[0]} here: install it to have the pages of {command[-1]}")
    except subprocess.CalledProcessError as error:
        corpora.progress(f"`{' '.join(command)}` failed:\n{error.stderr}")


def main() -> None:
    labels, found = read_labels(), pages()
    missing = Counter(label["package"] for label in labels)
    missing.subtract(page.package for page in found)
    for package, number in (+missing).items():
        print(f"{package}: {number} labelled pages are not in the package here, or have changed")
    sites = {page.site for page in found}
    if len(found) < FEWEST_PAGES or len(sites) < FEWEST_SITES:
        sys.exit(
            f"{len(found)} of {len(labels)} labelled pages found, of {len(sites)} sites; at least"
            f" {FEWEST_PAGES} of {FEWEST_SITES} are needed: run this on Debian 12 with npm; remove"
            f" {corpora.CACHE.name}/extraction-* to fetch again"
        )
    publish(
        "extraction_labelled",
        [row for name, extract in EXTRACTORS.items() for row in figures(name, score(extract))],
        red=[],
        versions=versions_of("Resiliparse", "trafilatura", "jusText", "lxml"),
        pages=f"{len(found)} found of {len(labels)} labelled, {len(sites)} sites",
        rule="words, as often as each occurs, in lower case; mean over pages",
    )


if __name__ == "__main__":
    main()
