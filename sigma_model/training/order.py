"""The order of a whole run: phase after phase, which sequence of which dataset comes when."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
from typing import Any

import numpy as np

from sigma_model.training.config import DataConfig, TrainConfig, flatten
from sigma_model.training.data import TokenDataset, open_datasets
from sigma_model.training.phases import Mixture
from sigma_model.training.sequences import PackedSequences

ORDER_VERSION = 1
"""Raised by hand when the same config and data would give another order."""


class Order:
    """All sequences of a run, numbered 0, 1, 2, ...; a pure function of the config and the data."""

    def __init__(
        self, config: TrainConfig, datasets: dict[str, TokenDataset], read_ahead: bool = False
    ) -> None:
        """Raises ValueError where the data does not reach."""
        self.config = config
        self.phases = config.phases()
        self.first_sequence = [0, *itertools.accumulate(phase.sequences for phase in self.phases)]
        """Number of each phase's first sequence, and one past the last."""
        self.sources = list(dict.fromkeys(name for phase in self.phases for name in phase.weights))
        """Names of the datasets that are read."""
        self.streams = [_stream(config, name, datasets[name], read_ahead) for name in self.sources]
        """Their sequences."""
        self._mixtures = [
            Mixture(phase.weights, "mixture", config.seed, number) for number, phase in enumerate(self.phases)
        ]
        self._ids = [
            np.array([self.sources.index(name) for name in phase.weights], np.int32) for phase in self.phases
        ]
        self.taken = np.zeros((len(self.phases) + 1, len(self.sources)), np.int64)
        """Sequences of each dataset that the phases before took, int64 [phases + 1, sources]."""
        for number, phase in enumerate(self.phases):
            counts = self._mixtures[number].counts(phase.sequences)
            self.taken[number + 1] = self.taken[number]
            self.taken[number + 1, self._ids[number]] += counts
        self._check_epochs()

    def take(self, phase: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a phase's sequences: the dataset of each, int32 [count], and its number in the dataset's
        stream of epochs, int64 [count]. A dataset goes on where the phase before left it."""
        which, numbers = self._mixtures[phase].take(first, count)
        sources = self._ids[phase][which]
        return sources, numbers + self.taken[phase, sources]

    def locate(self, number: int) -> tuple[int, int, int]:
        """(phase, source, number in the source's stream) of a sequence of the run."""
        if not 0 <= number < self.first_sequence[-1]:
            raise ValueError(
                f"there is no sequence {number}: the run has {self.first_sequence[-1]}, from 0 on"
            )
        phase = bisect.bisect_right(self.first_sequence, number) - 1
        sources, numbers = self.take(phase, number - self.first_sequence[phase], 1)
        return phase, int(sources[0]), int(numbers[0])

    def epochs(self, phase: int) -> dict[str, float]:
        """How often each dataset was read when the phase ends."""
        sizes = [stream.sequences_in_epoch(0) for stream in self.streams]
        return dict(zip(self.sources, (self.taken[phase + 1] / sizes).tolist(), strict=True))

    def identity(self, number: int) -> dict[str, Any]:
        """What freezes a phase once it has begun, and the hash of it."""
        config, phase = self.config, self.phases[number]
        prints = {
            name: stream.dataset.fingerprint for name, stream in zip(self.sources, self.streams, strict=True)
        }
        settings = {
            "name": phase.name,
            "stages": [list(stage) for stage in phase.stages],
            "datasets": {
                name: {"weight": weight, "fingerprint": prints[name]}
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

    def close(self) -> None:
        """End the background threads."""
        for stream in self.streams:
            stream.close()

    def _check_epochs(self) -> None:
        for number, phase in enumerate(self.phases):
            for name, epochs in self.epochs(number).items():
                limit = self.config.data.max_epochs.get(name, math.inf)
                if epochs > limit:
                    raise ValueError(
                        f"phase {phase.name!r} ends with dataset {name!r} read {epochs:.2f} times, above its "
                        f"limit data.max_epochs = {limit:g}; lower its weight, shorten phases, or add data"
                    )


def _stream(config: TrainConfig, name: str, dataset: TokenDataset, read_ahead: bool) -> PackedSequences:
    if dataset.num_tokens < config.sequence_length:
        raise ValueError(
            f"data.train: {name!r} holds {dataset.num_tokens} tokens, fewer than one sequence of "
            f"{config.sequence_length}; lower sequence_length or add data"
        )
    return PackedSequences(
        dataset,
        sequence_length=config.sequence_length,
        seed=config.seed,
        window_tokens=config.data.window_tokens,
        document_masking=config.data.document_masking,
        packing=config.data.packing,
        read_ahead=read_ahead,
    )


def open_train(data: DataConfig, check: bool = True) -> dict[str, TokenDataset]:
    """The datasets of data.train by name. ``check``: compare the files with their manifests. Raises
    ValueError when they do not share a tokenizer, or are the same data twice."""
    datasets = {
        name: open_datasets(folders, data.verify if check else "none")
        for name, folders in data.named_train.items()
    }
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


def fingerprint(datasets: dict[str, TokenDataset]) -> str:
    """Of the contents of all datasets and their names."""
    prints = {name: dataset.fingerprint for name, dataset in datasets.items()}
    return hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()


def what_changed(before: dict[str, Any], now: dict[str, Any], number: int) -> str:
    """The error for a phase that has begun under another identity."""
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


def in_short(identity: dict[str, Any] | None) -> str:
    """An identity for a log line."""
    if identity is None:
        return "none"
    settings = identity["settings"]
    weights = {name: dataset["weight"] for name, dataset in settings["datasets"].items()}
    return f"{settings['name']!r} (weights {weights}, (steps, sequences) {settings['stages']})"
