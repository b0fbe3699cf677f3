"""Stage ``read_parquet``: documents that lie in Parquet files, from any tool, into a run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.extract.stage import DOCUMENT_SCHEMA, document_id, split_of
from pipelines.storage import matching_files

# columns that are taken as they are where a file has them, and null elsewhere
_TAKEN = ("title", "url", "license", "metadata")


@dataclass(frozen=True, kw_only=True)
class ReadParquet:
    """Take documents from Parquet files, by runs of row groups of about ``item_bytes``.

    A document's id is made from ``source`` and the row's own id, or the file's name and the row
    where there is no id column. A text that is no UTF-8 (in a binary column) goes to quarantine,
    a missing one is empty. Of the other columns ``title``, ``url``, ``license`` and ``metadata``
    are taken where they are strings, and those that ``keep`` names.
    """

    stage: ClassVar[str] = "read_parquet"
    shape: ClassVar[str] = "source"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {}
    output: ClassVar[str] = "documents"
    needs: ClassVar[tuple[str, ...]] = ()
    adds: ClassVar[dict[str, str]] = {
        name: str(DOCUMENT_SCHEMA.field(name).type) for name in ("id", "text", *_TAKEN, "source", "split")
    }

    paths: tuple[str, ...]
    """Files or patterns (``data/*.parquet``, ``**`` for any depth) on this machine."""
    source: str = "parquet"
    """Name of the source: a column, and part of every id."""
    text_column: str = "text"
    """The column that holds the text: string, or binary that is UTF-8."""
    id_column: str | None = "id"
    """The column that names a document within the source; null: the file and the row name it."""
    keep: tuple[str, ...] = ()
    """Further columns to take as they are."""
    heldout_fraction: float = 0.0
    """Share of documents, chosen by id, whose split is heldout."""
    item_bytes: int = 256_000_000
    """Uncompressed bytes of the row groups of a work item, about: a shard, so a task's memory."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("paths is empty: name at least one Parquet file or pattern")
        if not 0 <= self.heldout_fraction <= 1:
            raise ValueError(f"heldout_fraction is {self.heldout_fraction}: it must be in 0 to 1")
        if self.item_bytes < 1:
            raise ValueError(f"item_bytes must be at least 1, not {self.item_bytes}")
        if taken := set(self.keep) & {field.name for field in DOCUMENT_SCHEMA}:
            raise ValueError(f"keep: {sorted(taken)} are columns that every document has")

    def items(self) -> list[dict]:
        """Runs of row groups, in order of file name; a file is known by its footer."""
        return [item for path in matching_files(self.paths) for item in self._items_of(path)]

    def _items_of(self, path: str) -> Iterator[dict]:
        with self._open(path) as file:
            footer = _footer(path)
            first_row = first_group = total = 0
            groups = file.metadata.num_row_groups
            for group in range(groups):
                total += file.metadata.row_group(group).total_byte_size
                if total >= self.item_bytes or group == groups - 1:
                    yield {
                        "path": path,
                        "name": os.path.basename(path),
                        "footer": footer,
                        "groups": [first_group, group + 1],
                        "first_row": first_row,
                    }
                    rows = (file.metadata.row_group(g).num_rows for g in range(first_group, group + 1))
                    first_row, first_group, total = first_row + sum(rows), group + 1, 0

    def _open(self, path: str) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"paths: {path} is no readable Parquet file: {error}") from error
        needed = [self.text_column, *self.keep, *([self.id_column] if self.id_column else [])]
        for name in needed:
            if name not in file.schema_arrow.names:
                there = ", ".join(file.schema_arrow.names)
                raise ValueError(f"{path} has no column {name!r}; there are: {there}")
        kind = file.schema_arrow.field(self.text_column).type
        if not (_is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ValueError(f"{path}: column {self.text_column!r} is {kind}, not string or binary")
        return file

    def read(self, args: dict, committed: list[Path]) -> Iterator[pa.Table]:
        """The documents of one item, once; ValueError if the file is not what it was when planned."""
        if committed:
            return
        if _footer(args["path"]) != args["footer"]:
            raise ValueError(f"{args['path']} changed after the run was planned: plan a new run")
        with self._open(args["path"]) as file:
            taken = [name for name in _TAKEN if name in file.schema_arrow.names]
            taken = [name for name in taken if _is_text(file.schema_arrow.field(name).type)]
            wanted = {self.text_column, *taken, *self.keep, *([self.id_column] if self.id_column else [])}
            table = file.read_row_groups(range(*args["groups"]), columns=sorted(wanted))
        n = table.num_rows
        text, error = _texts(table[self.text_column])
        if self.id_column:
            keys = table[self.id_column].cast(pa.string()).to_pylist()
        else:
            keys = [f"{args['name']}:{row}" for row in range(args["first_row"], args["first_row"] + n)]
        ids = [document_id(self.source, key) if key is not None else None for key in keys]
        no_id = pa.array([identity is None for identity in ids], pa.bool_())
        error = pc.if_else(no_id, pa.scalar(f"no {self.id_column} in this row"), error)
        columns: dict[str, Any] = {"id": pa.array(ids, pa.string()), "text": text}
        for name in _TAKEN:
            columns[name] = table[name].cast(pa.string()) if name in taken else pa.nulls(n, pa.string())
        columns["source"] = pa.array([self.source] * n, pa.string())
        columns["split"] = pa.array([i and split_of(i, self.heldout_fraction) for i in ids], pa.string())
        columns |= {name: table[name] for name in self.keep}
        yield pa.table({**columns, "error": error})


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _footer(path: str) -> str:
    """Hash of a Parquet file's size and footer, which names every row group's place and statistics."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        return hashlib.sha256(f"{size}:".encode() + file.read()).hexdigest()


def _texts(column: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """The column as large_string, "" for what is missing; and why a text is none, else null."""
    n = len(column)
    if _is_text(column.type):
        text = pc.fill_null(column.cast(pa.large_string()), "")
        return text.combine_chunks(), pa.nulls(n, pa.string())
    column = pc.fill_null(column, b"")
    try:
        return column.cast(pa.large_string()).combine_chunks(), pa.nulls(n, pa.string())
    except pa.ArrowInvalid:
        pass  # some text is no UTF-8: which, and where in it
    texts: list[str] = []
    errors: list[str | None] = []
    for data in column.to_pylist():
        try:
            texts.append(data.decode())
            errors.append(None)
        except UnicodeDecodeError as error:
            texts.append("")
            errors.append(f"the text is no UTF-8: {error.reason} at byte {error.start}")
    return pa.array(texts, pa.large_string()), pa.array(errors, pa.string())
