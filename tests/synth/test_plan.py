"""The planner: rules, parts, tokens."""

from __future__ import annotations

import importlib
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synth_runs import MODULES
from tiny_models import doc_of

from synth.plan import Planner, Rule, request_seed, split_text
from synth.recipe import builtin_recipes


def count(text: str) -> int:
    return len(text) // 4 + 1


@pytest.mark.parametrize("words", [50, 300, 1500])
@pytest.mark.parametrize("module", MODULES)
def test_parts_of_real_documents(module: str, words: int) -> None:
    """Every word once and in order, no part too long, and not cut up without need."""
    text = doc_of(importlib.import_module(module))
    parts = split_text(text, words, 4 * words, count)
    assert " ".join(parts).split() == text.split()
    assert all(len(part.split()) <= words and count(part) <= 4 * words for part in parts)
    # neighbours that would fit into one are the exception: a heading or a block parts them
    both = [f"{a}\n{b}" for a, b in zip(parts, parts[1:], strict=False)]
    fitting = sum(len(text.split()) <= words and count(text) <= 4 * words for text in both)
    assert fitting <= len(parts) / 2


def test_parts_begin_at_headings() -> None:
    sections = [f"# Part {n}\n\n" + "some words of it " * 20 + "\n\n" for n in range(6)]
    parts = split_text("".join(sections), 190, 10**6, count)
    assert len(parts) == 3 and all(part.startswith("# Part") for part in parts)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab #\n=\u20ac\U0001f600", max_size=400), st.integers(1, 20), st.integers(3, 60))
def test_nothing_is_lost(text: str, words: int, tokens: int) -> None:
    parts = split_text(text, words, tokens, len)
    assert "".join("".join(part.split()) for part in parts) == "".join(text.split())
    assert all(len(part.split()) <= words and len(part) <= tokens for part in parts)


def test_a_word_without_end_is_cut() -> None:
    assert max(map(len, split_text("x" * 10_000, 100, 50, len))) <= 50


def planner(rules: list[Rule], **settings: Any) -> Planner:
    recipes = {name: builtin_recipes()[name] for name in ("faq", "wiki", "distill")}
    return Planner(recipes, rules, **{"context": 8192, "most_parts": 4, "count": count, **settings})


def documents(n: int = 40) -> pa.Table:
    return pa.table(
        {
            "id": [f"{i:032x}" for i in range(n)],
            "text": [("word " * 30 + "\n\n") * (1 + i) for i in range(n)],
            "domain_label": ["system" if i % 2 else "other" for i in range(n)],
            "domain_score": pa.array([i / n if i % 5 else None for i in range(n)]),
        }
    )


def test_the_first_rule_that_fits_decides() -> None:
    rules = [
        Rule(recipes=("faq",), where={"domain_label": "system", "domain_score": {"least": 0.5}}),
        Rule(recipes=(), where={"domain_label": ["other"]}),
        Rule(recipes=("wiki", "distill"), draw=1),
    ]
    plan = planner(rules).plan(documents(), seed=1)
    for row in range(40):
        chosen = {recipe.name for part in plan.parts if part.row == row for recipe in part.recipes}
        if row % 2 == 0:
            assert not chosen and plan.left_out[row] == "no_recipe"
        elif row % 5 and row / 40 >= 0.5:
            assert chosen == {"faq"}
        elif (row + 1) * 30 < 80:
            assert not chosen and plan.left_out[row] == "too_short"
        else:
            assert len(chosen) == 1 and chosen < {"wiki", "distill"}


def test_a_plan_depends_on_the_document_alone() -> None:
    rules = [Rule(recipes=("faq", "wiki", "distill"), draw=1)]
    table = documents()
    whole = planner(rules).plan(table, seed=1)
    half = planner(rules).plan(table.slice(20), seed=1)
    chosen = {part.id: part.recipes for part in whole.parts}
    assert all(chosen[part.id] == part.recipes for part in half.parts)
    other = planner(rules).plan(table, seed=2)
    assert {part.id: part.recipes for part in other.parts} != chosen


def test_the_budget_bounds_what_is_asked() -> None:
    one = planner([])
    plan = one.plan(documents(), seed=1)
    assert sum(recipe["requests"] for recipe in plan.budget.values()) == plan.requests
    for name, budget in plan.budget.items():
        recipe = builtin_recipes()[name]
        chats = [recipe.messages(part.text, part.title) for part in plan.parts if recipe in part.recipes]
        tokens = sum(one.count(message["content"]) for chat in chats for message in chat)
        assert tokens <= budget["prompt_tokens"] <= 1.3 * tokens + 40 * len(chats)
        assert budget["output_tokens"] == len(chats) * recipe.sampling.max_tokens


def test_parts_fit_into_the_context() -> None:
    one = planner([], context=2600)
    plan = one.plan(documents(), seed=1)
    assert max(part.number for part in plan.parts) > 0
    for part in plan.parts:
        for recipe in part.recipes:
            asked = sum(one.count(m["content"]) for m in recipe.messages(part.text, part.title))
            assert asked + recipe.sampling.max_tokens <= 2600


def test_a_context_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="recipe 'faq': of a context of 1000 tokens"):
        planner([], context=1000)


def test_seeds_differ_by_all_that_is_asked() -> None:
    faq, wiki = builtin_recipes()["faq"], builtin_recipes()["wiki"]
    args = [
        (s, i, p, r, a) for s in (1, 2) for i in "ab" for p in (0, 1) for r in (faq, wiki) for a in (0, 1)
    ]
    seeds = {request_seed(*arg) for arg in args}
    assert len(seeds) == len(args) and all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("where", [{"x": {"lest": 1}}, {"x": {}}])
def test_conditions_are_checked(where: dict) -> None:
    with pytest.raises(ValueError, match="where.x"):
        Rule(recipes=(), where=where)
