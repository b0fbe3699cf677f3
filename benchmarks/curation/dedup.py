"""Near-dedup from Parquet to a keep mask: ``python -m benchmarks.curation.dedup [--growth]``.

Documents of 60 to 120 words, one in five a copy of another with 1 to 4 words replaced. Ours as bare
kernels and through the engine (from the start of the first work item to the commit of the clusters,
which say who stays: a worker is one process with one thread, the driver and Ray's own processes take
what is left of two cores), datatrove's four stages on the first of the same documents. Of the fastest
round, CPU seconds where bare kernels on one core stand beside datatrove and in growth; wall seconds
where two threads or the engine's workers are compared. Nothing is printed if an original is taken for
a duplicate more often than once in 10^5, or if the engine keeps other documents than the bare kernels.

--growth runs the bare kernels on 10^5, 10^6 and 10^7 documents (7 GB of disk in .corpora/).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import peers
from benchmarks.corpora import CACHE, progress
from benchmarks.peers import Answer, Process
from benchmarks.results import Row, publish, versions_of
from benchmarks.short_texts import MAX_EDITS, short_texts

GROWTH = (10**5, 10**6, 10**7)
FALSE_DROPS = 1e-5
PEERS = {
    "datatrove, split()": ("space", 10_000, "words at white space"),
    "datatrove": ("default", 2_000, "spaCy's English words"),
}
_BARE = "benchmarks.curation.engines.dedup_ours"
_ENGINE = "benchmarks.curation.engines.dedup_engine"


@dataclass(frozen=True)
class Planted:
    """What is known of the documents: the one that each copies (-1: none), and words replaced."""

    source: np.ndarray
    edits: np.ndarray
    ids: np.ndarray

    @staticmethod
    def of(file: Path, first: int | None = None) -> Planted:
        table = pq.read_table(file, columns=["source_row", "edits", "id"]).slice(0, first)
        ids = np.frombuffer(table["id"].combine_chunks().cast(pa.binary(32)).buffers()[1], "S32")
        return Planted(table["source_row"].to_numpy(), table["edits"].to_numpy(), ids)

    def recall(self, found: np.ndarray) -> str:
        """Of the copies, by words replaced, how many were found."""
        shares = (found[self.edits == k].mean() for k in range(1, MAX_EDITS + 1))
        return "copies found, 1 to 4 words replaced: " + ", ".join(f"{share:.3f}" for share in shares)

    def false_drops(self, kept: np.ndarray) -> int:
        return int((~kept & (self.source < 0)).sum())


def bare(
    file: Path, planted: Planted, rounds: int, red: list[str]
) -> tuple[dict[int, Answer], np.ndarray, str]:
    """(the fastest answer by threads, which documents are kept, recall)."""
    best: dict[int, Answer] = {}
    with (
        tempfile.TemporaryDirectory(dir=CACHE) as folder,
        Process(_BARE) as one,
        Process(_BARE, cores=(0, 1)) as two,
    ):
        out = f"{folder}/parent.npy"
        for process in (one, two):
            process.ask("dedup", file=str(short_texts(4000)), threads=1, out=out)
        for number in range(rounds):
            for threads, process in ((1, one), (2, two)):
                progress(f"{file.name}: bare kernels, {threads} threads, round {number + 1} of {rounds}")
                answer = process.ask("dedup", file=str(file), threads=threads, out=out)
                best[threads] = min(best.get(threads, answer), answer, key=lambda answer: answer.wall)
                parent = np.load(out)
    kept = parent == np.arange(len(parent))
    wrong = planted.false_drops(kept)
    if wrong > FALSE_DROPS * len(kept):
        red.append(f"{file.name}: {wrong} originals of {len(kept)} documents were taken for duplicates")
    is_copy = planted.source >= 0
    found = np.zeros(len(parent), bool)
    found[is_copy] = parent[planted.source[is_copy]] == parent[is_copy]
    return best, kept, f"{planted.recall(found)}; {wrong} originals dropped"


def through_engine(file: Path, rows: np.ndarray, rounds: int, red: list[str]) -> dict[int, dict]:
    """By workers, the fastest round's seconds up to the end of each phase, and "items"."""
    best: dict[int, dict] = {}
    for workers in (1, 2):
        with (
            tempfile.TemporaryDirectory(dir=CACHE) as folder,
            Process(_ENGINE, cores=(0, 1)) as process,
        ):
            progress(f"{file.name}: engine, {workers} workers, writes its input")
            process.ask("documents", file=str(file), folder=folder, workers=workers)
            # the last with the seed of the bare kernels
            for seed in range(rounds, 0, -1):
                progress(f"{file.name}: engine, {workers} workers, round {rounds - seed + 1} of {rounds}")
                arguments = {"file": str(file), "folder": folder, "workers": workers, "seed": seed}
                found = process.ask("dedup", **arguments, out=f"{folder}/kept.npy").value
                found["seconds"] = found["phases"]["cluster"]
                best[workers] = min(best.get(workers, found), found, key=lambda found: found["seconds"])
            if not np.array_equal(np.load(f"{folder}/kept.npy"), rows):
                red.append(f"the engine with {workers} workers keeps other documents than the bare kernels")
    return best


def of_peer(name: str, file: Path, rounds: int) -> tuple[float, float, str]:
    """(documents/s, MB/s, facts)."""
    words, count, _ = PEERS[name]
    planted = Planted.of(file, count)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        sample = pq.ParquetFile(file).read_row_groups(range(-(-count // 2000)), columns=["id", "text"])
        sample = sample.slice(0, count)
        pq.write_table(sample, f"{folder}/sample.parquet")
        with Process(f"benchmarks.curation.engines.dedup_datatrove {words}", "curation") as process:
            answers = []
            for number in range(rounds + 1):
                progress(f"{name}: {count} documents, round {number} of {rounds}")
                answers.append(process.ask("dedup", folder=folder))
    kept = np.isin(planted.ids, np.array(answers[-1].value, "S32"))
    # which copy it joined to what is not told: a copy counts as found if it is gone
    facts = f"{planted.recall(~kept)}; {planted.false_drops(kept)} originals dropped; {count} documents"
    # the first round warms up
    seconds = min(answer.cpu for answer in answers[1:])
    return count / seconds, sample["text"].nbytes / seconds / 1e6, facts


def measure(documents: int, rounds: int) -> tuple[list[Row], list[str]]:
    file = short_texts(documents)
    planted, red = Planted.of(file), []
    best, kept, recall = bare(file, planted, rounds, red)
    megabytes = best[1].value["bytes"] / 1e6
    label = f"{documents:,} documents"
    alone = megabytes / best[1].cpu
    rates = {threads: megabytes / answer.wall for threads, answer in best.items()}
    rows = []
    for name in PEERS:
        documents_a_second, rate, facts = of_peer(name, file, rounds)
        row = Row(
            f"{label}, bare kernels, one core",
            round(alone, 1),
            "MB/s",
            f"{name}: {rate:.3g} MB/s",
            alone / rate,
        )
        rows.append(row)
        rows.append(Row(f"{name}", round(documents_a_second), "documents/s", facts))
    phases = ", ".join(f"{name} {best[1].value[name]:.2f} s" for name in ("read", "sign", "unite"))
    rows.append(
        Row(f"{label}, bare kernels, one core", round(documents / best[1].cpu), "documents/s", phases)
    )
    rows.append(Row(f"{label}, bare kernels, found", round(float((~kept).mean()), 4), "of documents", recall))
    rows.append(_against(f"{label}, bare kernels, two threads", rates[2], "one thread", rates[1]))
    engine = through_engine(file, np.flatnonzero(kept), rounds, red)
    rate_of = {workers: megabytes / found["seconds"] for workers, found in engine.items()}
    rows.append(_against(f"{label}, engine, 1 worker", rate_of[1], "bare kernels, one core", rates[1]))
    rows.append(_against(f"{label}, engine, 2 workers", rate_of[2], "1 worker", rate_of[1]))
    for workers, found in engine.items():
        phases = ", ".join(f"{name} {end:.2f}" for name, end in found["phases"].items())
        rows.append(
            Row(
                f"{label}, engine, {workers} workers",
                round(found["seconds"], 2),
                "s",
                f"phases end at {phases} s",
            )
        )
    return rows, red


def _against(name: str, rate: float, reference: str, reference_rate: float) -> Row:
    return Row(name, round(rate, 1), "MB/s", f"{reference}: {reference_rate:.1f} MB/s", rate / reference_rate)


def measure_growth(rounds: int) -> tuple[list[Row], list[str]]:
    """Time and memory of the bare kernels from 10^5 to 10^7 documents."""
    rows, red = [], []
    seconds, peak = [], []
    for documents in GROWTH:
        file = short_texts(documents)
        best, _, recall = bare(file, Planted.of(file), rounds if documents < GROWTH[-1] else 1, red)
        seconds.append(best[1].cpu)
        peak.append(best[1].peak_mb)
        facts = f"{best[1].peak_mb:.0f} MB at most; {recall}"
        rows.append(
            Row(
                f"{documents:,} documents, bare kernels", round(documents / seconds[-1]), "documents/s", facts
            )
        )
    exponent = float(np.polyfit(np.log(GROWTH), np.log(seconds), 1)[0])
    rows.append(Row("growth of time, 10^5 to 10^7 documents", round(exponent, 3), "exponent"))
    per_document = (peak[-1] - peak[0]) * 1e6 / (GROWTH[-1] - GROWTH[0])
    rows.append(Row("memory a document, beside a fixed part", round(per_document), "bytes"))
    return rows, red


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", type=int, default=10**6)
    parser.add_argument("--rounds", type=int, default=3, help="how often each has its turn (3)")
    parser.add_argument("--growth", action="store_true", help="10^5 to 10^7 documents as well")
    chosen = parser.parse_args()
    rows, red = measure(chosen.documents, chosen.rounds)
    if chosen.growth:
        more, wrong = measure_growth(chosen.rounds)
        rows, red = rows + more, red + wrong
    datatrove = "lower-cased, digits to 0, accents and punctuation stripped; "
    publish(
        "curation_dedup",
        rows,
        red=red,
        versions={
            **versions_of("numba", "numpy", "pyarrow", "ray"),
            "datatrove": peers.versions("curation")["datatrove"],
        },
        normalization={
            "ours": "case-folded, punctuation and symbols vanish; words at white space",
            **{name: datatrove + words for name, (_, _, words) in PEERS.items()},
        },
    )


if __name__ == "__main__":
    main()
