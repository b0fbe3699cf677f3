"""Batches of a training run: each rank its share of every step, in an order no rank count changes."""

from __future__ import annotations

import itertools
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sigma_model.training.config import TrainConfig
from sigma_model.training.order import Order, fingerprint, in_short, open_train, what_changed
from sigma_model.training.phases import Phase
from sigma_model.training.sequences import BYTES_PER_POSITION, Arrays, PackedSequences

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


class Loader:
    """Iterates over the batches of a run, one a step, made ahead by a background thread.

    ``world_size`` and ``rank`` are those of data parallelism: a step's sequences are cut into
    ``world_size`` equal runs, one a rank. ``load_state`` goes on where ``state`` was taken, on any number
    of ranks. Raises ValueError for what the user can cure. With CUDA, batches are copied from pinned
    memory on a stream of their own.
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
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.prefetch = prefetch
        # one rank's look at every file is enough
        self.datasets = open_train(config.data, check=rank == 0)
        self.order = Order(config, self.datasets, read_ahead=True)
        self.sources = self.order.sources
        """Names of the datasets, in the order of ``Batch.source_ids``."""
        self.notes: list[str] = []
        """What load_state found changed and accepted."""
        self._check_sequences()
        # the end of the run; the rest when it is known where the run stands, as it may have grown since
        last = self.order.phases[-1]
        self._check_batch(last, last.stages[-1][1])
        self._progress = [_Progress() for _ in self.order.phases]
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._reader: _Reader | None = None
        self._buffers: list[np.ndarray] = []

    @property
    def num_tokens(self) -> int:
        """Tokens of all datasets."""
        return sum(dataset.num_tokens for dataset in self.datasets.values())

    @property
    def fingerprint(self) -> str:
        """Of all datasets' contents."""
        return fingerprint(self.datasets)

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        """The next batch. Raises what the background thread ran into."""
        if self._reader is None:
            number, step = self._position()
            for phase in self.order.phases[number:]:
                for batch in phase.batches_from(step if phase is self.order.phases[number] else 0):
                    self._check_batch(phase, batch)
            self._reader = _Reader(self._batches(number, step), self.prefetch)
        batch, copied = self._reader.next()
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            for tensor in (batch.input_ids, batch.labels, batch.position_ids, batch.cu_seqlens):
                if tensor is not None:
                    tensor.record_stream(stream)
        self._progress[self._position()[0]].add(batch)
        return batch

    def state(self) -> dict[str, Any]:
        """Where the batches handed out so far end: JSON, the same on every rank and for every number of
        ranks. ``phases`` holds those that have begun: what freezes them and its hash, steps and sequences
        done, tokens of each dataset; ``planned`` the identities of the others."""
        begun = sum(progress.steps > 0 for progress in self._progress)
        return {
            "phases": [
                {
                    **self.order.identity(number),
                    "steps": progress.steps,
                    "sequences": self.order.phases[number].span(progress.steps)[0],
                    "tokens": dict(progress.tokens),
                }
                for number, progress in enumerate(self._progress[:begun])
            ],
            "planned": [self.order.identity(number) for number in range(begun, len(self.order.phases))],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. Raises ValueError when a phase that has begun is not what it was."""
        self._stop()
        begun, phases = state["phases"], self.order.phases
        if len(begun) > len(phases):
            raise ValueError(
                f"the run has begun {len(begun)} phases, data.phases has {len(phases)}; phases that have "
                "begun stay: restore them, or use another output folder"
            )
        self._progress = [_Progress() for _ in phases]
        for number, phase in enumerate(begun):
            now = self.order.identity(number)
            if now["hash"] != phase["hash"]:
                raise ValueError(what_changed(phase, now, number))
            self._progress[number] = _Progress(phase["steps"], dict(phase["tokens"]))
        later = [self.order.identity(number) for number in range(len(begun), len(phases))]
        self.notes = [
            f"a phase that has not begun changed: {in_short(before)} is now {in_short(now)}"
            for before, now in itertools.zip_longest(state["planned"], later)
            if before != now
        ]

    def close(self) -> None:
        """End the background threads."""
        self._stop()
        self.order.close()

    def _stop(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def _position(self) -> tuple[int, int]:
        """(phase, step in it) of the next batch."""
        for number, (phase, progress) in enumerate(zip(self.order.phases, self._progress, strict=True)):
            if progress.steps < phase.steps:
                return number, progress.steps
        return len(self._progress), 0

    def _batches(self, number: int, step: int) -> Iterator[tuple[Batch, Any]]:
        """All batches from a phase's step on, with the event that says when each is on the device."""
        if self._copies is not None:
            # a thread begins on GPU 0
            torch.cuda.set_device(self.device)
        for phase in range(number, len(self.order.phases)):
            for at in range(step if phase == number else 0, self.order.phases[phase].steps):
                yield self._batch(phase, at)

    def _batch(self, number: int, step: int) -> tuple[Batch, Any]:
        phase, config = self.order.phases[number], self.config
        first, count = phase.span(step)
        sources, numbers = self.order.take(number, first, count)
        share = count // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        rows = np.full(count, -1)
        rows[mine] = np.arange(share)
        memory = self._memory(share * config.sequence_length * BYTES_PER_POSITION)
        arrays = Arrays.over(memory.numpy(), config.sequence_length)
        tokens = {}
        for source in range(len(self.sources)):
            here = np.flatnonzero(sources == source)
            if len(here):
                counts = self.order.streams[source].fill(numbers[here], rows[here], arrays)
                tokens[self.sources[source]] = int(counts.sum())
        micro = config.micro_batch_sequences or share
        bounds = None
        if config.data.document_masking:
            bounds = torch.from_numpy(document_bounds(arrays.position_ids, micro))
        copied = None
        if self._copies is not None:
            with torch.cuda.stream(self._copies):
                memory = memory.to(self.device, non_blocking=True)
                if bounds is not None:
                    bounds = bounds.pin_memory().to(self.device, non_blocking=True)
                copied = self._copies.record_event()
        half = 8 * share * config.sequence_length
        batch = Batch(
            input_ids=memory[:half].view(torch.int64).view(share, -1),
            labels=memory[half : 2 * half].view(torch.int64).view(share, -1),
            position_ids=memory[2 * half :].view(torch.int32).view(share, -1),
            cu_seqlens=bounds,
            sequence_numbers=self.order.first_sequence[number] + first + np.arange(count)[mine],
            source_ids=sources[mine],
            source_tokens=tokens,
            phase=phase.name,
            step=sum(phase.steps for phase in self.order.phases[:number]) + step,
            micro=micro,
        )
        return batch, copied

    def _check_sequences(self) -> None:
        sequences = sum(stream.sequences_in_epoch(0) for stream in self.order.streams)
        if sequences < self.world_size:
            raise ValueError(
                f"data.train holds {sequences} sequences of {self.config.sequence_length}, fewer than the "
                f"{self.world_size} ranks; lower sequence_length, add data or use fewer ranks"
            )

    def _check_batch(self, phase: Phase, batch: int) -> None:
        ranks, micro = self.world_size, self.config.micro_batch_sequences
        if batch < ranks:
            raise ValueError(
                f"phase {phase.name!r}: a step has {batch} sequences, fewer than the {ranks} ranks; raise "
                "batch_sequences or use fewer ranks"
            )
        unit = ranks * (micro or 1)
        if batch % unit:
            raise ValueError(
                f"phase {phase.name!r}: a step of {batch} sequences does not divide over {ranks} ranks"
                f"{f' in micro-batches of {micro}' if micro else ''}; make batch_sequences a "
                f"multiple of {unit}, or change the number of ranks"
            )

    def _memory(self, size: int) -> torch.Tensor:
        """uint8 [size] that no batch lives in any more: new memory costs more than filling it."""
        if self._copies is not None:
            # torch keeps a store of pinned memory, and knows when a copy out of it is done
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        for memory in self._buffers:
            # a tensor over it counts; the list, the loop and the call are the other three
            if len(memory) == size and sys.getrefcount(memory) == 3:
                break
        else:
            memory = np.empty(size, np.uint8)
            self._buffers = [other for other in self._buffers if len(other) == size] + [memory]
        return torch.from_numpy(memory)


@dataclass
class _Progress:
    """What of a phase was handed out."""

    steps: int = 0
    tokens: dict[str, int] = field(default_factory=dict)

    def add(self, batch: Batch) -> None:
        self.steps += 1
        for name, tokens in batch.source_tokens.items():
            self.tokens[name] = self.tokens.get(name, 0) + tokens


class _Reader:
    """Runs an iterator in a thread, some items ahead."""

    def __init__(self, items: Iterator[Any], ahead: int) -> None:
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(items,), daemon=True)
        self._thread.start()

    def next(self) -> Any:
        """The next item; raises what the iterator raised, StopIteration at its end."""
        item, error = self._ready.get()
        if error is not None:
            self._ready.put((item, error))
            raise error
        return item

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue

    def _work(self, items: Iterator[Any]) -> None:
        try:
            for item in items:
                self._ready.put((item, None))
                if self._closed.is_set():
                    return
            self._ready.put((None, StopIteration()))
        except BaseException as error:  # for the thread that asks for the item
            self._ready.put((None, error))


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
