"""Do ours and datatrove decide alike: ``python -m benchmarks.curation.decisions [--pages N] [--wcxb PATH]``.

Gopher quality, Gopher repetition, C4 and FineWeb, rule by rule, on real pages. With the same words
(split at white space, and sentences as ours end) every rule has to say the same of every page, and
C4's every count of lines; if one does not, the pages are named and the process fails. With
datatrove's own words (spaCy) the table says how often they agree, on the first of the pages. A
datatrove process takes some megabytes a minute, so of the documentation the shorter pages are drawn.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.corpora import CACHE, progress, texts, wcxb_texts, write_texts
from benchmarks.peers import Process, versions
from benchmarks.results import Row, publish, versions_of
from filters.decide import Decide
from filters.presets import C4, WEB
from filters.text_statistics import TextStatistics
from kernels.text.c4 import C4_FIELDS
from kernels.text.statistics import text_statistics

# of the documentation's pages, those of at most so many bytes: a process takes about 1 MB a second
LONGEST = 6_000
CHUNK = 100
CORES = (0, 1)
# rule: what differs by design, on pages of punctuation alone
BY_DESIGN = {
    "gopher_short_words": "a page of no words that count fails it; datatrove's mean is NaN there",
}


def corpus(pages: int, wcxb: Path | None) -> pa.Table:
    """``pages`` real texts: all of WCXB if given, the rest from the documentation, shuffled."""
    documentation = texts()
    short = documentation.filter(pc.less_equal(pc.binary_length(documentation["text"]), LONGEST))
    parts = [wcxb_texts(wcxb)] if wcxb else []
    missing = pages - sum(part.num_rows for part in parts)
    if missing > short.num_rows:
        raise SystemExit(f"--pages {pages}: there are only {pages - missing + short.num_rows}")
    order = np.random.default_rng(1)
    parts.append(short.take(order.permutation(short.num_rows)[: max(0, missing)]))
    table = pa.concat_tables(parts)
    return table.take(order.permutation(table.num_rows))


def ask_datatrove(file: Path, pages: int, words: str, environment: str | None) -> list[dict]:
    """What datatrove's rules say of the first pages, on two processes."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                Process(f"benchmarks.curation.engines.rules_datatrove {words}", environment, (core,))
            )
            for core in CORES
        ]
        chunks = iter(range(0, pages, CHUNK))

        def work(process: Process) -> dict[int, list[dict]]:
            found = {}
            for start in chunks:
                process.ask("load", file=str(file), start=start, stop=min(start + CHUNK, pages))
                found[start] = process.ask("rules").value
                if start % (10 * CHUNK) == 0:
                    progress(f"{words} words: {start} of {pages} pages")
            return found

        with ThreadPoolExecutor(len(processes)) as pool:
            found = {start: rows for part in pool.map(work, processes) for start, rows in part.items()}
    return [row for start in sorted(found) for row in found[start]]


def theirs(answers: list[dict]) -> dict[str, np.ndarray]:
    """rule -> whether each page fails it, and "C4 field" -> its count."""
    found = {
        rule: np.array([rule in answer["failed"] for answer in answers]) for rule in WEB if rule not in C4
    }
    counts = {field: np.array([answer["c4"][field] for answer in answers]) for field in C4_FIELDS[1:]}
    found["c4_lorem_ipsum"] = counts["lorem_ipsum_lines"] > 0
    found["c4_curly_bracket"] = counts["curly_bracket_lines"] > 0
    found["c4_too_few_sentences"] = counts["kept_sentences"] < 5
    found["c4, page"] = np.array([not answer["c4_kept"] for answer in answers])
    return found | {f"c4 {field}": count for field, count in counts.items()}


def ours(table: pa.Table) -> dict[str, np.ndarray]:
    failed = Decide(presets=("web",)).annotate(TextStatistics().annotate(table))["failed_rules"].to_pylist()
    found = {rule: np.array([rule in rules for rules in failed]) for rule in WEB}
    found["c4, page"] = np.array([bool(set(C4) & set(rules)) for rules in failed])
    counts = text_statistics(table["text"], ("c4",))
    return found | {f"c4 {field}": counts[f"c4.{field}"] for field in C4_FIELDS[1:]}


def differences(table: pa.Table, mine: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    """What differs though the words are the same and it is not by design, with some of the pages."""
    no_words = text_statistics(table["text"], ("quality",))["quality.text_words"] == 0
    red = []
    for rule, values in mine.items():
        differ = values != other[rule]
        if rule in BY_DESIGN:
            differ &= ~no_words
        if differ.any():
            named = ", ".join(table["id"].take(np.flatnonzero(differ)[:3]).to_pylist())
            red.append(f"{rule}: {differ.sum()} of {len(values)} pages differ, as {named}")
    return red


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--spacy-pages", type=int, default=2_000)
    parser.add_argument("--wcxb", type=Path, help="Parquet file of WCXB pages, taken first")
    chosen = parser.parse_args()
    table = corpus(chosen.pages, chosen.wcxb)
    file = CACHE / "decisions.parquet"
    write_texts(table, file)
    mine = ours(table)
    same = theirs(ask_datatrove(file, table.num_rows, "space", None))
    few = min(chosen.spacy_pages, table.num_rows)
    spacy = theirs(ask_datatrove(file, few, "default", "curation"))
    rows = []
    for rule, values in mine.items():
        agree = 100 * (values[:few] == spacy[rule]).mean()
        found = f"{values.sum()} pages fail" if values.dtype == bool else f"{values.sum()} in all"
        exception = f"; but {BY_DESIGN[rule]}" if rule in BY_DESIGN else ""
        rows.append(
            Row(rule, round(agree, 2), "% agree, spaCy", f"same words: all agree, {found}{exception}")
        )
    publish(
        "curation_decisions",
        rows,
        red=differences(table, mine, same),
        versions=versions_of("numba", "datatrove", "pyarrow") | {"spacy": versions("curation")["spacy"]},
        pages=f"{table.num_rows} ({table['text'].nbytes / 1e6:.1f} MB) with the same words,"
        f" {few} with spaCy's",
        splitting="same words: str.split(), sentences end as kernels.text.reference says",
    )


if __name__ == "__main__":
    sys.exit(main())
