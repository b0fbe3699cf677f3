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
from dataclasses import dataclass, field
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
# three times what 50,000 pairs scatter by, over seeds, at J = 0.75
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


@dataclass
class Runner:
    """An engine's process, and the answers of its rounds from memory and from Parquet."""

    name: str
    process: Process
    documents: int
    threads: int | None
    megabytes: float
    reads_parquet: bool
    answers: dict[str, list[Answer]] = field(default_factory=lambda: {"memory": [], "Parquet": []})

    def warm_up(self, file: Path) -> None:
        self.process.ask("load", file=str(file), rows=16)
        self.process.ask("memory", **self._arguments)
        self.process.ask("load", file=str(file), rows=self.documents)

    def take_turn(self, file: Path) -> None:
        self.answers["memory"].append(self.process.ask("memory", **self._arguments))
        if self.reads_parquet:
            self.answers["Parquet"].append(self.process.ask("parquet", file=str(file), **self._arguments))

    @property
    def _arguments(self) -> dict[str, int]:
        return {} if self.threads is None else {"threads": self.threads}

    def seconds(self, way: str, clock: str = "cpu") -> float:
        return min(getattr(answer, clock) for answer in self.answers[way])

    def rate(self, way: str, clock: str = "cpu") -> float:
        """MB/s."""
        return self.megabytes / self.seconds(way, clock)

    @property
    def peak_mb(self) -> float:
        return max(answer.peak_mb for answer in self.answers["memory"])


def run(corpus: str, table: pa.Table, rounds: int) -> list[Runner]:
    """All engines on one corpus, in turns: ours, its portable path, its two threads, the peers."""
    table = table.take(np.random.default_rng(1).permutation(table.num_rows))
    file = CACHE / f"signatures-{corpus}.parquet"
    write_texts(table, file)
    sizes = pc.binary_length(table["text"]).to_numpy() / 1e6
    with ExitStack() as stack:
        runners = []

        def start(
            name: str, process: Process, documents: int | None, threads: int | None, parquet: bool
        ) -> None:
            count = min(documents or len(sizes), len(sizes))
            stack.enter_context(process)
            runners.append(Runner(name, process, count, threads, sizes[:count].sum(), parquet))

        ours = "benchmarks.curation.engines.ours"
        start("ours", Process(ours), None, 1, True)
        start("ours, portable path", Process(ours, variables=HASWELL), None, 1, True)
        start("ours, two threads", Process(ours, cores=(0, 1)), None, 2, True)
        for peer in PEERS:
            process = Process(f"benchmarks.curation.engines.{peer.module}", "curation")
            start(peer.name, process, peer.documents, None, peer.name == "Daft")
        for runner in runners:
            progress(f"{corpus}: {runner.name} loads and warms up")
            runner.warm_up(file)
        for number in range(rounds):
            for runner in runners:
                progress(f"{corpus}: round {number + 1} of {rounds}, {runner.name}")
                runner.take_turn(file)
    file.unlink()
    return runners


def measure(corpus: str, table: pa.Table, rounds: int) -> tuple[list[Row], list[str]]:
    """Rows of one corpus, and what is red."""
    runners = run(corpus, table, rounds)
    ours, portable, two, *others = runners
    daft = next(runner for runner in others if runner.reads_parquet)
    compared = [(ours, "memory", other) for other in others]
    compared += [(ours, "Parquet", daft), (portable, "memory", daft), (portable, "Parquet", daft)]
    rows = []
    for mine, way, other in compared:
        rate, theirs = mine.rate(way), other.rate(way)
        reference = f"{other.name}: {theirs:.3g} MB/s"
        rows.append(
            Row(f"{corpus}, {mine.name}, from {way}", round(rate, 1), "MB/s", reference, rate / theirs)
        )
    for way in ("memory", "Parquet"):
        rate, one = two.rate(way, "wall"), ours.rate(way, "wall")
        reference = f"one thread: {one:.1f} MB/s"
        rows.append(Row(f"{corpus}, {two.name}, from {way}", round(rate, 1), "MB/s", reference, rate / one))
    for runner in runners:
        per_second = runner.documents / runner.seconds("memory", "wall" if runner is two else "cpu")
        held = f"{runner.peak_mb:.0f} MB of memory at most, of text {runner.megabytes:.0f} MB"
        rows.append(Row(f"{corpus}, {runner.name}", round(per_second), "documents/s", held))
    answers = [a for runner in (ours, portable, two) for way in runner.answers.values() for a in way]
    checksums = {answer.value for answer in answers}
    red = [] if len(checksums) == 1 else [f"{corpus}: our ways give different band hashes: {checksums}"]
    return rows, red


def measure_recall(count: int) -> tuple[list[Row], list[str]]:
    """Recall of each engine at each similarity beside the S-curve, and what is red."""
    rows, red = [], []
    engines = [Engine("ours", "ours", OURS, pairs=count), *PEERS]
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
    parser.add_argument("--pairs", type=int, default=50_000, help="pairs at each similarity (50000)")
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
