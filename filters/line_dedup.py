"""Stage ``line_dedup``: lines or paragraphs that many documents share are taken out of the texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import survivor
from kernels.text.lines import Unit, unit_hashes, without_units

_RECORDS = pa.schema([("hash", pa.uint64()), ("document", pa.int64())])
_SHARED = pa.schema([("shard", pa.int64()), ("hash", pa.uint64()), ("last_kept", pa.int64())])


@dataclass(frozen=True, kw_only=True)
class LineDedup:
    """Take out lines (or paragraphs) that stand in more than ``max_documents`` documents.

    The first ``keep`` documents by (shard, row) keep their copies. A document counts once however
    often it repeats a line, and loses all of its copies or none. Lines are compared without the
    white space at their ends and with one space for each run inside; what a line and a paragraph
    are, and which blank lines go with them: kernels/text/lines.py. They are told apart by 64-bit
    hashes. A document that loses so much that less than ``min_remaining`` stays, or nothing, is
    dropped by the rule "boilerplate", with its text as it was; it still counts among the first
    that keep a line. Documents that lose nothing are never dropped.

    Lines of code are lines like others: an ``#include`` or a licence header that many documents
    show goes, which can break the example that it stands in. Raise ``min_chars``, or work on
    paragraphs, where that matters. The stage does not look at ``split``.

    Memory, by counting arrays: the first and the last phase take up to 70 bytes for each line of
    ``min_chars`` or more of their shard, and the last up to three more copies of its texts; the
    second 60 bytes for each (line, document) of its partition; the third, one item, 80 bytes for
    each (line, shard that it is taken out of). So raise ``partitions`` as the corpus grows; the
    third phase sets the limit.
    """

    stage: ClassVar[str] = "line_dedup"
    shape: ClassVar[str] = "shuffle"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ("unicodedata",)
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"
    needs: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[dict[str, str]] = {
        "line_dedup_removed": "int32",
        "line_dedup_removed_chars": "int64",
    }
    phases: ClassVar[tuple[tuple[str, str], ...]] = (
        ("sign", "shard"),
        ("group", "partition"),
        ("gather", "all"),
        ("apply", "shard"),
    )

    unit: Unit = "line"
    """What is compared and taken out: "line", or "paragraph" (lines up to the next blank one)."""
    max_documents: int = 6
    """A line that stands in more documents than this is taken out."""
    keep: int = 1
    """So many documents, the first, keep it; 0 takes it out everywhere."""
    min_chars: int = 30
    """Lines of fewer characters are never touched."""
    min_remaining: float = 0.3
    """A document left with a smaller share of its characters is dropped; 0 drops only empty ones."""
    ignore_case: bool = False
    """Compare letters without their case."""
    ignore_digits: bool = False
    """Compare all digits as equal, each for itself: 2024-01-31 is 2025-12-24, but 9 is not 10."""
    partitions: int = 16
    """Parts the lines are grouped in, each by one work item; does not change the output."""

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, not {self.unit!r}")
        for name in ("max_documents", "min_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.keep <= self.max_documents:
            raise ValueError(f"keep must lie in 0..max_documents ({self.max_documents}), not {self.keep}")
        if not 0 <= self.min_remaining <= 1:
            raise ValueError(f"min_remaining must lie in 0..1, not {self.min_remaining}")
        if not 1 <= self.partitions <= 999:
            raise ValueError(f"partitions must lie in 1..999, not {self.partitions}")

    def sign(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """Each line of each document once, by range of hash ("p000", ...), sorted by (hash, row)."""
        hashes, rows = self._hashes(table)
        # rows rise, so a stable sort by hash sorts by both
        order = np.argsort(hashes, kind="stable")
        hashes, rows = hashes[order], rows[order]
        is_new = _changes(hashes) | _changes(rows)
        hashes, rows = hashes[is_new], rows[is_new]
        documents = survivor.document_numbers(shard, table.num_rows)[rows]
        records = pa.table([hashes, documents], schema=_RECORDS)
        part = survivor.hash_range(hashes, self.partitions)
        # a phase that writes nothing would leave the next ones without work items
        return survivor.by_partition("p", records, part) or {"p000": records}

    def _hashes(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        return unit_hashes(table["text"], self.unit, self.min_chars, self.ignore_case, self.ignore_digits)

    def group(self, name: str, tables: list[pa.Table]) -> dict[str, pa.Table]:
        """Lines over the limit, with the last document that keeps them (-1: none), once for each
        shard that has later ones."""
        records = pa.concat_tables(tables)
        hashes, documents = (records[column].to_numpy() for column in ("hash", "document"))
        # tables come in the order of shards, each sorted: documents rise within a hash
        order = np.argsort(hashes, kind="stable")
        hashes, documents = hashes[order], documents[order]
        starts = np.flatnonzero(_changes(hashes))
        sizes = np.diff(starts, append=len(hashes))
        is_over = sizes > self.max_documents
        last_kept = documents[starts[is_over] + self.keep - 1] if self.keep else -1
        among = np.repeat(is_over, sizes)
        hashes, documents = hashes[among], documents[among]
        last_kept = np.repeat(np.broadcast_to(last_kept, is_over.sum()), sizes[is_over])
        goes = documents > last_kept
        hashes, last_kept = hashes[goes], last_kept[goes]
        shards, _ = survivor.shards_and_rows(documents[goes])
        once = _changes(hashes) | _changes(shards)
        return {name: pa.table([shards[once], hashes[once], last_kept[once]], schema=_SHARED)}

    def gather(self, tables: list[pa.Table]) -> dict[str, pa.Table]:
        """For each shard, the lines to take out of it, sorted by hash."""
        shared = pa.concat_tables([_SHARED.empty_table(), *tables])
        shared = shared.take(np.lexsort((shared["hash"].to_numpy(), shared["shard"].to_numpy())))
        shards, starts, sizes = np.unique(shared["shard"].to_numpy(), return_index=True, return_counts=True)
        return {
            f"{shard:05d}": shared.slice(start, size).drop(["shard"])
            for shard, start, size in zip(shards, starts, sizes, strict=True)
        }

    def apply(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """The shard's rows with texts cut, ``drop_rule`` "boilerplate" and our columns."""
        n = table.num_rows
        removed, removed_chars, dropped = (
            np.zeros(n, np.int32),
            np.zeros(n, np.int64),
            np.zeros(n, bool),
        )
        if mine is not None and mine.num_rows:
            chosen = self._chosen(shard, table, mine)
            texts, counts = without_units(table["text"], chosen, self.unit, self.min_chars)
            removed = counts["removed"].astype(np.int32)
            removed_chars = counts["chars"] - counts["chars_left"]
            too_little = counts["chars_left"] < self.min_remaining * counts["chars"]
            dropped = (removed > 0) & (too_little | (counts["left"] == 0))
            kind = table["text"].type
            is_cut = pa.array((removed > 0) & ~dropped)
            cut = pc.if_else(is_cut, texts, table["text"].cast(pa.large_string())).cast(kind)
            table = survivor.with_columns(table, {"text": cut})
        columns = {
            "line_dedup_removed": pa.array(removed),
            "line_dedup_removed_chars": pa.array(removed_chars),
            "drop_rule": survivor.where(pa.array(dropped), "boilerplate"),
        }
        return {"": survivor.with_columns(table, columns)}

    def _chosen(self, shard: int, table: pa.Table, mine: pa.Table) -> np.ndarray:
        """Which lines of the shard go: those listed, in documents after the last that keeps them."""
        hashes, rows = self._hashes(table)
        listed, last_kept = mine["hash"].to_numpy(), mine["last_kept"].to_numpy()
        at = np.minimum(np.searchsorted(listed, hashes), len(listed) - 1)
        documents = survivor.document_numbers(shard, table.num_rows)[rows]
        return (listed[at] == hashes) & (documents > last_kept[at])


def _changes(values: np.ndarray) -> np.ndarray:
    """Where a value differs from the one before, bool [n]; the first always does."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes
