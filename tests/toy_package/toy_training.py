"""Small trainings: token datasets as a tokenize node writes them, a config, ranks of torchrun.

    python -m torch.distributed.run ... -m toy_training JOBS.json

trains each config of a JSON list, one after the other, and notes which sequences a rank was given.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).parents[2]
EOS = 0
VOCAB = 61
MODEL = {
    "vocab_size": None, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_q_heads": 8, "num_k_heads": 2, "num_v_heads": 4, "head_dim": 8, "aug_q_dim": 40,
    "rope_theta": 1000.0, "max_position_embeddings": 64, "initializer_range": 0.1,
}  # fmt: skip


def write_tokens(
    folder: Path,
    documents: Sequence[Sequence[int]],
    *,
    rows_per_group: int = 4,
    groups_per_shard: int = 2,
    vocab_size: int = VOCAB,
) -> Path:
    """A token dataset; ``documents`` are without the end token, document i has the id "<folder>-i"."""
    name = folder.name
    (folder / "data").mkdir(parents=True)
    rows = [[*document, EOS] for document in documents]
    schema = pa.schema([
        ("doc_id", pa.string()), ("tokens", pa.list_(pa.uint32())),
        ("source", pa.string()), ("domain_label", pa.string()),
    ])  # fmt: skip
    shards, per_shard = [], rows_per_group * groups_per_shard
    for number, begin in enumerate(range(0, len(rows), per_shard)):
        path = folder / "data" / f"{number:05d}.parquet"
        part = rows[begin : begin + per_shard]
        counts = []
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for low in range(0, len(part), rows_per_group):
                group = part[low : low + rows_per_group]
                first = begin + low
                ids = [f"{name}-{first + i}" for i in range(len(group))]
                columns = [ids, group, ["test"] * len(group), [None] * len(group)]
                writer.write_table(pa.table(columns, schema=schema))
                counts.append(sum(map(len, group)))
        shards.append({
            "file": f"data/{path.name}", "rows": len(part), "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "content_hash": "",
            "token_counts": counts,
        })  # fmt: skip
    content = json.dumps([name, rows]).encode()
    manifest = {
        "kind": "tokens", "schema_version": 1,
        "fingerprint": hashlib.sha256(content).hexdigest(),
        "tokens": {"vocab_size": vocab_size, "eos_id": EOS, "tokenizer_hash": "abc"},
        "shards": shards,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def counting(count: int, seed: int) -> list[list[int]]:
    """Documents that count upwards from somewhere: easy to learn."""
    starts = np.random.default_rng(seed).integers(0, 60, count)
    return [[(start + i) % 60 + 1 for i in range(30)] for start in starts.tolist()]


def small_training(folder: Path) -> dict[str, Any]:
    """A small but whole training config whose data and output lie in ``folder``."""
    return {
        "model": MODEL,
        "data": {
            "train": [str(write_tokens(folder / "train", counting(60, 0)))],
            "heldout": [str(write_tokens(folder / "heldout", counting(8, 1)))],
            "window_tokens": 500,
        },
        "sequence_length": 32, "batch_sequences": 4, "steps": 24, "seed": 3, "threads": 1,
        "optimizer": {"learning_rate": 0.01}, "schedule": {"warmup_steps": 4},
        "eval_interval": 12, "eval_sequences": 4, "checkpoint_interval": 4,
        "output": str(folder / "run"),
    }  # fmt: skip


def metrics(folder: str | Path) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl, without notes."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "note" not in row]


def curve(folder: str | Path) -> list[tuple[Any, ...]]:
    """What must be bitwise equal in a run that was broken: all but times."""
    keys = ("step", "loss", "heldout_loss", "lr", "grad_norm", "tokens", "phase")
    return [tuple(row.get(key) for key in keys) for row in metrics(folder)]


def apart(one: str | Path, other: str | Path) -> float:
    """The largest difference between the losses of two runs' steps, relative to the loss."""
    rows = list(zip(metrics(one), metrics(other), strict=True))
    assert len(rows) > 1
    pairs = [(a[key], b[key]) for a, b in rows for key in ("loss", "heldout_loss") if a.get(key) is not None]
    return max(abs(a - b) / abs(a) for a, b in pairs)


def consumed(folder: str | Path) -> dict[int, list[int]]:
    """Sequence numbers of each step over all ranks, as the last attempt at the step was given them."""
    steps: dict[int, dict[int, list[int]]] = {}
    for path in Path(folder).glob("consumed-*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            attempt = steps.setdefault(row["step"], {}).setdefault(row["attempt"], [])
            attempt += row["numbers"]
    return {step: sorted(attempts[max(attempts)]) for step, attempts in sorted(steps.items())}


def start_ranks(count: int, jobs: list[dict[str, Any]], folder: Path, attempt: int = 0) -> subprocess.Popen:
    """torchrun with ``count`` ranks on this machine's loopback that train ``jobs`` one after the other."""
    path = folder / f"jobs-{count}-{attempt}.json"
    path.write_text(json.dumps(jobs))
    here = [str(REPOSITORY), str(Path(__file__).parent)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    command += ["--master-addr", "127.0.0.1", "--master-port", "0", "--rdzv-backend", "c10d"]
    command += [
        "--rdzv-endpoint",
        "127.0.0.1:0",
        "--local-addr",
        "127.0.0.1",
        "-m",
        "toy_training",
        str(path),
    ]
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join(here), "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo", "ATTEMPT": str(attempt),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )  # fmt: skip


def run_ranks(count: int, jobs: list[dict[str, Any]], folder: Path, attempt: int = 0) -> None:
    """As start_ranks, to the end. Raises AssertionError with the ranks' words when one fails."""
    process = start_ranks(count, jobs, folder, attempt)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-6000:]


def record_sequences() -> None:
    """Have every loader of this process note what it hands out in <output>/consumed-<rank>.jsonl."""
    from sigma_model.training import loop

    class Recording(loop.Loader):
        def __next__(self) -> Any:
            batch = super().__next__()
            path = Path(self.config.output) / f"consumed-{os.environ.get('RANK', '0')}.jsonl"
            row = {
                "step": batch.step,
                "attempt": int(os.environ.get("ATTEMPT", "0")),
                "numbers": batch.sequence_numbers.tolist(),
            }
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            return batch

    loop.Loader = Recording  # type: ignore[misc]


def main() -> None:
    import torch.distributed as dist

    from sigma_model.training.config import build_config
    from sigma_model.training.loop import train

    record_sequences()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    for values in json.loads(Path(sys.argv[1]).read_text()):
        train(build_config(values))


if __name__ == "__main__":
    main()
