"""The loop: batches in, optimizer steps, held-out loss, checkpoints, the finished model out."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import platform
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from kernels.diffqkv.cross_entropy import linear_cross_entropy
from sigma_model.backends import choose_backend
from sigma_model.config import SigmaConfig, read_model_config
from sigma_model.modeling import SigmaForCausalLM
from sigma_model.training.checkpoint import load_checkpoint, save_checkpoint
from sigma_model.training.config import OptimizerConfig, TrainConfig
from sigma_model.training.data import TokenDataset, open_datasets
from sigma_model.training.loader import Loader, heldout_batches
from sigma_model.training.packing import IGNORE
from sigma_model.training.schedule import learning_rate_factor
from sigma_model.training.sequences import PackedSequences

MAX_SKIPPED = 5
COUNTERS = ("step", "tokens", "seconds", "step_seconds", "skipped", "initial_heldout")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

Progress = Callable[[dict[str, Any]], None]


class Interrupted(Exception):
    """The run was asked to stop; its last step is in a checkpoint."""


def train(config: TrainConfig, progress: Progress = lambda row: None) -> dict[str, Any]:
    """Train as ``config`` says, or go on with what its output folder holds; returns the report.

    ``progress`` gets a dict after every step: step, steps, loss, tokens_per_s, and heldout_loss
    where it was measured. Raises ValueError for what the user can cure, Interrupted after SIGINT
    or SIGTERM (a checkpoint was written), FloatingPointError when the loss stays non-finite.
    """
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output = {output} is a file; give a folder")
    output.mkdir(parents=True, exist_ok=True)
    with _only_run(output), _stop_on_signal() as stopped:
        return _Run(config, output).train(progress, stopped)


class _Run:
    """One run's parts: data, model, optimizer, and where it is."""

    def __init__(self, config: TrainConfig, output: Path) -> None:
        self.config = config
        self.output = output
        if config.threads:
            torch.set_num_threads(config.threads)
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device = cuda, but torch sees no GPU; write auto or cpu")
        cuda = config.device != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        self.loader = Loader(config, device=self.device)
        # they share a tokenizer
        self.train_set = next(iter(self.loader.datasets.values()))
        heldout_set = _open_heldout(config, self.train_set)
        self.model_config = _model_config(config, self.train_set)
        torch.manual_seed(config.seed)
        self.model = SigmaForCausalLM(self.model_config)
        self.model.set_attn_implementation(config.attention)
        self.model.to(self.device)  # type: ignore[arg-type]
        self.optimizer = _make_optimizer(self.model, config.optimizer)
        self.heldout = self._pack(heldout_set, seed=0) if heldout_set else None
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.step_seconds = 0.0
        self.skipped = 0
        self.initial_heldout: float | None = None

    def train(self, progress: Progress, stopped: Callable[[], bool]) -> dict[str, Any]:
        """See the module's train."""
        config, metrics = self.config, self.output / "metrics.jsonl"
        notes = self._resume(metrics)
        report_path = self.output / "report.json"
        if self.step == config.steps and report_path.is_file():
            return json.loads(report_path.read_text())
        began = time.monotonic()
        heldout: float | None = None
        try:
            with metrics.open("a", buffering=1) as lines:
                for note in notes:
                    lines.write(json.dumps({"step": self.step, "note": note}) + "\n")
                if self.step == 0:
                    self.initial_heldout = self._evaluate()
                    row = {"step": 0, "tokens": 0, "heldout_loss": self.initial_heldout}
                    lines.write(json.dumps(row) + "\n")
                    progress({**row, "steps": config.steps})
                while self.step < config.steps:
                    row = self._one_step()
                    last = self.step == config.steps
                    if last or self.step % config.eval_interval == 0:
                        heldout = row["heldout_loss"] = self._evaluate()
                    lines.write(json.dumps(row) + "\n")
                    progress({**row, "steps": config.steps})
                    stop = stopped() and not last
                    if last or stop or self.step % config.checkpoint_interval == 0:
                        now = time.monotonic()
                        self.seconds, began = self.seconds + now - began, now
                        self._save()
                    if stop:
                        raise Interrupted(f"stopped after step {self.step}; the same command goes "
                                          "on from there")  # fmt: skip
        finally:
            self.loader.close()
        self.seconds += time.monotonic() - began
        report = self._report(heldout if heldout is not None else self._evaluate())
        self._export(report, report_path)
        return report

    def _one_step(self) -> dict[str, Any]:
        """One optimizer step; returns its line of metrics."""
        config, began = self.config, time.monotonic()
        batch = next(self.loader)
        waited = time.monotonic() - began
        factor = learning_rate_factor(self.step, config.steps, config.schedule)
        learning_rate = config.optimizer.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        asked = max(int((batch.labels != IGNORE).sum()), 1)
        loss = 0.0
        for part in batch.micro_batches():
            entropy, total = self._loss(part)
            # every token of the step weighs the same, whatever micro-batch it is in
            (total / asked).backward()
            loss += entropy.item() / asked
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.grad_clip)
        grad_norm = norm.item()
        if math.isfinite(grad_norm) and math.isfinite(loss):
            self.optimizer.step()
            self.skipped = 0
        else:
            self.skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        tokens = sum(batch.source_tokens.values())
        self.tokens += tokens
        if self.skipped >= MAX_SKIPPED:
            raise FloatingPointError(
                f"{self.skipped} steps in a row up to step {self.step} had a non-finite loss or "
                "gradient and were skipped; lower optimizer.learning_rate or add warm-up "
                "(schedule.warmup_steps), and start from an earlier checkpoint"
            )
        seconds = time.monotonic() - began
        self.step_seconds += seconds
        row = {
            "step": self.step,
            # JSON has no NaN
            "loss": loss if math.isfinite(loss) else None,
            "lr": learning_rate,
            "grad_norm": grad_norm if math.isfinite(grad_norm) else None,
            "tokens": self.tokens,
            "tokens_per_s": round(tokens / seconds, 1),
            "data_wait": round(waited, 6),
        }
        return {**row, "skipped": True} if self.skipped else row

    def _loss(self, part: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = getattr(torch, self.config.dtype)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            hidden = self.model.model(
                part["input_ids"], position_ids=part["position_ids"], cu_seqlens=part.get("cu_seqlens")
            ).last_hidden_state
        # never all logits at once: at 128,256 words they are the largest tensor of the run
        head, labels = self.model.lm_head.weight, part["labels"].flatten()
        return linear_cross_entropy(hidden.flatten(0, 1), head, labels, self.config.z_loss, dtype=dtype)

    @torch.no_grad()
    def _evaluate(self) -> float | None:
        """Mean held-out cross-entropy, nats a token, of the same sequences each time."""
        if self.heldout is None:
            return None
        config = self.config
        count = min(config.eval_sequences, self.heldout.sequences_in_epoch(0))
        self.model.eval()
        total, asked = 0.0, 0
        micro = config.micro_batch_sequences or config.batch_sequences
        for part in heldout_batches(self.heldout, count, micro, self.device):
            total += self._loss(part)[0].item()
            asked += int((part["labels"] != IGNORE).sum())
        self.model.train()
        return total / max(asked, 1)

    def _pack(self, dataset: TokenDataset, seed: int) -> PackedSequences:
        data = self.config.data
        return PackedSequences(
            dataset,
            sequence_length=self.config.sequence_length,
            seed=seed,
            window_tokens=data.window_tokens,
            document_masking=data.document_masking,
        )

    def _checked_config(self) -> dict[str, Any]:
        """What a continued run must share: the config, the model by its keys."""
        shape = json.loads(self.model_config.to_json_string(use_diff=False))
        shape.pop("transformers_version", None)
        return {**dataclasses.asdict(self.config), "model": shape}

    def _resume(self, metrics: Path) -> list[str]:
        """Load the last checkpoint, if any; notes on what was met."""
        state, notes = load_checkpoint(self.output / "checkpoints", self._checked_config())
        if state is None:
            _truncate_metrics(metrics, after=-1)
            return notes
        self.loader.load_state(state["loader"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        for name in COUNTERS:
            setattr(self, name, state[name])
        _truncate_metrics(metrics, after=self.step)
        return notes + self.loader.notes

    def _save(self) -> None:
        state = {
            **{name: getattr(self, name) for name in COUNTERS},
            "loader": self.loader.state(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        folder, keep = self.output / "checkpoints", self.config.keep_checkpoints
        save_checkpoint(folder, self.step, state, self._checked_config(), keep)

    def _report(self, heldout: float | None) -> dict[str, Any]:
        config, model, dtype = self.config, self.model_config, getattr(torch, self.config.dtype)
        parameters = sum(p.numel() for p in self.model.parameters())
        embedding = model.vocab_size * model.hidden_size
        initial = self.initial_heldout
        drop = 1 - heldout / initial if heldout is not None and initial else None
        return {
            "parameters": parameters,
            "non_embedding_parameters": parameters - embedding,
            "steps": self.step,
            "tokens_seen": self.tokens,
            "epochs": round(self.tokens / self.loader.num_tokens, 3),
            "initial_heldout_loss": initial,
            "final_heldout_loss": heldout,
            "heldout_loss_drop": drop,
            "wall_seconds": round(self.seconds, 2),
            # of the steps alone, without evaluation and checkpoints
            "steps_per_s": round(self.step / self.step_seconds, 3),
            "tokens_per_s": round(self.tokens / self.step_seconds, 1),
            "mfu": None,
            "train_fingerprint": self.loader.fingerprint,
            "device": self.device.type,
            "attention": choose_backend(
                config.attention, model.k_head_dim, model.v_head_dim, self.device.type, dtype
            ).name,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
        }

    def _export(self, report: dict[str, Any], report_path: Path) -> None:
        """Hugging Face folder, then report.json: with the report, the model is whole."""
        folder = self.output / "model"
        self.model.generation_config = GenerationConfig(
            eos_token_id=self.model_config.eos_token_id,
            pad_token_id=self.model_config.pad_token_id,
        )
        self.model.save_pretrained(folder)
        if self.config.tokenizer:
            for name in TOKENIZER_FILES:
                source = Path(self.config.tokenizer) / name
                if source.is_file():
                    shutil.copyfile(source, folder / name)
        report_path.write_text(json.dumps(report, indent=1) + "\n")


def _open_heldout(config: TrainConfig, train_set: TokenDataset) -> TokenDataset | None:
    if not config.data.heldout:
        return None
    heldout = open_datasets(next(iter(config.data.named_heldout.values())), config.data.verify)
    if heldout.tokenizer_hash != train_set.tokenizer_hash:
        raise ValueError(
            f"data.heldout was tokenized by {heldout.tokenizer_hash[:12]}, data.train by "
            f"{train_set.tokenizer_hash[:12]}; tokenize both with one tokenizer"
        )
    if heldout.fingerprint == train_set.fingerprint:
        raise ValueError("data.heldout is data.train itself: its loss would mean nothing; give a "
                         "dataset of split heldout")  # fmt: skip
    return heldout


def _model_config(config: TrainConfig, dataset: TokenDataset) -> SigmaConfig:
    if config.tokenizer:
        path = Path(config.tokenizer) / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"tokenizer = {config.tokenizer} holds no tokenizer.json; give a "
                             "Hugging Face tokenizer folder")  # fmt: skip
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != dataset.tokenizer_hash:
            raise ValueError(
                f"{path} has sha256 {found[:12]}, but the datasets were made by tokenizer "
                f"{dataset.tokenizer_hash[:12]}; give the tokenizer that made them"
            )
    model = read_model_config(
        config.model,
        tokenizer_vocab_size=dataset.vocab_size,
        eos_token_id=dataset.eos_id,
        pad_token_id=dataset.eos_id,
    )
    if model.vocab_size < dataset.vocab_size:
        raise ValueError(
            f"model vocab_size = {model.vocab_size} is below the tokenizer's {dataset.vocab_size}; "
            "raise it, or write null to take the tokenizer's"
        )
    if model.max_position_embeddings < config.sequence_length:
        raise ValueError(
            f"sequence_length = {config.sequence_length} is above the model's "
            f"max_position_embeddings = {model.max_position_embeddings}; change one of them"
        )
    return model


def _make_optimizer(model: SigmaForCausalLM, config: OptimizerConfig) -> torch.optim.AdamW:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, config.learning_rate, betas, config.eps, fused=True)


def _truncate_metrics(metrics: Path, after: int) -> None:
    """Cut off the lines of later steps: they are done again, and each step has one line."""
    if not metrics.exists():
        return
    kept = 0
    with metrics.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n") or json.loads(line)["step"] > after:
                break
            kept += len(line)
        file.truncate(kept)


@contextlib.contextmanager
def _only_run(output: Path) -> Iterator[None]:
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another training run is writing to {output}; wait for it, or use "
                             "another output folder") from None  # fmt: skip
        yield


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """A callable that tells whether SIGINT or SIGTERM came; a second one acts as usual."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(number, before[number])

    # Python sets signal handlers in the main thread only
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
