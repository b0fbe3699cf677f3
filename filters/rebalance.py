"""Stage ``rebalance``: the same rows in the same order, in shards of about one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Rebalance:
    """Mend shard sizes after stages that dropped much, or before a stage that wants small shards.

    Rows keep their order and nothing else changes. An output shard is a run of rows of about
    ``shard_bytes`` as they lie on disk, told by each input shard's bytes a row: small shards are
    joined, large ones are cut. A shard is a task's memory downstream: keep it well below that.
    """

    stage: ClassVar[str] = "rebalance"
    shape: ClassVar[str] = "shuffle"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"
    needs: ClassVar[tuple[str, ...]] = ()
    adds: ClassVar[dict[str, str]] = {}
    phases: ClassVar[tuple[tuple[str, str], ...]] = (("gather", "slices"),)

    shard_bytes: int = 128_000_000
    """Bytes of a shard's Parquet file, about."""

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise ValueError(f"shard_bytes must be at least 1, not {self.shard_bytes}")

    def slices(self, shards: list[dict[str, Any]]) -> list[list[tuple[int, int, int]]]:
        """Which rows make which output shard: [(shard, first row, row after the last), ...] each.

        ``shards``: rows and bytes of each input shard. Output shards are equal to within a row.
        """
        total = sum(shard["bytes"] for shard in shards if shard["rows"])
        items = max(1, round(total / self.shard_bytes))
        # the bytes before which each output shard ends
        ends = [total * (item + 1) / items for item in range(items)]
        planned: list[list[tuple[int, int, int]]] = [[]]
        before = 0.0
        for number, shard in enumerate(shards):
            per_row = shard["bytes"] / max(1, shard["rows"])
            start = 0
            while start < shard["rows"]:
                room = ends[len(planned) - 1] - before
                is_last = len(planned) == items
                stop = shard["rows"] if is_last else min(shard["rows"], start + round(room / per_row))
                if stop > start:
                    planned[-1].append((number, start, stop))
                    before += (stop - start) * per_row
                    start = stop
                if start < shard["rows"]:
                    planned.append([])
        return [slices for slices in planned if slices]

    def gather(self, table: pa.Table) -> dict[str, pa.Table]:
        """One output shard."""
        return {"": table}
