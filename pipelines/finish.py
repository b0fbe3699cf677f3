"""The end of a unit: nothing has vanished, and the manifest that makes its dataset exist."""

from __future__ import annotations

import collections
import datetime
import time
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.dataset import Commit, File, Manifest, content_fingerprint, read_commit, read_commits
from pipelines.job import Job
from pipelines.storage import Folder


def lost_rows(job: Job, commits: list[Commit], has_gaps: bool) -> str:
    """Nothing vanishes: what went in is kept, dropped or quarantined. What is wrong, or ""."""
    if job.unit.shape not in ("map", "shuffle", "expand"):
        return ""
    for commit in commits:
        out = commit.kept + sum(commit.dropped.values()) + commit.quarantined
        if job.unit.shape != "expand" and commit.rows_in != out:
            return f"item {commit.item} lost rows: {commit.rows_in} in, {out} out"
    expected = sum(shard["rows"] for shard in job.plan.inputs[job.unit.main_input].shards)
    counted = sum(commit.rows_in for commit in commits)
    if counted != expected and not has_gaps:
        return f"rows were lost: its input has {expected}, its items read {counted}"
    return ""


def make_manifest(
    job: Job, commits: list[Commit], gaps: list[str], jobs: dict[str, Job], run: Path
) -> Manifest:
    """The manifest of a unit whose work items are all committed, but for ``gaps``."""
    unit, plan = job.unit, job.plan
    output = unit.last.step.output
    by_role = collections.defaultdict(list)
    dropped: collections.Counter = collections.Counter()
    for commit in commits:
        dropped.update(commit.dropped)
        for file in commit.files:
            by_role[file.role].append(file)
    # a shard that nothing came out of would only cost the nodes to come a work item
    rows = [file for file in by_role["rows"] if file.rows or output == "artifact"]
    report = _report(job, commits)
    if plan.annotated:
        report["annotated"] = plan.annotated
    now = time.time()
    work = list(read_commits(plan.dataset).values()) if unit.shape == "shuffle" else commits
    return Manifest(
        kind=output,
        node=unit.name,
        fingerprint=plan.fingerprint,
        content_fingerprint=content_fingerprint(output, rows),
        determinism=unit.determinism,
        stages=plan.steps,
        inputs=plan.input_fingerprints,
        shards=[file.to_json() for file in rows],
        dropped=[file.to_json() for file in by_role["dropped"]],
        quarantined=[file.to_json() for file in by_role["quarantined"]],
        counts={
            "rows_in": sum(commit.rows_in for commit in commits),
            "kept": sum(commit.kept for commit in commits),
            "dropped": dict(dropped.most_common()),
            "quarantined": sum(commit.quarantined for commit in commits),
            "bytes": sum(file.bytes for file in rows),
            "tokens": sum(sum(file.token_counts or []) for file in rows),
        },
        steps=sum_steps(commits),
        schema=_schema(job.plan.dataset, by_role["rows"]),
        report=report,
        gaps=gaps,
        tokens=_token_facts(job, jobs, run) if output == "tokens" else {},
        created={
            "at": datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds"),
            "run": str(run),
            "seconds": round(now - (job.started or now), 2),
            "cpu_seconds": round(sum(commit.seconds for commit in work), 2),
            "peak_bytes": max((commit.peak_bytes for commit in work), default=0),
            "warnings": job.warnings,
        },
    )


def _report(job: Job, commits: list[Commit]) -> dict:
    """What a fit, the items of an expand, or the phase of a shuffle that sees everything had to say."""
    if job.unit.shape == "fit":
        return dict(commits[0].report)
    if job.unit.shape == "expand":
        total: dict = {}
        for done in commits:
            add_up(total, done.report)
        return total
    for phase, per in job.unit.last.step.phases if job.unit.shape == "shuffle" else ():
        if per == "all" and (commit := read_commit(job.plan.dataset, f"{phase}-all")):
            return dict(commit.report)
    return {}


def add_up(total: dict, more: dict) -> None:
    """Add ``more`` to ``total``, number by number, at any depth; of what is no number the first stays."""
    for key, value in more.items():
        if isinstance(value, dict):
            add_up(total.setdefault(key, {}), value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[key] = total.get(key, 0) + value
        else:
            total.setdefault(key, value)


def _schema(folder: Folder, rows: list[File]) -> dict[str, str]:
    if not rows or not rows[0].file.endswith(".parquet"):
        return {}
    schema = pq.read_schema(folder.path(rows[0].file), filesystem=folder.fs)
    return {field.name: str(field.type) for field in schema}


def _token_facts(job: Job, jobs: dict[str, Job], run: Path) -> dict:
    from pipelines.tokenize import token_facts

    uri = jobs[job.unit.last.inputs["tokenizer"]].artifact_uri
    return token_facts(Folder(uri).local("", run / "cache"))


def sum_steps(commits: list[Commit]) -> list[dict]:
    """Per node of the unit: rows in and out, drops by rule, seconds of work."""
    total: dict[str, dict] = {}
    for commit in commits:
        for step in commit.steps:
            empty = {"node": step["node"], "rows_in": 0, "rows_out": 0, "dropped": {}, "would_drop": {}}
            sums = total.setdefault(step["node"], {**empty, "quarantined": 0, "seconds": 0.0})
            for key in ("rows_in", "rows_out", "quarantined", "seconds"):
                sums[key] = round(sums[key] + step[key], 4)
            for key in ("dropped", "would_drop"):
                for rule, count in step.get(key, {}).items():
                    sums[key][rule] = sums[key].get(rule, 0) + count
    return list(total.values())
