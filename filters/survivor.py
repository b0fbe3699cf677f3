"""What the two dedup stages share: document numbers, and which member of a cluster stays.

A document's number is int64, shard << 32 | row: it orders documents as the input does and does not
depend on file names or worker count. A cluster's survivor is the member of highest rank, the
earliest among equals. When any member is held out, so is the survivor: no copy of a held-out page
is left to train on.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kernels.text.buffers import text_buffers


def document_numbers(shard: int, rows: int) -> np.ndarray:
    """Numbers of the documents of a shard, int64 [rows]."""
    return (shard << 32) + np.arange(rows, dtype=np.int64)


def shards_and_rows(documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shard and the row of each document number, int64 [n] each."""
    return documents >> 32, documents & 0xFFFFFFFF


def check_columns(stage: str, shard: int, table: pa.Table, columns: list[str]) -> None:
    """Raise ValueError unless the shard has the columns."""
    for name in columns:
        if name not in table.column_names:
            raise ValueError(
                f"{stage}, shard {shard}: no column {name!r}; there are: {', '.join(table.column_names)}"
            )


def check_input(stage: str, shard: int, table: pa.Table, columns: list[str]) -> None:
    """Raise ValueError unless the shard has the columns and an id in each row."""
    check_columns(stage, shard, table, columns)
    if nulls := table["id"].null_count:
        raise ValueError(
            f"{stage}, shard {shard}: {nulls} of {table.num_rows} rows have no id; give each "
            "document one where it is read"
        )


def heldout(table: pa.Table) -> np.ndarray:
    """Which rows have split "heldout", bool [n]; none when there is no such column."""
    if "split" not in table.column_names:
        return np.zeros(table.num_rows, bool)
    return _numpy(pc.fill_null(pc.equal(table["split"], "heldout"), False))


def text_lengths(table: pa.Table) -> np.ndarray:
    """UTF-8 bytes of each text, int64 [n]."""
    return np.diff(text_buffers(table["text"])[1])


def elect(
    cluster: np.ndarray, documents: np.ndarray, rank: np.ndarray, is_heldout: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of n members: where its cluster's survivor is among them, size, held out or not.

    ``cluster`` [n] numbers the clusters, ``documents`` int64 [n] breaks ties in ``rank`` [n].
    """
    order = np.lexsort((documents, -rank, cluster))
    _, starts, group, sizes = np.unique(
        cluster[order], return_index=True, return_inverse=True, return_counts=True
    )
    any_heldout = np.logical_or.reduceat(is_heldout[order], starts) if len(starts) else is_heldout
    survivor, size, held = (np.empty(len(order), kind) for kind in (np.int64, np.int32, bool))
    survivor[order] = order[starts][group]
    size[order] = sizes[group]
    held[order] = any_heldout[group]
    return survivor, size, held


def by_shard(documents: np.ndarray, columns: dict[str, pa.Array]) -> dict[str, pa.Table]:
    """One table a shard, named as its phase is to find it: ``row`` (int64, rising) and columns."""
    order = np.argsort(documents)
    shards, rows = shards_and_rows(documents[order])
    table = pa.table({"row": rows, **{n: column.take(order) for n, column in columns.items()}})
    return {f"{shard:05d}": table.slice(at, size) for shard, at, size in _runs(shards)}


def by_partition(prefix: str, table: pa.Table, part: np.ndarray) -> dict[str, pa.Table]:
    """One table for each number below 2^16 in ``part`` [n], the rows of ``table`` [n] in their order."""
    # NumPy sorts 16-bit integers by radix
    part = part.astype(np.uint16)
    order = np.argsort(part, kind="stable")
    table = table.take(order)
    return {f"{prefix}{k:03d}": table.slice(at, size) for k, at, size in _runs(part[order])}


def _runs(ordered: np.ndarray) -> zip:
    return zip(*np.unique(ordered, return_index=True, return_counts=True), strict=True)


def hash_range(hashes: np.ndarray, partitions: int) -> np.ndarray:
    """Which of equal ranges of all uint64 each hash is in, int64 [n], below ``partitions``."""
    return ((hashes >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def spread(mine: pa.Table | None, name: str, rows: int, absent: pa.Array) -> pa.Array:
    """The column ``name`` of ``mine`` at the rows it names, ``absent`` [rows] elsewhere."""
    if mine is None or mine.num_rows == 0:
        return absent
    where = np.full(rows, -1, np.int64)
    where[_numpy(mine["row"])] = np.arange(mine.num_rows)
    taken = mine[name].take(pa.array(where, mask=where < 0)).combine_chunks()
    found = pa.array(where >= 0)
    return pc.if_else(found, taken.cast(absent.type), absent)


def where(mask: pa.Array, value: str) -> pa.Array:
    """``value`` where the mask holds, null elsewhere: string [n]."""
    return pc.if_else(mask, value, pa.scalar(None, pa.string()))


def with_columns(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    """``table`` with the columns added, or put in the place of those of the same name."""
    for name, column in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table


def with_split(table: pa.Table, to_heldout: np.ndarray) -> pa.Table:
    """``table`` with split "heldout" where ``to_heldout`` (bool [n]); as it is without a split."""
    if "split" not in table.column_names or not to_heldout.any():
        return table
    kind = table.schema.field("split").type
    split = pc.if_else(pa.array(to_heldout), "heldout", table["split"].cast(pa.string()))
    return with_columns(table, {"split": split.cast(kind)})


def _numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    if isinstance(column, pa.ChunkedArray):
        return column.to_numpy()
    return column.to_numpy(zero_copy_only=False)
