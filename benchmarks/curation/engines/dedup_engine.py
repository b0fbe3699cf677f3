"""Ours through the engine: the node minhash_dedup, with its work items, commits and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml

from benchmarks.peers import serve
from pipelines.config import load
from pipelines.engine import Engine

# small enough that two workers end together
ITEM_BYTES = 64_000_000


def documents(file: str, folder: str, workers: int) -> None:
    """Make the dataset that is deduplicated, and start Ray."""
    _run(file, folder, workers, seed=1, until="documents")


def dedup(file: str, folder: str, workers: int, seed: int, out: str) -> dict:
    """Save the rows that are kept; seconds from the first item's start to each phase's last commit."""
    dataset = _run(file, folder, workers, seed, until="near")
    items: dict[str, list[tuple[float, float]]] = {}
    for path in (dataset / "commits").glob("*.json"):
        commit = json.loads(path.read_text())
        written = path.stat().st_mtime_ns / 1e9
        items.setdefault(path.stem.split("-")[0], []).append((written - commit["seconds"], written))
    start = min(begun for begun, _ in items["sign"])
    ends = {phase: max(end for _, end in spans) - start for phase, spans in items.items()}
    manifest = json.loads((dataset / "manifest.json").read_text())
    rows = [pq.read_table(dataset / shard["file"], columns=["row"])["row"] for shard in manifest["shards"]]
    np.save(out, np.concatenate([column.to_numpy() for column in rows]))
    return {
        "phases": dict(sorted(ends.items(), key=lambda pair: pair[1])),
        "items": sum(map(len, items.values())),
    }


def _run(file: str, folder: str, workers: int, seed: int, until: str) -> Path:
    nodes = {
        "documents": {"stage": "read_parquet", "paths": [file], "keep": ["row"], "item_bytes": ITEM_BYTES},
        "near": {"stage": "minhash_dedup", "input": "documents", "seed": seed},
    }
    config = Path(folder) / "dag.yaml"
    store = Path(folder) / "store"
    config.write_text(yaml.safe_dump({"name": "dedup", "seed": 1, "store": str(store), "nodes": nodes}))
    engine = Engine(load(config), Path(folder) / "run", until=until, workers=workers)
    if code := engine.run():
        raise RuntimeError(f"exit code {code}: {[job.error for job in engine.jobs.values()]}")
    links = json.loads((Path(folder) / "run/links.json").read_text())
    return store / links[until]["dataset"]


serve(documents=documents, dedup=dedup)
