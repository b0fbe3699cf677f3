"""A source of documents for the engine: the row groups of one Parquet file, some to a shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.registry import stage


@stage
@dataclass(frozen=True, kw_only=True)
class ShortSource:
    """The documents of ``file``, in its order."""

    stage: ClassVar[str] = "short_source"
    shape: ClassVar[str] = "source"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {}
    output: ClassVar[str] = "documents"

    file: str
    """Parquet file with the columns id and text."""
    groups: int = 32
    """Row groups to a shard."""

    def items(self) -> list[dict[str, Any]]:
        count = pq.ParquetFile(self.file).num_row_groups
        return [
            {"first": first, "last": min(first + self.groups, count)}
            for first in range(0, count, self.groups)
        ]

    def read(self, args: dict[str, Any], committed: list[Path]) -> Iterator[pa.Table]:
        if not committed:
            groups = range(args["first"], args["last"])
            table = pq.ParquetFile(self.file).read_row_groups(groups)
            yield table.append_column("split", pa.repeat("train", table.num_rows))
