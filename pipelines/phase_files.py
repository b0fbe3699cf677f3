"""What one phase of a shuffle leaves for the next: Arrow IPC files, one record batch a table.

A work item puts all its tables of one schema into one file, however many partitions there are, and
names the tables in ``File.tables``: files and records of them grow with the shards, not with shards
times partitions. A part is named "<file>#<batch>"; an item of the next phase reads its parts only.
"""

from __future__ import annotations

import bisect
import hashlib
import uuid
from collections.abc import Iterable, Mapping

import pyarrow as pa

from pipelines.dataset import Commit, File, readable
from pipelines.storage import Folder

ROLE = "phase"


def write_tables(folder: Folder, item: str, tables: Mapping[str, pa.Table]) -> list[File]:
    """Write the tables of one work item, a file for each schema among them."""
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
        with folder.writing(path, data):
            digest = hashlib.sha256(data).hexdigest()
        files.append(
            File(
                role=ROLE,
                file=path,
                rows=sum(tables[name].num_rows for name in names),
                bytes=data.size,
                sha256=digest,
                # no other file holds the same rows in other bytes
                content_hash=digest[:32],
                tables=names,
            )
        )
    return files


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if len(batches) > 1:
        raise ValueError(
            "a table between two phases holds more than 2 GiB in one string column: use large_string"
        )
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def table_names(commits: Iterable[Commit]) -> list[str]:
    """The different names of the tables that ``commits`` left."""
    return sorted({name for commit in commits for file in commit.files for name in file.tables or ()})


def parts_of(commits: Iterable[Commit], name: str | None = None) -> list[str]:
    """The parts named ``name``, or all, in the order of the commits."""
    parts = []
    for file in (file for commit in commits for file in commit.files):
        tables = file.tables or []
        batches = range(len(tables))
        if name is not None:
            # they are sorted: with a thousand parts, looking at all for each would take the driver hours
            first = bisect.bisect_left(tables, name)
            batches = batches[first : first + (tables[first : first + 1] == [name])]
        parts += [f"{file.file}#{batch}" for batch in batches]
    return parts


def read_part(folder: Folder, part: str) -> pa.Table:
    """The table of one part; from a local disk it is mapped, not read."""
    path, _, batch = part.partition("#")
    with readable(folder, path):
        source = (
            pa.memory_map(folder.path(path))
            if folder.is_local
            else folder.fs.open_input_file(folder.path(path))
        )
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(int(batch))])
