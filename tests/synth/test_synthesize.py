"""Documents to new documents through the DAG, with a scripted endpoint as the writer."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from synth_runs import MODULES, endpoint, recorded, rows, scripted, seed_of, write_documents
from toy_runs import driver, manifests, run, wait_gone, write_dag

from pipelines.config import ConfigError, load
from pipelines.dry_run import dry_run
from pipelines.report import write_report
from pipelines.trace import trace_run
from synth.recipe import builtin_recipes


def nodes(folder: Path, engine: dict, modules: tuple[str, ...] = MODULES, **parameters: object) -> dict:
    parameters = {"recipes": ["faq", "wiki"], "most_parts": 2, **parameters}
    return {
        "docs": write_documents(folder / "in", modules),
        "new": {"stage": "synthesize", "input": "docs", "engine": engine, **parameters},
    }


def test_every_recipe(local_ray: int, tmp_path: Path) -> None:
    """All built-in recipes: documents with their birth certificate, every row accounted for."""
    names = list(builtin_recipes())
    with scripted(tmp_path, bad_every=7) as server:
        dag = nodes(tmp_path, endpoint(server), MODULES[:4], recipes=names)
        code, engine = run(write_dag(tmp_path, dag), tmp_path / "run")
        assert code == 0, engine.jobs["new"].error
        answered = server.answered()
    made, rejected = rows(tmp_path / "run", "new"), rows(tmp_path / "run", "new", "dropped")
    manifest = manifests(tmp_path / "run")["new"]
    assert {row["synth_recipe"] for row in made} == set(names)
    parents = {row["id"]: row for row in rows(tmp_path / "run", "docs")}
    assert len({row["id"] for row in made + rejected}) == len(made) + len(rejected)
    for row in made:
        assert row["parents"][0] in parents and row["title"] == parents[row["parents"][0]]["title"]
        assert row["synth_model"] == "scripted" and len(row["synth_prompt_hash"]) == 32
        assert row["synth_version"] == builtin_recipes()[row["synth_recipe"]].version
        assert row["check_finish"] and row["text"].strip()
    # one refusal in seven: rejected, and asked again with another seed
    refused = [row for row in rejected if row["text"].startswith("I'm sorry")]
    assert {row["drop_rule"] for row in refused} == {"parse", "refusal"}
    assert all(row["synth_seed"] % 7 == 0 for row in refused)
    tried = {
        (row["parents"][0], row["synth_part"], row["synth_recipe"], row["synth_attempt"])
        for row in made + rejected
        if row["parents"]
    }
    assert all(
        (r["parents"][0], r["synth_part"], r["synth_recipe"], r["synth_attempt"] + 1) in tried
        for r in refused
        if r["synth_attempt"] < 2
    )
    report = manifest["report"]["recipes"]
    assert sum(recipe["accepted"] for recipe in report.values()) == len(made) == manifest["counts"]["kept"]
    assert sum(recipe["requests"] for recipe in report.values()) == sum(answered.values())
    assert max(answered.values()) == 1
    counted: Counter = Counter()
    for recipe in report.values():
        counted.update(recipe["rejected"])
    assert counted == Counter(row["drop_rule"] for row in rejected)
    parent, child = made[0]["parents"][0], made[0]
    told = trace_run(tmp_path / "run", child["id"])
    assert f"made of {parent} (part {child['synth_part']}) by recipe {child['synth_recipe']} v" in told
    assert f"seed {child['synth_seed']}, prompt {child['synth_prompt_hash']}" in told
    assert f"document {parent}" in told and f"made {child['id']} of it" in told
    page = write_report(tmp_path / "run").read_text()
    assert "Synthesis" in page and all(name in page for name in names)


@pytest.mark.parametrize("victim", ["driver", "actor"])
def test_killed_and_resumed(local_ray: int, tmp_path: Path, victim: str) -> None:
    """SIGKILL in mid-run: what was recorded whole is not asked again, and nothing is lost."""
    with scripted(tmp_path, delay=0.3) as server:
        config = write_dag(tmp_path, nodes(tmp_path, endpoint(server, concurrency=4)))
        with driver(config, tmp_path / "run") as first:
            first.until(lambda: len(recorded(tmp_path / "store")) >= 6)
            if victim == "driver":
                left = first.kill()
            else:
                actors = first.family("ray::Resident")
                assert actors, "no actor holds the engine"
                actors[0].kill()
                before = recorded(tmp_path / "store")
                assert first.wait() == 0, first.output()
        if victim == "driver":
            wait_gone(left)
            # and the machine lost the end of what was written last
            journals = (tmp_path / "store").glob("*/scratch/*/generations.jsonl")
            journal = next(file for file in journals if file.stat().st_size)
            journal.write_bytes(journal.read_bytes()[:-5])
            before = recorded(tmp_path / "store")
            code, _ = run(config, tmp_path / "run")
            assert code == 0
        answered = server.answered()
    assert 5 <= len(before) < len(recorded(tmp_path / "store"))
    assert all(answered[seed_of(key, 3)] == 1 for key in before)
    # what was on its way is asked again: at most what one engine has in flight, and the torn line
    assert sum(count > 1 for count in answered.values()) <= 5
    report = manifests(tmp_path / "run")["new"]["report"]
    assert report["answers_from_journal"] >= len(before)
    new = [row for role in ("shards", "dropped") for row in rows(tmp_path / "run", "new", role)]
    assert {row["parents"][0] for row in new} == {row["id"] for row in rows(tmp_path / "run", "docs")}


def test_who_is_left_out(local_ray: int, tmp_path: Path) -> None:
    """Held-out and unplanned documents are dropped by name, and never reach a prompt."""
    with scripted(tmp_path) as server:
        rules = [
            {"where": {"title": ["json", "csv"]}, "recipes": ["faq"]},
            {"where": {"words": {"most": 900}}, "recipes": []},
            {"recipes": ["wiki", "faq"], "draw": 1},
        ]
        dag = nodes(tmp_path, endpoint(server), rules=rules)
        dag["docs"]["heldout_fraction"] = 0.3
        assert run(write_dag(tmp_path, dag), tmp_path / "run")[0] == 0
    documents = rows(tmp_path / "run", "docs")
    made = rows(tmp_path / "run", "new") + rows(tmp_path / "run", "new", "dropped")
    heldout = {row["id"] for row in documents if row["split"] == "heldout"}
    short = {row["id"] for row in documents if len(row["text"].split()) <= 900}
    named = {row["id"] for row in documents if row["title"] in ("json", "csv")}
    assert heldout and short
    assert {row["id"] for row in made if row.get("drop_rule") == "heldout"} == heldout
    assert {row["id"] for row in made if row.get("drop_rule") == "no_recipe"} == short - heldout - named
    for document in documents:
        recipes = {row["synth_recipe"] for row in made if row["parents"] == [document["id"]]}
        asked = document["id"] not in heldout | (short - named)
        assert len(recipes) == asked
        assert not (asked and document["id"] in named) or recipes == {"faq"}


def test_what_cannot_work_says_so(local_ray: int, tmp_path: Path) -> None:
    """The other ways are those of the engine (test_engines.py) and of the planner (test_plan.py)."""
    with scripted(tmp_path) as server:
        dag = nodes(tmp_path, endpoint(server, model="nobody"), MODULES[:1])
        code, engine = run(write_dag(tmp_path, dag), tmp_path / "run")
    assert code == 3
    assert "knows no model 'nobody'" in engine.jobs["new"].error


def test_the_judge_answers_through_the_same_engine(local_ray: int, tmp_path: Path) -> None:
    """Every document is graded, what gets a low grade is rejected, and grades are recorded too."""
    recipe = tmp_path / "judged.yaml"
    recipe.write_text(
        "name: judged\nversion: 1\nprompt: Write it anew.\nlength: {most_ratio: 9}\n"
        "checks: {judge: {share: 1.0, least: 4}}\n"
    )
    with scripted(tmp_path) as server:
        dag = nodes(tmp_path, endpoint(server), recipes=[str(recipe)], most_parts=8)
        code, engine = run(write_dag(tmp_path, dag), tmp_path / "run")
        assert code == 0, engine.jobs["new"].error
        asked = len(server.asked())
    made, rejected = rows(tmp_path / "run", "new"), rows(tmp_path / "run", "new", "dropped")
    judged = [row for row in rejected if row["drop_rule"] == "judge"]
    assert made and all(row["synth_judge_grade"] >= 4 for row in made)
    assert judged and all(row["synth_judge_grade"] < 4 for row in judged)
    keys = recorded(tmp_path / "store")
    assert len(keys) == len(set(keys)) == asked
    assert sum("/judge/" in key for key in keys) == len(made) + len(judged)


def test_dry_run(tmp_path: Path) -> None:
    """Says what would be asked, and writes and starts nothing."""
    said = Console(record=True, width=120, file=io.StringIO())
    config = write_dag(tmp_path, nodes(tmp_path, {"kind": "echo"}, MODULES[:2]))
    dry_run(load(config), said)
    assert not (tmp_path / "store").exists()
    assert "new: waits for docs" in said.export_text()
    assert run(config, tmp_path / "run", until="docs")[0] == 0
    before = sorted((tmp_path / "store").rglob("*"))
    dry_run(load(config), said)
    assert sorted((tmp_path / "store").rglob("*")) == before
    text = said.export_text()
    assert run(config, tmp_path / "run")[0] == 0
    recipes = manifests(tmp_path / "run")["new"]["report"]["recipes"]
    for name, recipe in recipes.items():
        keys = ("planned_requests", "planned_prompt_tokens", "planned_output_tokens")
        row = [name, *(f"{recipe[key]:,}" for key in keys)]
        assert any(line.split() == row for line in text.splitlines()), row


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine": {"kind": "echo", "contxt": 5}}, "field 'engine.contxt'"),
        ({"engine": {"kind": "openai"}}, "engine.base_url is ''"),
        ({"recipes": ["faqs"]}, "there is no recipe 'faqs'"),
        ({"rules": [{"recipes": ["tutorial"]}]}, "rules.0: there is no recipe 'tutorial' among faq, wiki"),
        ({"rules": [{"recipes": ["faq"], "were": {}}]}, "field 'rules.0.were'"),
        ({"retries": 3}, "retries is 3"),
    ],
)
def test_a_wrong_config_names_the_field(tmp_path: Path, change: dict, said: str) -> None:
    dag = nodes(tmp_path, {"kind": "echo"}, MODULES[:1])
    dag["new"] |= change
    with pytest.raises(ConfigError, match=re.escape(said)):
        load(write_dag(tmp_path, dag))
