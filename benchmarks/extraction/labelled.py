"""Main content of pages that we labelled: ``python -m benchmarks.extraction.labelled``.

``labels.csv`` names 65 pages of 20 documentation packages of Debian, made by a dozen generators, none
of a site that WCXB's development split has. Of each it says which elements hold the main content
(``keep``) and which in them do not (``drop``), as CSS selectors: no text of a page is here. They were
chosen at random by package, of those of 2.6 to 600 kB that are no search page or index, and judged
page by page on what the tree gives for the selectors, by this rule: headings, prose, code, tables and
entries of a reference are main content, and of a page that is a table of contents its list; navigation,
breadcrumbs, sidebars, a table of contents beside the text, footers and marks of permanent links are not.
One reader judged, who also wrote the extractor: take the figure for what it is.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
from resiliparse.parse.html import HTMLTree

from benchmarks import corpora
from benchmarks.extraction.__main__ import EXTRACTORS, Tally
from benchmarks.extraction.score import word_scores, words
from benchmarks.extraction.tree_text import tree_text
from benchmarks.results import Row, publish, versions_of

LABELS = Path(__file__).with_name("labels.csv")
FEWEST_PAGES = 60


def read_labels() -> list[dict[str, str]]:
    """package, path (from the package's root), keep, drop; of each page."""
    with LABELS.open(newline="") as file:
        return list(csv.DictReader(file))


def truth(html: bytes, keep: str, drop: str) -> str:
    """The text in the elements that ``keep`` selects, without those that ``drop`` does."""
    tree = HTMLTree.parse(html.decode("utf-8", "replace"))
    if drop:
        for node in tree.document.query_selector_all(drop):
            node.decompose()
    return " ".join(tree_text(node) for node in tree.document.query_selector_all(keep))


def main() -> None:
    labels = read_labels()
    tallies = {name: Tally() for name in EXTRACTORS}
    versions = {}
    pages = 0
    for package in sorted({label["package"] for label in labels}):
        mine = [label for label in labels if label["package"] == package]
        versions[package], found = corpora.package_files(package, [label["path"] for label in mine])
        for label in mine:
            if (html := found.get(label["path"])) is None:
                continue
            wanted = Counter(words(truth(html, label["keep"], label["drop"])))
            pages += bool(wanted)
            for name, extract in EXTRACTORS.items():
                text = Counter(words(tallies[name].run(extract, html)))
                tallies[name].scores.setdefault(package, []).append(word_scores(text, wanted))
    red = [f"{pages} of the labelled pages are there, not {FEWEST_PAGES}"] if pages < FEWEST_PAGES else []
    rows = []
    for name, tally in tallies.items():
        scores = np.array([score for some in tally.scores.values() for score in some])
        for what, value in zip(("F1", "precision", "recall"), scores.mean(0), strict=True):
            rows.append(Row(f"{name}, {what}", round(float(value), 4), f"of words, {pages} pages"))
    libraries = versions_of("Resiliparse", "trafilatura", "justext")
    publish("extraction_labelled", rows, red=red, versions=libraries, packages=versions)


if __name__ == "__main__":
    main()
