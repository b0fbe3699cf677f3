"""A thousand real documents through the stage, killed again and again: nothing asked twice, nothing lost."""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from synth_runs import endpoint, pydoc_documents, recorded, rows, scripted, seed_of, write_texts
from toy_runs import Driver, alive, driver, events, hashes, manifests, run, wait_gone, write_dag

from synth.recipe import builtin_recipes

pytestmark = pytest.mark.proof
DOCUMENTS = 1100
PATIENCE = 900  # seconds to a moment that has to come


def holders(current: Driver) -> list[psutil.Process]:
    return current.family("ray::Resident")


def engine_cores(current: Driver) -> list[psutil.Process]:
    # a title is cut to 15 characters
    return current.family("EngineCor")


def kill_one(find: Callable[[Driver], list[psutil.Process]], current: Driver) -> bool:
    found = find(current)
    if found:
        found[0].kill()
    return bool(found)


def campaign(
    config: Path,
    folder: Path,
    victims: list[str],
    steps: int,
    chance: random.Random,
    asked: Callable[[], collections.Counter] = collections.Counter,
) -> tuple[list[tuple[list[str], collections.Counter]], list[psutil.Process]]:
    """Kill ``victims`` one after the other, each after about ``steps`` more answers; then let it end.

    Returns what was recorded at each kill with what was ``asked`` until then, and every process there was.
    """
    store, before, seen = folder.parent / "store", [], set[psutil.Process]()
    waiting = list(victims)
    while True:
        with driver(config, folder) as current:
            while waiting:
                target = len(recorded(store)) + chance.randint(steps // 2, steps)
                current.until(lambda target=target: len(recorded(store)) >= target, PATIENCE)
                seen |= set(current.family())
                victim = waiting.pop(0)
                if victim == "driver":
                    current.kill()
                    before.append((recorded(store), asked()))
                    break
                assert kill_one(holders if victim == "actor" else engine_cores, current), victim
                before.append((recorded(store), asked()))
            if current.process.poll() is None:
                code = current.wait(PATIENCE)
                # three deaths of one work item are a gap; the next run tries it again
                if code != 3:
                    assert code == 0, current.output()
                    return before, list(seen)


def test_a_thousand_documents_and_a_scripted_endpoint(
    local_ray: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 10**6))
    chance = random.Random(seed)
    documents = pydoc_documents(DOCUMENTS)
    assert len(documents) >= 1000
    names = sorted(set(builtin_recipes()) - {"continue"})
    with scripted(tmp_path, bad_every=9, delay=0.05) as server:
        new = {"stage": "synthesize", "input": "docs", "engine": endpoint(server, concurrency=8)}
        new |= {"recipes": names, "rules": [{"recipes": names, "draw": 2}], "most_parts": 1}
        dag = {"docs": write_texts(tmp_path / "in", documents, 6), "new": new}
        config = write_dag(tmp_path, dag)
        victims = ["driver", "actor", "driver", "actor", "driver", "actor"]
        before, seen = campaign(config, tmp_path / "run", victims, 160, chance, server.answered)
        wait_gone(seen)
        answered = server.answered()
    assert len(before) == len(victims)
    for keys, asked in before:
        again = [key for key in keys if answered[seed_of(key, 3)] != asked[seed_of(key, 3)]]
        assert not again, f"recorded and asked again (seed {seed}): {again[:3]}"
    made, rejected = rows(tmp_path / "run", "new"), rows(tmp_path / "run", "new", "dropped")
    ids = {row["id"] for row in rows(tmp_path / "run", "docs")}
    covered = {row["parents"][0] for row in made + rejected if row["parents"]}
    covered |= {row["id"] for row in rejected if not row["parents"]}
    assert covered == ids
    assert {row["synth_recipe"] for row in made} == set(names)
    # the writer gives a seed the same answer always: so a run without a kill makes the same rows
    with scripted(tmp_path / "again", bad_every=9) as server:
        dag["new"] = {**new, "engine": endpoint(server, concurrency=32)}
        calm = write_dag(tmp_path / "calm", dag)
        assert run(calm, tmp_path / "calm" / "run")[0] == 0
    assert hashes(tmp_path / "run")["new"] == hashes(tmp_path / "calm" / "run")["new"]
    duplicates = sum(count - 1 for count in answered.values())
    record_property(
        "figure",
        f"{len(documents)} documents, {len(names)} recipes, {sum(answered.values())} answers, {len(made)}"
        f" documents made, {len(victims)} kills (seed {seed}): 0 of {len(before[-1][0])} recorded answers"
        f" asked again, {duplicates} that were on their way; the rows of a run without a kill",
    )


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_thousand_documents_and_sigma_through_vllm(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    from tiny_models import write_tokenizer
    from toy_sigma import write_tiny_sigma

    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 10**6))
    documents = pydoc_documents(DOCUMENTS)
    model = tmp_path / "sigma"
    write_tiny_sigma(model, vocab_size=2048, max_position_embeddings=1024)
    write_tokenizer(model, [text for _, text in documents[:200]])
    engine = {"kind": "vllm", "model": str(model), "context": 640, "max_num_seqs": 32, "dtype": "float32"}
    new = {"stage": "synthesize", "input": "docs", "engine": engine, "recipes": ["continue"]}
    new |= {"max_tokens": 32, "most_parts": 1, "retries": 1}
    config = write_dag(tmp_path, {"docs": write_texts(tmp_path / "in", documents, 4), "new": new})
    victims = ["engine", "driver", "actor"]
    before, seen = campaign(config, tmp_path / "run", victims, 200, random.Random(seed))
    wait_gone(seen)
    assert not alive(seen)
    counts = collections.Counter(recorded(tmp_path / "store"))
    assert set(counts.values()) == {1}, "a recorded answer was asked for again"
    assert all(set(keys) <= set(counts) for keys, _ in before), "a recorded answer was lost"
    report = manifests(tmp_path / "run")["new"]["report"]
    recipe = report["recipes"]["continue"]
    assert recipe["requests"] == len(counts) >= 1000 and report["answers_from_journal"] >= len(before[-1][0])
    failed = [page["message"][:60] for page in events(tmp_path / "run", "item failed")]
    record_property(
        "figure",
        f"{len(documents)} documents, tiny Sigma, {len(counts)} answers, {recipe['accepted']} accepted,"
        f" rejected {json.dumps(recipe['rejected'])}; killed {', '.join(victims)} (seed {seed}): no recorded"
        f" answer asked again or lost, nothing alive 10 s later; {len(failed)} work items were tried again",
    )
