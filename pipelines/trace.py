"""From a token to its page, and from a page to its tokens.

``trace`` takes a row of a token shard, a document's id, or a URL, and walks the run's datasets: every
node that has seen the document says what it did with it, up to the WARC record it came from.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.dataset import Manifest, read_manifest
from pipelines.storage import Folder
from pipelines.warc import warc_name

NEXT_TO_TEXT = ("title", "url", "split", "domain_label", "domain_score", "minhash_cluster_id")


@dataclass
class Dataset:
    node: str
    folder: Folder
    manifest: Manifest


@dataclass
class Sighting:
    """One row of one file that holds the document."""

    dataset: Dataset
    role: str
    file: str
    row: int
    values: dict


def linked_datasets(run: Path) -> list[Dataset]:
    """The datasets a run has made so far, in order of the DAG."""
    if not (run / "run.json").exists():
        raise FileNotFoundError(f"{run} holds no run: give the folder that `corpusmill run` printed")
    store = Folder(json.loads((run / "run.json").read_text())["store"])
    links_file = run / "links.json"
    links = json.loads(links_file.read_text()) if links_file.exists() else {}
    found = []
    for node, link in links.items():
        folder = store / link["dataset"]
        manifest = read_manifest(folder, link["manifest"])
        if manifest is not None:
            found.append(Dataset(node, folder, manifest))
    return found


def trace_run(run: Path, what: str) -> str:
    """The story of a document, as text. Raises ValueError when nothing is known of it."""
    datasets = linked_datasets(run)
    ids = _ids(datasets, what)
    if not ids:
        raise ValueError(
            f"no dataset of {run} knows {what!r}: give NODE:SHARD:ROW of a token dataset, an id of 32"
            " hex digits, or a URL as it was crawled"
        )
    stories = []
    for id_ in ids:
        stories.append(_story(datasets, id_))
        # what a document was made of comes after it
        ids += [parent for parent in _parents(datasets, id_) if parent not in ids]
    return "\n\n".join(stories)


def _parents(datasets: list[Dataset], id_: str) -> list[str]:
    for dataset in datasets:
        for sighting in _find(dataset, "id", id_) if dataset.manifest.kind == "documents" else ():
            if parents := sighting.values.get("parents"):
                return parents
    return []


def _children(datasets: list[Dataset], id_: str) -> list[str]:
    """A line for each document that was made of this one and kept."""
    lines = []
    for dataset in datasets:
        if dataset.manifest.stages[-1]["stage"] != "synthesize":
            continue
        for file in dataset.manifest.shards:
            rows = _read(dataset, file["file"], ["id", "parents", "synth_recipe"])
            for row in rows.filter(pc.equal(pc.list_element(rows["parents"], 0), id_)).to_pylist():
                lines.append(f"  {dataset.node:12} made {row['id']} of it by recipe {row['synth_recipe']}")
    return lines


def _ids(datasets: list[Dataset], what: str) -> list[str]:
    match = re.fullmatch(r"([a-z][a-z0-9_]*):(\d+):(\d+)", what)
    if match:
        return [_token_row(datasets, match[1], int(match[2]), int(match[3]))]
    if re.fullmatch(r"[0-9a-f]{32}", what):
        return [what]
    ids: list[str] = []
    for dataset in datasets:
        if dataset.manifest.kind == "documents":
            for sighting in _find(dataset, "url", what):
                ids.append(sighting.values["id"])
    return list(dict.fromkeys(ids))


def _token_row(datasets: list[Dataset], node: str, shard: int, row: int) -> str:
    dataset = next((d for d in datasets if d.node == node), None)
    if dataset is None or dataset.manifest.kind != "tokens":
        tokens = [d.node for d in datasets if d.manifest.kind == "tokens"]
        raise ValueError(f"{node!r} is no token dataset of this run; there are: {', '.join(tokens)}")
    if shard >= len(dataset.manifest.shards):
        raise ValueError(f"{node!r} has {len(dataset.manifest.shards)} shards, counted from 0")
    file = dataset.manifest.shards[shard]
    if row >= file["rows"]:
        raise ValueError(f"shard {shard} of {node!r} has {file['rows']} rows, counted from 0")
    column = _read(dataset, file["file"], ["doc_id"])["doc_id"]
    return column[row].as_py()


def _read(dataset: Dataset, file: str, columns: list[str] | None = None) -> pa.Table:
    folder = dataset.folder
    return pq.read_table(folder.path(file), filesystem=folder.fs, columns=columns)


def _find(dataset: Dataset, column: str, value: str) -> list[Sighting]:
    """Rows whose ``column`` is ``value``: kept, dropped and quarantined ones."""
    manifest, found = dataset.manifest, []
    for role, files in (
        ("rows", manifest.shards),
        ("dropped", manifest.dropped),
        ("quarantined", manifest.quarantined),
    ):
        for file in files:
            if not file["file"].endswith(".parquet"):
                continue
            schema = pq.read_schema(dataset.folder.path(file["file"]), filesystem=dataset.folder.fs)
            if column not in schema.names:
                continue
            cells = _read(dataset, file["file"], [column])[column]
            for row in pc.indices_nonzero(pc.equal(cells, value)).to_pylist():
                table = _read(dataset, file["file"]).slice(row, 1)
                found.append(Sighting(dataset, role, file["file"], row, table.to_pylist()[0]))
    return found


def _story(datasets: list[Dataset], id_: str) -> str:
    lines = [f"document {id_}"]
    page: dict = {}
    for dataset in datasets:
        key = "doc_id" if dataset.manifest.kind == "tokens" else "id"
        for sighting in _find(dataset, key, id_):
            lines.append(_line(sighting))
            lines += _details(sighting)
            page = page or (sighting.values if sighting.values.get("warc_file") else {})
    if len(lines) == 1:
        raise ValueError(f"no dataset of this run holds the document {id_}")
    lines += _children(datasets, id_)
    if page:
        lines[1:1] = _origin(datasets, page)
    return "\n".join(lines)


def _origin(datasets: list[Dataset], page: dict) -> list[str]:
    """Where the page lies: URL, WARC file, offset, record id."""
    lines = [f"  page         {page['url']}  (fetched {page['fetched_at']})"]
    for dataset in datasets:
        if dataset.manifest.kind != "warc":
            continue
        for file in dataset.manifest.shards:
            path = dataset.folder.local(file["file"], Path(tempfile.gettempdir()) / "corpusmill-trace")
            if warc_name(path) == page["warc_file"]:
                lines.append(f"  WARC record  {page['warc_record_id']}")
                lines.append(f"               byte {page['warc_offset']} of {path}")
    return lines


def _line(sighting: Sighting) -> str:
    values, verdict = sighting.values, "kept"
    if sighting.role == "dropped":
        verdict = f"dropped by {values['drop_rule']}"
        if values.get("duplicate_of"):
            verdict += f" (of {values['duplicate_of']})"
    if sighting.role == "quarantined":
        verdict = f"in quarantine: {values['error']}"
    if "tokens" in values and sighting.role == "rows":
        verdict = f"{len(values['tokens'])} tokens"
    place = f"{sighting.dataset.folder.root.rsplit('/', 1)[-1]}/{sighting.file}, row {sighting.row}"
    return f"  {sighting.dataset.node:12} {verdict:32} {place}"


def _details(sighting: Sighting) -> list[str]:
    values = sighting.values
    shown = [f"{name}={values[name]}" for name in NEXT_TO_TEXT[2:] if values.get(name) is not None]
    failed = values.get("failed_rules") or []
    if failed:
        shown.append(f"failed: {', '.join(failed)}")
    lines = [f"               {'  '.join(shown)}"] if shown else []
    # where it was made: later nodes carry the columns on
    if values.get("synth_recipe") and sighting.dataset.manifest.stages[-1]["stage"] == "synthesize":
        lines.append(
            f"               made of {', '.join(values['parents'])} (part {values['synth_part']}) by recipe"
            f" {values['synth_recipe']} v{values['synth_version']}"
        )
        lines.append(
            f"               {values['synth_model']} {values['synth_model_revision']}, attempt"
            f" {values['synth_attempt']}, seed {values['synth_seed']}, prompt {values['synth_prompt_hash']}"
        )
    return lines
