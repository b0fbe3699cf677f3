"""The loader killed at random moments on 1, 2 and 4 ranks, and resumed in the middle of 10^9 tokens."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.proof
ROOT = Path(__file__).parents[2]
KILLS = 12
VOCAB = 50_000
# reads all ranks' batches step by step; the log of a step counts once the checkpoint after it is there
CONSUMER = """
import hashlib, json, os, sys
import numpy as np
from pathlib import Path
from sigma_model.training.config import build_config
from sigma_model.training.loader import Loader
folder, ranks = Path(sys.argv[1]), int(sys.argv[2])
config = build_config(json.loads((folder / "config.json").read_text()))
checkpoint = folder / "checkpoint.json"
loaders = [Loader(config, ranks, rank) for rank in range(ranks)]
log = []
if checkpoint.exists():
    log, state = json.loads(checkpoint.read_text())
    for loader in loaders:
        loader.load_state(state)
print("ready", flush=True)
for parts in zip(*loaders, strict=True):
    ids = np.concatenate([part.input_ids.numpy() for part in parts])
    log.append([np.concatenate([part.sequence_numbers for part in parts]).tolist(),
                hashlib.sha256(ids.tobytes()).hexdigest()])
    if len(log) % 3 == 0 or len(log) == config.steps:
        (folder / "new.json").write_text(json.dumps([log, loaders[-1].state()]))
        os.replace(folder / "new.json", checkpoint)
    print(len(log), flush=True)
"""


def write_shard(path: Path, groups: int, group_tokens: int, seed: int) -> dict[str, Any]:
    """A shard of documents of about 600 tokens, and its line in a manifest."""
    rng = np.random.default_rng(seed)
    schema = pa.schema([("doc_id", pa.string()), ("tokens", pa.list_(pa.uint32()))])
    counts, rows = [], 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        lengths = np.clip(rng.lognormal(6, 1.1, group_tokens // 400).astype(np.int64), 2, None)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        offsets = offsets[offsets <= group_tokens]
        tokens = (rng.zipf(1.2, offsets[-1]) % VOCAB).astype(np.uint32)
        for group in range(groups):
            ids = [f"{seed:04x}{group:04x}{row:024x}" for row in range(len(offsets) - 1)]
            lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.roll(tokens, group)))
            writer.write_table(pa.table([ids, lists], schema=schema), row_group_size=len(ids))
            counts.append(int(offsets[-1]))
            rows += len(ids)
    return {"file": f"data/{path.name}", "rows": rows, "bytes": path.stat().st_size, "sha256": "",
            "content_hash": "", "token_counts": counts}  # fmt: skip


def write_manifest(folder: Path, shards: list[dict[str, Any]]) -> None:
    manifest = {
        "kind": "tokens", "schema_version": 1,
        "fingerprint": hashlib.sha256(folder.name.encode()).hexdigest(),
        "tokens": {"vocab_size": VOCAB, "eos_id": 0, "tokenizer_hash": "t"}, "shards": shards,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _consume(folder: Path, ranks: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", CONSUMER, str(folder), str(ranks)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def test_kills(tmp_path: Path, record_property: Any) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write_manifest(
            tmp_path / name, [write_shard(tmp_path / name / "data" / "0.parquet", 8, 50_000, seed)]
        )
    train = {name: [str(tmp_path / name)] for name in ("a", "b")}
    phases = [{"name": "first", "weights": {"a": 3, "b": 1}, "steps": 120,
               "ramp": [{"tokens": 512 * 16 * 40, "batch_sequences": 32}]},
              {"name": "second", "weights": {"a": 1, "b": 4}, "steps": 90}]  # fmt: skip
    config = {
        "model": "m", "output": "o", "sequence_length": 512, "batch_sequences": 16, "seed": 5,
        "data": {"train": train, "phases": phases, "packing": "best_fit", "window_tokens": 200_000},
    }  # fmt: skip
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    process = _consume(tmp_path / "unbroken", 1)
    assert process.wait() == 0
    expected, end = json.loads((tmp_path / "unbroken" / "checkpoint.json").read_text())
    assert sum([numbers for numbers, _ in expected], []) == list(range(40 * 16 + 80 * 32 + 90 * 16))
    kills, places = 0, []
    while kills < KILLS:
        process = _consume(tmp_path / "killed", random.choice([1, 2, 4]))
        assert process.stdout is not None
        for _ in range(random.randint(1, 25)):
            places.append(int(process.stdout.readline()))
        process.kill()
        process.wait()
        kills += 1
    assert _consume(tmp_path / "killed", 2).wait() == 0
    found, state = json.loads((tmp_path / "killed" / "checkpoint.json").read_text())
    assert found == expected and state == end
    record_property(
        "figure",
        f"{kills} kills on 1, 2 or 4 ranks, after {len(places)} steps together: the "
        f"{sum(len(numbers) for numbers, _ in found):,} sequences of the unbroken run, in its order, with "
        "its bytes, over two epochs and a phase change",
    )


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def test_resume_in_a_thousand_million_tokens(tmp_path: Path, record_property: Any) -> None:
    from sigma_model.training.config import build_config
    from sigma_model.training.loader import Loader

    folder = tmp_path / "large"
    shard = write_shard(folder / "data" / "0.parquet", 16, 4 << 20, 3)
    for number in range(1, 16):  # other names of one file: what is read is as large
        os.link(folder / "data" / "0.parquet", folder / "data" / f"{number}.parquet")
    write_manifest(folder, [{**shard, "file": f"data/{number}.parquet"} for number in range(16)])
    tokens = 16 * sum(shard["token_counts"])
    assert tokens > 10**9
    config = build_config({
        "model": "m", "output": "o", "sequence_length": 4096, "batch_sequences": 64, "steps": 10**6,
        "data": {"train": [str(folder)], "packing": "best_fit"},
    })  # fmt: skip
    loader = Loader(config)
    state = loader.state()
    loader.close()
    # in the middle of the second epoch
    step = 3 * tokens // 2 // (64 * 4096)
    state["phases"] = [{**state["planned"].pop(0), "steps": step, "sequences": 64 * step, "tokens": {}}]
    seconds, read = [], []
    for _ in range(3):
        before, started, cpu = _bytes_read(), time.monotonic(), time.process_time()
        loader = Loader(config)
        loader.load_state(state)
        batch = next(loader)
        seconds.append((time.monotonic() - started, time.process_time() - cpu))
        loader.close()
        read.append(_bytes_read() - before)
        assert batch.sequence_numbers[0] == 64 * step
    # a window now, and at most one that is read ahead
    assert max(read) < 0.05 * 16 * shard["bytes"]
    wall, cpu = min(seconds)
    record_property(
        "figure",
        f"resumed in epoch 2 of {tokens:,} tokens (a file of {shard['bytes'] / 1e6:.0f} MB under 16 names): "
        f"first batch after {wall:.2f} s, {cpu:.2f} s of CPU, {min(read) / 1e6:.0f} MB read",
    )


def test_a_plan_of_a_million_million_tokens(tmp_path: Path, record_property: Any) -> None:
    from sigma_model.training.data import open_datasets
    from sigma_model.training.sequences import PackedSequences

    counts = [4_000_000] * 16
    shards = [
        {"file": f"data/{i}.parquet", "rows": 1, "bytes": 1, "token_counts": counts} for i in range(15_625)
    ]
    write_manifest(tmp_path / "huge", shards)
    started = time.process_time()
    dataset = open_datasets([str(tmp_path / "huge")], "none")
    stream = PackedSequences(dataset, sequence_length=4096, seed=1)
    first = stream.sequences_in_epoch(0)
    assert stream.locate(first + 123_456_789) == (1, 123_456_789)
    record_property(
        "figure",
        f"manifest of {dataset.num_tokens:.0e} tokens, no files: a sequence of epoch 2 found after "
        f"{time.process_time() - started:.2f} s of CPU",
    )
