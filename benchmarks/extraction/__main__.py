"""Main content beside other extractors: ``python -m benchmarks.extraction --wcxb DATA [--pages N]``.

Quality on WCXB's development split (F1, precision, recall of words, snippets that must be there and
must not, by page type), and speed there and on documentation from Debian's packages, of ours,
resiliparse, trafilatura (default and fast) and jusText in one run, CPU time of one core, each taking its
turn. Ours is trained on the split but for the sites that its test shares: its F1 here is that of
``benchmarks.extraction.train DATA --folds``, and the row says so. Before anything is printed: the words
of the tokenizer's visible text are those of lexbor's tree (99.5 %), and each kept <pre> is kept to the
character.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from benchmarks import corpora
from benchmarks.extraction.score import word_scores, words
from benchmarks.extraction.tree_text import preformatted, tree_text
from benchmarks.results import Row, publish, versions_of
from kernels.text.html_model import page_text
from kernels.text.html_tokens import PRE, Workspace
from pipelines.extract.charset import utf8_page
from pipelines.extract.html import extract_body

# share of visible words that must agree with the tree's
AGREE = 0.995


def columnar(html: bytes) -> str:
    return extract_body(html, "", "", "columnar")[0].text


def resiliparse(html: bytes) -> str:
    text = bytes_to_str(html, detect_encoding(html))
    return extract_plain_text(text, main_content=True, comments=True)


def trafilatura(html: bytes) -> str:
    import trafilatura as library

    return library.extract(html, include_comments=True) or ""


def trafilatura_fast(html: bytes) -> str:
    import trafilatura as library

    return library.extract(html, include_comments=True, fast=True) or ""


def justext(html: bytes) -> str:
    import justext as library

    paragraphs = library.justext(html, library.get_stoplist("English"))
    return "\n".join(paragraph.text for paragraph in paragraphs if not paragraph.is_boilerplate)


EXTRACTORS: dict[str, Callable[[bytes], str]] = {
    f.__name__: f for f in (columnar, resiliparse, trafilatura, trafilatura_fast, justext)
}


@dataclass
class Tally:
    """What an extractor did on a corpus: scores of pages by type, snippets, and seconds of CPU time."""

    scores: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)
    wanted: list[bool] = field(default_factory=list)
    unwanted: list[bool] = field(default_factory=list)
    seconds: float = 0.0
    errors: int = 0

    def run(self, extract: Callable[[bytes], str], html: bytes) -> str:
        started = time.process_time()
        try:
            return extract(html)
        except Exception:  # whatever a page does to a parser: no text of it
            self.errors += 1
            return ""
        finally:
            self.seconds += time.process_time() - started

    def score(self, text: str, row: dict) -> None:
        found = Counter(words(text))
        truth = Counter(words(row["main_content"]))
        self.scores.setdefault(row["page_type"], []).append(word_scores(found, truth))
        flat = " ".join(text.split())
        self.wanted += [" ".join(snippet.split()) in flat for snippet in row["must_contain"]]
        self.unwanted += [" ".join(snippet.split()) not in flat for snippet in row["must_not_contain"]]


def quality(path: str, chosen: dict[str, Callable[[bytes], str]]) -> tuple[dict[str, Tally], int]:
    """A tally for each extractor on WCXB, and the bytes of its pages. Extractors take turns page by page."""
    columns = ["html", "page_type", "main_content", "must_contain", "must_not_contain"]
    rows = pq.read_table(path, columns=columns).to_pylist()
    tallies = {name: Tally() for name in chosen}
    for extract in chosen.values():
        extract(rows[0]["html"])
    for number, row in enumerate(rows):
        if number % 250 == 0:
            corpora.progress(f"{number} of {len(rows)} pages of WCXB")
        for name, extract in chosen.items():
            tallies[name].score(tallies[name].run(extract, row["html"]), row)
    return tallies, sum(len(row["html"]) for row in rows)


def speed(pages: list[bytes], chosen: dict[str, Callable[[bytes], str]]) -> dict[str, Tally]:
    tallies = {name: Tally() for name in chosen}
    for html in pages:
        for name, extract in chosen.items():
            tallies[name].run(extract, html)
    return tallies


def parse_speed(pages: list[bytes], rounds: int = 3) -> tuple[float, float]:
    """CPU seconds of the tokenizer and of lexbor's parse over all pages, the best of each."""
    workspace = Workspace()
    texts = [html.decode("utf-8", "replace") for html in pages]
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        started = time.process_time()
        for html in pages:
            workspace.tokenize(html)
        between = time.process_time()
        for text in texts:
            HTMLTree.parse(text)
        best[0] = min(best[0], between - started)
        best[1] = min(best[1], time.process_time() - between)
    return best[0], best[1]


def agreement(pages: list[bytes]) -> float:
    """The share of visible words in which the tokenizer and lexbor's tree agree."""
    workspace = Workspace()
    same = total = 0
    for html in pages:
        clean = html.replace(b"\0", b" ")
        workspace.tokenize(clean)
        keep = np.ones(len(workspace.blocks), np.bool_)
        ours = Counter(words(page_text(workspace, keep)))
        theirs = Counter(words(tree_text(HTMLTree.parse(clean.decode("utf-8", "replace")).document)))
        same += sum((ours & theirs).values())
        total += max(sum(ours.values()), sum(theirs.values()))
    return same / max(1, total)


def lost_code(pages: list[bytes]) -> tuple[int, int]:
    """(preformatted blocks kept, those of them that are not in the text to the character)."""
    workspace = Workspace()
    kept = lost = 0
    for html in pages:
        clean = utf8_page(html, "")[0]
        workspace.tokenize(clean)
        keep = workspace.blocks[:, PRE] > 0
        text = page_text(workspace, keep)
        for code in preformatted(HTMLTree.parse(clean.decode("utf-8", "replace"))):
            if code.strip():
                kept += 1
                lost += code.rstrip("\n") not in text
    return kept, lost


def figures(corpus: str, tallies: dict[str, Tally], size: int, pages: int) -> list[Row]:
    rows = []
    reference = tallies["resiliparse"].seconds
    for name, tally in tallies.items():
        ratio = reference / tally.seconds
        rows.append(Row(f"{corpus}: {name}", size / tally.seconds / 1e6, "MB/s", "resiliparse", ratio))
        rows.append(Row(f"{corpus}: {name}", 1e3 * tally.seconds / pages, "ms a page"))
        if not tally.scores:
            continue
        every = np.array([score for some in tally.scores.values() for score in some]).mean(0)
        for what, value in zip(("F1", "precision", "recall"), every, strict=True):
            rows.append(Row(f"{corpus}: {name}, {what}", round(float(value), 4), "of words"))
        for kind, some in sorted(tally.scores.items()):
            rows.append(
                Row(
                    f"{corpus}: {name}, F1 {kind}", round(float(np.mean([s[0] for s in some])), 4), "of words"
                )
            )
        rows.append(Row(f"{corpus}: {name}, snippets wanted", 100 * float(np.mean(tally.wanted)), "% there"))
        rows.append(Row(f"{corpus}: {name}, unwanted", 100 * float(np.mean(tally.unwanted)), "% not there"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--wcxb", required=True, help="WCXB's development split, Parquet")
    parser.add_argument("--pages", type=int, default=2000, help="documentation pages (2000)")
    parser.add_argument("--only", nargs="*", choices=list(EXTRACTORS), help="these extractors alone")
    chosen = parser.parse_args()
    extractors = {n: f for n, f in EXTRACTORS.items() if not chosen.only or n in chosen.only}
    html = pq.read_table(chosen.wcxb, columns=["html"])["html"].to_pylist()
    docs = corpora.pages(chosen.pages)["html"].to_pylist()
    red = []
    corpora.progress("visible words beside lexbor's")
    same = agreement(html)
    if same < AGREE:
        red.append(f"{100 * same:.2f} % of the visible words are those of lexbor's tree, not {100 * AGREE} %")
    kept, lost = lost_code(docs)
    if lost:
        red.append(
            f"{lost} of {kept} preformatted texts of documentation pages are not kept to the character"
        )
    tallies, size = quality(chosen.wcxb, extractors)
    rows = figures("WCXB", tallies, size, len(html))
    corpora.progress("documentation")
    rows += figures("documentation", speed(docs, extractors), sum(map(len, docs)), len(docs))
    ours, theirs = parse_speed(html[::4])
    rows.append(
        Row("tokenizer", sum(map(len, html[::4])) / ours / 1e6, "MB/s", "lexbor's parse", theirs / ours)
    )
    rows.append(Row("visible words as in lexbor's tree", 100 * same, "%"))
    rows.append(Row("preformatted texts kept to the character", kept - lost, f"of {kept}"))
    publish(
        "extraction",
        rows,
        red=red,
        versions=versions_of("numba", "Resiliparse", "trafilatura", "justext"),
        note="ours was trained on WCXB's development split: its F1 is benchmarks.extraction.train --folds'",
        errors={name: tally.errors for name, tally in tallies.items()},
    )


if __name__ == "__main__":
    main()
