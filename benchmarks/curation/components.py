"""Band records to components against polars and scipy: ``python -m benchmarks.curation.components``.

A record is a 64-bit band hash and a document's number. Hashes are random; one document in five
repeats those of an earlier one in about 9 of 14 bands. polars makes edges of the records, by sorting
or by grouping, and scipy's connected_components unites them; ours does both in one go, and is also
given the same edges. Records in memory, one core each, taking turns, CPU seconds of the fastest
round. Nothing is printed unless all components are equal.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.corpora import CACHE, progress
from benchmarks.peers import Answer, Process
from benchmarks.results import Row, publish, versions_of

BANDS = 14
COPIES, SHARED = 0.2, 0.65


def make_records(folder: Path, documents: int) -> None:
    """band-0.npy to band-13.npy, uint64 [documents] each."""
    draw = np.random.default_rng(documents)
    is_copy = draw.random(documents) < COPIES
    is_copy[0] = False
    originals, copies = np.flatnonzero(~is_copy), np.flatnonzero(is_copy)
    # an original that came before the copy
    before = np.searchsorted(originals, copies)
    source = originals[(draw.random(len(copies)) * before).astype(np.int64)]
    for band in range(BANDS):
        keys = draw.integers(0, 1 << 64, documents, dtype=np.uint64)
        shared = draw.random(len(copies)) < SHARED
        keys[copies[shared]] = keys[source[shared]]
        np.save(folder / f"band-{band}.npy", keys)


def smallest_members(labels: np.ndarray) -> np.ndarray:
    """Components told by any labels below their number -> each told by its smallest document."""
    first = np.full(len(labels), len(labels), np.int64)
    np.minimum.at(first, labels, np.arange(len(labels)))
    return first[labels]


def measure(documents: int, rounds: int) -> tuple[list[Row], list[str]]:
    records = documents * BANDS
    red: list[str] = []
    taken: dict[str, list[Answer]] = {}
    CACHE.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=CACHE) as folder,
        Process("benchmarks.curation.engines.lsh_ours") as ours,
        Process("benchmarks.curation.engines.lsh_polars", "curation") as theirs,
    ):

        def turn(name: str, process: Process, question: str) -> Answer:
            progress(f"{documents:,} documents: {name}")
            answer = process.ask(question)
            taken.setdefault(name, []).append(answer)
            return answer

        def components(process: Process, file: str) -> np.ndarray:
            process.ask("save", folder=folder)
            return smallest_members(np.load(f"{folder}/{file}.npy"))

        progress(f"{documents:,} documents: records")
        make_records(Path(folder), documents)
        for process in (ours, theirs):
            process.ask("load", folder=folder, bands=BANDS)
        ours.ask("warm_up")
        for _ in range(rounds):
            turn("components", ours, "components")
            found = components(ours, "ours")
            for question in ("group", "sort"):
                edges = turn(question, theirs, question).value
                turn(f"scipy after {question}", theirs, "unite")
                if not np.array_equal(components(theirs, "scipy"), found):
                    red.append(f"{documents} documents: components differ from scipy's after {question}")
            ours.ask("load_edges", folder=folder)
            turn("unite", ours, "unite")
            if not np.array_equal(components(ours, "ours"), found):
                red.append(f"{documents} documents: the same edges give us other components")

    cpu = {name: min(answer.cpu for answer in answers) for name, answers in taken.items()}
    peak = {name: max(answer.peak_mb for answer in answers) for name, answers in taken.items()}
    label = f"{documents:,} documents"
    rows = []
    for question in ("sort", "group"):
        for name, seconds in (
            (f"polars {question}, to edges only", cpu[question]),
            (f"polars {question} and scipy", cpu[question] + cpu[f"scipy after {question}"]),
        ):
            rows.append(
                Row(
                    f"{label}, records to components",
                    round(records / cpu["components"] / 1e6, 2),
                    "million records/s",
                    f"{name}: {records / seconds / 1e6:.2f}",
                    seconds / cpu["components"],
                )
            )
    seconds = cpu["scipy after sort"]
    rows.append(
        Row(
            f"{label}, edges to components",
            round(edges / cpu["unite"] / 1e6, 2),
            "million edges/s",
            f"scipy: {edges / seconds / 1e6:.2f}",
            seconds / cpu["unite"],
        )
    )
    held = f"records held: {records * 8 / 1e6:.0f} MB"
    rows.append(Row(f"{label}, ours", round(peak["components"]), "MB at most", held))
    most = max(peak["sort"], peak["scipy after sort"])
    rows.append(Row(f"{label}, polars sort and scipy", round(most), "MB at most", held))
    return rows, red


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--rounds", type=int, default=3, help="how often each engine has its turn (3)")
    chosen = parser.parse_args()
    rows, red = [], []
    for documents in chosen.documents:
        more, wrong = measure(documents, chosen.rounds)
        rows, red = rows + more, red + wrong
    found = {name: peers.versions("curation")[name] for name in ("polars", "scipy")}
    publish("curation_components", rows, red=red, versions={**versions_of("numba", "numpy"), **found})


if __name__ == "__main__":
    main()
