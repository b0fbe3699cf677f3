"""A crawl of a real site, killed at five random moments through the engine, against an unbroken one."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest
from toy_runs import commits, driver, manifests, wait_gone, write_dag

from pipelines.sites import PYDOC_DENY, serve
from pipelines.warc import read_records

pytestmark = pytest.mark.proof
KILLS = 5


def _nodes(url: str) -> dict[str, dict]:
    crawl = {"stage": "crawl", "seeds": [url], "max_pages": 400, "delay": 0, "concurrency": 2}
    crawl |= {"part_pages": 16, "part_seconds": 3, "deny": list(PYDOC_DENY), "allow_private_addresses": True}
    return {"pages": crawl}


def _urls(folder: Path) -> list[str]:
    store = folder / "store"
    (page,) = manifests(folder / "run").values()
    (dataset,) = store.iterdir()
    return [r.url for f in page["shards"] for r in read_records(dataset / f["file"]) if r.kind == "response"]


def test_killed_five_times(tmp_path: Path, record_property) -> None:
    chance = random.Random(5)
    with serve() as sites:
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        started = time.monotonic()
        with driver(write_dag(whole, _nodes(sites.pydoc)), whole / "run") as run:
            assert run.wait(300) == 0, run.output()
        took = time.monotonic() - started
        config = write_dag(broken, _nodes(sites.pydoc))
        done: dict[str, bytes] = {}
        for kill in range(KILLS):
            with driver(config, broken / "run") as run:
                run.until(lambda: len(list((broken / "store").glob("*/commits/*"))) > len(done), 120)  # noqa: B023
                time.sleep(chance.uniform(0, took / 8))
                if kill % 2:
                    spiders = run.family("spider")
                    if spiders:
                        psutil.Process(spiders[0].pid).kill()
                        time.sleep(1)
                wait_gone(run.kill())
            now = commits(broken / "store")
            assert all(now[path] == record for path, record in done.items())
            done = now
        with driver(config, broken / "run") as run:
            assert run.wait(300) == 0, run.output()
        assert all(commits(broken / "store")[path] == record for path, record in done.items())
    one, other = _urls(whole), _urls(broken)
    assert len(one) == len(set(one)) and len(other) == len(set(other)), "a committed page was fetched again"
    assert set(one) == set(other)
    record_property("figure", f"{len(one)} pages, {KILLS} kills, the same set of URLs, none twice")
