"""Stages against what they stand on: ``python -m benchmarks.curation.stages [--wcxb PATH]``.

``language`` (Arrow column in, columns out) against resiliparse's ``detect_fast`` called on the same
texts as Python strings, over whole texts and over their first 4,000 characters, as the stage has it by
default. ``extract`` (WARC records in, table out, reading of the file apart) against resiliparse's
``extract_plain_text`` with the same options on the same pages, each decoded from its bytes as UTF-8.
Beside them the rates of the exact hash, the scan for personal data, and line deduplication's first phase.
One core; the two sides take turns on 50 pages or 500 texts at a time, of CPU seconds the least of the
rounds counts. Nothing is printed if the two sides' labels or texts differ.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.lang import detect_fast

from benchmarks.corpora import packages, pages, progress, texts, wcxb, wcxb_texts
from benchmarks.results import Row, publish, versions_of
from filters.language import Language
from filters.line_dedup import LineDedup
from filters.pii import Pii
from kernels.text.buffers import text_buffers
from kernels.text.hashing import content_hashes
from pipelines.extract.stage import Extract
from pipelines.warc import Record

PAGES, TEXTS = 50, 500
HTML_TYPE = (("content-type", "text/html"),)
Work = Callable[[Any], object]


def least_seconds(works: list[Work], turns: list[list], rounds: int) -> list[float]:
    """CPU seconds of each work over all turns; ``turns[t][w]`` is what work w gets in turn t."""
    least = [[float("inf")] * len(works) for _ in turns]
    for _ in range(rounds + 1):
        for seconds, given in zip(least, turns, strict=True):
            for w, work in enumerate(works):
                started = time.process_time()
                work(given[w])
                seconds[w] = min(seconds[w], time.process_time() - started)
    return [sum(seconds[w] for seconds in least) for w in range(len(works))]


def language(corpus: str, table: pa.Table, rounds: int) -> tuple[list[Row], list[str]]:
    rows, red = [], []
    size = pc.sum(pc.binary_length(table["text"])).as_py() / 1e6
    parts = [table.slice(start, TEXTS) for start in range(0, table.num_rows, TEXTS)]
    longest = pc.max(pc.utf8_length(table["text"])).as_py()
    for name, chars in (("whole texts", longest), ("first 4,000 characters", 4000)):
        stage = Language(first_chars=chars)

        def bare(given: list[str], chars: int = chars) -> list:
            return [detect_fast(text[:chars]) for text in given]

        turns = [[part["text"].to_pylist(), part] for part in parts]
        progress(f"{corpus}: language, {name}")
        theirs, ours = least_seconds([bare, stage.annotate], turns, rounds)
        label = f"{corpus}, language, {name}"
        rows.append(_row(label, size / ours, "MB/s of text", "detect_fast", size / theirs))
        found = pa.concat_tables([stage.annotate(part) for part in parts])
        expected = [pair for given, _ in turns for pair in bare(given)]
        columns = [found[name].to_pylist() for name in Language.adds]
        if list(zip(*columns, strict=True)) != expected:
            red.append(f"{label}: other labels than detect_fast gives")
    return rows, red


def extract(corpus: str, table: pa.Table, rounds: int) -> tuple[list[Row], list[str]]:
    stage = Extract()
    bodies = table["html"].to_pylist()
    records = [
        Record(
            offset=number,
            kind="response",
            record_id=f"urn:{number}",
            url=f"http://{corpus}.example/{number}",
            status=200,
            headers=HTML_TYPE,
            body=body,
        )
        for number, body in enumerate(bodies)
    ]

    def bare(given: list[bytes]) -> list[str]:
        return [
            extract_plain_text(body.decode("utf-8", "replace"), main_content=True, alt_texts=False)
            for body in given
        ]

    starts = range(0, len(bodies), PAGES)
    turns = [[bodies[start : start + PAGES], records[start : start + PAGES]] for start in starts]
    progress(f"{corpus}: extract")
    theirs, ours = least_seconds([bare, lambda given: stage.documents(given, "a")], turns, rounds)
    size = sum(map(len, bodies)) / 1e6
    row = _row(f"{corpus}, extract", size / ours, "MB/s of HTML", "extract_plain_text", size / theirs)
    found = stage.documents(records, "a").to_pylist()
    # pages in other encodings are not what plain UTF-8 makes of them, nor are those refused
    same = [
        page["text"] == text.replace("\xa0", " ")
        for page, body in zip(found, bodies, strict=True)
        if page["error"] is None and '"utf-8"' in page["metadata"] and b"\0" not in body
        for text in bare([body])
    ]
    red = [] if all(same) else [f"{corpus}, extract: {same.count(False)} of {len(same)} texts differ"]
    return [row], red


def others(corpus: str, table: pa.Table, rounds: int) -> list[Row]:
    size = pc.sum(pc.binary_length(table["text"])).as_py() / 1e6
    line_dedup, pii = LineDedup(), Pii()
    works: dict[str, Work] = {
        "exact hash": lambda part: content_hashes(*text_buffers(part["text"])),
        "scan for personal data": pii.annotate,
        "line deduplication, first phase": lambda part: line_dedup.sign(0, part, None),
    }
    progress(f"{corpus}: hash, personal data, lines")
    # the size of a shard: what a call costs is not what is asked here
    turns = [[table.slice(start, 2000)] * len(works) for start in range(0, table.num_rows, 2000)]
    seconds = least_seconds(list(works.values()), turns, rounds)
    return [
        Row(f"{corpus}, {name}", round(size / spent, 1), "MB/s of text")
        for name, spent in zip(works, seconds, strict=True)
    ]


def _row(name: str, ours: float, unit: str, peer: str, theirs: float) -> Row:
    return Row(name, round(ours, 1), unit, f"{peer}: {theirs:.1f} MB/s", ours / theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--wcxb", type=Path, help="Parquet file of WCXB pages, as a second corpus")
    parser.add_argument("--pages", type=int, default=1500, help="documentation pages, and texts (1500)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side after the first (3)")
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    corpora = {"documentation": (pages(chosen.pages), texts(chosen.pages))}
    if chosen.wcxb:
        corpora["WCXB"] = (wcxb(chosen.wcxb).slice(0, chosen.pages), wcxb_texts(chosen.wcxb))
    rows: list[Row] = []
    red: list[str] = []
    for corpus, (html, text) in corpora.items():
        text = text.combine_chunks()
        for measure, table in ((language, text), (extract, html)):
            found, wrong = measure(corpus, table, chosen.rounds)
            rows, red = rows + found, red + wrong
        rows += others(corpus, text, chosen.rounds)
    publish(
        "curation_stages",
        rows,
        red=red,
        versions=versions_of("pyarrow", "Resiliparse", "numba"),
        packages=packages(),
    )


if __name__ == "__main__":
    main()
