"""A config that cannot run says where and why, and what was probably meant."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from toy_runs import run, write_dag
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import ConfigError, json_schema, load

TOYS = Path(__file__).parent / "toys.yaml"


def complaint(tmp_path: Path, text: str, settings: list[str] | None = None) -> str:
    """What ``load`` says of this text; lines are counted from 1."""
    file = tmp_path / "dag.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, settings)
    return str(caught.value)


# text of a DAG, and what the error must hold, the line number first
BAD = {
    "unknown stage": (
        "nodes:\n  a: {stage: toy_sorce}\n",
        ("dag.yaml:2:", "node 'a'", "'stage'", "'toy_sorce'", "did you mean 'toy_source'?"),
    ),
    "unknown field": (
        "nodes:\n  a:\n    stage: toy_source\n    shrads: 3\n",
        ("dag.yaml:4:", "node 'a'", "'shrads'", "did you mean 'shards'?"),
    ),
    "a field like no other": (
        "nodes:\n  a:\n    stage: toy_source\n    qqq: 3\n",
        ("dag.yaml:4:", "'qqq'", "it has: shards"),
    ),
    "unknown top key": (
        "sed: 3\nnodes:\n  a: {stage: toy_source}\n",
        ("dag.yaml:1:", "'sed'", "did you mean 'seed'?"),
    ),
    "wrong type": (
        "nodes:\n  a:\n    stage: toy_source\n    shards: many\n",
        ("dag.yaml:4:", "node 'a', field 'shards'", "valid integer"),
    ),
    "wrong type of a top key": (
        "seed: high\nnodes:\n  a: {stage: toy_source}\n",
        ("dag.yaml:1:", "seed must be a int"),
    ),
    "wrong option": (
        "nodes:\n  a:\n    stage: toy_source\n    keep_dropped: all\n",
        ("dag.yaml:4:", "text, scores, none"),
    ),
    "cycle": (
        "nodes:\n  a: {stage: toy_map, input: c}\n  b: {stage: toy_map, input: a}\n"
        "  c: {stage: toy_map, input: b}\n",
        ("dag.yaml:2:", "cycle: a -> c -> b -> a"),
    ),
    "a node of itself": ("nodes:\n  a: {stage: toy_map, input: a}\n", ("cycle: a -> a",)),
    "missing input": (
        "nodes:\n  a: {stage: toy_map}\n",
        ("dag.yaml:2:", "node 'a'", "input 'documents' (documents) is missing"),
    ),
    "input that is no node": (
        "nodes:\n  numbers: {stage: toy_source}\n  b:\n    stage: toy_map\n    input: nummbers\n",
        ("dag.yaml:5:", "node 'b'", "'nummbers'", "did you mean 'numbers'?"),
    ),
    "input that a source does not take": (
        "nodes:\n  a: {stage: toy_source}\n  b: {stage: toy_source, input: a}\n",
        ("dag.yaml:3:", "takes no input"),
    ),
    "kind mismatch": (
        "nodes:\n  a: {stage: toy_source}\n  f: {stage: toy_fit, input: a}\n"
        "  b: {stage: toy_map, input: f}\n",
        ("dag.yaml:4:", "needs documents, but 'f' (stage 'toy_fit') gives artifact"),
    ),
    "environment": (
        "nodes:\n  a:\n    stage: toy_source\n    journal: ${env:NO_SUCH_NAME}\n",
        ("dag.yaml:4:", "NO_SUCH_NAME", "export it"),
    ),
    "key given twice": (
        "nodes:\n  a: {stage: toy_source}\n  a: {stage: toy_source}\n",
        ("dag.yaml:3:", "nodes.a is given twice"),
    ),
    "unsafe tag": (
        "nodes:\n  a: !!python/object/apply:os.system [touch pwned]\n",
        ("dag.yaml:2:", "python/object/apply"),
    ),
    "not YAML": ("nodes: {a: [\n", ("dag.yaml:2:", "not YAML")),
    "a list": ("- nodes\n", ("dag.yaml", "mapping")),
    "no nodes": ("name: empty\n", ("at least one node",)),
    "empty file": ("", ("dag.yaml", "mapping")),
    "bad node name": ("nodes:\n  A-1: {stage: toy_source}\n", ("dag.yaml:2:", "lower-case")),
    "a node that is no mapping": ("nodes:\n  a: toy_source\n", ("dag.yaml:2:", "'stage'")),
    "an input that is a number": (
        "nodes:\n  a: {stage: toy_map, input: 3}\n",
        ("dag.yaml:2:", "node 'a'"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_config(name: str, tmp_path: Path) -> None:
    text, wanted = BAD[name]
    said = complaint(tmp_path, text)
    for part in wanted:
        assert part in said
    assert not (tmp_path / "pwned").exists()


def test_every_mistake_at_once(tmp_path: Path) -> None:
    said = complaint(tmp_path, "nodes:\n  a: {stage: toy_sorce}\n  b: {stage: toy_source, shrads: 1}\n")
    assert len(said.splitlines()) == 2


GOOD = "nodes:\n  numbers: {stage: toy_source}\n"


def test_set_overrides(tmp_path: Path) -> None:
    file = tmp_path / "dag.yaml"
    file.write_text(GOOD)
    assert load(file, ["nodes.numbers.shards=7"]).nodes["numbers"].step.shards == 7


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("nodes.nummers.shards=7", "did you mean 'numbers'?"),
        ("nodes.numbers.shards", "write it as path=value"),
        ("nodes.numbers.shrads=7", "did you mean 'shards'?"),
        ("nodes.numbers.shards=many", "valid integer"),
        ("nodes.numbers.shards=[", "--set nodes.numbers.shards=["),
    ],
)
def test_bad_set(setting: str, wanted: str, tmp_path: Path) -> None:
    assert wanted in complaint(tmp_path, GOOD, [setting])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no.yaml: cannot be read: No such file"):
        load(tmp_path / "no.yaml")


def test_exit_code_of_a_bad_config(tmp_path: Path) -> None:
    (tmp_path / "dag.yaml").write_text("nodes:\n  a: {stage: toy_sorce}\n")
    result = CliRunner().invoke(app, ["run", str(tmp_path / "dag.yaml"), "--run", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "toy_sorce" in result.stderr and not (tmp_path / "run").exists()


def test_unknown_node_of_an_option(tmp_path: Path) -> None:
    config = write_dag(tmp_path, {"numbers": {"stage": "toy_source"}})
    for option in ({"until": "nubers"}, {"start": "nubers"}, {"accept_gaps": ("nubers",)}):
        with pytest.raises(ConfigError, match="no node is called 'nubers': there are numbers"):
            run(config, tmp_path / "run", **option)


def test_secrets_are_written_nowhere(local_ray: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret reaches the stage and no file of the run or its store, errors and their traces too."""
    secret = "hush-93f1c2"
    monkeypatch.setenv("TOY_SECRET", str(tmp_path / secret))
    nodes = {
        "numbers": {"stage": "toy_source", "journal": "${env:TOY_SECRET}"},
        "tell": {"stage": "toy_map", "input": "numbers", "die_once": "${env:TOY_SECRET}/no/folder"},
    }
    config = write_dag(tmp_path, nodes)
    code, _ = run(config, tmp_path / "run")
    assert code == 3, "the second node raises an error that spells the secret"
    assert (tmp_path / secret).read_text().startswith("source"), "the stage saw the real value"
    files = [p for name in ("run", "store") for p in (tmp_path / name).rglob("*") if p.is_file()]
    assert {"config.yaml", "plan.json", "log.jsonl", "status.json"} <= {file.name for file in files}
    leaks = [str(file) for file in files if secret.encode() in file.read_bytes()]
    assert not leaks, leaks
    assert "${env:TOY_SECRET}" in (tmp_path / "run" / "config.yaml").read_text()
    assert "${env:TOY_SECRET}" in (tmp_path / "run" / "log.jsonl").read_text()


def test_schema_agrees_with_the_checks() -> None:
    schema = json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    page = yaml.safe_load(TOYS.read_text())
    validator.validate(page)
    page["nodes"]["numbers"]["shrads"] = 3
    assert not validator.is_valid(page)
    described = json.dumps(schema)
    assert "work items" in described, "the docstring under a field is its description"
