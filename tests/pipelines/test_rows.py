"""Nothing vanishes: rows are kept, dropped by a rule or quarantined with an error; gaps are named."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from toy_runs import commits, events, hashes, journal, manifests, run, write_dag

pytestmark = pytest.mark.usefixtures("local_ray")
SOURCE = {"stage": "toy_source"}  # 4 shards of 50 rows


def first_file(folder: Path, node: str, role: str) -> Path:
    return min((folder / "store").glob(f"{node}-*/data/*.{role}.*.parquet"))


def test_counts_of_a_whole_run_agree(tmp_path: Path) -> None:
    nodes = {
        "numbers": SOURCE,
        "some": {"stage": "toy_map", "input": "numbers", "drop_modulo": 10, "fail_numbers": [3, 151]},
        "copies": {"stage": "toy_expand", "input": "some"},
        "unique": {"stage": "toy_shuffle", "input": "copies"},
    }
    code, engine = run(write_dag(tmp_path, nodes), tmp_path / "run")
    assert code == 0
    counts = {node: page["counts"] for node, page in manifests(tmp_path / "run").items()}
    some = counts["some"]
    assert (some["rows_in"], some["kept"], some["quarantined"]) == (200, 178, 2)
    assert some["dropped"] == {"divides": 20}
    assert counts["copies"]["rows_in"] == 178
    unique = counts["unique"]
    assert unique["rows_in"] == counts["copies"]["kept"] == unique["kept"] + unique["dropped"]["seen"]
    assert engine.jobs["some"].warnings == ["2 of 200 rows are in quarantine"]
    row = pq.read_table(first_file(tmp_path, "some", "quarantined")).to_pylist()[0]
    assert (row["number"], row["error"], row["left_at"], row["input_row"]) == (3, "this row fails", "some", 3)
    gone = pq.read_table(first_file(tmp_path, "some", "dropped"))
    assert gone["drop_rule"].unique().to_pylist() == ["divides"] and "text" in gone.column_names


@pytest.mark.parametrize(("keep", "columns"), [("scores", ["number"]), ("none", None)])
def test_keep_dropped(keep: str, columns: list[str] | None, tmp_path: Path) -> None:
    nodes = {
        "numbers": SOURCE,
        "some": {"stage": "toy_map", "input": "numbers", "drop_modulo": 10, "keep_dropped": keep},
    }
    assert run(write_dag(tmp_path, nodes), tmp_path / "run")[0] == 0
    files = list((tmp_path / "store").glob("some-*/data/*.dropped.*"))
    assert len(files) == (0 if columns is None else 4)
    if columns:
        names = pq.read_schema(files[0]).names
        assert "text" not in names and "number" in names
    assert manifests(tmp_path / "run")["some"]["counts"]["dropped"] == {"divides": 20}


def test_expand_that_loses_rows_fails_by_name(tmp_path: Path) -> None:
    nodes = {"numbers": SOURCE, "copies": {"stage": "toy_expand", "input": "numbers", "lose_rows": True}}
    code, engine = run(write_dag(tmp_path, nodes), tmp_path / "run")
    assert code == 3
    error = engine.jobs["copies"].error
    assert "item s0000" in error and "'toy_expand' lost rows" in error
    assert "50 went in, 33 are accounted for (first missing: [" in error


def test_map_that_loses_rows_fails_by_name(tmp_path: Path) -> None:
    nodes = {"numbers": SOURCE, "some": {"stage": "toy_map", "input": "numbers", "lose_rows": True}}
    code, engine = run(write_dag(tmp_path, nodes), tmp_path / "run")
    assert code == 3 and "'toy_map' returned 49 rows for 50" in engine.jobs["some"].error


def test_too_many_in_quarantine(tmp_path: Path) -> None:
    """Over the rate the node fails; with a higher rate it passes, and nothing is done again."""
    lines = tmp_path / "journal"
    some = {
        "stage": "toy_map",
        "input": "numbers",
        "fail_numbers": list(range(11)),
        "journal": str(lines),
    }
    nodes = {"numbers": SOURCE, "some": some, "next": {"stage": "toy_expand", "input": "some"}}
    config = write_dag(tmp_path, nodes)
    code, engine = run(config, tmp_path / "run")
    assert code == 3
    job = engine.jobs["some"]
    assert job.state == "failed" and "11 of 200 rows are in quarantine, more than 10" in job.error
    assert ".quarantined." in job.error and "max_quarantine on node 'some'" in job.error
    assert engine.jobs["next"].state == "blocked" and engine.jobs["next"].error == "waits for some"
    before = commits(tmp_path / "store")
    code, engine = run(config, tmp_path / "run", ["nodes.some.max_quarantine=0.06"])
    assert code == 0 and engine.jobs["some"].warnings == ["11 of 200 rows are in quarantine"]
    assert max(journal(lines).values()) == 1
    after = commits(tmp_path / "store")
    assert all(after[path] == record for path, record in before.items())


def test_gap(tmp_path: Path) -> None:
    """An item that fails three times leaves a gap; --accept-gap goes on and says so; without it the
    item is tried again, and once it works the result is that of a run that never failed."""
    cure = tmp_path / "cure"
    lines = tmp_path / "journal"
    nodes = {
        "numbers": SOURCE,
        "some": {
            "stage": "toy_map",
            "input": "numbers",
            "raise_for": 60,
            "raise_until": str(cure),
            "journal": str(lines),
        },
        "copies": {"stage": "toy_expand", "input": "some"},
    }
    config = write_dag(tmp_path, nodes)
    code, engine = run(config, tmp_path / "run")
    assert code == 3
    assert [engine.jobs[name].state for name in nodes] == ["done", "gap", "blocked"]
    said = engine.jobs["some"].error
    assert "1 of 4 work items failed 3 times; first: item s00001: ValueError: number 60" in said
    failed = events(tmp_path / "run", "item failed")
    assert [page["item"] for page in failed] == ["s00001"] * 3 and "annotate" in failed[0]["traceback"]
    assert journal(lines) == {"toy 0": 1, "toy 50": 3, "toy 100": 1, "toy 150": 1}

    code, engine = run(config, tmp_path / "run", accept_gaps=("some",))
    assert code == 0
    pages = manifests(tmp_path / "run")
    assert pages["some"]["gaps"] == ["s00001"] and pages["some"]["counts"]["rows_in"] == 150
    assert "gap accepted: 1 work items are missing" in engine.jobs["some"].warnings
    assert pages["copies"]["counts"]["rows_in"] == 150

    assert run(config, tmp_path / "run")[0] == 3, "without the flag the gap is a gap again"
    cure.touch()
    assert run(config, tmp_path / "run")[0] == 0
    assert manifests(tmp_path / "run")["some"]["gaps"] == []
    assert manifests(tmp_path / "run")["copies"]["counts"]["rows_in"] == 200
    assert journal(lines)["toy 0"] == 1
    whole = write_dag(tmp_path / "whole", {**nodes, "some": {**nodes["some"], "raise_for": -1}})
    assert run(whole, tmp_path / "whole" / "run")[0] == 0
    assert hashes(tmp_path / "run") == hashes(tmp_path / "whole" / "run")


def test_empty_input(tmp_path: Path) -> None:
    """No rows at all pass through every shape with a warning; only a fit has nothing to fit."""
    nodes = {
        "numbers": {"stage": "toy_source", "rows": 0},
        "some": {"stage": "toy_map", "input": "numbers"},
        "copies": {"stage": "toy_expand", "input": "some"},
        "unique": {"stage": "toy_shuffle", "input": "copies"},
        "model": {"stage": "toy_fit", "input": "unique"},
    }
    code, engine = run(write_dag(tmp_path, nodes), tmp_path / "run")
    assert code == 3
    states = [engine.jobs[name].state for name in nodes]
    assert states == ["done", "done", "done", "done", "failed"]
    assert engine.jobs["some"].warnings == ["its input 'numbers' has no rows"]
    assert "'unique' has no rows, so there is nothing to fit" in engine.jobs["model"].error


def test_a_source_without_items(tmp_path: Path) -> None:
    nodes = {
        "numbers": {"stage": "toy_source", "shards": 0},
        "some": {"stage": "toy_map", "input": "numbers"},
    }
    code, engine = run(write_dag(tmp_path, nodes), tmp_path / "run")
    assert code == 0 and manifests(tmp_path / "run")["some"]["counts"]["rows_in"] == 0
    assert engine.jobs["numbers"].warnings == ["it found nothing to read"]


def test_parquet_with_other_columns(tmp_path: Path) -> None:
    """A column that a stage needs and its input lacks: said before the node starts."""
    nodes = {
        "numbers": {"stage": "toy_source", "column": "txet"},
        "some": {"stage": "toy_map", "input": "numbers"},
    }
    code, engine = run(write_dag(tmp_path, nodes), tmp_path / "run")
    assert code == 3
    said = engine.jobs["some"].error
    assert "node 'some' (stage 'toy_map') needs the column 'text'" in said
    assert "'numbers' does not give; did you mean 'txet'?" in said
    assert not list((tmp_path / "store").glob("some-*/commits/*"))


def test_duplicate_ids_are_quarantined(tmp_path: Path) -> None:
    """The same id twice: the first stays, the second is quarantined and says where the first is."""
    nodes = {
        "numbers": {"stage": "toy_source", "repeat_id": True},
        "unique": {"stage": "exact_dedup", "input": "numbers"},
    }
    assert run(write_dag(tmp_path, nodes), tmp_path / "run")[0] == 0
    counts = manifests(tmp_path / "run")["unique"]["counts"]
    assert counts["rows_in"] == 200 and counts["quarantined"] == 4
    row = pq.read_table(first_file(tmp_path, "unique", "quarantined")).to_pylist()[0]
    assert "duplicate id" in row["error"] and row["id"] in row["error"]
