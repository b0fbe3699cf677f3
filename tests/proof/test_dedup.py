"""Near-duplicates through the engine: kill -9 in each phase, any number of workers, the same bytes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest
from toy_runs import commits, driver, hashes, manifests, wait_gone, write_dag

from filters.minhash_dedup import MinhashDedup

pytestmark = pytest.mark.proof

SOURCE = {"stage": "toy_source", "shards": 12, "rows": 2000}
# every phase there is, and many items in each
DEDUP = {"stage": "minhash_dedup", "min_jaccard": 0.8, "partitions": 12}
PHASES = [name for name, _ in MinhashDedup(min_jaccard=0.8).phases]


def nodes(folder: Path) -> dict[str, dict]:
    """Old documents and their index, then new ones: verified, and against the index."""
    return {
        "old": {**SOURCE, "shards": 3},
        "index": {"stage": "minhash_index", "input": "old"},
        "new": SOURCE,
        "near": {**DEDUP, "input": "new"},
    }


def against_the_index(folder: Path) -> dict[str, dict]:
    return {
        "new": SOURCE,
        "indexed": {"stage": "minhash_dedup", "input": "new", "index": str(folder / "run" / "index")},
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    folder = tmp_path_factory.mktemp("unbroken")
    assert drive(folder, "first", nodes(folder)) == 0
    assert drive(folder, "second", against_the_index(folder)) == 0
    return folder, hashes(folder / "run"), hashes(folder / "second")


def drive(folder: Path, name: str, dag: dict[str, dict], workers: int = 2) -> int:
    run = folder / ("run" if name == "first" else name)
    config = write_dag(folder, dag, name=name)
    with driver(config, run, "--workers", str(workers)) as current:
        return current.wait(300)


def test_one_worker(unbroken: tuple[Path, dict, dict], tmp_path: Path, record_property) -> None:
    _, first, second = unbroken
    assert drive(tmp_path, "first", nodes(tmp_path), workers=1) == 0
    assert drive(tmp_path, "second", against_the_index(tmp_path), workers=1) == 0
    assert hashes(tmp_path / "run") == first
    assert hashes(tmp_path / "second") == second
    counts = [
        manifests(tmp_path / run)[node]["counts"]["dropped"]
        for run, node in (("run", "near"), ("second", "indexed"))
    ]
    assert counts[0]["near_duplicate"] > 1000 and counts[1]["indexed_duplicate"] > 1000
    record_property("figure", f"same bytes; dropped {counts[0]}, against the index {counts[1]}")


@pytest.mark.parametrize("victim", ["driver", "worker"])
@pytest.mark.parametrize("phase", PHASES)
def test_killed_in(
    phase: str, victim: str, unbroken: tuple[Path, dict, dict], tmp_path: Path, record_property
) -> None:
    folder, first, _ = unbroken
    config = write_dag(tmp_path, nodes(tmp_path), name="first")
    store = tmp_path / "store"
    chance = random.Random(f"{phase} {victim}")

    def done_of(store: Path, phase: str) -> int:
        return len(list(store.glob(f"near-*/commits/{phase}-*.json")))

    def begun() -> bool:
        if phase == PHASES[0]:
            return done_of(store, phase) > 0
        before = PHASES[PHASES.index(phase) - 1]
        return done_of(store, before) == done_of(folder / "store", before)

    with driver(config, tmp_path / "run") as current:
        current.until(begun, 120)
        time.sleep(chance.uniform(0, 0.02))
        assert not any(store.glob("near-*/manifest.json")), "too late to kill anything"
        done = commits(store)
        if victim == "worker":
            kill(chance.choice(current.family("ray::run_item") or current.family("ray::")))
            assert current.wait(300) == 0, current.output()
        else:
            wait_gone(current.kill())
    if victim == "driver":
        with driver(config, tmp_path / "run") as current:
            assert current.wait(300) == 0, current.output()
    now = commits(store)
    assert all(now[path] == record for path, record in done.items()), "a commit was written twice"
    assert hashes(tmp_path / "run") == first
    there = sum(f"/{phase}-" in path for path in done)
    total = sum(f"/{phase}-" in path for path in now)
    record_property("figure", f"{there} of {total} items of the phase were committed")


def kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass
