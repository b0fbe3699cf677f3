"""Token shards to sequences, in an order that depends on nothing but the data and the seed.

A dataset is a folder with manifest.json and Parquet shards; a row is a document's tokens with its
end token. Row groups are shuffled; runs of row groups make windows; documents are shuffled inside
a window and laid end to end; the window is cut into sequences, the last one padded, and these are
shuffled too, or a long document would fill many steps in a row. So every token is an input exactly
once an epoch, and sequence n is found without reading those before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1
IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """One row group of a shard: the unit that is shuffled and decoded."""

    file: Path
    index: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class TokenDataset:
    """One or more folders of token shards that share a tokenizer."""

    row_groups: tuple[RowGroup, ...]
    fingerprint: str
    """Of the contents, never of the paths."""
    vocab_size: int
    eos_id: int
    tokenizer_hash: str

    @property
    def num_tokens(self) -> int:
        return sum(group.num_tokens for group in self.row_groups)

    def read_tokens(self, group: RowGroup) -> tuple[np.ndarray, np.ndarray]:
        """A row group's tokens uint32 [n] and its documents' lengths int64 [rows]."""
        column = _read_column(group, "tokens")
        kind = column.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or kind.value_type not in (
            pa.uint32(), pa.int32(),
        ):  # fmt: skip
            raise ValueError(f"{group.file}: column tokens is {kind}, not list<uint32>")
        if column.null_count:
            raise ValueError(
                f"{group.file}, row group {group.index}: {column.null_count} rows have no tokens; "
                "tokenize the dataset again"
            )
        tokens = column.flatten().to_numpy(zero_copy_only=True).view(np.uint32)
        lengths = np.diff(column.offsets.to_numpy()).astype(np.int64)
        if len(tokens) != group.num_tokens:
            raise ValueError(
                f"{group.file}, row group {group.index} holds {len(tokens)} tokens, its manifest "
                f"says {group.num_tokens}: the shard has changed; tokenize the dataset again"
            )
        if len(tokens) and int(tokens.max()) >= self.vocab_size:
            raise ValueError(
                f"{group.file}, row group {group.index} holds token id {int(tokens.max())}, but "
                f"the manifest's vocabulary has {self.vocab_size}; tokenize the dataset again"
            )
        return tokens, lengths

    def read_doc_ids(self, group: RowGroup) -> list[str]:
        """Ids of a row group's documents, in order."""
        return _read_column(group, "doc_id").to_pylist()


def open_datasets(folders: list[str], verify: str = "size") -> TokenDataset:
    """Open folders of token shards as one dataset, after checking them against their manifests.

    ``verify``: "size" compares sizes and row counts, "sha256" also the files' hashes.
    Raises ValueError that names the file and the cure.
    """
    manifests = [(Path(folder), _read_manifest(Path(folder))) for folder in folders]
    facts = {json.dumps(manifest["tokens"], sort_keys=True) for _, manifest in manifests}
    if len(facts) > 1:
        raise ValueError(
            f"datasets {[str(folder) for folder, _ in manifests]} were made by different "
            f"tokenizers: {sorted(facts)}; tokenize them with one"
        )
    row_groups = [
        group
        for folder, manifest in manifests
        for shard in manifest["shards"]
        for group in _check_shard(folder, shard, verify)
    ]
    if not sum(group.num_tokens for group in row_groups):
        raise ValueError(f"datasets {folders} hold no tokens; check what was tokenized")
    tokens = manifests[0][1]["tokens"]
    fingerprints = [manifest["fingerprint"] for _, manifest in manifests]
    return TokenDataset(
        row_groups=tuple(row_groups),
        fingerprint=hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest(),
        vocab_size=tokens["vocab_size"],
        eos_id=tokens["eos_id"],
        tokenizer_hash=tokens["tokenizer_hash"],
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no manifest.json: it is no finished dataset; check the "
                         "path, or finish the run that writes it")  # fmt: skip
    manifest = json.loads(path.read_text())
    if manifest.get("kind") != "tokens":
        raise ValueError(f"{path}: kind is {manifest.get('kind')!r}, not 'tokens'; tokenize first")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version {manifest.get('schema_version')} is not the "
            f"{SCHEMA_VERSION} this version reads; update CorpusMill or write the dataset again"
        )
    for key, inner in (("tokens", ("vocab_size", "eos_id", "tokenizer_hash")),
                       ("fingerprint", ()), ("shards", ())):  # fmt: skip
        missing = [name for name in inner if name not in manifest.get(key, {})]
        if key not in manifest or missing:
            raise ValueError(f"{path} lacks {key} {missing or ''}; write the dataset again")
    return manifest


def _check_shard(folder: Path, shard: dict[str, Any], verify: str) -> Iterator[RowGroup]:
    path = folder / shard["file"]
    cure = "restore the file or tokenize the dataset again"
    if not path.is_file():
        raise ValueError(f"shard {path} of {folder / 'manifest.json'} is missing; {cure}")
    if path.stat().st_size != shard["bytes"]:
        raise ValueError(
            f"shard {path} has {path.stat().st_size} bytes, its manifest says {shard['bytes']}; {cure}"
        )
    if verify == "sha256":
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard["sha256"]:
            raise ValueError(f"shard {path} has sha256 {found}, its manifest says {shard['sha256']}; {cure}")
    try:
        footer = pq.read_metadata(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"shard {path} is no Parquet file ({error}); {cure}") from error
    if (footer.num_rows, footer.num_row_groups) != (shard["rows"], len(shard["token_counts"])):
        raise ValueError(
            f"shard {path} has {footer.num_rows} rows in {footer.num_row_groups} row groups, its "
            f"manifest says {shard['rows']} in {len(shard['token_counts'])}; {cure}"
        )
    for index, num_tokens in enumerate(shard["token_counts"]):
        yield RowGroup(file=path, index=index, num_tokens=num_tokens)


def _read_column(group: RowGroup, name: str) -> pa.Array:
    with pq.ParquetFile(group.file) as file:
        if name not in file.schema_arrow.names:
            raise ValueError(
                f"{group.file} has columns {file.schema_arrow.names}, no {name!r}; it is no token "
                "shard: tokenize the dataset again"
            )
        chunks = file.read_row_group(group.index, columns=[name]).column(name).chunks
    return pa.concat_arrays(chunks)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Packed sequences, each array [batch, sequence_length]."""

    input_ids: np.ndarray
    """int64; padded with the end token."""
    labels: np.ndarray
    """int64, the next token of the same document (of the window, without document masking), or
    -100: already shifted."""
    position_ids: np.ndarray
    """int32; restarts with each document under document masking."""
    segment_ids: np.ndarray | None
    """int32, the document of each position, -1 for padding; None without document masking."""
    num_tokens: int
    """Positions that are no padding."""


@dataclass(frozen=True)
class _Plan:
    """Windows of one epoch: their row groups, and the number of each one's first sequence."""

    windows: tuple[tuple[RowGroup, ...], ...]
    first_sequence: np.ndarray  # int64 [windows + 1]


@dataclass(frozen=True)
class _Window:
    """A decoded window: documents end to end, in shuffled order."""

    tokens: np.ndarray  # uint32 [n]
    starts: np.ndarray  # int64 [documents + 1], of each document in tokens
    order: np.ndarray  # int64 [documents], row of the window that each document was


class PackedSequences:
    """All sequences of all epochs, numbered 0, 1, 2, ...; a pure function of its arguments."""

    def __init__(
        self,
        dataset: TokenDataset,
        *,
        sequence_length: int,
        seed: int,
        window_tokens: int = 16_000_000,
        document_masking: bool = True,
    ) -> None:
        self.dataset = dataset
        self.sequence_length = sequence_length
        self.seed = seed
        self.window_tokens = window_tokens
        self.document_masking = document_masking
        self._plan = lru_cache(maxsize=2)(self._make_plan)
        self._window = lru_cache(maxsize=1)(self._load_window)
        self._slots = lru_cache(maxsize=2)(self._make_slots)
        self._counts: dict[int, int] = {}
        self._count = np.arange(sequence_length + 1, dtype=np.int32)

    def sequences_in_epoch(self, epoch: int) -> int:
        """Number of sequences of an epoch (windows differ, so it can differ by a few)."""
        if epoch not in self._counts:
            self._counts[epoch] = int(self._plan(epoch).first_sequence[-1])
        return self._counts[epoch]

    def locate(self, number: int) -> tuple[int, int]:
        """(epoch, number inside it) of sequence ``number``."""
        epoch = 0
        while number >= (count := self.sequences_in_epoch(epoch)):
            number -= count
            epoch += 1
        return epoch, number

    def batch(self, first: int, count: int) -> Batch:
        """Sequences first .. first + count - 1."""
        shape = count, self.sequence_length
        batch = Batch(
            input_ids=np.full(shape, self.dataset.eos_id, dtype=np.int64),
            labels=np.full(shape, IGNORE, dtype=np.int64),
            position_ids=np.empty(shape, dtype=np.int32),
            segment_ids=np.full(shape, -1, dtype=np.int32) if self.document_masking else None,
            num_tokens=0,
        )
        num_tokens = sum(self._fill(batch, row, first + row) for row in range(count))
        return replace(batch, num_tokens=num_tokens)

    def decode_sequence(self, number: int) -> list[tuple[str, int, int]]:
        """Documents of a sequence, in order: (doc_id, first token of the document, tokens)."""
        epoch, window_number, lo, hi = self._place(number)
        window = self._window(epoch, window_number)
        groups = self._plan(epoch).windows[window_number]
        ids = [doc_id for group in groups for doc_id in self.dataset.read_doc_ids(group)]
        begin = int(np.searchsorted(window.starts, lo, side="right")) - 1
        end = int(np.searchsorted(window.starts, hi, side="left"))
        pieces = []
        for document in range(begin, end):
            start, stop = int(window.starts[document]), int(window.starts[document + 1])
            if start < stop:
                piece = max(start, lo), min(stop, hi)
                doc_id = ids[int(window.order[document])]
                pieces.append((doc_id, piece[0] - start, piece[1] - piece[0]))
        return pieces

    def _place(self, number: int) -> tuple[int, int, int, int]:
        """(epoch, window, first position, position after the last) of a sequence."""
        epoch, inside = self.locate(number)
        plan = self._plan(epoch)
        window_number = int(np.searchsorted(plan.first_sequence, inside, side="right")) - 1
        num_tokens = sum(group.num_tokens for group in plan.windows[window_number])
        rank = inside - int(plan.first_sequence[window_number])
        lo = int(self._slots(epoch, window_number)[rank]) * self.sequence_length
        return epoch, window_number, lo, min(lo + self.sequence_length, num_tokens)

    def _fill(self, batch: Batch, row: int, number: int) -> int:
        """Write sequence ``number`` into a row of the batch; the number of its tokens."""
        epoch, window_number, lo, hi = self._place(number)
        window = self._window(epoch, window_number)
        length = hi - lo
        batch.input_ids[row, :length] = window.tokens[lo:hi]
        following = window.tokens[lo + 1 : hi + 1]
        batch.labels[row, : len(following)] = following
        batch.position_ids[row] = self._count[:-1]
        if batch.segment_ids is not None:
            # where later documents begin, counted from lo; one at hi still ends the last label
            first = int(np.searchsorted(window.starts, lo, side="right"))
            after = int(np.searchsorted(window.starts, hi, side="right"))
            begins = window.starts[first:after] - lo
            batch.labels[row, begins - 1] = IGNORE
            inner = begins[begins < length]
            counts = np.diff(inner, prepend=0, append=length)
            batch.segment_ids[row, :length] = np.repeat(np.arange(len(counts)), counts)
            batch.position_ids[row, :length] -= np.repeat(np.append(0, inner), counts)
        return length

    def _make_plan(self, epoch: int) -> _Plan:
        order = self._permutation(len(self.dataset.row_groups), "row groups", epoch)
        windows: list[tuple[RowGroup, ...]] = []
        current: list[RowGroup] = []
        size = 0
        for index in order:
            group = self.dataset.row_groups[index]
            current.append(group)
            size += group.num_tokens
            if size >= self.window_tokens:
                windows.append(tuple(current))
                current, size = [], 0
        if size:
            windows.append(tuple(current))
        tokens = [sum(group.num_tokens for group in window) for window in windows]
        counts = [-(-n // self.sequence_length) for n in tokens]
        return _Plan(tuple(windows), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def _make_slots(self, epoch: int, window_number: int) -> np.ndarray:
        """Which piece of the window each of its sequences is, int64 [sequences]."""
        first = self._plan(epoch).first_sequence
        count = int(first[window_number + 1] - first[window_number])
        return self._permutation(count, "sequences", epoch, window_number)

    def _load_window(self, epoch: int, number: int) -> _Window:
        groups = self._plan(epoch).windows[number]
        parts = [self.dataset.read_tokens(group) for group in groups]
        tokens = np.concatenate([part[0] for part in parts])
        lengths = np.concatenate([part[1] for part in parts])
        stops = np.cumsum(lengths)
        order = self._permutation(len(lengths), "documents", epoch, number)
        begins, ends = (stops - lengths)[order].tolist(), stops[order].tolist()
        shuffled = np.concatenate([tokens[b:e] for b, e in zip(begins, ends, strict=True)])
        starts = np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64)
        return _Window(shuffled, starts, order)

    def _permutation(self, count: int, *purpose: Any) -> np.ndarray:
        """A permutation int64 [count] that no NumPy version will change: Philox is frozen."""
        name = json.dumps([self.dataset.fingerprint, self.seed, *purpose])
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
        return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")
