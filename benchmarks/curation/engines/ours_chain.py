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

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.peers import serve
from pipelines import cluster
from pipelines.config import load
from pipelines.dataset import write_table
from pipelines.engine import Engine
from pipelines.registry import adapter, stage_class
from pipelines.storage import Folder

# held-out documents are tokenized apart: here all go the same way
CHAIN: dict[str, dict[str, Any]] = {
    "extract": {"heldout_fraction": 0.0},
    "url_rules": {},
    "gopher_quality": {},
    "gopher_repetition": {},
    "c4": {},
    "fineweb": {},
    "decide": {"presets": ["web"]},
    "exact_dedup": {"partitions": 2},
    "minhash_dedup": {"partitions": 2},
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
    before: list[dict[str, pa.Table]] = []
    for number, (phase, per) in enumerate(step.phases):
        work = getattr(step, phase)
        if per == "shard":
            mine = {name: table for tables in before for name, table in tables.items()}
            found = [work(k, shard, mine.get(f"{k:05d}")) for k, shard in enumerate(shards)]
        elif per == "partition":
            names = sorted({name for tables in before for name in tables})
            found = [work(name, [t[name] for t in before if name in t]) for name in names]
        else:
            found = [work([table for tables in before for table in tables.values()])]
        before = found
    return [tables[""] for tables in before]


def engine(warcs: str, tokenizer: str) -> dict:
    """The same chain as a DAG, by one worker; ``started`` is what Ray took to start, beside the rest."""
    started = time.perf_counter()
    cluster.connect(None, 1)
    started = time.perf_counter() - started
    nodes: dict[str, dict] = {
        "pages": {"stage": "read_warc", "paths": [f"{warcs}/*"]},
        "tokenizer": {"stage": "load_tokenizer", "path": tokenizer},
    }
    before = "pages"
    for name, given in CHAIN.items():
        inputs = {"documents": before, "tokenizer": "tokenizer"} if name == "tokenize" else {}
        nodes[name] = {"stage": name, **({"inputs": inputs} if inputs else {"input": before}), **given}
        before = name
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "dag.yaml")
        file.write_text(json.dumps({"name": "chain", "store": f"{folder}/store", "nodes": nodes}))
        runner = Engine(load(file), Path(folder, "run"), workers=1)
        begun = time.perf_counter()
        if code := runner.run():
            raise RuntimeError(f"exit code {code}: {[job.error for job in runner.jobs.values()]}")
        wall = time.perf_counter() - begun
        jobs = runner.jobs
        tokens = jobs["tokenize"].manifest
        result = {
            "kept": tokens.counts["kept"],
            "tokens": tokens.counts["tokens"],
            "wall": wall,
            "started": started,
            "seconds": {name: round(job.ended - job.started, 3) for name, job in jobs.items()},
            "items": sum(len(job.commits) for job in jobs.values()),
        }
    cluster.disconnect()
    return result


if __name__ == "__main__":
    serve(bare=bare, engine=engine)
