"""A shuffle's phases as the engine calls them, without the engine."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa


def run_phases(stage: Any, shards: list[pa.Table], seed: int = 0) -> tuple[list[pa.Table], dict]:
    """Output tables of all shards and the report; tables of the "all" phase come in random order."""
    stage = stage.sized(sum(table.num_rows for table in shards)) if hasattr(stage, "sized") else stage
    before: list[dict[str, Any]] = []
    report: dict = {}
    for number, (phase, per) in enumerate(stage.phases):
        work = getattr(stage, phase)
        named: dict[str, list[pa.Table]] = {}
        for tables in before:
            for name, table in tables.items():
                named.setdefault(name, []).append(table)
        is_last = number == len(stage.phases) - 1
        if per == "shard":
            before = []
            for shard, table in enumerate(shards):
                mine = named.get(f"{shard:05d}")
                columns = getattr(stage, "reads", {}).get(phase, table.column_names)
                some = table.select([name for name in columns if name in table.column_names])
                if number == 0 or is_last or mine:
                    before.append(work(shard, some, pa.concat_tables(mine) if mine else None))
        elif per == "partition":
            before = [work(name, named[name]) for name in sorted(named)]
        else:
            tables = [table for name in sorted(named) for table in named[name]]
            before = [work(random.Random(seed).sample(tables, len(tables)))]
            report = before[0].pop("report", {})
    return [out[""] for out in before], report
