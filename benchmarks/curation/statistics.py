"""All statistics and verdicts against datatrove: ``python -m benchmarks.curation.statistics [--wcxb PATH]``.

Gopher quality, Gopher repetition, C4 and FineWeb on real pages, in one run, engines taking turns,
each in a process of its own on one core. Rates are MB (10^6 bytes of UTF-8 text) over CPU seconds of
the fastest round; those of two threads over wall seconds. Ours counts everything for every text;
datatrove's four filters see every text too: with limits out of reach, so that they count everything
as well, and with their own, so that each stops at the first rule that fails; text by text, where it
splits a text into words once for all four, and filter by filter. It is slow, so it gets the first of
the shuffled texts. Nothing
is printed if our ways (portable path, two threads) give other columns, or if a rule says
otherwise than datatrove's on the same words.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.corpora import CACHE, packages, progress, texts, wcxb_texts, write_texts
from benchmarks.curation.decisions import differences, ours, theirs
from benchmarks.curation.signatures import HASWELL
from benchmarks.peers import Process, versions
from benchmarks.results import Row, publish, versions_of
from filters.text_statistics import COLUMNS

FAMILIES = list(COLUMNS)
# name, cores, variables, families, with verdicts
OURS = (
    ("all statistics and verdicts", (0,), {}, FAMILIES, True),
    ("all statistics", (0,), {}, FAMILIES, False),
    ("all statistics, portable path", (0,), HASWELL, FAMILIES, False),
    ("all statistics, two threads", (0, 1), {}, FAMILIES, False),
    *((f"{family} alone", (0,), {}, [family], False) for family in FAMILIES),
    ("c4 and fineweb", (0,), {}, ["c4", "fineweb"], False),
)
# name, words, environment, texts, by, everything
DATATROVE = (
    ("datatrove, split()", "space", None, 600, "text", True),
    ("datatrove, split(), first failed rule only", "space", None, 600, "text", False),
    ("datatrove, spaCy", "default", "curation", 150, "text", True),
    ("datatrove, spaCy, first failed rule only", "default", "curation", 150, "text", False),
    ("datatrove, spaCy, filter by filter", "default", "curation", 150, "filter", True),
)


def measure(corpus: str, table: pa.Table, rounds: int) -> tuple[list[Row], list[str]]:
    """Rows of one corpus, and what is red."""
    table = table.take(np.random.default_rng(1).permutation(table.num_rows))
    file = CACHE / f"statistics-{corpus}.parquet"
    write_texts(table, file)
    cpu: dict[str, float] = {}
    wall: dict[str, float] = {}
    size: dict[str, float] = {}
    columns: dict[str, set[object]] = {}
    with ExitStack() as stack:
        runs = []
        for name, cores, variables, families, verdicts in OURS:
            arguments = {"families": families, "verdicts": verdicts, "threads": len(cores)}
            process = stack.enter_context(
                Process("benchmarks.curation.engines.statistics_ours", None, cores, variables)
            )
            runs.append((name, process, table.num_rows, "statistics", arguments))
        for name, words, environment, count, by, everything in DATATROVE:
            process = stack.enter_context(
                Process(f"benchmarks.curation.engines.rules_datatrove {words}", environment)
            )
            runs.append(
                (name, process, min(count, table.num_rows), "chain", {"by": by, "everything": everything})
            )
        for name, process, count, question, arguments in runs:
            progress(f"{corpus}: {name} loads and warms up")
            process.ask("load", file=str(file), start=0, stop=8)
            process.ask(question, **arguments)
            size[name] = process.ask("load", file=str(file), start=0, stop=count).value / 1e6
        for number in range(rounds):
            for name, process, _, question, arguments in runs:
                progress(f"{corpus}: round {number + 1} of {rounds}, {name}")
                answer = process.ask(question, **arguments)
                cpu[name] = min(cpu.get(name, np.inf), answer.cpu)
                wall[name] = min(wall.get(name, np.inf), answer.wall)
                columns.setdefault(name, set()).add(str(answer.value))
        sample = table.slice(0, DATATROVE[0][3])
        _, process, *_ = runs[len(OURS)]
        answers = process.ask("rules").value
    red = [f"{corpus}: {line}" for line in differences(sample, ours(sample), theirs(answers))]
    all_ways = set().union(
        *(columns[name] for name, _, _, families, verdicts in OURS if families == FAMILIES and not verdicts)
    )
    if len(all_ways) != 1:
        red.append(f"{corpus}: our ways give other columns: {sorted(map(str, all_ways))}")

    rate = {name: size[name] / cpu[name] for name, *_ in runs}
    rows = [
        Row(
            f"{corpus}, {name}",
            round(rate[name], 1),
            "MB/s",
            f"{peer}: {rate[peer]:.3g} MB/s",
            rate[name] / rate[peer],
        )
        for name in ("all statistics and verdicts", "all statistics", "all statistics, portable path")
        for peer, *_ in DATATROVE
    ]
    one, two = (size[name] / wall[name] for name in ("all statistics", "all statistics, two threads"))
    rows.append(
        Row(
            f"{corpus}, all statistics, two threads", round(two, 1), "MB/s", f"one: {one:.1f} MB/s", two / one
        )
    )
    rows += [Row(f"{corpus}, {name}", round(rate[name], 1), "MB/s") for name, *_ in OURS[4:]]
    return rows, red


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--wcxb", type=Path, help="Parquet file of WCXB pages, a second corpus")
    parser.add_argument("--texts", type=int, default=20_000, help="how many of the documentation's")
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    corpora = {"documentation": texts(chosen.texts)}
    if chosen.wcxb:
        corpora["WCXB"] = wcxb_texts(chosen.wcxb)
    rows, red = [], []
    for name, table in corpora.items():
        more, wrong = measure(name, table, chosen.rounds)
        rows += more
        red += wrong
    publish(
        "curation_statistics",
        rows,
        red=red,
        versions=versions_of("numba", "datatrove", "pyarrow") | {"spacy": versions("curation")["spacy"]},
        corpora={
            name: f"{table.num_rows} texts, {table['text'].nbytes / 1e6:.0f} MB"
            for name, table in corpora.items()
        },
        packages=packages(),
        words="ours: str.split()",
    )


if __name__ == "__main__":
    main()
