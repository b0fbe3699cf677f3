"""A user's package: one toy stage of each shape, slow and breakable on demand.

Every call leaves a line in ``journal`` (a file), so that a test can see what was done how often.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.registry import stage


def note(journal: str, text: str) -> None:
    if journal:
        with open(journal, "a") as file:
            file.write(text + "\n")


def pause(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


@stage
@dataclass(frozen=True, kw_only=True)
class ToySource:
    """Numbered documents, `parts` parts an item."""

    stage: ClassVar[str] = "toy_source"
    shape: ClassVar[str] = "source"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {}
    output: ClassVar[str] = "documents"

    shards: int = 4
    """work items"""
    parts: int = 1
    """parts an item commits one by one"""
    rows: int = 50
    """rows a part"""
    journal: str = ""
    """file to note calls in"""
    seconds: float = 0.0
    """pause before each part"""
    repeat_id: bool = False
    """give two rows the same id"""
    column: str = "text"
    """name of the text column"""

    def items(self) -> list[dict]:
        return [{"shard": shard} for shard in range(self.shards)]

    def read(self, args: dict, committed: list[Path]) -> Any:
        for part in range(len(committed), self.parts):
            pause(self.seconds)
            note(self.journal, f"source {args['shard']} {part}")
            first = (args["shard"] * self.parts + part) * self.rows
            numbers = np.arange(first, first + self.rows)
            if self.repeat_id:
                numbers[-1] = first
            ids = [hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest() for n in numbers]
            texts = [f"document {n} says {' '.join(str(n * k % 97) for k in range(30))}" for n in numbers]
            split = ["heldout" if n % 20 == 7 else "train" for n in numbers]
            yield pa.table(
                {
                    "id": ids,
                    self.column: pa.array(texts, pa.large_string()),
                    "url": [f"http://example.com/{n}" for n in numbers],
                    "number": numbers,
                    "split": split,
                }
            )


@stage
@dataclass(frozen=True, kw_only=True)
class ToyMap:
    """Adds `<prefix>_length`; can be slow, kill its worker, fail rows, fail for good, fill the disk."""

    stage: ClassVar[str] = "toy_map"
    shape: ClassVar[str] = "map"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"
    needs: ClassVar[tuple[str, ...]] = ("text", "number")

    prefix: str = "toy"
    """of the column that is added"""
    seconds: float = 0.0
    """pause a shard"""
    journal: str = ""
    """file to note calls in"""
    die_once: str = ""
    """a file: the worker that makes it dies by SIGKILL"""
    fail_numbers: tuple[int, ...] = ()
    """rows whose `number` is here go to quarantine"""
    drop_modulo: int = 0
    """drop rows whose number divides by this"""
    raise_for: int = -1
    """raise on the shard that holds this number"""
    raise_until: str = ""
    """and no longer once this file exists"""
    lose_rows: bool = False
    """break the contract: leave a row out"""
    gate: str = ""
    """wait on each shard until this file exists"""

    @property
    def adds(self) -> dict[str, str]:
        return {f"{self.prefix}_length": "int32"}

    full_until: str = ""
    """say that the disk is full until this file exists"""

    def annotate(self, table: pa.Table) -> pa.Table:
        pause(self.seconds)
        numbers = table["number"].to_numpy()
        note(self.journal, f"{self.prefix} {int(numbers[0]) if len(numbers) else -1}")
        while self.gate and not os.path.exists(self.gate):
            time.sleep(0.02)
        if self.die_once and not os.path.exists(self.die_once):
            Path(self.die_once).touch()
            os.kill(os.getpid(), 9)
        if self.raise_for in numbers and not os.path.exists(self.raise_until):
            raise ValueError(f"number {self.raise_for} is not to be had")
        if self.full_until and not os.path.exists(self.full_until):
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.lose_rows:
            return table.slice(1)
        table = table.append_column(f"{self.prefix}_length", pc.utf8_length(table["text"]))
        if self.drop_modulo:
            rule = np.where(numbers % self.drop_modulo == 0, "divides", None)
            table = table.append_column("drop_rule", pa.array(rule, pa.string()))
        if self.fail_numbers:
            error = np.where(np.isin(numbers, self.fail_numbers), "this row fails", None)
            table = table.append_column("error", pa.array(error, pa.string()))
        return table


@stage
@dataclass(frozen=True, kw_only=True)
class ToyExpand:
    """Each row becomes `number % 3` rows; rows with none are dropped by the rule "none"."""

    stage: ClassVar[str] = "toy_expand"
    shape: ClassVar[str] = "expand"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"

    seconds: float = 0.0
    """pause a shard"""
    journal: str = ""
    """file to note calls in"""
    lose_rows: bool = False
    """break the contract: leave rows out"""

    def expand(self, shard: pa.Table) -> pa.Table:
        pause(self.seconds)
        numbers = shard["number"].to_numpy()
        note(self.journal, f"expand {int(numbers[0]) if len(numbers) else -1}")
        copies = numbers % 3
        parent = np.repeat(np.arange(len(numbers)), np.maximum(copies, 0 if self.lose_rows else 1))
        rule = np.where(copies[parent] == 0, "none", None)
        table = shard.take(parent)
        return table.append_column("parent_row", pa.array(parent)).append_column(
            "drop_rule", pa.array(rule, pa.string())
        )


@stage
@dataclass(frozen=True, kw_only=True)
class ToyShuffle:
    """Keeps the first document of every residue of `number` modulo `modulo`, over all shards."""

    stage: ClassVar[str] = "toy_shuffle"
    shape: ClassVar[str] = "shuffle"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"
    phases: ClassVar = (("sign", "shard"), ("group", "partition"), ("gather", "all"), ("apply", "shard"))

    modulo: int = 30
    """number of classes"""
    seconds: float = 0.0
    """pause an item"""
    journal: str = ""
    """file to note calls in"""

    def sign(self, shard: int, table: pa.Table, mine: None) -> dict[str, pa.Table]:
        pause(self.seconds)
        note(self.journal, f"sign {shard}")
        residue = table["number"].to_numpy() % self.modulo
        place = {"shard": np.full(len(residue), shard), "row": np.arange(len(residue))}
        rows = pa.table({"residue": residue, **place})
        return {f"p{k}": rows.filter(pa.array(residue % 2 == k)) for k in (0, 1)}

    def group(self, name: str, tables: list[pa.Table]) -> dict[str, pa.Table]:
        pause(self.seconds)
        note(self.journal, f"group {name}")
        order = [(name, "ascending") for name in ("residue", "shard", "row")]
        rows = pa.concat_tables(tables).sort_by(order)
        residue = rows["residue"].to_numpy()
        first = np.ones(len(residue), bool)
        first[1:] = residue[1:] != residue[:-1]
        return {"gone": rows.filter(pa.array(~first))}

    def gather(self, tables: list[pa.Table]) -> dict[str, pa.Table]:
        pause(self.seconds)
        note(self.journal, "gather")
        gone = pa.concat_tables(tables)
        shards = gone["shard"].to_numpy()
        return {f"{s:05d}": gone.filter(pa.array(shards == s)) for s in np.unique(shards)}

    def apply(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        pause(self.seconds)
        note(self.journal, f"apply {shard}")
        rule = np.full(table.num_rows, None, dtype=object)
        if mine is not None:
            rule[mine["row"].to_numpy()] = "seen"
        return {"": table.append_column("drop_rule", pa.array(rule, pa.string()))}


@stage
@dataclass(frozen=True, kw_only=True)
class ToyFit:
    """Sums `number` step by step, keeping its place in scratch; writes model.txt."""

    stage: ClassVar[str] = "toy_fit"
    shape: ClassVar[str] = "fit"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "seeded"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "artifact"

    steps: int = 5
    """steps of the fit"""
    seconds: float = 0.0
    """pause a step"""
    journal: str = ""
    """file to note calls in"""

    def fit(self, out: Path, scratch: Path, seed: int, progress: Any, documents: Any) -> dict:
        place = scratch / "place"
        done = int(place.read_text()) if place.exists() else 0
        for step in range(done, self.steps):
            progress(f"step {step}")
            pause(self.seconds)
            note(self.journal, f"fit {step}")
            place.write_text(str(step + 1))
        total = int(pc.sum(documents.to_table(columns=["number"])["number"]).as_py() or 0)
        (out / "model.txt").write_text(f"{total} {seed}")
        return {"total": total}


@stage
@dataclass(frozen=True, kw_only=True)
class ToyApply:
    """A map with an artifact: adds `total` from the fit's model."""

    stage: ClassVar[str] = "toy_apply"
    shape: ClassVar[str] = "map"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents", "model": "artifact"}
    output: ClassVar[str] = "documents"

    def annotate(self, table: pa.Table, model: Path) -> pa.Table:
        total = int((model / "model.txt").read_text().split()[0])
        return table.append_column("total", pa.array([total] * table.num_rows))
