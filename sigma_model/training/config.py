"""What to train: dataclasses that check themselves, read from YAML."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from sigma_model.training.phases import Phase, stages_of


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{name} = {value} must be at least {least}")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} = {value} must lie between {low} and {high}")


@dataclass(frozen=True, kw_only=True)
class RampConfig:
    """A change of the batch size inside a phase."""

    tokens: float
    """From so many positions of the phase on, rounded up to whole steps ..."""
    batch_sequences: int
    """... a step has so many sequences."""

    def __post_init__(self) -> None:
        _at_least("ramp.tokens", self.tokens, 1)
        _at_least("ramp.batch_sequences", self.batch_sequences, 1)


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """A stretch of the run over one mixture of datasets."""

    name: str
    """For plans, logs and errors."""
    weights: dict[str, float]
    """Shares of the datasets of data.train, in any unit: {general: 8, math: 1, code: 1}."""
    tokens: float | None = None
    """Budget in positions (sequences times their length), rounded up to whole steps."""
    steps: int | None = None
    """Budget in steps, instead of tokens."""
    batch_sequences: int | None = None
    """Sequences of one optimizer step at the phase's start; None: the run's."""
    ramp: list[RampConfig] = field(default_factory=list)
    """Other batch sizes later in the phase, in order."""

    def __post_init__(self) -> None:
        where = f"phase {self.name!r}"
        if (self.tokens is None) == (self.steps is None):
            raise ValueError(f"{where}: give either tokens or steps")
        for key in ("tokens", "steps", "batch_sequences"):
            if getattr(self, key) is not None:
                _at_least(f"{where}: {key}", getattr(self, key), 1)
        for source, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{where}: weight {weight} of {source!r} must be 0 or above")
        if not any(self.weights.values()):
            raise ValueError(f"{where}: no dataset has a weight above 0")
        marks = [0.0, *(stage.tokens for stage in self.ramp)]
        if any(later <= earlier for earlier, later in itertools.pairwise(marks)):
            raise ValueError(f"{where}: the ramp's tokens must rise from stage to stage")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which token datasets, and how they become sequences."""

    train: list[str] | dict[str, list[str]]
    """Folders of token datasets (each with a manifest.json) whose documents are shuffled together; or
    several such lists by name, for phases to mix."""
    heldout: list[str] | dict[str, list[str]] = field(default_factory=list)
    """Folders of token datasets that are only evaluated on, or several such lists by name, each with a
    loss of its own; empty: no held-out loss."""
    phases: list[PhaseConfig] = field(default_factory=list)
    """Phases of the run, one after the other; empty: one phase of ``steps`` steps over all of train."""
    max_epochs: dict[str, float] = field(default_factory=dict)
    """How often at most a dataset of train may be read over the whole run, by name."""
    packing: Literal["concat", "best_fit"] = "concat"
    """How documents become sequences. concat: end to end, cut at every sequence's end. best_fit: whole
    documents where they fit, so that few are cut."""
    document_masking: bool = True
    """Attention stays inside a document, positions restart with it, and no document's first
    token is asked for. False: one stream of text."""
    window_tokens: int = 16_000_000
    """Documents are shuffled inside windows of about so many tokens, held in memory."""
    verify: Literal["size", "sha256"] = "size"
    """What is compared with the manifest at the start: sizes and row counts, or also SHA-256."""

    def __post_init__(self) -> None:
        if not self.train or not all(self.named_train.values()):
            raise ValueError("data.train is empty: name at least one folder of token shards")
        _at_least("data.window_tokens", self.window_tokens, 1)
        if len(self.named_train) > 1 and not self.phases:
            raise ValueError("data.train names several datasets: say in data.phases how to mix them")
        names = [phase.name for phase in self.phases]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"data.phases: two phases are called {name!r}; rename one")
        for phase in self.phases:
            for source in phase.weights:
                self._check_source(source, f"phase {phase.name!r} gives a weight to")
        for source, epochs in self.max_epochs.items():
            self._check_source(source, "data.max_epochs names")
            if not epochs > 0:
                raise ValueError(f"data.max_epochs of {source!r} = {epochs} must be above 0")

    @property
    def named_train(self) -> dict[str, list[str]]:
        """Folders of each dataset that phases can name."""
        return self.train if isinstance(self.train, dict) else {"train": self.train}

    @property
    def named_heldout(self) -> dict[str, list[str]]:
        """Folders of each held-out dataset."""
        if isinstance(self.heldout, dict):
            return self.heldout
        return {"heldout": self.heldout} if self.heldout else {}

    def _check_source(self, source: str, what: str) -> None:
        if source not in self.named_train:
            nearest = difflib.get_close_matches(source, self.named_train, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"it has {sorted(self.named_train)}"
            raise ValueError(f"{what} {source!r}, which data.train does not name; {hint}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights move; weight decay on matrices (embeddings too), not on norms."""

    kind: Literal["adamw", "muon"] = "adamw"
    """adamw: fused AdamW for all. muon: Muon (torch's) for the matrices inside the blocks, scaled so that
    the same learning rate fits, and AdamW for the rest."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay on tensors of two or more dimensions."""
    grad_clip: float = 1.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"optimizer.learning_rate = {self.learning_rate} must be above 0")
        _between("optimizer.beta1", self.beta1, 0, 1 - 1e-9)
        _between("optimizer.beta2", self.beta2, 0, 1 - 1e-9)
        _at_least("optimizer.weight_decay", self.weight_decay, 0)
        if not self.eps > 0 or not self.grad_clip > 0:
            raise ValueError("optimizer.eps and optimizer.grad_clip must be above 0")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the steps, as a fraction of its peak."""

    kind: Literal["wsd", "cosine"] = "wsd"
    """wsd: warm-up, stable, decay. cosine: warm-up, then half a cosine to the end."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    decay_fraction: float = 0.2
    """Part of all steps that the decay of wsd takes, at the end."""
    decay_shape: Literal["linear", "sqrt"] = "linear"
    """How wsd decays: linear in the step, or 1 - sqrt."""
    final_factor: float = 0.0
    """Fraction of the peak that the last step would reach."""

    def __post_init__(self) -> None:
        _at_least("schedule.warmup_steps", self.warmup_steps, 0)
        _between("schedule.decay_fraction", self.decay_fraction, 0, 1)
        _between("schedule.final_factor", self.final_factor, 0, 1)


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How ranks share the model; those that are left, world size / (dp_replicate * tensor_parallel), each
    hold a part of it (FSDP2) and read a part of each batch."""

    dp_replicate: int = 1
    """Copies of the sharded model (HSDP), one a node say: weights travel inside a copy only."""
    tensor_parallel: int = 1
    """Ranks that share each block's heads and widths; divides num_k_heads and num_v_heads."""

    def __post_init__(self) -> None:
        _at_least("parallel.dp_replicate", self.dp_replicate, 1)
        _at_least("parallel.tensor_parallel", self.tensor_parallel, 1)


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Steps that do not move the weights. One whose loss or gradient is not finite never does."""

    spike_sigma: float | None = None
    """Skip steps whose loss or gradient norm lies so many standard deviations above the mean of the last
    ``window``; None: none. 6 is common."""
    window: int = 128
    """Steps that are compared with; before so many, no step is a spike."""
    max_skipped: int = 5
    """After so many skipped in a row, weights and optimizer go back to the last checkpoint whose own step
    was taken; step, schedule and data go on."""
    max_rollbacks: int = 2
    """After so many of those in a run, the next one stops it."""

    def __post_init__(self) -> None:
        if self.spike_sigma is not None and not self.spike_sigma > 0:
            raise ValueError(f"guard.spike_sigma = {self.spike_sigma} must be above 0, or null")
        _at_least("guard.window", self.window, 2)
        _at_least("guard.max_skipped", self.max_skipped, 1)
        _at_least("guard.max_rollbacks", self.max_rollbacks, 0)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. Relative paths are taken from the current folder."""

    model: str | dict[str, Any]
    """Path of a YAML file of model keys (configs/model/*.yaml), or the keys themselves."""
    init_from: str | None = None
    """Folder of a Hugging Face checkpoint of this very model whose weights to begin with; None: random."""
    data: DataConfig
    """Datasets and packing."""
    output: str
    """Folder of the run: checkpoints/, metrics.jsonl, model/, report.json."""
    tokenizer: str | None = None
    """Folder of the Hugging Face tokenizer that made the tokens; it is checked against the
    datasets and copied next to the trained model."""
    sequence_length: int = 512
    """Positions of a sequence."""
    batch_sequences: int = 8
    """Sequences of one optimizer step."""
    micro_batch_sequences: int | None = None
    """Sequences of one forward pass of a rank; None: all of its share. Gradients add up in between."""
    steps: int = field(default=None)  # type: ignore[assignment]
    """Optimizer steps. Left out: what data.phases add up to, or 300 without them."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning-rate schedule."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Non-finite steps and loss spikes."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """HSDP and tensor parallelism; without, all ranks shard the model (FSDP2)."""
    activation_checkpointing: bool = False
    """Keep each block's input only and compute the block again in backward: less memory, a third more
    work."""
    compile: bool = False
    """Compile each block with torch.compile."""
    z_loss: float = 0.0
    """Weight of the squared log-normaliser in the loss; 0 = off."""
    seed: int = 1
    """Decides the initial weights and the order of the data."""
    threads: int | None = None
    """Threads of torch; None: torch's default. Bitwise resume needs the same number again."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: a GPU when torch sees one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; weights and optimizer stay float32."""
    attention: Literal["auto", "sigma", "cudnn", "sdpa", "reference"] = "auto"
    """Attention backend; auto: the first of sigma, cudnn, sdpa that can run. report.json says which."""
    eval_interval: int = 100
    """Steps between evaluations of the held-out loss; also before the first step and at the end."""
    eval_sequences: int = 32
    """Held-out sequences an evaluation reads, the same ones each time."""
    checkpoint_interval: int = 100
    """Steps between checkpoints; there is always one at the end."""
    keep_checkpoints: int = 2
    """Complete checkpoints to keep."""
    trackers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)
    """Where metrics go beside metrics.jsonl; what is named must be installed."""
    wandb_project: str = "corpusmill"
    """Project of Weights & Biases."""
    peak_tflops: float | None = None
    """What one device can do in dtype, for MFU; None: known for common GPUs in bfloat16."""

    def __post_init__(self) -> None:
        if self.steps is None:
            # frozen for others
            object.__setattr__(self, "steps", sum(phase.steps for phase in self.phases()) or 300)
        for name in (
            "sequence_length", "batch_sequences", "steps", "eval_interval", "eval_sequences",
            "checkpoint_interval", "keep_checkpoints",
        ):  # fmt: skip
            _at_least(name, getattr(self, name), 1)
        _at_least("sequence_length", self.sequence_length, 2)
        _at_least("z_loss", self.z_loss, 0)
        _at_least("seed", self.seed, 0)
        if self.threads is not None:
            _at_least("threads", self.threads, 1)
        micro = self.micro_batch_sequences
        if micro is not None and (micro < 1 or self.batch_sequences % micro):
            raise ValueError(
                f"micro_batch_sequences = {micro} does not divide batch_sequences = "
                f"{self.batch_sequences}; give a divisor or leave it out"
            )
        phases = self.phases()
        if sum(phase.steps for phase in phases) != self.steps:
            raise ValueError(f"steps = {self.steps}, but data.phases add up to "
                             f"{sum(phase.steps for phase in phases)}; leave steps out")  # fmt: skip
        if self.schedule.warmup_steps > self.steps:
            raise ValueError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps} is above steps = "
                f"{self.steps}; lower it"
            )

    def phases(self) -> tuple[Phase, ...]:
        """The run's phases; without data.phases, one over all of data.train."""
        return _phases(self.data, self.sequence_length, self.batch_sequences, self.steps)


def _phases(data: DataConfig, length: int, batch_sequences: int, steps: int | None) -> tuple[Phase, ...]:
    if not data.phases:
        weights = dict.fromkeys(data.named_train, 1.0)
        return (Phase(name="train", weights=weights, stages=((steps or 0, batch_sequences),)),)
    return tuple(
        Phase(
            name=phase.name,
            weights={name: weight for name, weight in phase.weights.items() if weight},
            stages=stages_of(
                length,
                phase.batch_sequences or batch_sequences,
                [(stage.tokens, stage.batch_sequences) for stage in phase.ramp],
                phase.tokens,
                phase.steps,
            ),
        )
        for phase in data.phases
    )


# what may change between a run and its continuation: it moves no weight, or the loader checks it
FREE_ON_RESUME = frozenset({
    "output", "threads", "tokenizer", "data.train", "data.heldout", "data.verify", "data.phases",
    "data.max_epochs", "eval_interval", "eval_sequences", "checkpoint_interval", "keep_checkpoints",
    "micro_batch_sequences", "parallel", "activation_checkpointing", "compile", "trackers", "wandb_project",
    "peak_tflops",
})  # fmt: skip


def frozen_changes(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, value before, value now) of what differs in a continued run's config and may not."""
    phases = bool(before["data"].get("phases") and now["data"].get("phases"))
    # later phases may change, and with them what they add up to
    free = FREE_ON_RESUME | ({"steps"} if phases else set())
    before, now = flatten(before), flatten(now)
    return [
        (key, before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{name}.") for name in free)
    ]


def read_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """TrainConfig of a YAML file; each override is ``dotted.key=value`` with a YAML value."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config {path} does not exist; see configs/train/ for examples")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"config {path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"config {path} must hold a mapping of keys")
    for override in overrides or []:
        _override(values, override)
    return build_config(values, where=f"config {path}")


def build_config(values: dict[str, Any], where: str = "config") -> TrainConfig:
    """TrainConfig of nested mappings. Raises ValueError that names the key and the cure."""
    return _build(TrainConfig, values, where, prefix="")


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"--set {override!r} must have the form key=value, as in --set steps=10")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ValueError(f"--set {override!r}: {parent!r} holds a value, not a mapping")
    values[last] = yaml.safe_load(text)


def _build(cls: Any, values: Any, where: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {prefix.rstrip('.')} must be a mapping, not {values!r}")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            nearest = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean {prefix}{nearest[0]}?" if nearest else f"known: {sorted(hints)}"
            raise ValueError(f"{where}: unknown key {prefix}{key}; {hint}")
    for item in dataclasses.fields(cls):
        required = item.default is dataclasses.MISSING
        if required and item.default_factory is dataclasses.MISSING and item.name not in values:
            raise ValueError(f"{where}: {prefix}{item.name} is missing")
    checked = {key: _check_type(value, hints[key], where, f"{prefix}{key}") for key, value in values.items()}
    try:
        return cls(**checked)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_type(value: Any, hint: Any, where: str, name: str) -> Any:
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where, prefix=f"{name}.")
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise ValueError(f"{where}: {name} = {value!r} must be one of {list(get_args(hint))}")
    choices = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for choice in choices:
        kind, inner = get_origin(choice) or choice, get_args(choice)
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            # YAML reads 4e-4, without a point, as text
            try:
                return float(value)
            except ValueError:
                continue
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            continue
        if kind is list:
            return [_check_type(item, inner[0], where, f"{name}[{i}]") for i, item in enumerate(value)]
        if kind is dict:
            return {
                str(key): _check_type(item, inner[1], where, f"{name}.{key}") for key, item in value.items()
            }
        return value
    names = " or ".join(_type_name(choice) for choice in choices)
    raise ValueError(f"{where}: {name} = {value!r} must be of type {names}")


def _type_name(hint: Any) -> str:
    return str(hint) if get_args(hint) else getattr(hint, "__name__", str(hint))
