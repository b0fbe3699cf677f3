"""What one phase of a shuffle leaves for the next: Arrow IPC files, one record batch a table.

A work item puts all its tables of one schema into one file, however many partitions there are; an
item of the next phase reads one batch of each. ``File.file`` is "data/<item>.<8 hex>.arrow#<batch>".
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping

import pyarrow as pa

from pipelines.dataset import File, content_hash, readable
from pipelines.storage import Folder


def write_tables(folder: Folder, item: str, tables: Mapping[str, pa.Table]) -> list[File]:
    """Write the tables of one work item; the role of each file is its table's name."""
    by_schema: dict[str, list[str]] = {}
    for name in sorted(tables):
        schema = tables[name].schema
        by_schema.setdefault(schema.to_string(show_schema_metadata=True), []).append(name)
    files = []
    for names in by_schema.values():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, tables[names[0]].schema) as writer:
            for name in names:
                writer.write_batch(_one_batch(tables[name]))
        data = sink.getvalue()
        path = f"data/{item}.{uuid.uuid4().hex[:8]}.arrow"
        folder.write(path, data)
        digest = hashlib.sha256(data).hexdigest()
        files += [
            File(
                role=name,
                file=f"{path}#{batch}",
                rows=tables[name].num_rows,
                bytes=tables[name].nbytes,
                sha256=digest,
                content_hash=content_hash(tables[name]),
            )
            for batch, name in enumerate(names)
        ]
    return sorted(files, key=lambda file: file.role)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if len(batches) > 1:
        raise ValueError(
            "a table between two phases holds more than 2 GiB in one string column: use large_string"
        )
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def read_part(folder: Folder, file: str) -> pa.Table:
    """The table that ``file`` names; from a local disk it is mapped, not read."""
    path, _, batch = file.partition("#")
    with readable(folder, path):
        source = (
            pa.memory_map(folder.path(path))
            if folder.is_local
            else folder.fs.open_input_file(folder.path(path))
        )
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(int(batch))])
