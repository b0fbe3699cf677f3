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
def unbroken(warcs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, int]:
    """Hashes of a run that nothing disturbed, and its number of commits, the training's left out."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = write_frozen_dag(folder, warcs, until="model")
    with driver(config, folder / "run") as run:
        assert run.wait(600) == 0, run.output()
    return hashes(folder / "run"), len(commits(folder / "store")) - 1


def test_one_worker(warcs: list[Path], unbroken: tuple[dict, int], tmp_path: Path, record_property) -> None:
    config = write_frozen_dag(tmp_path, warcs, until="model")
    with driver(config, tmp_path / "run", "--workers", "1") as run:
        assert run.wait(900) == 0, run.output()
    found = hashes(tmp_path / "run")
    assert _exact(found, tmp_path) == {node: unbroken[0][node] for node in _exact(found, tmp_path)}
    # the fits are seeded: run as declared, in processes of their own, they give the same bytes too
    assert found == unbroken[0], [node for node in found if found[node] != unbroken[0][node]]
    files = sum(len(found) for found in unbroken[0].values())
    record_property("figure", f"{len(found)} datasets, {files} files, the trained model too: the same bytes")


@pytest.mark.parametrize("seed", range(RUNS))
def test_killed(
    seed: int, warcs: list[Path], unbroken: tuple[dict, int], tmp_path: Path, record_property
) -> None:
    """Killed three times after a random number of commits: the driver, a worker, the driver."""
    chance = random.Random(seed)
    config = write_frozen_dag(tmp_path, warcs)
    hashed, total = unbroken
    done: dict[str, bytes] = {}
    moments = []
    for victim in ("driver", "worker", "driver"):
        if len(done) >= total - 2:
            break
        moment = chance.randint(len(done) + 1, len(done) + max(1, (total - len(done)) // 2))
        with driver(config, tmp_path / "run") as run:
            run.until(lambda: len(commits(tmp_path / "store")) >= moment, 300)  # noqa: B023
            time.sleep(chance.uniform(0, 0.3))
            workers = run.family("ray::run_item")
            if victim == "worker" and workers:
                _kill(chance.choice(workers))
                time.sleep(2)
            wait_gone(run.kill())
        moments.append(moment)
        now = commits(tmp_path / "store")
        assert all(now[path] == record for path, record in done.items()), "a commit was written twice"
        done = now
    with driver(config, tmp_path / "run") as run:
        assert run.wait(900) == 0, run.output()
    now = commits(tmp_path / "store")
    assert all(now[path] == record for path, record in done.items()), "a commit was written twice"
    found = _exact(hashes(tmp_path / "run"), tmp_path)
    assert found == {node: hashed[node] for node in found}
    record_property(
        "figure", f"killed after {moments} of {total} commits; those before stayed as they were; same bytes"
    )


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
