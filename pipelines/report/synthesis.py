"""What a language model wrote or said: accept rates, reasons, tokens."""

from __future__ import annotations

from pipelines.report.facts import Unit
from pipelines.report.layout import number, row, share, table
from pipelines.report.markup import Markup, el, join


def is_synthesis(unit: Unit) -> bool:
    return unit.stages[-1] == "synthesize"


def is_label(unit: Unit) -> bool:
    return unit.stages[-1] == "label"


def synthesis(unit: Unit) -> Markup:
    """Per recipe: how much was asked, how much of it was good, and why the rest was not."""
    recipes = unit.report.get("recipes", {})
    reasons = sorted({reason for recipe in recipes.values() for reason in recipe["rejected"]})
    keys = ("documents", "accepted", "requests")
    documents, accepted, asked = (sum(recipe[key] for recipe in recipes.values()) for key in keys)
    text = (
        f"{unit.name} asked {number(asked)} times and got {number(documents)} documents, of which"
        f" {number(accepted)} ({share(accepted, documents)}) passed every check. A rejected answer is asked"
        f" for again with another seed; {number(unit.report['answers_from_journal'])} answers came from the"
        " journal of an earlier start. A reason is the first check that failed."
    )
    rows = [
        row(
            name,
            ("#", number(recipe["requests"])),
            ("#", number(recipe["retries"])),
            ("#", number(recipe["documents"])),
            ("#", number(recipe["accepted"])),
            ("#", share(recipe["accepted"], recipe["documents"])),
            *[("#", number(recipe["rejected"].get(reason, 0))) for reason in reasons],
            ("#", number(recipe["prompt_tokens"])),
            ("#", number(recipe["output_tokens"])),
        )
        for name, recipe in sorted(recipes.items())
    ]
    columns = ["recipe", "#requests", "#of them again", "#documents", "#accepted", "#rate"]
    columns += [f"#{reason}" for reason in reasons] + ["#tokens read", "#tokens written"]
    return join(el("p", text, class_="soft"), table(columns, rows))


def labels(unit: Unit) -> Markup:
    """How many documents got which label."""
    report = unit.report
    text = (
        f"{unit.name} asked about {number(report['asked'])} documents in {number(report['requests'])}"
        f" requests; {number(report['without_label'])} of them got no label, {number(report['refused'])}"
        " because the engine refused them."
    )
    rows = [row(label, ("#", number(n))) for label, n in report["labelled"].items()]
    rows += [row(f"grade {grade}", ("#", number(n))) for grade, n in report["grades"].items()]
    return join(el("p", text, class_="soft"), el("div", table(["label", "#documents"], rows), class_="words"))
