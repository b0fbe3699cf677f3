"""What the tests of synthesis share: documents to begin with, the scripted endpoint, facts of a run."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import importlib
import importlib.util
import json
import pydoc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tiny_models import doc_of
from toy_runs import manifests

from pipelines.dataset import Manifest
from synth.plan import request_seed
from synth.recipe import builtin_recipes

MODULES = ("json", "argparse", "textwrap", "csv", "heapq", "shutil", "bisect", "configparser")


def pydoc_documents(limit: int) -> list[tuple[str, str]]:
    """(name, documentation) of the standard library's modules and of their classes, real texts all."""
    left_out = {"antigravity", "this", "idlelib", "turtledemo", "turtle", "tkinter", "lib2to3", "test"}
    found: dict[str, str] = {}
    for name in sorted(sys.stdlib_module_names - left_out):
        if name.startswith("_") or not importlib.util.find_spec(name):
            continue
        with contextlib.suppress(Exception):
            module = importlib.import_module(name)
            found[name] = doc_of(module)
            for key, value in vars(module).items():
                if isinstance(value, type) and value.__module__ == name:
                    found[f"{name}.{key}"] = pydoc.plain(pydoc.render_doc(value))
    long_enough = [(name, text) for name, text in found.items() if len(text.split()) >= 120]
    return long_enough[:limit]


def write_documents(folder: Path, modules: tuple[str, ...] = MODULES, shards: int = 2) -> dict[str, Any]:
    """Parquet files of the modules' documentation; the node that reads them."""
    return write_texts(folder, [(name, doc_of(importlib.import_module(name))) for name in modules], shards)


def write_texts(folder: Path, texts: list[tuple[str, str]], shards: int) -> dict[str, Any]:
    """Parquet files of (name, text); the node that reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        mine = texts[shard::shards]
        columns = {
            "id": [hashlib.blake2b(name.encode(), digest_size=16).hexdigest() for name, _ in mine],
            "text": pa.array([text for _, text in mine], pa.large_string()),
            "title": [name for name, _ in mine],
            "url": [f"http://example.com/{name}" for name, _ in mine],
        }
        pq.write_table(pa.table(columns), folder / f"{shard}.parquet")
    return {
        "stage": "read_parquet",
        "paths": [str(folder / "*.parquet")],
        "source": "pydoc",
        "heldout_fraction": 0.0,
    }


class Scripted:
    """The endpoint of scripted_server.py as a process of its own."""

    def __init__(self, folder: Path, **script: Any):
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "asked.jsonl"
        self.script = {"log": str(self.log), **script}
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(Path(__file__).parent / "scripted_server.py"), json.dumps(self.script)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.script["port"] = int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.script['port']}/v1"

    def asked(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def answered(self) -> collections.Counter:
        """How often each question, by its seed, was answered."""
        return collections.Counter(page["seed"] for page in self.asked() if page["what"] == "answered")


@contextmanager
def scripted(folder: Path, **script: Any) -> Iterator[Scripted]:
    server = Scripted(folder, **script)
    try:
        yield server
    finally:
        server.stop()


def endpoint(server: Scripted, **settings: Any) -> dict[str, Any]:
    """The ``engine`` of a node that asks ``server``."""
    return {"kind": "openai", "base_url": server.url, "model": "scripted", "context": 16384, **settings}


def rows(folder: Path, node: str, role: str = "shards") -> list[dict]:
    """Every row of one node of a run: "shards", "dropped" or "quarantined"."""
    store = Path(json.loads((folder / "run.json").read_text())["store"])
    link = json.loads((folder / "links.json").read_text())[node]
    manifest = Manifest(**manifests(folder)[node])
    files = [store / link["dataset"] / file["file"] for file in getattr(manifest, role)]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def recorded(store: Path) -> list[str]:
    """Keys of every whole line in every journal of a store."""
    keys = []
    for file in sorted(store.glob("*/scratch/*/generations.jsonl")):
        for line in file.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                keys.append(json.loads(line.split(b" ", 1)[1])["key"])
    return keys


def seed_of(key: str, seed: int) -> int:
    """The seed of the question with this key, in a run with the seed ``seed``."""
    id_, part, recipe, _, _, attempt = key.split("/")
    return request_seed(seed, id_, int(part), builtin_recipes()[recipe], int(attempt))
