"""What is done again when something changes, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_runs import all_shapes, hashes, journal, manifests, run, write_dag

from pipelines.config import load
from pipelines.plan import units


def datasets(folder: Path) -> dict[str, str]:
    """node: the folder of its dataset, whose name ends with its fingerprint."""
    links = json.loads((folder / "links.json").read_text())
    return {node: link["dataset"] for node, link in links.items()}


def done(engine) -> set[str]:
    """The nodes that were worked at, not taken as they were."""
    return {job.name for job in engine.jobs.values() if not job.reused}


def test_a_changed_parameter_invalidates_what_follows(local_ray: int, tmp_path: Path) -> None:
    config = write_dag(tmp_path, all_shapes())
    code, engine = run(config, tmp_path / "run")
    assert code == 0 and done(engine) == {"source", "map", "expand", "shuffle", "fit"}
    first = hashes(tmp_path / "run")

    code, engine = run(config, tmp_path / "run")
    assert code == 0 and done(engine) == set(), "nothing changed, and something was done"

    code, engine = run(config, tmp_path / "run", ["nodes.shuffle.modulo=20"])
    assert code == 0 and done(engine) == {"shuffle", "fit"}

    code, engine = run(config, tmp_path / "run", ["nodes.source.shards=1"])
    assert code == 0 and done(engine) == {"source", "map", "expand", "shuffle", "fit"}

    # the seed is part of every fingerprint
    code, engine = run(config, tmp_path / "run", ["seed=4"])
    assert code == 0 and "fit" in done(engine)

    code, engine = run(config, tmp_path / "run")
    assert code == 0 and done(engine) == set(), "the first datasets are still there"
    assert hashes(tmp_path / "run") == first


def test_unchanged_content_stops_invalidation(local_ray: int, tmp_path: Path) -> None:
    """A parameter that moves no byte makes its node run again, and nothing after it."""
    config = write_dag(tmp_path, all_shapes())
    assert run(config, tmp_path / "run")[0] == 0
    code, engine = run(config, tmp_path / "run", ["nodes.map.seconds=0.01"])
    assert code == 0 and done(engine) == {"map"}


def test_path_and_run_do_not_enter(local_ray: int, tmp_path: Path) -> None:
    """The same DAG elsewhere, under another name: the same fingerprints. Two runs of one store
    share what they share."""
    nodes = {name: all_shapes()[name] for name in ("source", "map")}
    assert run(write_dag(tmp_path / "one", nodes), tmp_path / "one" / "run")[0] == 0
    elsewhere = write_dag(tmp_path / "two", nodes, name="others")
    assert run(elsewhere, tmp_path / "two" / "run")[0] == 0
    assert datasets(tmp_path / "one" / "run") == datasets(tmp_path / "two" / "run")
    assert hashes(tmp_path / "one" / "run") == hashes(tmp_path / "two" / "run")
    shared = write_dag(tmp_path / "three", nodes, store=str(tmp_path / "one" / "store"))
    code, engine = run(shared, tmp_path / "three" / "run")
    assert code == 0 and done(engine) == set()


def test_options_that_cannot_change_bytes_do_not_enter(local_ray: int, tmp_path: Path) -> None:
    config = write_dag(tmp_path, {name: all_shapes()[name] for name in ("source", "map")})
    assert run(config, tmp_path / "run")[0] == 0
    code, engine = run(config, tmp_path / "run", ["nodes.map.cpus=2", "nodes.map.max_quarantine=0.5"])
    assert code == 0 and done(engine) == set()


def test_until_and_from(local_ray: int, tmp_path: Path) -> None:
    lines = tmp_path / "journal"
    config = write_dag(tmp_path, all_shapes(lines))
    code, engine = run(config, tmp_path / "run", until="expand")
    assert code == 0 and list(engine.jobs) == ["source", "map", "expand"]
    # before --from all stays as the run last had it, even where the config says otherwise now
    code, engine = run(config, tmp_path / "run", ["nodes.source.shards=2"], start="shuffle")
    assert code == 0 and done(engine) == {"shuffle", "fit"}
    assert manifests(tmp_path / "run")["shuffle"]["counts"]["rows_in"] > 200
    assert all(count == 1 for count in journal(lines).values())


def test_from_a_node_whose_inputs_are_not_there(tmp_path: Path) -> None:
    config = write_dag(tmp_path, all_shapes())
    with pytest.raises(ValueError, match="this run has no dataset of 'source' yet: run without --from"):
        run(config, tmp_path / "run", start="shuffle")


CHAIN = {
    "numbers": {"stage": "toy_source"},
    "long": {
        "stage": "toy_map",
        "input": "numbers",
        "prefix": "first",
        "drop_modulo": 9,
        "fail_numbers": [5],
    },
    "wide": {"stage": "toy_map", "input": "long", "prefix": "second"},
    "verdict": {
        "stage": "decide",
        "input": "wide",
        "rules": {
            "too_short": {"column": "first_length", "min": 100},
            "too_long": {"column": "second_length", "max": 104},
        },
    },
}


def test_chains_are_fused_and_materialize_cuts_them(local_ray: int, tmp_path: Path) -> None:
    """Row-local stages run as one task, read once and written once; cut or not, the rows are the
    same."""
    fused = write_dag(tmp_path / "fused", CHAIN)
    assert [[node.name for node in unit.nodes] for unit in units(load(fused))] == [
        ["numbers"],
        ["long", "wide", "verdict"],
    ]
    cut = write_dag(tmp_path / "cut", {**CHAIN, "long": {**CHAIN["long"], "materialize": True}})
    assert [[node.name for node in unit.nodes] for unit in units(load(cut))] == [
        ["numbers"],
        ["long"],
        ["wide", "verdict"],
    ]
    # two users of one node cut it too
    forked = {**CHAIN, "copies": {"stage": "toy_expand", "input": "long"}}
    names = [unit.name for unit in units(load(write_dag(tmp_path / "fork", forked)))]
    assert names == ["numbers", "long", "verdict", "copies"]

    assert run(fused, tmp_path / "fused" / "run")[0] == 0
    assert run(cut, tmp_path / "cut" / "run")[0] == 0
    one, two = hashes(tmp_path / "fused" / "run"), hashes(tmp_path / "cut" / "run")
    kept = [entry for entry in one["verdict"] if entry[0] == "shards"]
    assert kept and kept == [entry for entry in two["verdict"] if entry[0] == "shards"]


def test_refilter(local_ray: int, tmp_path: Path) -> None:
    """A change of ``decide`` alone reads the statistics of the run before, and writes what a whole
    run writes; rows that left earlier in the chain stay out."""
    lines = tmp_path / "journal"
    nodes = {name: {**node} for name, node in CHAIN.items()}
    nodes["long"]["journal"] = nodes["wide"]["journal"] = str(lines)
    config = write_dag(tmp_path, nodes)
    setting = ["nodes.verdict.rules.too_long.max=105"]
    assert run(config, tmp_path / "run")[0] == 0
    calls = journal(lines)
    before = manifests(tmp_path / "run")["verdict"]["counts"]
    code, engine = run(config, tmp_path / "run", setting)
    assert code == 0 and done(engine) == {"verdict"}
    assert journal(lines) == calls, "an annotator ran again"
    assert all(commit.reused for commit in engine.jobs["verdict"].commits.values())
    counts = manifests(tmp_path / "run")["verdict"]["counts"]
    assert counts["kept"] > before["kept"] > 0 and counts["dropped"]["too_long"] > 0
    assert counts["dropped"]["divides"] == before["dropped"]["divides"]
    assert counts["quarantined"] == before["quarantined"] == 1

    nodes["long"]["journal"] = nodes["wide"]["journal"] = ""
    whole = write_dag(tmp_path / "whole", nodes)
    code, engine = run(whole, tmp_path / "whole" / "run", setting)
    assert code == 0 and not any(c.reused for c in engine.jobs["verdict"].commits.values())
    assert hashes(tmp_path / "run") == hashes(tmp_path / "whole" / "run")
    one, two = manifests(tmp_path / "run"), manifests(tmp_path / "whole" / "run")
    assert one["verdict"]["counts"] == two["verdict"]["counts"]


def test_a_changed_annotator_is_no_refilter(local_ray: int, tmp_path: Path) -> None:
    config = write_dag(tmp_path, CHAIN)
    assert run(config, tmp_path / "run")[0] == 0
    code, engine = run(config, tmp_path / "run", ["nodes.long.drop_modulo=8"])
    assert code == 0 and not any(c.reused for c in engine.jobs["verdict"].commits.values())
