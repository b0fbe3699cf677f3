"""Stage ``exact_dedup``: of documents whose text is equal byte for byte, the first stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from filters import survivor
from kernels.text.buffers import text_buffers
from kernels.text.hashing import content_hashes

_MEMBERS = pa.schema(
    [
        ("document", pa.int64()),
        ("first", pa.int64()),
        ("id", pa.string()),
        ("heldout", pa.bool_()),
    ]
)
_REPEATED_IDS = pa.schema([("document", pa.int64()), ("first_seen", pa.int64())])


@dataclass(frozen=True, kw_only=True)
class ExactDedup:
    """Drop documents whose text equals that of an earlier one; quarantine repeated ids.

    Texts are equal when their UTF-8 bytes are (told by a 128-bit hash, kernels/text/hashing.py);
    a missing text is an empty one. The first by (shard, row) stays; if any of its copies is held
    out, it becomes held out. A row whose ``id`` was seen before gets an error and does not count
    as a copy of anything, so that its text cannot take the place of a document that stays.
    """

    stage: ClassVar[str] = "exact_dedup"
    shape: ClassVar[str] = "shuffle"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"
    needs: ClassVar[tuple[str, ...]] = ("id", "text")
    adds: ClassVar[dict[str, str]] = {"exact_cluster_size": "int32", "duplicate_of": "string"}
    phases: ClassVar[tuple[tuple[str, str], ...]] = (
        ("sign", "shard"),
        ("group", "partition"),
        ("choose", "all"),
        ("apply", "shard"),
    )

    partitions: int = 16
    """Parts the hashes are grouped in, each by one work item; does not change the output."""

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= 999:
            raise ValueError(f"partitions must lie in 1..999, not {self.partitions}")

    def sign(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """Hashes of the shard's texts ("t000", ...) and ids ("i000", ...), by range of hash."""
        survivor.check_input(self.stage, shard, table, list(self.needs))
        documents = survivor.document_numbers(shard, table.num_rows)
        ids = table["id"].cast(pa.string())
        texts = content_hashes(*text_buffers(table["text"]))
        more = {"id": ids, "heldout": survivor.heldout(table)}
        return {
            **self._by_hash("t", texts, {"document": documents, **more}),
            **self._by_hash("i", content_hashes(*text_buffers(ids)), {"document": documents}),
        }

    def _by_hash(self, prefix: str, hashes: np.ndarray, columns: dict) -> dict[str, pa.Table]:
        records = pa.table({"hash_a": hashes[:, 0], "hash_b": hashes[:, 1], **columns})
        part = survivor.hash_range(hashes[:, 0], self.partitions)
        return survivor.by_partition(prefix, records, part)

    def group(self, name: str, tables: list[pa.Table]) -> dict[str, pa.Table]:
        """The documents that share a text (all of them), or an id (all but the first)."""
        records = pa.concat_tables(tables)
        documents = records["document"].to_numpy()
        hash_a, hash_b = records["hash_a"].to_numpy(), records["hash_b"].to_numpy()
        order = np.lexsort((documents, hash_b, hash_a))
        hash_a, hash_b = hash_a[order], hash_b[order]
        is_first = np.ones(len(order), bool)
        is_first[1:] = (hash_a[1:] != hash_a[:-1]) | (hash_b[1:] != hash_b[:-1])
        first = documents[order][is_first][np.cumsum(is_first) - 1]
        if name.startswith("i"):
            repeated = pa.table([documents[order], first], schema=_REPEATED_IDS)
            return {name: repeated.filter(pa.array(~is_first))}
        # alone: first of its group, and the next row is the first of another
        alone = is_first & np.append(is_first[1:], True)
        columns = [documents[order], first, *records.select(["id", "heldout"]).take(order).columns]
        return {name: pa.table(columns, schema=_MEMBERS).filter(pa.array(~alone))}

    def choose(self, tables: list[pa.Table]) -> dict[str, pa.Table]:
        """For each shard, the rows that are not simply kept: survivors, copies, repeated ids."""
        repeated = _concat([t for t in tables if "first_seen" in t.column_names], _REPEATED_IDS)
        members = _concat([t for t in tables if "first" in t.column_names], _MEMBERS)
        has_new_id = ~np.isin(members["document"].to_numpy(), repeated["document"].to_numpy())
        members = members.filter(pa.array(has_new_id))
        documents = members["document"].to_numpy()
        chosen, size, held = survivor.elect(
            cluster=members["first"].to_numpy(),
            documents=documents,
            rank=np.zeros(len(documents)),
            is_heldout=members["heldout"].to_numpy(),
        )
        stays = chosen == np.arange(len(chosen))
        ids = members["id"].combine_chunks().take(pa.array(chosen, mask=stays))
        n = repeated.num_rows
        columns = {
            "size": pa.array(np.append(size, np.ones(n, np.int32))),
            "duplicate_of": pa.concat_arrays([ids, pa.nulls(n, pa.string())]),
            "to_heldout": pa.array(np.append(held & stays, np.zeros(n, bool))),
            "first_seen": pa.concat_arrays([pa.nulls(len(size), pa.int64()), *repeated["first_seen"].chunks]),
        }
        return survivor.by_shard(np.append(documents, repeated["document"].to_numpy()), columns)

    def apply(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """The shard's rows with ``drop_rule`` "exact_duplicate", ``error`` and our columns."""
        n = table.num_rows
        no_string = pa.nulls(n, pa.string())
        size = survivor.spread(mine, "size", n, pa.array(np.ones(n, np.int32)))
        duplicate_of = survivor.spread(mine, "duplicate_of", n, no_string)
        first_seen = survivor.spread(mine, "first_seen", n, pa.nulls(n, pa.int64()))
        to_heldout = survivor.spread(mine, "to_heldout", n, pa.array(np.zeros(n, bool)))
        errors: list[str | None] = [None] * n
        for row in np.flatnonzero(first_seen.is_valid()):
            earlier, earlier_row = survivor.shards_and_rows(first_seen[row].as_py())
            errors[row] = (
                f"duplicate id {table['id'][int(row)].as_py()!r}: first seen in shard {earlier} "
                f"row {earlier_row}"
            )
        table = survivor.with_split(table, to_heldout.to_numpy(zero_copy_only=False))
        dropped = duplicate_of.is_valid()
        columns = {
            "exact_cluster_size": size,
            "duplicate_of": duplicate_of,
            "drop_rule": survivor.where(dropped, "exact_duplicate"),
            "error": pa.array(errors, pa.string()),
        }
        return {"": survivor.with_columns(table, columns)}


def _concat(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()
