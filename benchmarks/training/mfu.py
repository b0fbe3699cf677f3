"""Throughput and MFU of the training loop on one GPU, with each attention backend; ``--tiny`` on a CPU.

python -m benchmarks.training.mfu [--tiny] [--steps 12] [--micro 2] [--eager]
Sigma-1.5B, sequences of 4,096, bf16, blocks compiled. It is the real loop, ``python -m
sigma_model.training``, in a process of its own for each backend, on shards of random tokens, read, packed
and masked as any; the figure is the median step after the first third. The losses of the backends must
agree, or nothing is reported. Both conventions of MFU: all pairs of positions, and the causal half.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks.results import Row, publish, versions_of
from sigma_model.config import read_model_config
from sigma_model.counts import training_flops_per_token
from sigma_model.shapes import read_shape

# bf16 of different kernels, over a dozen steps
LOSSES_AGREE = 0.02
TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_q_heads": 4,
    "num_k_heads": 1, "num_v_heads": 2, "head_dim": 16, "aug_q_dim": 96, "max_position_embeddings": 256,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Train with each backend, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.mfu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a small model on the CPU: does it run?")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of each backend")
    parser.add_argument("--micro", type=int, default=2, help="sequences of one forward pass")
    parser.add_argument("--accumulate", type=int, default=4, help="forward passes of one step")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--checkpointing", action="store_true", help="with activation checkpointing")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("torch sees no GPU; --tiny runs on the CPU")
    model = TINY if options.tiny else read_shape("configs/model/sigma_1_5b.yaml")
    length = 128 if options.tiny else 4096
    backends = ("sdpa", "reference") if options.tiny else ("sigma", "cudnn", "sdpa")
    base = {
        "model": model,
        "sequence_length": length,
        "batch_sequences": options.micro * options.accumulate,
        "micro_batch_sequences": options.micro,
        "steps": options.steps,
        "dtype": "float32" if options.tiny else "bfloat16",
        "device": "cpu" if options.tiny else "cuda",
        "compile": not (options.tiny or options.eager),
        "activation_checkpointing": options.checkpointing,
        "schedule": {"warmup_steps": options.steps},
        "optimizer": {"learning_rate": 1e-4},
        "z_loss": 1e-4,
        "eval_interval": options.steps,
        "checkpoint_interval": options.steps,
    }
    # the CPU's figure is of no use: any peak will do
    if options.tiny:
        base["peak_tflops"] = 1.0
    runs, red = {}, []
    with tempfile.TemporaryDirectory() as folder:
        tokens = options.steps * base["batch_sequences"] * length
        data = _random_shard(Path(folder) / "tokens", tokens, model["vocab_size"], length)
        for backend in backends:
            output = Path(folder) / backend
            found = _train({**base, "attention": backend, "data": {"train": [str(data)]}}, output)
            # 32 GB of checkpoint and model
            shutil.rmtree(output)
            if isinstance(found, str):
                red.append(f"{backend}: {found}")
            else:
                runs[backend] = found
    losses = [run["loss"] for run in runs.values()]
    if losses and max(losses) - min(losses) > LOSSES_AGREE:
        red.append(f"the losses of the backends differ: {losses}")
    flops = training_flops_per_token(read_model_config(model), length)
    causal = training_flops_per_token(read_model_config(model), length, causal=True)
    rows = [row for backend, run in runs.items() for row in _rows(backend, run, causal / flops)]
    device = "CPU" if options.tiny else torch.cuda.get_device_name()
    if options.tiny:
        if red:
            sys.exit("\n".join(red))
        print("\n".join(f"{row.name}: {row.value:.4g} {row.unit}" for row in rows))
        return
    publish(
        "training_mfu",
        rows,
        red=red,
        versions=versions_of("torch", "triton", "transformers"),
        device=device,
        training=f"Sigma-1.5B, {options.steps} steps of {base['batch_sequences']} x {length} tokens, "
        f"{options.micro} sequences a pass",
        convention=f"full: 6 x matrix parameters + 6 x layers x Q heads x (d_k + d_v) x length = "
        f"{flops / 1e9:.2f} GFLOP a token; causal: half the attention = {causal / 1e9:.2f}",
    )


def _random_shard(folder: Path, tokens: int, vocab_size: int, length: int) -> Path:
    """A token dataset of documents of a quarter of a sequence on average."""
    (folder / "data").mkdir(parents=True)
    random = np.random.default_rng(0)
    lengths = random.integers(length // 8, 3 * length // 8, tokens // (length // 4) + 8)
    values = random.integers(1, vocab_size, int(lengths.sum()), dtype=np.uint32)
    ends = np.cumsum(lengths)
    values[ends - 1] = 0
    column = pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), pa.array(values))
    path = folder / "data" / "00000.parquet"
    names = pa.array([f"random-{row}" for row in range(len(lengths))])
    table = pa.table({
        "doc_id": names, "tokens": column, "source": pa.array(["random"] * len(lengths)),
        "domain_label": pa.nulls(len(lengths), pa.string()),
    })  # fmt: skip
    pq.write_table(table, path, compression="zstd", row_group_size=len(lengths))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = {
        "kind": "tokens", "schema_version": 1, "fingerprint": digest,
        "tokens": {"vocab_size": vocab_size, "eos_id": 0, "tokenizer_hash": "random"},
        "shards": [{
            "file": "data/00000.parquet", "rows": len(lengths), "bytes": path.stat().st_size,
            "sha256": digest, "content_hash": "", "token_counts": [len(values)],
        }],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _train(config: dict[str, Any], output: Path) -> dict[str, float] | str:
    """Medians of the later steps, or why there are none."""
    output.mkdir()
    path = output / "config.yaml"
    path.write_text(yaml.safe_dump({**config, "output": str(output)}))
    done = subprocess.run(
        [sys.executable, "-m", "sigma_model.training", str(path), "--progress", "json"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return done.stderr.strip()[-500:]
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    later = [row for row in lines if row["step"] > config["steps"] // 3]
    report = json.loads((output / "report.json").read_text())
    per_step = config["batch_sequences"] * config["sequence_length"]
    wait = statistics.median(row["data_wait"] * row["tokens_per_s"] / per_step for row in later)
    return {
        "tokens_per_s": statistics.median(row["tokens_per_s"] for row in later),
        "mfu": statistics.median(row["mfu"] for row in later),
        "wait": wait,
        "loss": later[-1]["loss"],
        "memory": report["peak_device_bytes"] or 0,
    }


def _rows(backend: str, run: dict[str, float], causal: float) -> list[Row]:
    return [
        Row(f"{backend}: throughput", run["tokens_per_s"], "tokens/s"),
        Row(f"{backend}: MFU, full", 100 * run["mfu"], "%", "target 40 %", run["mfu"] / 0.4),
        Row(f"{backend}: MFU, causal", 100 * run["mfu"] * causal, "%"),
        Row(f"{backend}: data wait", 100 * run["wait"], "% of a step", "target below 1 %"),
        Row(f"{backend}: peak memory", run["memory"] / 1e9, "GB"),
    ]


if __name__ == "__main__":
    main()
