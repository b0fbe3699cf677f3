"""Runs of toy DAGs for tests: in this process, or by a driver that a test can kill."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipelines.config import load
from pipelines.engine import Engine

ROWS = 50  # rows a shard of toy_source
SHAPES = ("source", "map", "expand", "shuffle", "fit")


def write_dag(folder: Path, nodes: dict[str, dict], **top: Any) -> Path:
    """A DAG file in ``folder`` with its store beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "dag.yaml"
    page = {"name": "toys", "seed": 3, "store": str(folder / "store"), **top, "nodes": nodes}
    file.write_text(yaml.safe_dump(page, sort_keys=False))
    return file


def all_shapes(journal: Path | str = "", slow: str = "", seconds: float = 0.0) -> dict[str, dict]:
    """One node of each shape; the one named ``slow`` pauses ``seconds`` an item."""
    nodes: dict[str, dict] = {
        "source": {"stage": "toy_source", "parts": 2, "shards": 3},
        "map": {"stage": "toy_map", "input": "source", "drop_modulo": 10},
        "expand": {"stage": "toy_expand", "input": "map"},
        "shuffle": {"stage": "toy_shuffle", "input": "expand", "modulo": 120},
        "fit": {"stage": "toy_fit", "input": "shuffle", "steps": 8},
    }
    for name, node in nodes.items():
        node["journal"] = str(journal)
        node["seconds"] = seconds if name == slow else 0.0
    return nodes


def run(config: Path, folder: Path, settings: list[str] | None = None, **options: Any) -> tuple[int, Engine]:
    """Run in this process, on the session's Ray."""
    engine = Engine(load(config, settings), folder, **options)
    return engine.run(), engine


def manifests(folder: Path) -> dict[str, dict]:
    """The manifest of each node of a run."""
    store = Path(json.loads((folder / "run.json").read_text())["store"])
    links = json.loads((folder / "links.json").read_text())
    return {
        node: json.loads((store / link["dataset"] / link["manifest"]).read_text())
        for node, link in links.items()
    }


def hashes(folder: Path) -> dict[str, list[tuple[str, ...]]]:
    """Role, content_hash and sha256 of every file of every node of a run."""
    roles = ("shards", "dropped", "quarantined")
    return {
        node: [(role, f["content_hash"], f["sha256"]) for role in roles for f in manifest[role]]
        for node, manifest in manifests(folder).items()
    }


def commits(store: Path) -> dict[str, bytes]:
    """Every commit record in a store, by path."""
    files = sorted(store.glob("*/commits/*.json"))
    return {str(file.relative_to(store)): file.read_bytes() for file in files}


def events(folder: Path, event: str) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [page for page in map(json.loads, lines) if page["event"] == event]


def journal(file: Path) -> collections.Counter:
    """How often each thing was done."""
    return collections.Counter(file.read_text().splitlines() if file.exists() else [])


def journal_line(commit: str) -> str | None:
    """The journal's line of a commit of ``all_shapes``, by its path; None where one line is not all."""
    node, item = commit.split("-")[0], Path(commit).stem
    if node == "fit" or (node == "source" and ".p" not in item):
        return None
    if node == "source":
        shard, _, part = item.partition(".p")
        return f"source {int(shard[1:])} {int(part)}"
    if node in ("map", "expand"):
        # the map drops the numbers that divide by ten, the first of a shard among them
        first = ROWS * int(item[1:]) + (node == "expand")
        return f"{'toy' if node == 'map' else 'expand'} {first}"
    phase, _, what = item.partition("-")
    return "gather" if phase == "gather" else f"{phase} {int(what) if what.isdigit() else what}"


def assert_committed_once(before: dict[str, bytes], store: Path, lines: collections.Counter) -> None:
    """What was committed ``before`` a kill is there unchanged, and was done exactly once."""
    now = commits(store)
    for path, record in before.items():
        assert now[path] == record, f"{path} was written twice"
        line = journal_line(path)
        assert line is None or lines[line] == 1, f"{path} was committed, and done again"


class Driver:
    """``corpusmill run`` as a process of its own."""

    def __init__(self, config: Path, folder: Path, *args: str, env: dict[str, str] | None = None):
        self.out = folder.parent / f"{folder.name}.out"
        command = [sys.executable, "-m", "pipelines.cli", "run", str(config), "--run", str(folder)]
        if "--ray-address" not in args:
            command += ["--workers", "2"]
        root = Path(__file__).parents[2]
        with open(self.out, "a") as out:
            self.process = subprocess.Popen(
                [*command, *args],
                cwd=root,
                env={**os.environ, **(env or {})},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def until(self, ready: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for a moment in the driver's life; fails with its output when it never comes."""
        wait_for(lambda: ready() or self.process.poll() is not None, seconds, self.output)
        assert self.process.poll() is None, f"the driver ended too early:\n{self.output()}"

    def family(self, word: str = "") -> list[psutil.Process]:
        """Every process this driver has started, and what those have started; with ``word``, those that
        have it in their title or command line."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in processes if word in _line(process)] if word else processes

    def kill(self) -> list[psutil.Process]:
        """SIGKILL to the driver alone; returns what it leaves behind at that moment."""
        family = self.family()
        self.process.kill()
        self.process.wait()
        return family

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """As a terminal does it: Ctrl-C reaches the whole group."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def wait(self, seconds: float = 90) -> int:
        return self.process.wait(seconds)

    def output(self) -> str:
        return self.out.read_text()


def _line(process: psutil.Process) -> str:
    """Title (cut to 15 characters) and command line; nothing of a process that has just ended."""
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return ""


@contextmanager
def driver(config: Path, folder: Path, *args: str, env: dict[str, str] | None = None) -> Iterator[Driver]:
    """A Driver that does not outlive the test, nor do its children."""
    started = Driver(config, folder, *args, env=env)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            for process in started.kill():
                if process.is_running():
                    process.kill()


def wait_for(ready: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"waited {seconds} s in vain\n{explain()}"
        time.sleep(0.02)


def wait_gone(processes: list[psutil.Process]) -> None:
    """Nothing that a driver leaves behind may live 10 s after it."""
    wait_for(lambda: not alive(processes), 10, lambda: f"left behind: {alive(processes)}")


def alive(processes: list[psutil.Process]) -> list[str]:
    """Those of ``processes`` that still run; a zombie does not."""
    left = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
        except psutil.NoSuchProcess:
            pass
    return left
