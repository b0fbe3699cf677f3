"""``corpusmill run --dry-run``: what a DAG would do now, and how many tokens its model would be asked for."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.config import Dag
from pipelines.dataset import Manifest, read_manifest, read_table
from pipelines.plan import Unit, make_plan, units
from pipelines.storage import Folder

COLUMNS = ("requests", "prompt_tokens", "output_tokens")


def dry_run(dag: Dag, console: Console, until: str | None = None) -> None:
    """Say of each node whether it is done, and of those that ask a model what they would ask. Writes
    nothing and starts nothing. Raises ValueError where a node cannot run."""
    store, done = Folder(dag.store), dict[str, tuple[Manifest, Folder]]()
    for unit in units(dag, until):
        missing = [name for name in unit.sources if name not in done]
        if missing:
            console.print(f"{unit.name}: waits for {', '.join(missing)}", highlight=False)
            continue
        inputs = {name: done[name][0] for name in unit.sources}
        folders = {name: done[name][1] for name in unit.sources}
        plan = make_plan(unit, dag, store, inputs, folders, freeze=False)
        manifest = read_manifest(plan.dataset)
        if manifest is not None:
            done[unit.name] = manifest, plan.dataset
            console.print(f"{unit.name}: done", highlight=False)
        elif hasattr(unit.last.step, "estimate"):
            console.print(_budget(unit, done, dag.seed))
        else:
            console.print(f"{unit.name}: would run", highlight=False)


def _budget(unit: Unit, done: dict[str, tuple[Manifest, Folder]], seed: int) -> Table:
    """What the node would ask of its model, as a table with its sum."""
    manifest, folder = done[unit.main_input]
    artifacts: dict[str, Any] = {}
    for key, source in unit.last.inputs.items():
        if unit.last.step.inputs[key] == "artifact":
            files, where = done[source]
            path = "/".join(files.shards[0]["file"].split("/")[:2])
            artifacts[key] = where.local(path, Path("."))
    sums: dict[str, collections.Counter[str]] = {}
    for shard in manifest.shards:
        table = read_table(folder, shard["file"])
        for name, counts in unit.last.step.estimate(table, seed=seed, **artifacts).items():
            sums.setdefault(name, collections.Counter()).update(counts)
    table = Table("", *COLUMNS, box=None, pad_edge=False, title_justify="left")
    table.title = f"{unit.name}: would ask, without retries (answers at most)"
    for column in table.columns[1:]:
        column.justify = "right"
    total: collections.Counter[str] = collections.Counter()
    for name, counts in sorted(sums.items()):
        table.add_row(name, *(f"{counts[column]:,}" for column in COLUMNS))
        total.update(counts)
    table.add_row("all", *(f"{total[column]:,}" for column in COLUMNS), style="bold")
    return table
