"""Our chain, WARC to token shards: the stages called here, one after the other, or through the engine.

Both write Parquet token shards; the engine writes what lies between, with commits and manifests.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.peers import serve
from pipelines import cluster
from pipelines.config import load
from pipelines.dataset import write_table
from pipelines.engine import Engine
from pipelines.job import Job
from pipelines.registry import adapter, stage_class
from pipelines.storage import Folder

# held-out documents are tokenized apart: here all go the same way
CHAIN: dict[str, dict[str, Any]] = {
    "extract": {"heldout_fraction": 0.0},
    "url_rules": {},
    "text_statistics": {},
    "decide": {"presets": ["web"]},
    # 2 x 16 items for a few thousand documents would measure the items
    "exact_dedup": {"partitions": 2},
    "minhash_dedup": {},
    "tokenize": {},
}


def bare(warcs: str, tokenizer: str) -> dict:
    """Each stage over all shards, in memory; Parquet is written at the end alone."""
    shards: list[Any] = sorted(Path(warcs).iterdir())
    left: Counter[str] = Counter()
    seconds = {}
    for name, given in CHAIN.items():
        started = time.process_time()
        step = adapter(stage_class(name)).validate_python(given)
        if step.shape == "map":
            shards = [step.annotate(shard) for shard in shards]
        elif step.shape == "shuffle":
            shards = _shuffle(step, shards)
        else:
            artifacts = {"tokenizer": Path(tokenizer)} if name == "tokenize" else {}
            shards = [step.expand(shard, **artifacts) for shard in shards]
        shards = [_stays(shard, left) for shard in shards]
        seconds[name] = time.process_time() - started
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for number, shard in enumerate(shards):
            write_table(Folder(folder), f"s{number:05d}", "rows", shard)
    seconds["write"] = time.process_time() - started
    return {
        "kept": sum(shard.num_rows for shard in shards),
        "tokens": sum(pc.sum(pc.list_value_length(shard["tokens"])).as_py() or 0 for shard in shards),
        "left": left,
        "seconds": seconds,
    }


def _stays(table: pa.Table, left: Counter[str]) -> pa.Table:
    """The rows without a verdict; counts those that go, by rule."""
    verdict = table["drop_rule"] if "drop_rule" in table.column_names else pa.nulls(len(table), pa.string())
    if "error" in table.column_names:
        verdict = pc.if_else(pc.is_valid(table["error"]), "error", verdict)
    left.update(value for value in verdict.drop_null().to_pylist())
    own = {"drop_rule", "error", "parent_row"} & set(table.column_names)
    return table.drop_columns(sorted(own)).filter(pc.is_null(verdict))


def _shuffle(step: Any, shards: list[pa.Table]) -> list[pa.Table]:
    """The phases of a shuffle as the engine would run them (pipelines/stage.py), without files."""
    if hasattr(step, "sized"):
        step = step.sized(sum(shard.num_rows for shard in shards))
    before: list[dict[str, pa.Table]] = []
    for phase, per in step.phases:
        work = getattr(step, phase)
        named: dict[str, list[pa.Table]] = {}
        for tables in before:
            for name in tables.keys() - {"report"}:
                named.setdefault(name, []).append(tables[name])
        if per == "shard":
            is_end = phase in (step.phases[0][0], step.phases[-1][0])
            names = [f"{k:05d}" for k in range(len(shards))]
            before = [
                work(k, shards[k], pa.concat_tables(named[name]) if name in named else None)
                for k, name in enumerate(names)
                if is_end or name in named
            ]
        elif per == "partition":
            before = [work(name, named[name]) for name in sorted(named)]
        else:
            before = [work([table for tables in named.values() for table in tables])]
    return [tables[""] for tables in before]


def engine(warcs: str, warm: str, tokenizer: str) -> dict:
    """The same chain as a DAG, by one worker that has run it on the folder ``warm`` before.

    ``cpu`` is that of the driver, Ray and the worker; ``started`` is what Ray took to start.
    """
    started = time.perf_counter()
    cluster.connect(None, 1)
    started = time.perf_counter() - started
    try:
        _run(warm, tokenizer)
        cpu, wall = _tree_cpu(), time.perf_counter()
        jobs = _run(warcs, tokenizer)
        cpu, wall = _tree_cpu() - cpu, time.perf_counter() - wall
    finally:
        cluster.disconnect()
    counts = jobs["tokenize"].manifest.counts
    return {
        "kept": counts["kept"],
        "tokens": counts["tokens"],
        "seconds": {name: sum(c.seconds for c in job.commits.values()) for name, job in jobs.items()},
        "items": sum(len(job.commits) for job in jobs.values()),
        "cpu": cpu,
        "wall": wall,
        "started": started,
    }


def _run(warcs: str, tokenizer: str) -> dict[str, Job]:
    nodes: dict[str, dict] = {
        "pages": {"stage": "read_warc", "paths": [f"{warcs}/*"]},
        "tokenizer": {"stage": "load_tokenizer", "path": tokenizer},
    }
    before = "pages"
    for name, given in CHAIN.items():
        takes: dict[str, Any] = {"input": before}
        if name == "tokenize":
            takes = {"inputs": {"documents": before, "tokenizer": "tokenizer"}}
        nodes[name] = {"stage": name, **takes, **given}
        before = name
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "dag.yaml")
        file.write_text(json.dumps({"name": "chain", "store": f"{folder}/store", "nodes": nodes}))
        runner = Engine(load(file), Path(folder, "run"), workers=1)
        if code := runner.run():
            raise RuntimeError(f"exit code {code}: {[job.error for job in runner.jobs.values()]}")
    return runner.jobs


def _tree_cpu() -> float:
    """CPU seconds of this process and all that descend from it."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [this, *this.children(recursive=True)])


if __name__ == "__main__":
    serve(bare=bare, engine=engine)
