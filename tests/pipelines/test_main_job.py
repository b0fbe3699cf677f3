"""The main job in small, from a frozen crawl of this interpreter's documentation to token shards."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from frozen import write_frozen_dag, write_warcs
from toy_runs import manifests, run

from pipelines.gc import garbage
from pipelines.storage import Folder
from pipelines.trace import trace_run
from pipelines.warc import read_records


@pytest.fixture(scope="module")
def job(local_ray: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; its folder."""
    folder = tmp_path_factory.mktemp("main")
    config = write_frozen_dag(folder, write_warcs(folder / "crawl", parts=3, modules=60))
    code, engine = run(config, folder / "run")
    assert code == 0, [job.error for job in engine.jobs.values()]
    return folder / "run"


def _rows(run_folder: Path, node: str, role: str = "shards") -> list[dict]:
    page = manifests(run_folder)[node]
    link = json.loads((run_folder / "links.json").read_text())[node]
    store = Path(json.loads((run_folder / "run.json").read_text())["store"])
    tables = [pq.read_table(store / link["dataset"] / file["file"]) for file in page[role]]
    return [row for table in tables for row in table.to_pylist()]


def test_nothing_vanishes(job: Path) -> None:
    pages = manifests(job)
    assert pages["pages"]["counts"]["kept"] >= 60
    assert pages["documents"]["counts"]["dropped"] == {"http_status": 3}
    assert pages["exact"]["counts"]["dropped"]["exact_duplicate"] >= 3
    for node in ("documents", "decisions", "exact", "near", "classified", "tokens", "heldout"):
        counts = pages[node]["counts"]
        gone = sum(counts["dropped"].values()) + counts["quarantined"]
        assert counts["rows_in"] == counts["kept"] + gone, node
        assert sum(file["rows"] for file in pages[node]["shards"]) == counts["kept"], node
        assert sum(file["rows"] for file in pages[node]["dropped"]) == sum(counts["dropped"].values())


def test_most_documentation_stays(job: Path) -> None:
    """The technical preset is made for pages like these."""
    counts = manifests(job)["decisions"]["counts"]
    assert counts["kept"] > 0.85 * counts["rows_in"], counts["dropped"]


def test_heldout_never_reaches_training(job: Path) -> None:
    split = {row["id"]: row["split"] for row in _rows(job, "classified")}
    assert {"train", "heldout"} == set(split.values())
    assert {split[row["doc_id"]] for row in _rows(job, "tokens")} == {"train"}
    assert {split[row["doc_id"]] for row in _rows(job, "heldout")} == {"heldout"}


def test_every_document_has_one_end_token(job: Path) -> None:
    page = manifests(job)["tokens"]
    end = page["tokens"]["eos_id"]
    rows = _rows(job, "tokens")
    assert all(row["tokens"].count(end) == 1 and row["tokens"][-1] == end for row in rows)
    assert page["counts"]["tokens"] == sum(len(row["tokens"]) for row in rows)


def test_trace_there_and_back(job: Path) -> None:
    """From a token row to its WARC record, and from the page's URL to the token row."""
    story = trace_run(job, "tokens:0:2")
    document = _rows(job, "tokens")[2]["doc_id"]
    assert f"document {document}" in story
    line = next(line for line in story.splitlines() if line.strip().startswith("byte "))
    offset, path = line.split("byte ")[1].split(" of ")
    record = next(r for r in read_records(Path(path)) if r.offset == int(offset))
    assert record.record_id in story and record.url in story
    assert record.url in next(row["url"] for row in _rows(job, "documents") if row["id"] == document)
    assert document in trace_run(job, record.url)
    for node in ("documents", "decisions", "exact", "near", "classified", "tokens"):
        assert any(line.split()[:1] == [node] for line in story.splitlines()), node


def test_trace_says_what_dropped_a_page(job: Path) -> None:
    assert "dropped by http_status" in trace_run(job, "http://docs.test/gone/0")
    assert "dropped by exact_duplicate (of " in trace_run(job, "http://docs.test/copy/1")
    with pytest.raises(ValueError, match="knows 'http://docs.test/never'"):
        trace_run(job, "http://docs.test/never")
    with pytest.raises(ValueError, match="counted from 0"):
        trace_run(job, "tokens:0:100000")


def test_gc_finds_only_what_nobody_needs(job: Path) -> None:
    store = Path(json.loads((job / "run.json").read_text())["store"])
    dataset = next(store.glob("near-*"))
    # what the phases wrote for each other is needed as long as the dataset is not there
    between = {info.path for info in garbage(Folder(dataset), younger=0)}
    assert between == {str(path) for path in dataset.glob("data/*.arrow")} != set()
    manifest = dataset / "manifest.json"
    manifest.rename(dataset / "aside.json")
    assert garbage(Folder(dataset), younger=0) == []
    (dataset / "aside.json").rename(manifest)
    left = dataset / "data" / "apply-00000.rows.deadbeef.parquet"
    left.write_bytes(b"half")
    assert {info.path for info in garbage(Folder(dataset), younger=0)} - between == {str(left)}
    assert garbage(Folder(dataset)) == [], "a young file may still get its commit"
    left.unlink()
