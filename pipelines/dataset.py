"""A dataset is a folder of immutable files and a manifest.

    <dataset>/data/<item>.<role>.<8 hex>.parquet   uniquely named, never renamed, never changed
    <dataset>/commits/<item>.json                  names the files of one work item: put last, once
    <dataset>/plan.json                            the work items, frozen when the inputs are known
    <dataset>/manifest.json                        written last of all; makes the dataset exist

A file that no commit names is garbage (``corpusmill gc``). Two hashes a file: ``sha256`` of its
bytes (integrity) and ``content_hash`` of its logical rows (identity).
"""

from __future__ import annotations

import hashlib
import json
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.storage import Folder

SCHEMA_VERSION = 1
KINDS = ("documents", "warc", "tokens", "artifact")
ROW_GROUP_BYTES = 16 << 20
ROW_GROUP_TOKENS = 4 << 20


class SchemaTooNew(ValueError):
    """A manifest written by a newer CorpusMill."""


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no white space: the same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint(value: Any) -> str:
    """SHA-256, as hex, of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def content_hash(table: pa.Table) -> str:
    """BLAKE2b-128 of the logical rows: independent of chunks, slices, compression and row groups."""
    digest = hashlib.blake2b(digest_size=16)
    for name in table.column_names:
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        digest.update(f"{name}:{_type_name(column.type)}:{len(column)};".encode())
        _hash_array(digest, column)
    return digest.hexdigest()


def _type_name(kind: pa.DataType) -> str:
    """The type without the names that lists give their items, which Parquet does not keep."""
    if pa.types.is_large_list(kind):
        return f"large_list<{_type_name(kind.value_type)}>"
    if pa.types.is_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    return str(kind)


def _hash_array(digest: Any, array: pa.Array) -> None:
    """Feed null positions and values, in a form that no slice or chunking can change."""
    if array.null_count:
        digest.update(b"nulls")
        digest.update(np.packbits(pc.is_null(array).to_numpy(zero_copy_only=False)))
    kind = array.type
    if pa.types.is_null(kind):
        return
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        digest.update(lengths.cast(pa.int64()).to_numpy())
        _hash_array(digest, array.flatten())
    elif pa.types.is_struct(kind):
        for child in array.flatten():
            _hash_array(digest, child)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind) or _is_large(kind):
        array = pc.fill_null(array, b"" if pa.types.is_binary(kind) else "")
        digest.update(pc.binary_length(array).cast(pa.int64()).to_numpy())
        offset_type = np.int64 if _is_large(kind) else np.int32
        offsets = np.frombuffer(array.buffers()[1], offset_type)[array.offset :]
        data = array.buffers()[2]
        if data is not None:
            digest.update(memoryview(data)[offsets[0] : offsets[len(array)]])
    elif pa.types.is_boolean(kind):
        digest.update(np.packbits(pc.fill_null(array, False).to_numpy(zero_copy_only=False)))
    elif pa.types.is_fixed_size_list(kind):
        _hash_array(digest, array.flatten())
    else:
        if pa.types.is_temporal(kind):
            array = array.cast(pa.int64())
        digest.update(np.ascontiguousarray(pc.fill_null(array, 0).to_numpy(zero_copy_only=False)))


def _is_large(kind: pa.DataType) -> bool:
    return pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)


@dataclass(frozen=True)
class File:
    """One immutable file of a dataset. ``role`` is "rows", "dropped", "quarantined", or "phase": what
    one phase of a shuffle left for the next, with the names of its tables (pipelines/phase_files.py)."""

    role: str
    file: str
    rows: int
    bytes: int
    sha256: str
    content_hash: str
    token_counts: list[int] | None = None
    tables: list[str] | None = None

    def to_json(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if value is not None}

    @staticmethod
    def from_json(value: dict) -> File:
        # many commits name the same tables: kept once
        tables = [sys.intern(name) for name in value["tables"]] if "tables" in value else None
        return File(**{**value, "tables": tables})


def write_table(folder: Folder, item: str, role: str, table: pa.Table) -> File:
    """Write ``table`` as Parquet under a unique name. The same rows always give the same bytes."""
    is_tokens = "tokens" in table.column_names and role == "rows"
    if is_tokens:
        bounds = _token_row_groups(table)
    else:
        per_row = max(1, table.nbytes // max(1, table.num_rows))
        step = max(1, ROW_GROUP_BYTES // per_row)
        bounds = [*range(0, table.num_rows, step), table.num_rows]
    sink = pa.BufferOutputStream()
    plain = {"text", "id", "doc_id", "tokens", "url", "warc_record_id", "metadata"}
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=[name for name in table.column_names if name not in plain],
        write_statistics=[name for name in table.column_names if name not in ("text", "tokens")],
    ) as writer:
        for start, stop in zip(bounds, bounds[1:], strict=False):
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
        if table.num_rows == 0:
            writer.write_table(table)
    data = sink.getvalue()
    name = f"data/{item}.{role}.{uuid.uuid4().hex[:8]}.parquet"
    counts = None
    if is_tokens:
        lengths = np.concatenate([[0], np.cumsum(_list_lengths(table["tokens"]))])
        counts = [int(lengths[b] - lengths[a]) for a, b in zip(bounds, bounds[1:], strict=False)]
    with folder.writing(name, data):
        return File(
            role=role,
            file=name,
            rows=table.num_rows,
            bytes=data.size,
            sha256=hashlib.sha256(data).hexdigest(),
            content_hash=content_hash(table),
            token_counts=counts,
        )


def _list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)


def _token_row_groups(table: pa.Table) -> list[int]:
    """Row bounds of row groups of about ROW_GROUP_TOKENS tokens."""
    groups = np.cumsum(_list_lengths(table["tokens"])) // ROW_GROUP_TOKENS
    cuts = np.flatnonzero(np.diff(groups)) + 1
    return [0, *cuts.tolist(), table.num_rows] if table.num_rows else [0]


def write_file(folder: Folder, name: str, path: Path, role: str = "rows", rows: int = 0) -> File:
    """Store any file, a WARC part or one file of a model, as ``name`` (which the caller made unique)."""
    data = path.read_bytes()
    with folder.writing(name, data):
        digest = hashlib.sha256(data).hexdigest()
    return File(role, name, rows, len(data), digest, digest[:32])


@contextmanager
def readable(folder: Folder, file: str) -> Iterator[None]:
    """Names the file and what to do when what is read inside is damaged or gone."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder}/{file} is named by a commit but is not there: restore it, or delete the"
            f" dataset folder {folder} to make it again"
        ) from None
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{folder}/{file} is not a readable {file.rsplit('.', 1)[-1].capitalize()} file ({error}):"
            f" delete the dataset folder {folder} to make it again"
        ) from error


def read_table(folder: Folder, file: str, columns: list[str] | None = None) -> pa.Table:
    """The rows of one file, or those of ``columns`` that it has."""
    with readable(folder, file), _open_parquet(folder, file) as parquet:
        return parquet.read(columns)


def _open_parquet(folder: Folder, file: str) -> pq.ParquetFile:
    # a local file is mapped: reading it costs no copy
    return pq.ParquetFile(folder.path(file), filesystem=folder.fs, memory_map=folder.is_local)


def read_slice(folder: Folder, file: str, start: int, stop: int) -> pa.Table:
    """Rows ``start`` to ``stop`` of one file; row groups outside are not read."""
    with readable(folder, file), _open_parquet(folder, file) as parquet:
        sizes = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        first, last = np.searchsorted(bounds, start, "right") - 1, np.searchsorted(bounds, stop)
        return parquet.read_row_groups(range(first, last)).slice(start - bounds[first], stop - start)


@dataclass
class Commit:
    """What one work item did. Put once as commits/<item>.json; the first one is the truth."""

    item: str
    key: str
    files: list[File]
    rows_in: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    quarantined: int = 0
    steps: list[dict] = field(default_factory=list)
    report: dict = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0
    at: str = ""
    host: str = ""
    pid: int = 0
    attempt: int = 0
    reused: bool = False

    def to_json(self) -> dict:
        return {**self.__dict__, "files": [file.to_json() for file in self.files]}

    @staticmethod
    def from_json(value: dict) -> Commit:
        return Commit(**{**value, "files": [File.from_json(file) for file in value["files"]]})

    def file(self, role: str = "rows") -> File | None:
        return next((file for file in self.files if file.role == role), None)


def put_commit(folder: Folder, commit: Commit) -> Commit:
    """Commit, or return the commit that was there first (its files are the truth, ours garbage)."""
    name = f"commits/{commit.item}.json"
    if folder.put_if_absent(name, json.dumps(commit.to_json(), indent=1).encode()):
        return commit
    value = folder.read_json(name)
    if value is None:
        # torn by a store that died while it was put: it says nothing, so it is no commit
        folder.write(name, json.dumps(commit.to_json(), indent=1).encode())
        return commit
    first = Commit.from_json(value)
    if first.key != commit.key:
        raise RuntimeError(
            f"{folder}/{name} belongs to another plan (key {first.key[:12]}, ours {commit.key[:12]}):"
            f" delete the dataset folder {folder} and run again"
        )
    return first


def read_commit(folder: Folder, item: str) -> Commit | None:
    value = folder.read_json(f"commits/{item}.json")
    return None if value is None else Commit.from_json(value)


def read_commits(folder: Folder) -> dict[str, Commit]:
    """All commits, by item name, in order of name."""
    names = [info.base_name[:-5] for info in folder.list("commits") if info.extension == "json"]
    return {name: commit for name in names if (commit := read_commit(folder, name)) is not None}


@dataclass
class Manifest:
    """What makes a dataset exist. ``shards`` are its rows; the rest is how it came about."""

    kind: str
    node: str
    fingerprint: str
    content_fingerprint: str
    determinism: str
    stages: list[dict]
    inputs: dict[str, str]
    shards: list[dict]
    dropped: list[dict]
    quarantined: list[dict]
    counts: dict
    steps: list[dict]
    schema: dict[str, str]
    report: dict
    gaps: list[str] = field(default_factory=list)
    tokens: dict = field(default_factory=dict)
    created: dict = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict:
        return dict(self.__dict__)


def content_fingerprint(kind: str, shards: list[File]) -> str:
    """Identity of a dataset: what it holds, not where or how it was made. Artifacts count names too."""
    names = [file.file.rsplit("/", 1)[-1] for file in shards] if kind == "artifact" else []
    hashes = [file.content_hash for file in shards]
    return fingerprint([kind, SCHEMA_VERSION, hashes, names])


def read_manifest(folder: Folder, name: str = "manifest.json") -> Manifest | None:
    """The manifest, or None when the dataset does not exist yet. Refuses a newer schema by name."""
    value = folder.read_json(name)
    if value is None:
        return None
    version = value.get("schema_version")
    if version != SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{folder}/{name} has schema_version {version}, this CorpusMill reads {SCHEMA_VERSION}:"
            " upgrade CorpusMill, or name another store"
        )
    return Manifest(**value)
