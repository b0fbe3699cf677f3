"""The whole main job from a frozen crawl: same bytes for any number of workers and any kill.

Every stage of the quickstart, on real pages: one worker, two workers, and runs whose driver or one of
whose workers is killed at random moments.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest
from frozen import write_frozen_dag, write_warcs
from toy_runs import commits, driver, hashes, manifests, wait_gone

pytestmark = pytest.mark.proof
RUNS = 4


@pytest.fixture(scope="module")
def warcs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_warcs(tmp_path_factory.mktemp("crawl"), parts=6)


@pytest.fixture(scope="module")
def unbroken(warcs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, float]:
    """Hashes of a run that nothing disturbed, and how long it took."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = write_frozen_dag(folder, warcs, until="model")
    started = time.monotonic()
    with driver(config, folder / "run") as run:
        assert run.wait(600) == 0, run.output()
    return hashes(folder / "run"), time.monotonic() - started


def test_one_worker(warcs: list[Path], unbroken: tuple[dict, float], tmp_path: Path, record_property) -> None:
    config = write_frozen_dag(tmp_path, warcs, until="model")
    with driver(config, tmp_path / "run", "--workers", "1") as run:
        assert run.wait(900) == 0, run.output()
    found = hashes(tmp_path / "run")
    assert _exact(found, tmp_path) == {node: unbroken[0][node] for node in _exact(found, tmp_path)}
    # the fits are seeded: run as declared, in processes of their own, they give the same bytes too
    same = [node for node in found if found[node] == unbroken[0][node]]
    assert len(same) >= len(found) - 1, set(found) - set(same)
    files = sum(len(found) for found in unbroken[0].values())
    record_property("figure", f"{len(unbroken[0])} datasets, {files} files, 1 worker = 2 workers")


@pytest.mark.parametrize("seed", range(RUNS))
def test_killed(
    seed: int, warcs: list[Path], unbroken: tuple[dict, float], tmp_path: Path, record_property
) -> None:
    """Killed three times at random moments, by turns the driver and one of its workers."""
    chance = random.Random(seed)
    config = write_frozen_dag(tmp_path, warcs)
    done: dict[str, bytes] = {}
    for kill in range(3):
        with driver(config, tmp_path / "run") as run:
            moment = time.monotonic() + chance.uniform(2, unbroken[1])
            while time.monotonic() < moment and run.process.poll() is None:
                time.sleep(0.05)
            if run.process.poll() is not None:
                break
            if kill % 2:
                workers = [p for p in run.family() if "ray::" in "".join(p.cmdline())]
                if workers:
                    _kill(chance.choice(workers))
                assert run.wait(900) == 0, run.output()
            else:
                wait_gone(run.kill())
        done.update(commits(tmp_path / "store"))
    with driver(config, tmp_path / "run") as run:
        assert run.wait(900) == 0, run.output()
    now = commits(tmp_path / "store")
    assert all(now[path] == record for path, record in done.items()), "a commit was written twice"
    found = _exact(hashes(tmp_path / "run"), tmp_path)
    assert found == {node: unbroken[0][node] for node in found}
    record_property("figure", f"{len(done)} commits before the last run, all unchanged; same bytes")


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass


def _exact(found: dict, folder: Path) -> dict:
    """Hashes of the exact datasets of the run in ``folder``."""
    kinds = {node: page["determinism"] for node, page in manifests(folder / "run").items()}
    exact = {node: files for node, files in found.items() if kinds.get(node) == "exact"}
    assert len(exact) >= 6
    return exact
