"""Twenty kills at random moments, of drivers and of workers: the bytes of an unbroken run."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import psutil
import pytest
from toy_runs import (
    Driver,
    all_shapes,
    commits,
    driver,
    hashes,
    journal,
    journal_line,
    run,
    wait_for,
    wait_gone,
    write_dag,
)

KILLS = 20


def slow_everywhere(lines: Path | str, seconds: float) -> dict[str, dict]:
    nodes = all_shapes(lines)
    nodes["source"] |= {"shards": 6, "parts": 3}
    for node in nodes.values():
        node["seconds"] = seconds
    return nodes


def kill_a_worker(run: Driver, draw: random.Random) -> str | None:
    """SIGKILL to a process that has a work item at hand; None when there is none just now."""
    try:
        busy = run.family("ray::run_item")
        if not busy:
            return None
        victim = draw.choice(busy)
        victim.kill()
        return f"worker {victim.pid}"
    except psutil.NoSuchProcess:
        return None


@pytest.mark.proof
def test_twenty_random_kills(local_ray: int, tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 10**6))
    draw = random.Random(seed)
    lines = tmp_path / "journal"
    config = write_dag(tmp_path, slow_everywhere(lines, 0.4))
    store = tmp_path / "store"
    told: list[str] = []
    left: list[psutil.Process] = []
    snapshots = []
    while len(told) < KILLS:
        with driver(config, tmp_path / "run") as current:
            # from the first item this driver starts, so that each kill finds work
            seen = sum(journal(lines).values())
            wait_for(
                lambda seen=seen, current=current: (
                    sum(journal(lines).values()) > seen or current.process.poll() is not None
                ),
                60,
                current.output,
            )
            if current.process.poll() is not None:
                break
            for _ in range(draw.randint(0, 2)):
                time.sleep(draw.uniform(0, 1.5))
                if current.process.poll() is None and (victim := kill_a_worker(current, draw)):
                    told.append(victim)
            time.sleep(draw.uniform(0, 1.5))
            if current.process.poll() is not None:
                break
            left += current.kill()
            told.append(f"driver {current.process.pid}")
            snapshots.append((commits(store), journal(lines)))
    print(f"seed {seed}: {len(told)} kills: {', '.join(told)}")
    drivers = sum(text.startswith("driver") for text in told)
    assert drivers >= 3, f"the run ended after {told}: make it slower"
    code, _ = run(config, tmp_path / "run")
    # a worker killed three times on one item leaves a gap; the next run tries it again
    if code == 3:
        code, _ = run(config, tmp_path / "run")
    assert code == 0
    wait_gone(left)
    final, done = commits(store), journal(lines)
    for records, counts in snapshots:
        for path, record in records.items():
            line = journal_line(path)
            assert final[path] == record, f"{path} was written twice"
            assert line is None or done[line] == counts[line], f"{path} was committed, and done again"
    unbroken = write_dag(tmp_path / "unbroken", slow_everywhere("", 0.0))
    assert run(unbroken, tmp_path / "unbroken" / "run")[0] == 0
    assert hashes(tmp_path / "run") == hashes(tmp_path / "unbroken" / "run")
