"""A unit while a run lasts: where it stands, what its workers get, what `status` shows of it."""

from __future__ import annotations

import collections
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.dataset import Commit, Manifest, read_commits
from pipelines.phase_files import parts_of
from pipelines.plan import Plan, Unit
from pipelines.storage import Folder
from pipelines.work import Task


@dataclass
class Job:
    """A unit while the run lasts."""

    unit: Unit
    state: str = "waiting"  # waiting, running, done, gap, failed, blocked
    plan: Plan = None  # type: ignore[assignment]  # known once its inputs are
    manifest: Manifest = None  # type: ignore[assignment]  # known once it is done
    reused: bool = False
    phase: int = 0
    before: list[Commit] = field(default_factory=list)  # of a shuffle's phase: the phase's before it
    items: dict[str, dict] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    queue: collections.deque = field(default_factory=collections.deque)
    attempts: collections.Counter = field(default_factory=collections.Counter)
    failures: dict[str, dict] = field(default_factory=dict)
    refilter: tuple[Folder, dict[str, Commit]] | None = None
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0
    parts: int = 0
    part_rows: int = 0

    @property
    def name(self) -> str:
        return self.unit.name

    @property
    def artifact_uri(self) -> str:
        """The folder that holds the files of this unit's artifact: data/fit.<8 hex>."""
        return f"{self.plan.dataset.uri}/{self._artifact_folder()}"

    def _artifact_folder(self) -> str:
        return "/".join(self.manifest.shards[0]["file"].split("/")[:2])

    def as_fit_input(self) -> dict:
        """This unit's dataset as a fit reads it."""
        return {
            "folder": self.plan.dataset.uri,
            "kind": self.manifest.kind,
            "files": [shard["file"] for shard in self.manifest.shards],
            "where": self._artifact_folder() if self.manifest.kind == "artifact" else "",
        }


def make_task(job: Job, name: str, jobs: dict[str, Job], run: Path, seed: int) -> Task:
    """Everything a worker needs for the work item ``name`` of ``job``."""
    plan, unit, item = job.plan, job.unit, job.items[name]
    main = plan.inputs.get(unit.main_input)
    artifacts: dict[str, dict[str, str]] = {}
    for node in unit.nodes if unit.shape in ("map", "expand") else ():
        for key, source in node.inputs.items():
            if source in unit.sources and node.step.inputs[key] == "artifact":
                artifacts.setdefault(node.name, {})[key] = jobs[source].artifact_uri
    fit_inputs = {}
    for key, source in unit.last.inputs.items() if unit.shape == "fit" else ():
        fit_inputs[key] = jobs[source].as_fit_input()
    parts = []
    if unit.shape == "shuffle" and job.phase:
        name_of_parts = f"{item['shard']:05d}" if "shard" in item else item.get("name")
        parts = parts_of(job.before, name_of_parts)
    refilter = None
    if job.refilter:
        folder, commits = job.refilter
        if name in commits:
            refilter = {**commits[name].to_json(), "folder": folder.uri}
    return Task(
        dataset=plan.dataset.uri,
        run=str(run),
        unit=unit.name,
        shape=unit.shape,
        seed=seed,
        keep_dropped=unit.last.keep_dropped,
        steps=[(node.name, node.step) for node in unit.nodes],
        item=item,
        phase=job.phase,
        parts=parts,
        shard=main.shards[item["shard"]] if main and "shard" in item else {},
        main_folder=plan.input_folders[unit.main_input].uri if main else "",
        main_kind=main.kind if main else "",
        artifacts=artifacts,
        fit_inputs=fit_inputs,
        refilter=refilter,
        attempt=job.attempts[name],
    )


def job_status(job: Job, run: Path, in_flight: int) -> dict:
    """What status.json says of a unit."""
    commits = list(job.commits.values())
    counts = job.manifest.counts if job.manifest else {}
    running = job.state == "running"
    if job.unit.shape == "source" and running:
        _count_parts(job)
    phases = getattr(job.unit.last.step, "phases", ())
    dropped = counts["dropped"].values() if counts else [n for c in commits for n in c.dropped.values()]
    return {
        "node": job.name,
        "chain": [node.name for node in job.unit.nodes],
        "stage": job.unit.last.stage,
        "state": job.state,
        "reused": job.reused,
        "phase": phases[job.phase][0] if phases and running else "",
        "items_done": len(job.manifest.shards) if job.reused else len(commits),
        "items_total": len(job.manifest.shards) if job.reused else len(job.items),
        "rows_in": counts.get("rows_in", sum(c.rows_in for c in commits)),
        "kept": counts.get("kept", sum(c.kept for c in commits) or job.part_rows),
        "dropped": sum(dropped),
        "quarantined": counts.get("quarantined", sum(c.quarantined for c in commits)),
        "bytes": counts.get("bytes", sum(f.bytes for c in commits for f in c.files)),
        "tokens": counts.get("tokens", 0),
        "seconds": (job.ended or time.time()) - job.started if job.started else 0.0,
        "in_flight": in_flight,
        "retried": sum(job.attempts.values()),
        "text": _progress_text(job, run) if running else "",
        "error": job.error,
        "warnings": job.warnings,
        "dataset": job.plan.dataset.uri if job.plan else "",
    }


def _progress_text(job: Job, run: Path) -> str:
    try:
        return json.loads((run / "progress" / f"{job.name}.json").read_text())["text"]
    except (OSError, ValueError):
        return ""


def _count_parts(job: Job) -> None:
    infos = job.plan.dataset.list("commits")
    if len(infos) != job.parts:
        job.parts = len(infos)
        job.part_rows = sum(commit.kept for commit in read_commits(job.plan.dataset).values())
