"""What a run left behind, read back: its units with their manifests, its errors, its loss curves.

Everything may be missing but ``run.json``: a run that goes on, stopped or failed has facts too.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from pipelines import registry
from pipelines.dataset import Manifest, read_manifest
from pipelines.storage import Folder

STALE_SECONDS = 30
SAMPLES = 5
SAMPLE_FILES, SAMPLE_ROWS = 32, 10_000


@dataclass(frozen=True)
class Step:
    """One node of a unit: rows it got and gave, drops by rule, seconds of work in all workers."""

    node: str
    rows_in: int
    rows_out: int
    dropped: dict[str, int]
    would_drop: dict[str, int]
    quarantined: int
    seconds: float


@dataclass(frozen=True)
class Balance:
    """Rows of a unit, counted from its manifest and its files. ``errors``: what does not add up."""

    available: int | None
    rows_in: int
    kept: int
    dropped: int
    quarantined: int
    errors: list[str]


@dataclass
class Unit:
    """What was read once and written once: a node, or a chain of nodes named by its last."""

    name: str
    chain: list[str]
    stages: list[str]
    inputs: list[str]
    state: str = "waiting"
    status: dict = field(default_factory=dict)
    made: Manifest | None = None
    where: Folder | None = None
    problem: str = ""

    @property
    def manifest(self) -> Manifest:
        """The manifest of a unit that has one: ask ``made`` first."""
        assert self.made is not None, self.name
        return self.made

    @property
    def folder(self) -> Folder:
        assert self.where is not None, self.name
        return self.where

    @property
    def kind(self) -> str:
        return self.made.kind if self.made else ""

    @property
    def shape(self) -> str:
        """Shape of the stage; empty when the package that has the stage is not installed here."""
        try:
            return getattr(registry.stage_class(self.stages[-1]), "shape", "")
        except (KeyError, ImportError):
            return ""

    @property
    def report(self) -> dict:
        return self.made.report if self.made else {}

    @property
    def tokens(self) -> int:
        return self.made.counts["tokens"] if self.made else 0

    def steps(self) -> list[Step]:
        """The nodes of the chain, in order; one made from the totals where commits note none."""
        if self.made is None:
            return []
        if self.manifest.steps:
            return [Step(**step) for step in self.manifest.steps]
        counts = self.manifest.counts
        return [
            Step(
                node=self.name,
                rows_in=counts["rows_in"],
                rows_out=counts["kept"],
                dropped=counts["dropped"],
                would_drop={},
                quarantined=counts["quarantined"],
                seconds=self.manifest.created["cpu_seconds"],
            )
        ]


@dataclass
class Facts:
    """A run. ``units`` in the order of the DAG; ``failures``: failed attempts since the last start."""

    run: Path
    name: str
    store: Folder
    seed: int
    state: str
    units: dict[str, Unit]
    config: str
    started: float | None
    updated: float | None
    starts: int
    host: str
    stopping: str
    failures: list[dict]

    def main_path(self) -> list[Unit]:
        """From a source to most tokens; without tokens, to the end of the longest finished chain."""
        done = [unit for unit in self.units.values() if unit.made and unit.kind != "artifact"]
        paths = [self._path_to(unit) for unit in done]
        return max(paths, key=lambda path: (path[-1].tokens, len(path)), default=[])

    def _path_to(self, unit: Unit) -> list[Unit]:
        path = [unit]
        while path[0].inputs and (before := self.units.get(path[0].inputs[0])) and before.made:
            path.insert(0, before)
        return path


def read_facts(run: Path) -> Facts:
    """Read the run in the folder ``run``. Raises FileNotFoundError when it holds none."""
    about = _read_json(run / "run.json")
    if about is None:
        raise FileNotFoundError(f"{run} holds no run: give the folder that `corpusmill run` printed")
    status = _read_json(run / "status.json") or {}
    config = (run / "config.yaml").read_text() if (run / "config.yaml").exists() else ""
    store = Folder(about["store"])
    events = _read_log(run / "log.jsonl")
    starts = [number for number, event in enumerate(events) if event["event"] == "start"]
    since = events[starts[-1] :] if starts else []
    dag = yaml.safe_load(config) or {}
    return Facts(
        run=run.resolve(),
        name=about["name"],
        store=store,
        seed=dag.get("seed", 0),
        state=_state(status),
        units=_units(dag.get("nodes", {}), status, _read_json(run / "links.json") or {}, store),
        config=config,
        started=status.get("started"),
        updated=status.get("updated"),
        starts=len(starts),
        host=status.get("host", ""),
        stopping=status.get("stopping", ""),
        failures=[e for e in since if e["event"] == "item failed" and not e.get("stopped")],
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _read_log(path: Path) -> list[dict]:
    """The events; a line that a kill tore is left out."""
    events = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def _state(status: dict) -> str:
    state = status.get("state", "not started")
    if state == "running" and time.time() - status["updated"] > STALE_SECONDS:
        return "interrupted"
    return state


def _units(nodes: dict[str, dict], status: dict, links: dict, store: Folder) -> dict[str, Unit]:
    # a start that was refused leaves its config beside the status of the one before
    known = [row for row in status.get("nodes", []) if nodes.keys() >= set(row["chain"])]
    rows = {row["node"]: row for row in known}
    fused = {name for row in rows.values() for name in row["chain"]} - set(rows)
    units = {}
    for name in [*rows, *(name for name in nodes if name not in rows and name not in fused)]:
        chain = rows[name]["chain"] if name in rows else [name]
        specs = [nodes[node] for node in chain]
        given = [source for spec in specs for source in _inputs(spec)]
        unit = Unit(
            name=name,
            chain=chain,
            stages=[spec["stage"] for spec in specs],
            inputs=[source for source in dict.fromkeys(given) if source not in chain],
            status=rows.get(name, {}),
        )
        unit.state = unit.status.get("state", "not in this run")
        # a link of a node that did not finish this time is another plan's
        if name in links and unit.state in ("done", "not in this run"):
            _open_dataset(unit, links[name], store)
        units[name] = unit
    return units


def _inputs(spec: dict) -> list[str]:
    return [spec["input"]] if "input" in spec else list(spec.get("inputs", {}).values())


def _open_dataset(unit: Unit, link: dict, store: Folder) -> None:
    unit.where = store / link["dataset"]
    try:
        unit.made = read_manifest(unit.where, link["manifest"])
    except ValueError as error:
        unit.problem = str(error)
        return
    if unit.made is None:
        unit.problem = f"its dataset {unit.where} is gone: run again to make it anew"


# -- rows in = rows out ----------------------------------------------------------------------------


def balance(unit: Unit, units: dict[str, Unit]) -> Balance:
    """Count a unit's rows three ways: its manifest, its files, and the dataset it read."""
    manifest = unit.manifest
    counts, steps = manifest.counts, unit.steps()
    dropped = sum(counts["dropped"].values())
    source = units.get(unit.inputs[0]) if unit.inputs else None
    available = None
    if source and source.made:
        available = sum(shard["rows"] for shard in source.manifest.shards)
    out = counts["kept"] + dropped + counts["quarantined"]
    facts = [
        (unit.shape in ("expand", "") and out > counts["rows_in"] or out == counts["rows_in"],
         f"{counts['rows_in']:,} rows in, but {out:,} accounted for"),
        (available is None or manifest.gaps or available == counts["rows_in"],
         f"the input has {available or 0:,} rows, {counts['rows_in']:,} were read"),
        (not manifest.dropped or _rows(manifest.dropped) == dropped,
         f"the files of dropped rows hold {_rows(manifest.dropped):,}, not {dropped:,}"),
        (_rows(manifest.shards) == counts["kept"],
         f"the shards hold {_rows(manifest.shards):,} rows, not {counts['kept']:,}"),
        (_rows(manifest.quarantined) == counts["quarantined"],
         f"the quarantine holds {_rows(manifest.quarantined):,} rows, not {counts['quarantined']:,}"),
        (steps[0].rows_in == counts["rows_in"] and steps[-1].rows_out == counts["kept"],
         "the first or the last node of the chain counted otherwise"),
        (all(a.rows_out == b.rows_in for a, b in zip(steps, steps[1:], strict=False)),
         "a node of the chain did not get all that the one before it kept"),
    ]  # fmt: skip
    errors = [text for fine, text in facts if not fine]
    return Balance(available, counts["rows_in"], counts["kept"], dropped, counts["quarantined"], errors)


def _rows(files: list[dict]) -> int:
    return sum(file["rows"] for file in files)


# -- what lies in a dataset's files ----------------------------------------------------------------


def quarantine_samples(unit: Unit) -> list[dict]:
    """The first SAMPLES rows in quarantine: error, left_at, input_row and, where given, id and url."""
    samples: list[dict] = []
    for file in unit.manifest.quarantined:
        try:
            with unit.folder.fs.open_input_file(unit.folder.path(file["file"])) as stream:
                parquet = pq.ParquetFile(stream)
                wanted = ("id", "url", "error", "left_at", "input_row")
                columns = [name for name in wanted if name in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(SAMPLES - len(samples), columns=columns):
                    samples += batch.to_pylist()
                    break
        except (OSError, ValueError) as error:
            samples.append({"error": f"{file['file']} cannot be read: {error}"})
        if len(samples) >= SAMPLES:
            break
    return samples


def drop_samples(unit: Unit) -> dict[tuple[str, str], list[str]]:
    """URLs (else ids) of the first few rows that each (node, rule) dropped; reads few files only."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in unit.manifest.dropped[:SAMPLE_FILES]:
        try:
            with unit.folder.fs.open_input_file(unit.folder.path(file["file"])) as stream:
                parquet = pq.ParquetFile(stream)
                names = parquet.schema_arrow.names
                what = next(name for name in ("url", "id", "doc_id", "drop_rule") if name in names)
                wanted = [name for name in (what, "drop_rule", "left_at") if name in names]
                rows = next(parquet.iter_batches(SAMPLE_ROWS, columns=wanted), None)
        except (OSError, ValueError):
            continue  # the counts tell that the file is not as it was
        for row in rows.to_pylist() if rows is not None else []:
            listed = found.setdefault((row["left_at"], row["drop_rule"]), [])
            if row.get(what) and len(listed) < SAMPLES and row[what] not in listed:
                listed.append(row[what])
    return found


def metrics(unit: Unit) -> list[dict]:
    """The lines of a training's metrics.jsonl that have a step and a finite loss; empty without."""
    names = [shard["file"] for shard in unit.manifest.shards]
    name = next((name for name in names if name.endswith("/metrics.jsonl")), None)
    data = unit.folder.read(name) if name else None
    lines = []
    for line in (data or b"").decode(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        for key in ("loss", "heldout_loss"):
            if not isinstance(row.get(key), int | float) or not math.isfinite(row[key]):
                row.pop(key, None)
        if isinstance(row.get("step"), int) and ("loss" in row or "heldout_loss" in row):
            lines.append(row)
    return sorted(lines, key=lambda row: row["step"])


def grouped_failures(facts: Facts) -> list[tuple[dict, int]]:
    """Failed attempts, the same error of the same node counted once; the most frequent first."""
    first: dict[tuple, dict] = {}
    counts: Counter = Counter()
    for event in facts.failures:
        key = (event["node"], event["type"], event["message"])
        first.setdefault(key, event)
        counts[key] += 1
    return [(first[key], count) for key, count in counts.most_common()]
