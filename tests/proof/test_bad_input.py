"""Inputs that break others: a document of a gigabyte, a million equal ones, through the whole curation."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_runs import Driver, driver, manifests, write_dag

pytestmark = pytest.mark.proof

CHAIN = {
    "statistics": {"stage": "text_statistics", "input": "read"},
    "personal": {"stage": "pii", "input": "statistics"},
    "decided": {
        "stage": "decide",
        "input": "personal",
        "rules": {"some": {"column": "gopher_words", "min": 1}},
    },
    "exact": {"stage": "exact_dedup", "input": "decided"},
    "near": {"stage": "minhash_dedup", "input": "decided"},
    "lines": {"stage": "line_dedup", "input": "decided"},
}


def words(count: int, seed: int) -> str:
    numbers = np.random.default_rng(seed).integers(0, 100_000, count)
    return " ".join(np.char.add("w", numbers.astype(str)).tolist())


def curate(folder: Path, table: pa.Table, row_group: int) -> tuple[dict[str, dict], float, int]:
    """Run the chain over ``table``: (manifests, seconds, most bytes that one process held)."""
    pq.write_table(table, folder / "in.parquet", row_group_size=row_group)
    nodes = {"read": {"stage": "read_parquet", "paths": [str(folder / "in.parquet")]}, **CHAIN}
    config = write_dag(folder, nodes)
    with driver(config, folder / "run") as current:
        started, most = time.monotonic(), [0]
        watcher = threading.Thread(target=watch, args=(current, most), daemon=True)
        watcher.start()
        assert current.wait(900) == 0, current.output()
        return manifests(folder / "run"), time.monotonic() - started, most[0]


def watch(current: Driver, most: list[int]) -> None:
    while current.process.poll() is None:
        for process in current.family():
            try:
                most[0] = max(most[0], process.memory_info().rss)
            except psutil.NoSuchProcess:
                pass
        time.sleep(0.2)


def test_a_document_of_a_gigabyte(tmp_path: Path, record_property) -> None:
    block = words(1_500_000, 0)
    whole = " ".join([block] * (1_000_000_000 // len(block) + 1))
    texts = pa.array([words(200, 1), whole, words(200, 2)], pa.large_string())
    found, seconds, most = curate(tmp_path, pa.table({"id": ["a", "b", "c"], "text": texts}), 3)
    for node in ("decided", "exact", "near", "lines"):
        assert found[node]["counts"]["kept"] == 3, (node, found[node]["counts"])
    size = len(whole)
    assert most < 16 * size
    record_property(
        "figure", f"{size / 1e9:.2f} GB of text, {seconds:.0f} s, a process held {most / 1e9:.1f} GB"
    )


def test_a_million_equal_documents(tmp_path: Path, record_property) -> None:
    number = 1_000_000
    same = pa.array(["the same thirty words " * 8], pa.large_string()).take(pa.array(np.zeros(number, int)))
    other = pa.array([words(30, seed) for seed in range(1000)], pa.large_string())
    texts = pa.concat_arrays([same, other])
    ids = pa.array(np.arange(len(texts)).astype(str))
    found, seconds, most = curate(tmp_path, pa.table({"id": ids, "text": texts}), 50_000)
    assert found["near"]["counts"]["kept"] == found["exact"]["counts"]["kept"] == 1001
    assert found["near"]["counts"]["dropped"] == {"near_duplicate": number - 1}
    record_property(
        "figure", f"{len(texts):,} documents, {seconds:.0f} s, a process held {most / 1e9:.1f} GB"
    )
