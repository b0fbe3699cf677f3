"""MinHash signatures against the peers: ``python -m benchmarks.curation.signatures [--wcxb PATH]``.

Text to 112 slots of word 5-grams, on the same documents, in one run, engines taking turns, each in a
process of its own on one core. Rates are MB (10^6 bytes of UTF-8 text) over CPU seconds of the
fastest round; those of two threads are over wall seconds. Slow peers get the first of the shuffled
documents. Then recall: of pairs of texts whose true similarity is known, how many share one of 14
bands of 8 slots. Nothing is printed if ours is more than a point off the S-curve, or if our ways
(memory, Parquet, portable, two threads) disagree in a single band hash.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import peers
from benchmarks.corpora import CACHE, packages, progress, texts, wcxb_texts, write_texts
from benchmarks.curation.pairs import expected_recall, make_pairs
from benchmarks.peers import Answer, Process
from benchmarks.results import Row, publish, versions_of

BANDS, ROWS = 14, 8
SIMILARITIES = (0.7, 0.75, 0.8, 0.85, 0.9)
TOLERANCE = 0.01
# A machine without AVX-512: the name alone would leave this machine's features switched on.
HASWELL = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+bmi,+bmi2,+fma,+lzcnt,+popcnt,+movbe"}


@dataclass(frozen=True)
class Engine:
    """A peer; ``documents`` and ``pairs`` are the most it gets, so that a round takes seconds."""

    name: str
    module: str
    normalization: str
    documents: int | None = None
    pairs: int = 20_000


OURS = "letters case-folded, punctuation, symbols and format characters vanish; words at white space"
_REGEX_WORDS = "lower-cased; words are \\w+, found by a regular expression in Python"
_DATATROVE = "lower-cased, digits to 0, accents and punctuation stripped"
PEERS = (
    Engine("Daft", "daft", "ASCII punctuation removed, lower-cased, white space collapsed; words at spaces"),
    Engine("gaoya (with index)", "gaoya", "lower-cased; its own word analyzer", 10_000),
    Engine("rensa R", "rensa", _REGEX_WORDS, 4_000),
    Engine("text-dedup's recipe", "text_dedup", _REGEX_WORDS, 4_000),
    Engine("datasketch", "datasketch", _REGEX_WORDS, 4_000),
    Engine("datatrove, split()", "datatrove space", f"{_DATATROVE}; words at white space", 1_000, 8_000),
    Engine("datatrove", "datatrove default", f"{_DATATROVE}; spaCy's English words", 400, 4_000),
)


class Taken:
    """The least seconds and the most memory over the rounds of one engine."""

    def __init__(self) -> None:
        self.cpu = self.wall = float("inf")
        self.peak_mb = 0.0
        self.checksums: set[object] = set()

    def add(self, answer: Answer) -> None:
        self.cpu, self.wall = min(self.cpu, answer.cpu), min(self.wall, answer.wall)
        self.peak_mb = max(self.peak_mb, answer.peak_mb)
        self.checksums.add(answer.value)


def measure(corpus: str, table: pa.Table, rounds: int) -> tuple[list[Row], list[str]]:
    """Rows of one corpus, and what is red."""
    order = np.random.default_rng(1).permutation(table.num_rows)
    table = table.take(order)
    file = CACHE / f"signatures-{corpus}.parquet"
    write_texts(table, file)
    size = pc.binary_length(table["text"]).to_numpy() / 1e6
    memory: dict[str, Taken] = {}
    parquet: dict[str, Taken] = {}
    with ExitStack() as stack:
        runs = []
        for name, cores, variables in (
            ("ours", (0,), {}),
            ("ours, portable path", (0,), HASWELL),
            ("ours, two threads", (0, 1), {}),
        ):
            process = stack.enter_context(Process("benchmarks.curation.engines.ours", None, cores, variables))
            runs.append((name, process, None, {"threads": len(cores)}))
        for peer in PEERS:
            process = stack.enter_context(Process(f"benchmarks.curation.engines.{peer.module}", "curation"))
            runs.append((peer.name, process, peer.documents, {}))
        for name, process, documents, arguments in runs:
            progress(f"{corpus}: {name} loads and warms up")
            process.ask("load", file=str(file), rows=min(16, len(size)))
            process.ask("memory", **arguments)
            process.ask("load", file=str(file), rows=documents)
        for number in range(rounds):
            for name, process, _, arguments in runs:
                progress(f"{corpus}: round {number + 1} of {rounds}, {name}")
                memory.setdefault(name, Taken()).add(process.ask("memory", **arguments))
                if name.startswith(("ours", "Daft")):
                    answer = process.ask("parquet", file=str(file), **arguments)
                    parquet.setdefault(name, Taken()).add(answer)

    documents_of = {name: min(documents or len(size), len(size)) for name, _, documents, _ in runs}
    total = {name: size[:documents].sum() for name, documents in documents_of.items()}
    rows = []
    for way, found in (("memory", memory), ("Parquet", parquet)):
        for name in ("ours", "ours, portable path"):
            rate = total[name] / found[name].cpu
            for peer in PEERS:
                # of the portable path only the fastest peer is asked
                if peer.name in found and (name == "ours" or peer.name == "Daft"):
                    theirs = total[peer.name] / found[peer.name].cpu
                    rows.append(
                        Row(
                            f"{corpus}, {name}, from {way}",
                            round(rate, 1),
                            "MB/s",
                            f"{peer.name}: {theirs:.3g} MB/s",
                            rate / theirs,
                        )
                    )
        one, two = (total["ours"] / found[name].wall for name in ("ours", "ours, two threads"))
        label = f"{corpus}, ours, two threads, from {way}"
        rows.append(Row(label, round(two, 1), "MB/s", f"one thread: {one:.1f} MB/s", two / one))
    for name, taken in memory.items():
        seconds = taken.wall if "two" in name else taken.cpu
        rows.append(Row(f"{corpus}, {name}", round(documents_of[name] / seconds), "documents/s"))
    for name, taken in memory.items():
        holds = f"holds {total[name]:.0f} MB of text ({documents_of[name]} documents)"
        rows.append(Row(f"{corpus}, {name}", round(taken.peak_mb), "MB at most", holds))
    checksums = set().union(*(taken.checksums for way in (memory, parquet) for taken in ways_of_ours(way)))
    red = [] if len(checksums) == 1 else [f"{corpus}: our ways give other band hashes: {sorted(checksums)}"]
    return rows, red


def ways_of_ours(found: dict[str, Taken]) -> list[Taken]:
    return [taken for name, taken in found.items() if name.startswith("ours")]


def measure_recall(count: int) -> tuple[list[Row], list[str]]:
    """Recall of each engine at each similarity beside the S-curve, and what is red."""
    rows, red = [], []
    engines = [Engine("ours", "ours", OURS), *PEERS]
    files = {jaccard: make_pairs(jaccard, count) for jaccard in SIMILARITIES}
    for engine in engines:
        environment = None if engine.name == "ours" else "curation"
        with Process(f"benchmarks.curation.engines.{engine.module}", environment) as process:
            asked = min(count, engine.pairs)
            for jaccard, (file, similarity) in files.items():
                progress(f"recall at {jaccard}: {engine.name}, {asked} pairs")
                found = process.ask("pairs", file=str(file), rows=asked).value / asked
                expected = expected_recall(similarity[:asked], BANDS, ROWS)
                name = f"recall at J = {similarity[:asked].mean():.3f}, {engine.name}"
                curve = f"S-curve: {expected:.4f}; {asked} pairs"
                rows.append(Row(name, round(found, 4), "of pairs", curve, found / expected))
                if engine.name == "ours" and abs(found - expected) > TOLERANCE:
                    red.append(f"{name} is {found:.4f}, the S-curve says {expected:.4f}")
    for file, _ in files.values():
        file.unlink()
    return rows, red


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--wcxb", type=Path, help="Parquet file of WCXB pages, as a second corpus")
    parser.add_argument("--rounds", type=int, default=3, help="how often each engine has its turn (3)")
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs at each similarity (20000)")
    chosen = parser.parse_args()
    corpora = {"documentation": texts()}
    if chosen.wcxb:
        corpora["WCXB"] = wcxb_texts(chosen.wcxb)
    rows, red = measure_recall(chosen.pairs)
    facts = {}
    for name, table in corpora.items():
        more, wrong = measure(name, table, chosen.rounds)
        rows, red = more + rows, red + wrong
        facts[name] = f"{table.num_rows} documents, {table['text'].nbytes / 1e6:.0f} MB"
    publish(
        "curation_signatures",
        rows,
        red=red,
        versions={**versions_of("numba", "numpy", "pyarrow"), **peers.versions("curation")},
        corpora=facts,
        packages=packages(),
        normalization={"ours": OURS, **{peer.name: peer.normalization for peer in PEERS}},
    )


if __name__ == "__main__":
    main()
