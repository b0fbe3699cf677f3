"""The main job in small, from a frozen crawl of this interpreter's documentation to token shards."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from frozen import write_frozen_dag, write_warcs
from toy_runs import manifests, run
from typer.testing import CliRunner

from pipelines.cli import app
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


def test_a_training_sequence_leads_to_its_pages(job: Path, tmp_path: Path) -> None:
    links = json.loads((job / "links.json").read_text())
    store = Path(json.loads((job / "run.json").read_text())["store"])
    config = tmp_path / "train.yaml"
    config.write_text(
        json.dumps({
            "model": "configs/model/sigma_tiny.yaml", "output": "out", "sequence_length": 256,
            "tokenizer": str(next((store / links["tokenizer"]["dataset"]).glob("data/*"))),
            "data": {"packing": "best_fit",
                     "train": {name: [str(store / links[name]["dataset"])] for name in ("tokens", "heldout")},
                     "phases": [{"name": "both", "weights": {"tokens": 3, "heldout": 1}, "steps": 9}]},
        })
    )  # fmt: skip
    plan = CliRunner().invoke(app, ["data", str(config)])
    assert plan.exit_code == 0, plan.output
    assert "75.0%" in plan.output and "25.0%" in plan.output and f"{9 * 8 * 256:,}" in plan.output
    texts = {row["id"]: row["text"] for row in _rows(job, "classified")}
    found = []
    for number in range(72):
        if len(found) > 2:
            break
        shown = CliRunner().invoke(app, ["data", str(config), "--sequence", str(number), "--whole"])
        assert shown.exit_code == 0, shown.output
        assert shown.output.startswith(f"sequence {number}: phase 'both', step {number // 8 + 1}; ")
        found += re.findall(r"document ([0-9a-f]{32}), tokens 0 to \d+\n(.{40})", shown.output, re.DOTALL)
    assert found
    for doc_id, text in found:
        assert texts[doc_id].startswith(text)
    assert "page  " in trace_run(job, found[0][0])
    beyond = CliRunner().invoke(app, ["data", str(config), "--sequence", "999"])
    assert beyond.exit_code == 2
