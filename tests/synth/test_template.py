"""The template monitor: what is too common goes, down to its share, whatever the shards."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from phases import run_phases

from synth.checks.template import TemplateMonitor


def table(texts, recipe="faq", prefix="d"):
    ids = [f"{prefix}{number}" for number in range(len(texts))]
    recipes = [recipe] * len(texts) if isinstance(recipe, str) else recipe
    return pa.table({"id": ids, "text": texts, "synth_recipe": recipes})


def various(count, seed=0):
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(10**6)}" for _ in range(30)) for _ in range(count)]


def test_an_opening_of_200_is_cut_down_to_its_share():
    same = [f"In this Guide, we will learn how to use tools. {text}" for text in various(200, 1)]
    texts = various(800) + same
    random.Random(3).shuffle(texts)
    whole = table(texts)
    shards = [whole.slice(0, 400), whole.slice(400, 0), whole.slice(400)]
    outs, report = run_phases(TemplateMonitor(), shards)
    out = pa.concat_tables(outs)
    began = [text.startswith("In this Guide") for text in out["text"].to_pylist()]
    rules = out["drop_rule"].to_pylist()
    assert {rule for rule, same in zip(rules, began, strict=True) if not same} == {None}
    kept = sum(same and rule is None for same, rule in zip(began, rules, strict=True))
    # 2 % of 1,000 is 20, of 200 drawn one by one
    assert 8 <= kept <= 36
    assert rules.count("template") == 200 - kept
    shares = [share for share, same in zip(out["template_share"].to_pylist(), began, strict=True) if same]
    assert set(shares) == {0.2}
    (row,) = report["recipes"]
    assert row["commonest"] == "in this guide we will learn how to"
    assert (row["documents"], row["openings"], row["too_common"], row["share"]) == (1000, 801, 1, 0.2)
    # the verdicts are those of one shard
    alone, _ = run_phases(TemplateMonitor(), [whole])
    assert alone[0]["drop_rule"].to_pylist() == rules


def test_recipes_are_counted_apart_and_few_are_never_common():
    texts = ["Symptom the node is down and nobody knows why"] * 60
    recipes = ["runbook"] * 15 + ["faq"] * 45
    outs, report = run_phases(TemplateMonitor(), [table(texts, recipes)])
    rules = outs[0]["drop_rule"].to_pylist()
    assert rules[:15] == [None] * 15
    assert rules[15:].count("template") > 10
    assert [row["recipe"] for row in report["recipes"]] == ["faq", "runbook"]


def test_nothing_to_say():
    outs, report = run_phases(TemplateMonitor(), [table([]), table([])])
    assert [out.num_rows for out in outs] == [0, 0] and report["recipes"] == []
    assert all("template_share" in out.column_names for out in outs)
    with pytest.raises(ValueError, match="most"):
        TemplateMonitor(most=0)
