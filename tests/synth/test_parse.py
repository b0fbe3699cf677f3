"""Parsers: the spellings they take, the spelling they give, what they refuse."""

from __future__ import annotations

import pytest

from synth.parse import PARSERS, ParseError, parse
from synth.recipe import builtin_recipes

RECIPES = builtin_recipes()


@pytest.mark.parametrize(
    "raw",
    [
        "Q: What is it?\nA: A tool.\n\nQ: Why?\nA: Speed.\n\nQ: How?\nA: So.",
        "**Question 1:** What is it?\n**Answer 1:** A tool.\n**Question 2:** Why?\n**Answer 2:** Speed.\n"
        "**Q3:** How?\n**A3:** So.",
        "# FAQ\n\n### What is it?\n\nA tool.\n\n### Why?\n\nSpeed.\n\n### How?\n\nSo.",
        "1. Q: What is it?\n   A: A tool.\n2. Q: Why?\n   A: Speed.\n3. Q: How?\n   A: So.",
        "```markdown\nQ: What is it?\nA: A tool.\nQ: Why?\nA: Speed.\nQ: How?\nA: So.\n```",
    ],
)
def test_questions(raw):
    pairs = [("What is it?", "A tool."), ("Why?", "Speed."), ("How?", "So.")]
    assert parse(RECIPES["faq"], raw) == ["\n\n".join(f"Question: {q}\nAnswer: {a}" for q, a in pairs)]


@pytest.mark.parametrize(
    "raw",
    [
        "Request: list them\n```bash\ntool ls\n```\n\nRequest: stop\n```bash\ntool stop\n```",
        "1. **Request:** list them\n```\ntool ls\n```\n2. **Request:** stop\n```sh\ntool stop\n```",
        "Request: list them\nCommand: `tool ls`\n\nRequest: stop\nCommand: tool stop",
    ],
)
def test_pairs(raw):
    want = "Request: list them\n\n```bash\ntool ls\n```\n\nRequest: stop\n\n```bash\ntool stop\n```"
    assert parse(RECIPES["nl2cmd"], raw) == [want]


def test_sections_and_continuation():
    raw = "# Stalls\n\n**Symptom:** slow\n\n**Diagnosis**\nlook\n\n## 3. Fix\n\nmend\n\n## Verify:\n\nok"
    want = "# Stalls\n\n## Symptom\n\nslow\n\n## Diagnosis\n\nlook\n\n## Fix\n\nmend\n\n## Verify\n\nok"
    assert parse(RECIPES["runbook"], raw) == [want]
    assert parse(RECIPES["continue"], "One sentence. Another one! And ha") == ["One sentence. Another one!"]


TABLE = "| a | b | c |\n|---|:-:|---|\n| 1 | 2 \\| 3 | 4 |\n| 5 | 6 | 7 |"


def test_tables_steps_items_and_dialogues():
    assert parse(RECIPES["param_table"], TABLE) == [TABLE]
    turns = "\n".join(f"{'Ana' if n % 2 else '**Ben**'}: line {n}, note: this" for n in range(6))
    assert parse(RECIPES["incident_dialogue"], turns) == [turns]
    for steps in (
        "1. a\n2. b\n3. c",
        "## Step 1: a\nx\n## Step 2: b\ny\n## Step 3: c",
        "**1.** a\n**2.** b\n**3.** c",
    ):
        assert parse(RECIPES["tutorial"], steps) == [steps]


@pytest.mark.parametrize(
    ("recipe", "raw", "said"),
    [
        ("wiki", " \n", "is empty"),
        ("wiki", "text\n```bash\nls", "not closed"),
        ("faq", "Just prose.", "0 questions"),
        ("faq", "Q: a?\nA: b\n\nQ: c?\n\nQ: d?\nA: e", "question 2 has no answer"),
        ("nl2cmd", "Request: a\n```bash\nls\n```", "1 pairs"),
        ("nl2cmd", "Request: a\nit is easy\n\nRequest: b\n```\nls\n```", "request 1 has no command"),
        ("runbook", "## Symptom\n\nx\n\n## Fix\n\ny", "no section 'Diagnosis'"),
        ("runbook", "## Symptom\n\n## Diagnosis\n\nx\n\n## Fix\n\ny\n\n## Verify\n\nz", "'Symptom' is empty"),
        ("param_table", "a, b", "no table"),
        ("param_table", TABLE.replace("| 6 ", ""), "line 4 of the table has 2 cells, its head 3"),
        ("param_table", "| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |", "3 columns and 1 rows"),
        ("tutorial", "1. a\n2. b", "no step 3"),
        ("knowledge_list", "- a\n- b\n- c", "3 list items, not 4"),
        ("incident_dialogue", "Ana: hi\nNote: x\nAna: so\nBen: y", "speakers"),
        ("continue", "no end here", "comes to an end"),
    ],
)
def test_what_is_refused(recipe, raw, said):
    with pytest.raises(ParseError, match=said):
        parse(RECIPES[recipe], raw)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "raw", ["#", "Q:", "|", "1.", "Request:", "- ", "\ud800", "a" * 5000, "\x00|---|", "Ana:"]
)
def test_nothing_else_is_raised(recipe, raw):
    try:
        assert parse(RECIPES[recipe], raw)
    except ParseError:
        pass


def test_every_parser_is_used():
    assert {recipe.parser for recipe in RECIPES.values()} == set(PARSERS)
