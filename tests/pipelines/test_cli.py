"""The command line's doors: help, lists, status, gc."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from toy_runs import all_shapes, hashes, run, write_dag
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.registry import stage_names


def corpusmill(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(args))
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    "command",
    ["run", "status", "report", "trace", "stages", "schema", "gc", "train", "data", "export", "params"],
)
def test_help_has_an_example(command: str) -> None:
    code, said = corpusmill(command, "--help")
    assert code == 0 and f"corpusmill {command}" in said


def test_stages() -> None:
    code, said = corpusmill("stages")
    assert code == 0 and all(name in said for name in stage_names())
    code, said = corpusmill("stages", "toy_source")
    assert code == 0 and "work items" in said and "output: documents; exact" in said
    code, said = corpusmill("stages", "toy_sorce")
    assert code == 2 and "did you mean 'toy_source'?" in said


@pytest.mark.parametrize("name", stage_names())
def test_every_parameter_is_explained(name: str) -> None:
    from pipelines.registry import parameters, stage_class

    bare = [key for key, page in parameters(stage_class(name)).items() if not page.get("description")]
    assert not bare, f"stage {name!r}: no docstring under {bare}"


def test_params() -> None:
    models = Path(__file__).parents[2] / "configs" / "model"
    for name, counted, cache in (
        ("sigma_1_5b", "(2.021 B tied)", "65 KiB"),
        ("sigma_10b", "(9.988 B tied)", "160 KiB"),
    ):
        code, said = corpusmill("params", str(models / f"{name}.yaml"))
        assert code == 0 and counted in said and f"{cache} a token" in said
    code, said = corpusmill("params", str(models / "ablations.yaml"))
    assert code == 0 and "gqa16_nk4_halfk_augq3072" in said
    code, said = corpusmill("params", str(models / "sigma_tiny.yaml"))
    assert code == 2 and "vocab_size" in said
    assert corpusmill("params", str(models / "sigma_tiny.yaml"), "--vocab-size", "8000")[0] == 0


def test_schema_is_json() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0 and json.loads(result.stdout)["title"] == "CorpusMill DAG"


def test_status_and_gc(local_ray: int, tmp_path: Path) -> None:
    """A finished run shows every node; what no commit names is listed, and deleted when asked to."""
    assert run(write_dag(tmp_path, all_shapes()), tmp_path / "run")[0] == 0
    code, said = corpusmill("status", str(tmp_path / "run"))
    assert code == 0 and all(name in said for name in all_shapes())

    data = next((tmp_path / "store").glob("map-*/data"))
    orphan, young = data / "s00009.rows.0badcafe.parquet", data / "s00008.rows.0badcafe.parquet"
    for file in (orphan, young):
        file.write_bytes(b"half a file")
    os.utime(orphan, (time.time() - 7200,) * 2)
    code, said = corpusmill("gc", str(tmp_path / "store"))
    assert code == 0 and orphan.name in said and young.name not in said and orphan.exists()
    code, said = corpusmill("gc", str(tmp_path / "store"), "--delete")
    assert code == 0 and not orphan.exists() and young.exists()
    found = hashes(tmp_path / "run")
    assert run(write_dag(tmp_path, all_shapes()), tmp_path / "run")[0] == 0
    assert hashes(tmp_path / "run") == found


def test_status_of_no_run(tmp_path: Path) -> None:
    code, said = corpusmill("status", str(tmp_path))
    assert code == 2 and "holds no run" in said
