"""The loop: batches in, optimizer steps, held-out loss, checkpoints, the finished model out.

One process or many ranks run the same lines; what differs is in parallel.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from sigma_model.backends import choose_backend
from sigma_model.config import SigmaConfig, read_model_config
from sigma_model.counts import training_flops_per_token
from sigma_model.modeling import SigmaForCausalLM
from sigma_model.training.checkpoint import Checkpoints, refuse_changes
from sigma_model.training.config import TrainConfig
from sigma_model.training.data import TokenDataset
from sigma_model.training.export import read_model, write_model
from sigma_model.training.folder import code_revision, only_run, stop_on_signal
from sigma_model.training.guard import Guard
from sigma_model.training.heldout import HeldOut
from sigma_model.training.loader import Loader
from sigma_model.training.metrics import Metrics, peak_flops
from sigma_model.training.optimizer import Optimizers
from sigma_model.training.packing import IGNORE
from sigma_model.training.parallel import (
    World,
    check_tensor_parallel,
    clip_gradients,
    join_world,
    level_gradients,
    parameters_by_mesh,
    spread,
)
from sigma_model.training.schedule import learning_rate_factor

Progress = Callable[[dict[str, Any]], None]


class Interrupted(Exception):
    """The run was asked to stop; its last step is in a checkpoint."""


@dataclass
class Counters:
    """Where a run is; every checkpoint holds them."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    skipped: int = 0
    """Steps skipped in a row, up to now."""
    rollbacks: int = 0
    initial_heldout: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Taken:
    """A step whose figures are still on the device."""

    row: dict[str, Any]
    tokens: int
    figures: torch.Tensor
    """loss, gradient norm, skipped: float64 on the CPU, on their way."""
    arrived: torch.cuda.Event | None


def train(config: TrainConfig, progress: Progress = lambda row: None) -> dict[str, Any]:
    """Train as ``config`` says, or go on with what its output folder holds; returns the report.

    Every rank calls it, where there are several. ``progress`` gets a dict after every step, on rank 0:
    step, steps, loss, tokens_per_s, and heldout_loss where it was measured. The report has the held-out
    loss of each named dataset under ``heldout``. Raises ValueError for what the user can cure, Interrupted
    after SIGINT or SIGTERM (a checkpoint was written), FloatingPointError when the loss stays non-finite,
    OSError when the disk is full (the checkpoints before are whole).
    """
    output = Path(config.output)
    if config.threads:
        torch.set_num_threads(config.threads)
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(join_world(config))
        world.together(lambda: world.rank or stack.enter_context(only_run(output)))
        stopped = stack.enter_context(stop_on_signal())
        run = _Run(config, output, world)
        try:
            return run.train(progress if world.rank == 0 else lambda row: None, stopped)
        finally:
            run.close()


class _Run:
    """One run's parts: data, model, optimizer, and where it is."""

    def __init__(self, config: TrainConfig, output: Path, world: World) -> None:
        self.config = config
        self.output = output
        self.world = world
        world.together(self._open)
        if world.mesh is None or world.tensor_parallel > 1:
            # FSDP moves block by block: a rank never holds all
            self.model.to(world.device)  # type: ignore[arg-type]
        spread(self.model, config, world)
        self.parameters = parameters_by_mesh(self.model)
        self.optimizers = Optimizers(self.parameters, config.optimizer)
        self.guard = Guard(config.guard, world.device)
        self.checkpoints = Checkpoints(output / "checkpoints", config.keep_checkpoints, world)
        self.counters = Counters()
        self.metrics: Metrics | None = None
        self.peak = peak_flops(config, world.device)
        self.flops_per_token = training_flops_per_token(self.shape, config.sequence_length)
        self._waiting: _Taken | None = None
        self._clock = 0.0

    def _open(self) -> None:
        """Data and model: what is wrong with them, one rank may see alone."""
        config, world = self.config, self.world
        self.loader = Loader(config, world.data_size, world.data_rank, device=world.device)
        self.heldout = HeldOut(config, self.loader.datasets, world)
        # they share a tokenizer
        self.shape = _model_config(config, next(iter(self.loader.datasets.values())))
        check_tensor_parallel(self.shape, config.parallel.tensor_parallel)
        torch.manual_seed(config.seed)
        if config.init_from:
            self.model = read_model(config.init_from, self.shape)
        else:
            self.model = SigmaForCausalLM(self.shape)
        self.model.set_attn_implementation(config.attention)

    def close(self) -> None:
        """End the threads and close the files."""
        self.loader.close()
        self.checkpoints.close()
        if self.metrics is not None:
            self.metrics.close()

    def train(self, progress: Progress, stopped: Callable[[], bool]) -> dict[str, Any]:
        """See the module's train."""
        config, counters, report_path = self.config, self.counters, self.output / "report.json"
        notes = self._resume()
        if counters.step == config.steps and report_path.is_file():
            return json.loads(report_path.read_text())
        if self.world.rank == 0:
            self.metrics = Metrics(self.output, config, counters.step)
        for note in notes:
            self._write({"step": counters.step, "note": note})
        began = time.monotonic()
        heldout: dict[str, float] | None = None
        if counters.step == 0:
            counters.initial_heldout = self.heldout.losses(self.model)
            row = {"step": 0, "tokens": 0, **_heldout_row(counters.initial_heldout)}
            self._write(row)
            progress({**row, "steps": config.steps})
        self._clock = time.monotonic()
        while counters.step < config.steps:
            taken = self._one_step()
            last = counters.step == config.steps
            evaluate = last or counters.step % config.eval_interval == 0
            save = last or counters.step % config.checkpoint_interval == 0
            # on a GPU the figures of a step are read while the next one runs
            self._settle(progress)
            self._waiting = taken
            if evaluate:
                heldout = self.heldout.losses(self.model)
                taken.row.update(_heldout_row(heldout))
            if evaluate or save or self.world.device.type == "cpu":
                self._settle(progress)
            stop, failed = self.world.any(stopped() and not last, self.checkpoints.failed())
            if failed:
                self.checkpoints.wait()
            if save or stop:
                self._settle(progress)
                now = time.monotonic()
                counters.seconds, began = counters.seconds + now - began, now
                self._save()
            if evaluate or save:
                self._clock = time.monotonic()
            if stop:
                self.checkpoints.wait()
                raise Interrupted(f"stopped after step {counters.step}; the same command goes on from there")
        self.checkpoints.wait()
        counters.seconds += time.monotonic() - began
        report = self._report(self.heldout.losses(self.model) if heldout is None else heldout)
        self._finish(report, report_path)
        return report

    def _one_step(self) -> _Taken:
        """Enqueue one optimizer step; its figures come later."""
        config, counters, began = self.config, self.counters, time.monotonic()
        batch = next(self.loader)
        waited = time.monotonic() - began
        factor = learning_rate_factor(counters.step, config.steps, config.schedule)
        learning_rate = config.optimizer.learning_rate * factor
        # of all ranks: every token of the step weighs the same, whatever micro-batch or rank it is in
        asked = self.world.sum_over_data((batch.labels != IGNORE).sum().double()).clamp(min=1)
        loss = torch.zeros((), dtype=torch.float64, device=self.world.device)
        parts = list(batch.micro_batches())
        for number, part in enumerate(parts):
            self._sync_replicas(number == len(parts) - 1)
            entropy, total = self.model.pretraining_loss(
                **part, z_loss=config.z_loss, dtype=getattr(torch, config.dtype)
            )
            (total / asked.float()).backward()
            loss += entropy.detach()
        level_gradients(self.parameters, self.world)
        loss = self.world.sum_over_data(loss) / asked
        grad_norm = clip_gradients(self.parameters, config.optimizer.grad_clip)
        skip = self.guard.judge(loss, grad_norm)
        self.optimizers.step(learning_rate, skip)
        tokens = sum(batch.source_tokens.values())
        counters.step += 1
        counters.tokens += tokens
        row = {
            "step": counters.step,
            "loss": None,
            "lr": learning_rate,
            "grad_norm": None,
            "tokens": counters.tokens,
            "data_wait": round(waited, 6),
            "phase": batch.phase,
        }
        return _Taken(row, tokens, *_to_host(torch.stack([loss, grad_norm.double(), skip.double()])))

    def _sync_replicas(self, last: bool) -> None:
        """Add gradients up over HSDP's copies once a step, not once a micro-batch."""
        if self.config.parallel.dp_replicate > 1:
            assert isinstance(self.model, FSDPModule)
            self.model.set_requires_all_reduce(last)

    def _settle(self, progress: Progress) -> None:
        """Read the figures of the step that waits, write its line, and see to skipped steps."""
        taken, self._waiting = self._waiting, None
        if taken is None:
            return
        if taken.arrived is not None:
            taken.arrived.synchronize()
        loss, grad_norm, skip = taken.figures.tolist()
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        config, counters, row = self.config, self.counters, taken.row
        counters.step_seconds += seconds
        # JSON has no NaN
        row["loss"] = loss if math.isfinite(loss) else None
        row["grad_norm"] = grad_norm if math.isfinite(grad_norm) else None
        row["tokens_per_s"] = round(taken.tokens / seconds, 1)
        if self.peak:
            row["mfu"] = round(self._mfu(row["tokens_per_s"]), 4)
        if skip:
            row["skipped"] = True
        self._write(row)
        progress({**row, "steps": config.steps})
        counters.skipped = counters.skipped + 1 if skip else 0
        if counters.skipped >= config.guard.max_skipped:
            self._roll_back(row["step"])

    def _roll_back(self, step: int) -> None:
        """Weights and optimizer of the last sound checkpoint; step, schedule and data go on."""
        counters, guard = self.counters, self.config.guard
        self.checkpoints.wait()
        notes: list[str] = []
        checkpoint = self.checkpoints.last(notes, sound=True)
        if checkpoint is None or counters.rollbacks >= guard.max_rollbacks:
            raise FloatingPointError(
                f"{counters.skipped} steps in a row up to step {step} had a spike, or a loss or gradient "
                f"that is not finite, and were skipped, after {counters.rollbacks} rollbacks; lower "
                "optimizer.learning_rate or add warm-up (schedule.warmup_steps), and start from an earlier "
                "checkpoint"
            )
        self.checkpoints.read(checkpoint, self._weights())
        counters.rollbacks += 1
        counters.skipped = 0
        name = checkpoint.path.name
        notes.append(f"{guard.max_skipped} steps in a row were skipped: weights and optimizer of {name}")
        for line in notes:
            self._write({"step": step, "note": line})

    def _write(self, row: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(row)

    def _weights(self) -> dict[str, torch.Tensor]:
        """Every tensor of model and optimizer by name, not copied."""
        model = {f"model.{name}": p.data for group in self.parameters for name, p in group.items()}
        return {**model, **{f"optimizer.{name}": value for name, value in self.optimizers.state().items()}}

    def _tensors(self, random: torch.Tensor) -> dict[str, torch.Tensor]:
        guard = {f"guard.{name}": value for name, value in self.guard.state().items()}
        return {**self._weights(), **guard, "random": random}

    def _save(self) -> None:
        state = {
            "counters": dataclasses.asdict(self.counters),
            "loader": self.loader.state(),
            "config": self._checked_config(),
            "data_fingerprint": self.loader.fingerprint,
            "code": code_revision(),
            "torch": torch.__version__,
            "ranks": self.world.size,
        }
        # nothing draws a random number after the weights are made; kept for what may come
        self.checkpoints.save(self.counters.step, self._tensors(torch.get_rng_state()), state)

    def _resume(self) -> list[str]:
        """Load the last checkpoint, if there is one; notes on what was met."""
        notes: list[str] = []
        checkpoint = self.checkpoints.last(notes)
        if checkpoint is None:
            return notes
        refuse_changes(checkpoint, self._checked_config())
        self.loader.load_state(checkpoint.state["loader"])
        random = torch.get_rng_state()
        self.checkpoints.read(checkpoint, self._tensors(random))
        torch.set_rng_state(random)
        for name, value in checkpoint.state["counters"].items():
            setattr(self.counters, name, value)
        return notes + self.loader.notes

    def _checked_config(self) -> dict[str, Any]:
        """What a continued run must share: the config, the model by its keys."""
        shape = json.loads(self.shape.to_json_string(use_diff=False))
        shape.pop("transformers_version", None)
        return {**dataclasses.asdict(self.config), "model": shape}

    def _mfu(self, tokens_per_s: float) -> float:
        assert self.peak is not None
        return tokens_per_s * self.flops_per_token / (self.peak * self.world.size)

    def _report(self, heldout: dict[str, float]) -> dict[str, Any]:
        config, shape, counters, kind = self.config, self.shape, self.counters, self.world.device.type
        parameters = sum(p.numel() for group in self.parameters for p in group.values())
        first, last = _mean(counters.initial_heldout), _mean(heldout)
        speed = counters.tokens / counters.step_seconds
        dtype = getattr(torch, config.dtype)
        return {
            "parameters": parameters,
            "non_embedding_parameters": parameters - shape.vocab_size * shape.hidden_size,
            "steps": counters.step,
            "tokens_seen": counters.tokens,
            "epochs": round(counters.tokens / self.loader.num_tokens, 3),
            "initial_heldout_loss": first,
            "final_heldout_loss": last,
            "heldout_loss_drop": 1 - last / first if last is not None and first else None,
            "heldout": heldout,
            "rollbacks": counters.rollbacks,
            "wall_seconds": round(counters.seconds, 2),
            # of the steps alone, without evaluation and the copies of checkpoints
            "steps_per_s": round(counters.step / counters.step_seconds, 3),
            "tokens_per_s": round(speed, 1),
            "flops_per_token": self.flops_per_token,
            "mfu": round(self._mfu(speed), 4) if self.peak else None,
            "train_fingerprint": self.loader.fingerprint,
            "device": kind,
            "peak_device_bytes": torch.cuda.max_memory_allocated() if kind == "cuda" else None,
            "ranks": self.world.size,
            "attention": choose_backend(
                config.attention, shape.k_head_dim, shape.v_head_dim, kind, dtype
            ).name,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
        }

    def _finish(self, report: dict[str, Any], report_path: Path) -> None:
        """Hugging Face folder, then report.json: with the report, the model is whole."""

        def write() -> None:
            if self.world.rank == 0:
                path = self.output / "checkpoints" / f"step_{self.counters.step:08d}"
                write_model(path, self._checked_config(), self.output / "model")
                report_path.write_text(json.dumps(report, indent=1) + "\n")

        self.world.together(write)


def _to_host(figures: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """The figures on the CPU once the event has come; nothing waits here."""
    if figures.device.type == "cpu":
        return figures, None
    host = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
    host.copy_(figures, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived


def _mean(losses: dict[str, float]) -> float | None:
    """Of the datasets, each weighing the same."""
    return sum(losses.values()) / len(losses) if losses else None


def _heldout_row(losses: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"heldout_loss": _mean(losses)}
    return {**row, "heldout": losses} if len(losses) > 1 else row


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
