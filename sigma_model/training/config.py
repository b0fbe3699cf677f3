"""What to train: dataclasses that check themselves, read from YAML."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{name} = {value} must be at least {least}")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} = {value} must lie between {low} and {high}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which token datasets, and how they become sequences."""

    train: list[str]
    """Folders of token datasets (each with a manifest.json); their documents are shuffled
    together."""
    heldout: list[str] = field(default_factory=list)
    """Folders of token datasets that are only evaluated on; empty: no held-out loss."""
    document_masking: bool = True
    """Attention stays inside a document, positions restart with it, and no document's first
    token is asked for. False: one stream of text."""
    window_tokens: int = 16_000_000
    """Documents are shuffled inside windows of about so many tokens, held in memory."""
    verify: Literal["size", "sha256"] = "size"
    """What is compared with the manifest at the start: sizes and row counts, or also SHA-256."""

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("data.train is empty: name at least one folder of token shards")
        _at_least("data.window_tokens", self.window_tokens, 1)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW; weight decay on matrices (embeddings too), not on norms."""

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
class TrainConfig:
    """One training run. Relative paths are taken from the current folder."""

    model: str | dict[str, Any]
    """Path of a YAML file of model keys (configs/model/*.yaml), or the keys themselves."""
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
    """Sequences of one forward pass; None: all of the step. Gradients add up in between."""
    steps: int = 300
    """Optimizer steps."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning-rate schedule."""
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

    def __post_init__(self) -> None:
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
        if self.schedule.warmup_steps > self.steps:
            raise ValueError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps} is above steps = "
                f"{self.steps}; lower it"
            )


# what may change between a run and its continuation: it moves no weight
FREE_ON_RESUME = frozenset({
    "output", "threads", "tokenizer", "data.train", "data.heldout", "data.verify",
    "eval_interval", "eval_sequences", "checkpoint_interval", "keep_checkpoints",
})  # fmt: skip


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
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where, prefix=f"{name}.")
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise ValueError(f"{where}: {name} = {value!r} must be one of {list(get_args(hint))}")
    choices = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for choice in choices:
        kind = get_origin(choice) or choice
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            # YAML reads 4e-4, without a point, as text
            try:
                return float(value)
            except ValueError:
                continue
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            if kind is list and not all(isinstance(item, str) for item in value):
                continue
            return value
    names = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
    raise ValueError(f"{where}: {name} = {value!r} must be of type {names}")
