"""Whatever dies, whenever: the same bytes, and nothing that was committed is done again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil
import pytest
from toy_runs import (
    SHAPES,
    alive,
    all_shapes,
    assert_committed_once,
    commits,
    driver,
    events,
    hashes,
    journal,
    run,
    wait_for,
    wait_gone,
    write_dag,
)

# the driver is killed when this line stands in the journal
MOMENTS = {
    "source": "source 2 1",
    "map": "toy 150",
    "expand": "expand 151",
    "shuffle": "group p0",
    "fit": "fit 3",
}


@pytest.fixture(scope="module")
def unbroken(local_ray: int, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Hashes of a run that nothing disturbed, with two workers."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert run(write_dag(folder, all_shapes()), folder / "run")[0] == 0
    found = hashes(folder / "run")
    assert {name: len(files) for name, files in found.items()} == {
        "source": 6,
        "map": 12,
        "expand": 12,
        "shuffle": 9,
        "fit": 1,
    }
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_driver_killed(shape: str, unbroken: dict, tmp_path: Path) -> None:
    """SIGKILL in the middle of a node of each shape, and another driver at once, while old workers
    may still write."""
    lines = tmp_path / "journal"
    config = write_dag(tmp_path, all_shapes(lines, slow=shape, seconds=0.6))
    with driver(config, tmp_path / "run") as first:
        first.until(lambda: journal(lines)[MOMENTS[shape]] > 0)
        left = first.kill()
    before = commits(tmp_path / "store")
    assert left, "the driver had no children"
    code, _ = run(config, tmp_path / "run")
    assert code == 0
    assert hashes(tmp_path / "run") == unbroken
    done = journal(lines)
    assert_committed_once(before, tmp_path / "store", done)
    again = {line: count for line, count in done.items() if count > 1}
    # at most what was in flight: two items to a core
    assert len(again) <= 4, again
    if shape == "fit":
        assert done["fit 1"] == 1 and done["fit 2"] == 1, "the fit did not go on from its scratch"
    if shape == "source":
        assert done["source 0 0"] == done["source 1 0"] == 1, "the parts were not gone on from"
    wait_gone(left)


def test_worker_killed(unbroken: dict, tmp_path: Path) -> None:
    """A worker that dies by SIGKILL costs one more attempt, nothing else."""
    nodes = all_shapes(tmp_path / "journal")
    nodes["map"]["die_once"] = str(tmp_path / "died")
    code, engine = run(write_dag(tmp_path, nodes), tmp_path / "run")
    assert code == 0 and (tmp_path / "died").exists()
    assert hashes(tmp_path / "run") == unbroken
    failures = events(tmp_path / "run", "item failed")
    assert failures and all("worker died" in failure["message"] for failure in failures)
    assert engine.jobs["map"].attempts.total() == len(failures)


def test_one_worker_writes_the_same_bytes(unbroken: dict, tmp_path: Path) -> None:
    with driver(write_dag(tmp_path, all_shapes()), tmp_path / "run", "--workers", "1") as one:
        assert one.wait() == 0, one.output()
    assert hashes(tmp_path / "run") == unbroken


def test_driver_killed_while_ray_starts(tmp_path: Path) -> None:
    """Also what was being started at that moment is gone 10 s later."""
    config = write_dag(tmp_path, all_shapes())
    mark = {"TOY_MARK": str(tmp_path)}
    with driver(config, tmp_path / "run", env=mark) as first:
        first.until(lambda: any("gcs_server" in p.name() for p in first.family()))
        time.sleep(0.5)
        first.kill()
    wait_for(lambda: not _marked(tmp_path), 10, lambda: f"left behind: {alive(_marked(tmp_path))}")


def _marked(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TOY_MARK") == str(folder):
                found.append(process)
    return found
