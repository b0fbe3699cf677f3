"""Batches of a training run: each rank its share of every step, in an order no rank count changes."""

from __future__ import annotations

import hashlib
import itertools
import json
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sigma_model.training.config import DataConfig, TrainConfig, flatten
from sigma_model.training.data import PackedSequences, TokenDataset, open_datasets
from sigma_model.training.phases import Mixture

ORDER_VERSION = 1
"""Raised by hand when the same config and data would give another order."""
SHORT_DOCUMENT = 16


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A rank's share of one optimizer step, b sequences of S positions, on the loader's device.

    ``micro_batches`` cuts it into what one forward pass takes.
    """

    input_ids: torch.Tensor
    """int64 [b, S]; padded with the end token."""
    labels: torch.Tensor
    """int64 [b, S], already shifted: the next token of the same document (of the text, without document
    masking), or -100."""
    position_ids: torch.Tensor
    """int32 [b, S]; restarts with each document under document masking."""
    cu_seqlens: torch.Tensor | None
    """int32 [b / micro, N + 1]: where documents begin in a micro-batch's micro * S positions, row after
    row, filled up with micro * S; padding is a document of its own. None without document masking.
    N is the same in every batch, but for batches with uncommonly short documents, where it is micro * S."""
    sequence_numbers: np.ndarray
    """int64 [b], counted over the whole run."""
    source_ids: np.ndarray
    """int32 [b], index in ``Loader.sources`` of the dataset each sequence comes from."""
    source_tokens: dict[str, int]
    """Tokens, without padding, that each dataset gave to the whole step, over all ranks."""
    phase: str
    """Name of the phase."""
    step: int
    """The step, counted over the whole run from 0."""

    micro: int
    """Sequences of one forward pass."""

    def micro_batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """input_ids, labels, position_ids [micro, S] and, with document masking, cu_seqlens [N + 1] of
        one forward pass after another."""
        for number, first in enumerate(range(0, len(self.input_ids), self.micro)):
            rows = slice(first, first + self.micro)
            part = {
                "input_ids": self.input_ids[rows],
                "labels": self.labels[rows],
                "position_ids": self.position_ids[rows],
            }
            if self.cu_seqlens is not None:
                part["cu_seqlens"] = self.cu_seqlens[number]
            yield part


class Sequences:
    """All sequences of a run, numbered 0, 1, 2, ...; a pure function of the config and the data."""

    def __init__(self, config: TrainConfig, datasets: dict[str, TokenDataset]) -> None:
        self.datasets = datasets
        self.phases = config.phases()
        self.first_sequence = [0, *itertools.accumulate(phase.sequences for phase in self.phases)]
        """Number of each phase's first sequence, and one past the last."""
        used = dict.fromkeys(name for phase in self.phases for name in phase.weights)
        self.sources = list(used)
        self.streams = [
            PackedSequences(
                datasets[name],
                sequence_length=config.sequence_length,
                seed=config.seed,
                window_tokens=config.data.window_tokens,
                document_masking=config.data.document_masking,
            )
            for name in self.sources
        ]
        self.mixtures = [
            Mixture(phase.weights, "mixture", config.seed, number) for number, phase in enumerate(self.phases)
        ]
        self.taken = np.zeros((len(self.phases) + 1, len(self.sources)), np.int64)
        """Sequences of each dataset that the phases before each one took."""
        for number, phase in enumerate(self.phases):
            self.taken[number + 1] = self.taken[number] + self._counts(number, phase.sequences)

    def take(self, phase: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a phase's sequences: the dataset of each, int32 [count], and its number in the dataset's
        stream of epochs, int64 [count]. A dataset goes on where the phase before left it."""
        which, numbers = self.mixtures[phase].take(first, count)
        sources = self._ids(phase)[which]
        return sources.astype(np.int32), numbers + self.taken[phase][sources]

    def _ids(self, phase: int) -> np.ndarray:
        return np.array([self.sources.index(name) for name in self.phases[phase].weights])

    def _counts(self, phase: int, sequences: int) -> np.ndarray:
        counts = np.zeros(len(self.sources), np.int64)
        counts[self._ids(phase)] = self.mixtures[phase].counts(sequences)
        return counts


class Loader:
    """Iterates over the batches of a run, one a step, made ahead by a background thread.

    ``world_size`` and ``rank`` are those of data parallelism: the sequences of a step are cut into
    ``world_size`` equal runs. Raises ValueError for what the user can cure. ``load_state`` before the
    first batch goes on where ``state`` was taken, on any number of ranks.
    """

    def __init__(
        self,
        config: TrainConfig,
        world_size: int = 1,
        rank: int = 0,
        *,
        device: torch.device | str = "cpu",
        prefetch: int = 4,
    ) -> None:
        self.config = config
        self.world_size = world_size
        self.rank = rank
        self.device = torch.device(device)
        self.datasets = open_train(config.data, check=rank == 0)
        self.sequences = Sequences(config, self.datasets)
        self.sources = self.sequences.sources
        """Names of the datasets, in the order of ``Batch.source_ids``."""
        self.notes: list[str] = []
        """What load_state found changed and accepted."""
        _check_batches(config, world_size)
        for name in self.sources:
            if self.datasets[name].num_tokens < config.sequence_length:
                raise ValueError(
                    f"data.train: {name!r} holds {self.datasets[name].num_tokens} tokens, fewer than one "
                    f"sequence of {config.sequence_length}; lower sequence_length or add data"
                )
        self._progress = [_Progress() for _ in self.sequences.phases]
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=prefetch)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of all datasets."""
        return sum(dataset.num_tokens for dataset in self.datasets.values())

    @property
    def fingerprint(self) -> str:
        """Of all datasets' contents."""
        prints = {name: dataset.fingerprint for name, dataset in self.datasets.items()}
        return hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        """The next batch. Raises what the background thread ran into."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, args=self._position(), daemon=True)
            self._thread.start()
        item = self._ready.get()
        if item is None:
            self._ready.put(None)
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        progress = self._progress[self._position()[0]]
        progress.steps += 1
        for name, tokens in item.source_tokens.items():
            progress.tokens[name] = progress.tokens.get(name, 0) + tokens
        return item

    def state(self) -> dict[str, Any]:
        """Where the batches handed out so far end: JSON, the same on every rank and for every number of
        ranks. ``phases`` holds those that have begun: settings, steps and sequences done, tokens of each
        dataset; ``planned`` the settings of the others."""
        begun = self._begun()
        phases = self.sequences.phases
        return {
            "phases": [
                {
                    **self._identity(number),
                    "steps": progress.steps,
                    "sequences": phases[number].span(progress.steps)[0],
                    "tokens": dict(progress.tokens),
                }
                for number, progress in enumerate(self._progress[:begun])
            ],
            "planned": [self._identity(number) for number in range(begun, len(phases))],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. Raises ValueError when a phase that has begun is not what it was."""
        assert self._thread is None, "load_state comes before the first batch"
        begun = state["phases"]
        if len(begun) > len(self.sequences.phases):
            raise ValueError(
                f"the run has begun {len(begun)} phases, data.phases has {len(self.sequences.phases)}; "
                "phases that have begun stay: restore them, or use another output folder"
            )
        for number, phase in enumerate(begun):
            now = self._identity(number)
            if now["hash"] != phase["hash"]:
                raise ValueError(_what_changed(phase, now, number))
            self._progress[number] = _Progress(phase["steps"], dict(phase["tokens"]))
        later = [self._identity(number) for number in range(len(begun), len(self.sequences.phases))]
        for before, now in itertools.zip_longest(state["planned"], later):
            if before != now:
                self.notes.append(
                    f"a phase that has not begun changed: {_short(before)} is now {_short(now)}"
                )

    def close(self) -> None:
        """Stop the background thread."""
        self._closed.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue

    def _begun(self) -> int:
        """Number of phases of which a batch was handed out."""
        return sum(progress.steps > 0 for progress in self._progress)

    def _position(self) -> tuple[int, int]:
        """(phase, step in it) of the next batch."""
        for number, (phase, progress) in enumerate(zip(self.sequences.phases, self._progress, strict=True)):
            if progress.steps < phase.steps:
                return number, progress.steps
        return len(self._progress), 0

    def _identity(self, number: int) -> dict[str, Any]:
        """What freezes a phase once it has begun, and its hash."""
        config, phase = self.config, self.sequences.phases[number]
        settings = {
            "name": phase.name,
            "stages": [list(stage) for stage in phase.stages],
            "datasets": {
                name: {"weight": weight, "fingerprint": self.datasets[name].fingerprint}
                for name, weight in phase.weights.items()
            },
            "seed": config.seed,
            "sequence_length": config.sequence_length,
            "packing": config.data.packing,
            "document_masking": config.data.document_masking,
            "window_tokens": config.data.window_tokens,
            "order_version": ORDER_VERSION,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return {"hash": digest, "settings": settings}

    def _work(self, phase: int, step: int) -> None:
        try:
            for number in range(phase, len(self.sequences.phases)):
                for at in range(step if number == phase else 0, self.sequences.phases[number].steps):
                    if self._closed.is_set():
                        return
                    self._ready.put(self._make(number, at))
            self._ready.put(None)
        except BaseException as error:  # handed to the thread that asks for the batch
            self._ready.put(error)

    def _make(self, number: int, step: int) -> Batch:
        """This rank's part of a step of a phase."""
        sequences, phase = self.sequences, self.sequences.phases[number]
        first, count = phase.span(step)
        sources, numbers = sequences.take(number, first, count)
        share = count // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        tokens = [sequences.streams[s].batch(n, 1).num_tokens for s, n in zip(sources, numbers, strict=True)]
        parts = [sequences.streams[s].batch(n, 1) for s, n in zip(sources[mine], numbers[mine], strict=True)]
        micro = self.config.micro_batch_sequences or share
        positions = np.concatenate([part.position_ids for part in parts])
        return Batch(
            input_ids=torch.from_numpy(np.concatenate([part.input_ids for part in parts])),
            labels=torch.from_numpy(np.concatenate([part.labels for part in parts])),
            position_ids=torch.from_numpy(positions),
            cu_seqlens=torch.from_numpy(document_bounds(positions, micro))
            if self.config.data.document_masking
            else None,
            sequence_numbers=sequences.first_sequence[number] + first + np.arange(count)[mine],
            source_ids=sources[mine],
            source_tokens={
                self.sources[s]: int(np.sum(tokens, where=sources == s)) for s in np.unique(sources)
            },
            phase=phase.name,
            step=sum(phase.steps for phase in sequences.phases[:number]) + step,
            micro=micro,
        )


@dataclass
class _Progress:
    """What of a phase was handed out."""

    steps: int = 0
    tokens: dict[str, int] = field(default_factory=dict)


def open_train(data: DataConfig, check: bool = True) -> dict[str, TokenDataset]:
    """The datasets of data.train by name. ``check``: compare the files with their manifests. Raises
    ValueError when they do not share a tokenizer, or are the same data twice."""
    datasets = {name: open_datasets(folders, data.verify) for name, folders in data.named_train.items()}
    names = list(datasets)
    for one, other in itertools.combinations(names, 2):
        a, b = datasets[one], datasets[other]
        if (a.vocab_size, a.eos_id, a.tokenizer_hash) != (b.vocab_size, b.eos_id, b.tokenizer_hash):
            raise ValueError(
                f"data.train: {one!r} was made by tokenizer {a.tokenizer_hash[:12]}, {other!r} by "
                f"{b.tokenizer_hash[:12]}; tokenize them with one"
            )
        if a.fingerprint == b.fingerprint:
            raise ValueError(f"data.train: {one!r} and {other!r} hold the same data; give it one name")
    return datasets


def heldout_batches(
    stream: PackedSequences, count: int, micro: int, device: torch.device | str = "cpu"
) -> Iterator[dict[str, torch.Tensor]]:
    """The first ``count`` sequences of a stream, in the form of ``Batch.micro_batches``."""
    for first in range(0, count, micro):
        batch = stream.batch(first, min(micro, count - first))
        part = {"input_ids": batch.input_ids, "labels": batch.labels, "position_ids": batch.position_ids}
        if stream.document_masking:
            part["cu_seqlens"] = document_bounds(batch.position_ids, len(batch.input_ids))[0]
        yield {name: torch.from_numpy(values).to(device) for name, values in part.items()}


def document_bounds(position_ids: np.ndarray, micro: int) -> np.ndarray:
    """cu_seqlens int32 [b / micro, N + 1] of sequences [b, S] whose positions restart with each document.

    N is fixed, so that a compiled model sees one shape: room for documents of 16 tokens on average, or,
    where those of this batch are shorter, for documents of one token.
    """
    total = micro * position_ids.shape[1]
    starts = [
        np.flatnonzero(part.ravel() == 0) for part in np.split(position_ids, len(position_ids) // micro)
    ]
    room = total // SHORT_DOCUMENT + micro
    if max(map(len, starts)) > room:
        room = total
    bounds = np.full((len(starts), room + 1), total, np.int32)
    for row, found in zip(bounds, starts, strict=True):
        row[: len(found)] = found
    return bounds


def _check_batches(config: TrainConfig, world_size: int) -> None:
    unit = world_size * (config.micro_batch_sequences or 1)
    for phase in config.phases():
        for _, batch in phase.stages:
            if batch % unit:
                micro = config.micro_batch_sequences
                raise ValueError(
                    f"phase {phase.name!r}: a step of {batch} sequences does not divide over {world_size} "
                    "ranks"
                    + (f" in micro-batches of {micro}" if micro else "")
                    + f"; make batch_sequences a multiple of {unit}, or change the number of ranks"
                )


def _what_changed(before: dict[str, Any], now: dict[str, Any], number: int) -> str:
    was, value = flatten(before["settings"]), flatten(now["settings"])
    key = next(key for key in sorted(was.keys() | value.keys()) if was.get(key) != value.get(key))
    name = before["settings"]["name"]
    if key.endswith(".fingerprint") and value.get(key):
        return (
            f"phase {name!r} was trained on other data: dataset {key.split('.')[1]!r} had fingerprint "
            f"{str(was.get(key))[:12]}, now it has {value[key][:12]}; restore it, or use another output "
            "folder"
        )
    return (
        f"phase {number + 1}, {name!r}, has begun with {key} = {was.get(key)!r}, the config now says "
        f"{value.get(key)!r}; restore it: only phases that have not begun may change"
    )


def _short(identity: dict[str, Any] | None) -> str:
    if identity is None:
        return "none"
    settings = identity["settings"]
    weights = {name: dataset["weight"] for name, dataset in settings["datasets"].items()}
    return f"{settings['name']!r} (weights {weights}, (steps, sequences) {settings['stages']})"
