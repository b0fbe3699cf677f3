"""The stage ``train``: token shards to a model, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from sigma_model.shapes import read_shape

# init_from would be a path that no fingerprint sees
ENGINE_KEYS = ("data", "output", "tokenizer", "seed", "device", "init_from")
CLOCKS = ("tokens_per_s", "data_wait", "mfu")
CHILD = "pipelines.child"


@dataclass(frozen=True, kw_only=True)
class Train:
    """Pretrain a Sigma on token shards; held-out loss, checkpoints, a Hugging Face model folder.

    Runs ``python -m sigma_model.training`` with the config given here; a killed run goes on from its
    last checkpoint. Documents of ``synthetic``, if there is such an input, are shuffled in among those of
    ``tokens``; ``begin_with`` is a trained model whose weights to go on from. The artifact holds model/ and
    metrics.jsonl without clocks, so that the same training gives the same bytes; speeds stand in the
    manifest's report.
    """

    stage: ClassVar[str] = "train"
    shape: ClassVar[str] = "fit"
    version: ClassVar[int] = 3
    determinism: ClassVar[str] = "seeded"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    inputs: ClassVar[dict[str, str]] = {
        "tokens": "tokens",
        "synthetic": "tokens",
        "heldout": "tokens",
        "tokenizer": "artifact",
        "begin_with": "artifact",
    }
    optional: ClassVar[tuple[str, ...]] = ("synthetic", "begin_with")
    output: ClassVar[str] = "artifact"
    cpus: ClassVar[int] = 2

    model: str | dict[str, Any]
    """Model shape: a YAML file as configs/model/sigma_tiny.yaml, a row FILE:ROW, or its keys."""
    config: dict[str, Any] = field(default_factory=dict)
    """Any key of a training config but data, output, tokenizer, seed, device and init_from: steps,
    sequence_length, batch_sequences, optimizer, schedule (sigma_model/training/config.py)."""

    def __post_init__(self) -> None:
        taken = [key for key in ENGINE_KEYS if key in self.config]
        if taken:
            raise ValueError(f"config.{taken[0]} is the engine's, from inputs and seed: leave it out")
        self._training_config(["tokens"], "heldout", "tokenizer", None, "out", 0)
        self.model_keys()

    def model_keys(self) -> dict[str, Any]:
        """The keys of the model's shape, read from its file if it is one."""
        if isinstance(self.model, dict):
            return self.model
        return read_shape(self.model)

    def identity(self) -> dict[str, Any]:
        """What the fingerprint sees: the shape itself, not the file that holds it."""
        return {"model": self.model_keys(), "config": self.config}

    def _training_config(
        self, train: list[str], heldout: str, tokenizer: str, begin_with: str | None, out: str, seed: int
    ) -> dict:
        from sigma_model.training.config import build_config

        values = {
            **self.config,
            "model": self.model if isinstance(self.model, dict) else self.model_keys(),
            "data": {"train": train, "heldout": [heldout]},
            "tokenizer": tokenizer,
            "init_from": begin_with,
            "output": out,
            "seed": seed,
        }
        build_config(values, where="config")
        return values

    def fit(
        self,
        out: Path,
        scratch: Path,
        seed: int,
        progress: Callable[[str], None],
        tokens: Path,
        heldout: Path,
        tokenizer: Path,
        synthetic: Path | None = None,
        begin_with: Path | None = None,
    ) -> dict:
        """Train in ``scratch``, so that a crash loses at most one checkpoint interval."""
        work = scratch / "training"
        train = [str(folder) for folder in (tokens, synthetic) if folder]
        weights = str(begin_with / "model") if begin_with else None
        values = self._training_config(train, str(heldout), str(tokenizer), weights, str(work), seed)
        path = scratch / "train.yaml"
        path.write_text(yaml.safe_dump(values))
        _run_training(path, progress)
        shutil.copytree(work / "model", out / "model")
        _copy_without_clocks(work / "metrics.jsonl", out / "metrics.jsonl")
        return json.loads((work / "report.json").read_text())


def _copy_without_clocks(source: Path, target: Path) -> None:
    with open(source) as lines, open(target, "w") as out:
        for line in lines:
            row = {key: value for key, value in json.loads(line).items() if key not in CLOCKS}
            if "note" not in row:  # of a resume
                out.write(json.dumps(row) + "\n")


def _run_training(config: Path, progress: Callable[[str], None]) -> None:
    """Run the training process and pass its progress on. Raises RuntimeError with its last words."""
    command = [sys.executable, "-m", CHILD, str(os.getpid()), "sigma_model.training"]
    child = subprocess.Popen(
        [*command, str(config), "--progress", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # threads that wait asleep: twice the steps a second when the machine is shared (docs/LOG.md)
        env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
    )
    assert child.stdout is not None and child.stderr is not None
    stderr = child.stderr
    words: list[str] = []
    reader = threading.Thread(target=lambda: words.extend(stderr), daemon=True)
    reader.start()
    heldout = ""
    try:
        for line in child.stdout:
            row = json.loads(line)
            if row.get("heldout_loss") is not None:
                heldout = f", held-out {row['heldout_loss']:.3f}"
            loss = f", loss {row['loss']:.3f}" if "loss" in row else ""
            progress(f"step {row['step']}/{row['steps']}{loss}{heldout}")
        child.wait()
    finally:
        if child.poll() is None:  # asked to stop: let it write a checkpoint
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
    reader.join(5)
    if child.returncode == 4:
        raise OSError(28, f"training found no room for a checkpoint: {''.join(words)[-500:].strip()}")
    if child.returncode:
        raise RuntimeError(
            f"training ended with exit code {child.returncode}: {''.join(words)[-1500:].strip()}"
        )
