"""kill -9 of a crawl at random moments: the set of URLs is that of an unbroken crawl."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.warc import read_records

# What an engine does: commit a part (a name appears at once, whole), then ask for the next.
DRIVER = """
import json, os, shutil, sys
from pathlib import Path
from pipelines.crawl.stage import Crawl
folder = Path(sys.argv[1])
stage = Crawl.from_json(json.loads(sys.argv[2]))
for part in stage.read({}, sorted(folder.glob("*.warc.gz"))):
    shutil.copy(part, folder / "copy")
    os.rename(folder / "copy", folder / part.name)
"""
ROOT = Path(__file__).parents[2]


def graph(pages: int) -> dict[str, list[str]]:
    chosen = random.Random(7)
    names = ["/"] + [f"/{chosen.getrandbits(32):08x}" for _ in range(pages - 1)]
    return {name: chosen.sample(names, 4) + ["/gone"] for name in names}


def breadth_first(links: dict[str, list[str]], max_pages: int) -> set[str]:
    """The oracle: level by level, in order inside a level, cut at max_pages."""
    level, seen, order = ["/"], {"/"}, []
    while level:
        order += level
        found = {link for page in level for link in links.get(page, [])} - seen
        seen |= found
        level = sorted(found)
    return set(order[:max_pages])


def start(folder: Path, root: str, max_pages: int) -> subprocess.Popen:
    import json

    job = {"seeds": [root + "/"], "max_pages": max_pages, "delay": 0.0, "concurrency": 3}
    job |= {"part_pages": 6, "allow_private_addresses": True}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), json.dumps(job)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )


def committed(folder: Path) -> list[str]:
    parts = sorted(folder.glob("*.warc.gz"))
    return [record.url for part in parts for record in read_records(part) if record.url]


def test_killed_at_random_moments(serve, tmp_path):
    links = graph(100)
    seed = random.SystemRandom().randrange(10**6)
    chosen = random.Random(seed)
    site = serve(links, wait=0.02)
    max_pages = 80
    for victim in ("driver", "spider", "driver"):
        before = set(committed(tmp_path))
        asked = len(site.asked)
        driver = start(tmp_path, site.root, max_pages)
        moment = asked + chosen.randrange(3, 22)
        while len(site.asked) < moment:
            assert driver.poll() is None, f"the crawl ended by itself (seed {seed})"
            time.sleep(0.005)
        (spider,) = psutil.Process(driver.pid).children()
        (driver if victim == "driver" else spider).kill()
        driver.wait(10)
        spider.wait(5)
        again = before & {site.url(path) for path in site.paths()[asked:]}
        assert not again, f"asked again though committed (seed {seed})"
    before, asked = set(committed(tmp_path)), len(site.asked)
    driver = start(tmp_path, site.root, max_pages)
    assert driver.wait(60) == 0
    assert not before & {site.url(path) for path in site.paths()[asked:]}, f"seed {seed}"

    found = committed(tmp_path)
    assert before and len(found) == len(set(found)), f"a URL was committed twice (seed {seed})"
    expected = breadth_first(links, max_pages)
    assert len(expected) == max_pages
    assert set(found) == {site.url(path) for path in expected | {"/robots.txt"}}, f"seed {seed}"


def test_the_crawl_does_not_run_ahead_of_its_commits(serve, tmp_path):
    import shutil

    from pipelines.crawl.stage import Crawl

    site = serve(graph(60))
    stage = Crawl(seeds=(site.url("/"),), delay=0.0, part_pages=5, allow_private_addresses=True)
    parts = stage.read({}, [])
    shutil.copy(next(parts), tmp_path)
    time.sleep(1.5)
    # Two closed parts, one that is open and full or nearly so, and what was in flight.
    assert len(site.asked) <= 5 * 2 + 2 * stage.concurrency + 1
    parts.close()
    with pytest.raises(StopIteration):
        next(parts)
