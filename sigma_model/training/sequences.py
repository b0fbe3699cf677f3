"""A dataset as one stream of sequences, in an order that depends on nothing but the data and the seed.

Row groups are shuffled; runs of row groups make windows; a window's documents are shuffled and packed into
sequences, and these are shuffled too, or a long document would fill many steps in a row. So every token
is an input exactly once an epoch, and sequence n is found without reading those before it.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sigma_model.training.data import TokenDataset
from sigma_model.training.packing import Pieces, fill, num_sequences, pack
from sigma_model.training.phases import random_words

KEPT_WINDOWS = 2
BYTES_PER_POSITION = 8 + 8 + 4


@dataclass(frozen=True)
class Arrays:
    """Packed sequences, each array [batch, sequence_length], to be written to."""

    input_ids: np.ndarray
    """int64; padded with the end token."""
    labels: np.ndarray
    """int64, already shifted: the next token of the same document (or, without document masking, of the
    sequence), or -100."""
    position_ids: np.ndarray
    """int32; restarts with each document under document masking, and with the padding."""

    @staticmethod
    def over(memory: np.ndarray, length: int) -> Arrays:
        """Arrays of so many positions a row over uint8 [batch * length * BYTES_PER_POSITION]."""
        count = len(memory) // BYTES_PER_POSITION
        return Arrays(
            memory[: 8 * count].view(np.int64).reshape(-1, length),
            memory[8 * count : 16 * count].view(np.int64).reshape(-1, length),
            memory[16 * count :].view(np.int32).reshape(-1, length),
        )


@dataclass(frozen=True)
class _Epoch:
    """Windows of one epoch."""

    groups: np.ndarray  # int64 [row groups], in shuffled order
    bounds: np.ndarray  # int64 [windows + 1], where each window's row groups begin in groups
    first_sequence: np.ndarray  # int64 [windows + 1]


@dataclass(frozen=True)
class _Window:
    """A decoded window: documents as they lie in its row groups, and how they are packed."""

    tokens: np.ndarray  # uint32 [n]
    starts: np.ndarray  # int64 [documents + 1], of each document in tokens
    pieces: Pieces
    slots: np.ndarray  # int64 [sequences], which of the pieces' sequences comes when
    num_tokens: np.ndarray  # int64 [sequences], of pieces' sequences


class PackedSequences:
    """All sequences of all epochs of a dataset, numbered 0, 1, 2, ...; a pure function of its arguments."""

    def __init__(
        self,
        dataset: TokenDataset,
        *,
        sequence_length: int,
        seed: int,
        window_tokens: int = 16_000_000,
        document_masking: bool = True,
        packing: str = "concat",
        read_ahead: bool = False,
    ) -> None:
        """``read_ahead``: when a window is first used, decode the next one in the background."""
        self.dataset = dataset
        self.sequence_length = sequence_length
        self.seed = seed
        self.window_tokens = window_tokens
        self.document_masking = document_masking
        self.packing = packing
        self.read_ahead = read_ahead
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._epochs_begin = [0]
        self._windows: OrderedDict[tuple[int, int], Future[_Window]] = OrderedDict()
        self._reader = ThreadPoolExecutor(1)

    def sequences_in_epoch(self, epoch: int) -> int:
        """Number of sequences of an epoch (windows differ, so it can differ by a few)."""
        while len(self._epochs_begin) < epoch + 2:
            count = int(self._epoch(len(self._epochs_begin) - 1).first_sequence[-1])
            self._epochs_begin.append(self._epochs_begin[-1] + count)
        return self._epochs_begin[epoch + 1] - self._epochs_begin[epoch]

    def locate(self, number: int) -> tuple[int, int]:
        """(epoch, number inside it) of sequence ``number``."""
        while self._epochs_begin[-1] <= number:
            self.sequences_in_epoch(len(self._epochs_begin) - 1)
        epoch = bisect.bisect_right(self._epochs_begin, number) - 1
        return epoch, number - self._epochs_begin[epoch]

    def fill(self, numbers: np.ndarray, rows: np.ndarray, out: Arrays) -> np.ndarray:
        """Write sequences int64 [k] into rows int64 [k] of ``out``; a row of -1 writes nothing.
        Returns the tokens, without padding, of each sequence, int64 [k]."""
        counts = np.empty(len(numbers), np.int64)
        for window, ranks, here in self._by_window(numbers):
            pieces, slots = window.pieces, window.slots[ranks]
            counts[here] = window.num_tokens[slots]
            fill(
                window.tokens, window.starts, pieces.start, pieces.length, pieces.document, pieces.bounds,
                slots, rows[here], self.document_masking, self.dataset.eos_id,
                out.input_ids, out.labels, out.position_ids,
            )  # fmt: skip
        return counts

    def batch(self, first: int, count: int) -> Arrays:
        """Sequences first .. first + count - 1."""
        memory = np.empty(count * self.sequence_length * BYTES_PER_POSITION, np.uint8)
        out = Arrays.over(memory, self.sequence_length)
        self.fill(first + np.arange(count), np.arange(count), out)
        return out

    def documents(self, number: int) -> list[tuple[str, int, int]]:
        """Documents of a sequence, in order: (doc_id, first token of the document, tokens)."""
        epoch, inside = self.locate(number)
        plan = self._epoch(epoch)
        which = int(np.searchsorted(plan.first_sequence, inside, side="right")) - 1
        window, pieces = self._window(epoch, which), self._window(epoch, which).pieces
        slot = window.slots[inside - plan.first_sequence[which]]
        found = slice(*pieces.bounds[slot : slot + 2])
        rows = pieces.document[found]
        ids = self._doc_ids(plan.groups[slice(*plan.bounds[which : which + 2])], rows)
        first = pieces.start[found] - window.starts[rows]
        return list(zip(ids, first.tolist(), pieces.length[found].tolist(), strict=True))

    def close(self) -> None:
        """End the background thread."""
        self._reader.shutdown(cancel_futures=True)

    def _doc_ids(self, groups: np.ndarray, rows: np.ndarray) -> list[str]:
        """Ids of some rows of a window."""
        ids = [doc_id for group in groups for doc_id in self.dataset.read_doc_ids(group)]
        return [ids[row] for row in rows]

    def _by_window(self, numbers: np.ndarray) -> Iterator[tuple[_Window, np.ndarray, np.ndarray]]:
        """Sequences by the window they lie in: (window, ranks in it, places in ``numbers``)."""
        if not len(numbers):
            return
        self.locate(int(numbers.max()))
        epochs = np.searchsorted(self._epochs_begin, numbers, side="right") - 1
        for epoch in np.unique(epochs):
            here = np.flatnonzero(epochs == epoch)
            inside = numbers[here] - self._epochs_begin[epoch]
            first = self._epoch(int(epoch)).first_sequence
            windows = np.searchsorted(first, inside, side="right") - 1
            for which in np.unique(windows):
                mine = windows == which
                yield self._window(int(epoch), int(which)), inside[mine] - first[which], here[mine]

    def _window(self, epoch: int, which: int) -> _Window:
        window = self._request(epoch, which)
        if self.read_ahead:
            last = which + 1 == len(self._epoch(epoch).bounds) - 1
            self._request(*((epoch + 1, 0) if last else (epoch, which + 1)))
        return window.result()

    def _request(self, epoch: int, which: int) -> Future[_Window]:
        key = epoch, which
        if key not in self._windows:
            self._windows[key] = self._reader.submit(self._load_window, epoch, which)
            while len(self._windows) > KEPT_WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(key)
        return self._windows[key]

    def _make_epoch(self, epoch: int) -> _Epoch:
        groups = self._permutation(len(self.dataset.group_tokens), "row groups", epoch)
        before = np.concatenate([[0], np.cumsum(self.dataset.group_tokens[groups])])
        bounds = [0]
        while bounds[-1] < len(groups):
            # until it holds window_tokens
            end = np.searchsorted(before, before[bounds[-1]] + self.window_tokens)
            bounds.append(min(int(end), len(groups)))
        tokens = np.diff(before[bounds])
        counts = num_sequences(tokens, self.sequence_length, self.packing)
        return _Epoch(groups, np.array(bounds), np.concatenate([[0], np.cumsum(counts)]))

    def _load_window(self, epoch: int, which: int) -> _Window:
        plan = self._epoch(epoch)
        groups = plan.groups[plan.bounds[which] : plan.bounds[which + 1]]
        counts = self.dataset.group_tokens[groups]
        tokens = np.empty(counts.sum(), np.uint32)
        lengths, at = [], 0
        for group, count in zip(groups, counts, strict=True):
            tokens[at : at + count], found = self.dataset.read_tokens(group)
            lengths.append(found)
            at += count
        starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        order = self._permutation(len(starts) - 1, "documents", epoch, which)
        pieces = pack(starts, order, self.sequence_length, self.packing)
        slots = self._permutation(len(pieces.bounds) - 1, "sequences", epoch, which)
        return _Window(tokens, starts, pieces, slots, pieces.num_tokens())

    def _permutation(self, count: int, *purpose: Any) -> np.ndarray:
        words = random_words(count, self.dataset.fingerprint, self.seed, *purpose)
        return np.argsort(words, kind="stable")
