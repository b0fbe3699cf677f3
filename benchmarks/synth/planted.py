"""Precision and recall of every check on planted faults: ``python -m benchmarks.synth.planted``.

Clean outputs are written by rule from documents of pydoc text (writing.py) for each recipe, and spoiled in
one way at a time (faults.py). A fault is caught if the output is rejected for the reason that it was
planted for. Precision of a check: of all outputs that it rejected as the first, the share that was
spoiled for it. Outputs by rule are simpler than a model's: this says what the checks see, not how
often a writer errs.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.results import Row, publish, versions_of
from benchmarks.synth.faults import ALL, FAULTS, Fault
from benchmarks.synth.writing import FORMS, Document, Writer, documents
from filters.decontaminate import Decontaminate
from filters.minhash_dedup import MinhashDedup
from synth.checks import check
from synth.checks.template import TemplateMonitor
from synth.recipe import builtin_recipes
from tests.toy_package.phases import run_phases

DOCUMENTS = 300


@dataclass(frozen=True)
class Planted:
    """One output, what it is of, and the fault in it: None for a clean one."""

    recipe: str
    document: int
    text: str
    fault: Fault | None = None

    @property
    def label(self) -> tuple[str, str]:
        return (self.fault.rule, self.fault.kind) if self.fault else ("clean", self.recipe)


def clean(sources: list[Document], each: int) -> list[Planted]:
    """``each`` clean outputs of every recipe."""
    found = []
    for number in range(each * len(ALL)):
        recipe, at = ALL[number % len(ALL)], number % len(sources)
        text = FORMS[recipe](Writer(sources[at], f"clean {number}"))
        found.append(Planted(recipe, at, text))
    return found


def spoiled(sources: list[Document], each: int) -> list[Planted]:
    """``each`` outputs of every fault; documents in which it has no hold are passed over."""
    found = []
    for fault in FAULTS:
        draw, made, number = random.Random(f"{fault.rule} {fault.kind}"), 0, 0
        while made < each:
            recipe, at = fault.recipes[number % len(fault.recipes)], draw.randrange(len(sources))
            writer = Writer(sources[at], f"{fault.kind} {number}")
            text = FORMS[recipe](writer)
            worse = fault.make(text, sources[at], draw, writer)
            number += 1
            if worse is not None and worse != text:
                found.append(Planted(recipe, at, worse, fault))
                made += 1
            elif number > 50 * each:
                raise ValueError(f"{fault.kind} has hold in {made} of {number} outputs")
    return found


def verdicts(sources: list[Document], planted: list[Planted]) -> list[tuple[str | None, str | None]]:
    """Of each output the reason of its rejection, and what was found."""
    table = pa.table({"text": [one.text for one in sources], "title": [one.title for one in sources]})
    out: list[tuple[str | None, str | None]] = [(None, None)] * len(planted)
    for name in sorted({one.recipe for one in planted}):
        rows = [at for at, one in enumerate(planted) if one.recipe == name]
        some = [planted[at] for at in rows]
        outputs = pa.table(
            {
                "output": [one.text for one in some],
                "finish_reason": [one.fault.finish_reason if one.fault else "stop" for one in some],
                "source_row": [one.document for one in some],
            }
        )
        for row in check(builtin_recipes()[name], table, outputs).to_pylist():
            at = rows[row["output_row"]]
            if out[at][0] is None:
                out[at] = row["drop_rule"], row["check_detail"]
    return out


def over_datasets(
    sources: list[Document], each: int, folder: Path
) -> list[tuple[tuple[str, str], str | None]]:
    """(label, reason of the rejection) of the documents that each stage over whole data sets looks at."""
    draw = random.Random(5)
    good = [one.text for one in clean(sources, -(-4 * each // len(ALL)))]
    rest = good[each:]
    items = [" ".join(one.sentences)[:400] for one in documents(DOCUMENTS + each)[DOCUMENTS:]]
    (folder / "quiz.txt").write_text("\n".join(items) + "\n")
    copies = [_edited(text, draw) for text in good[:each]]
    quoting = [f"{text}\n\n{item}" for text, item in zip(rest, items, strict=False)]
    alike = [f"In this guide, we look closely at what follows. {text}" for text in (good * 200)[:200]]
    found: list[tuple[tuple[str, str], str | None]] = []
    for stage, label, planted in (
        # many bands find short copies, which the verification tells from mere likeness
        (MinhashDedup(bands=20, rows=5, min_jaccard=0.6), ("near_duplicate", "a few words changed"), copies),
        (TemplateMonitor(), ("template", "one opening 200 times (20 stay)"), alike),
        (
            Decontaminate(evaluations={"quiz": str(folder / "quiz.txt")}),
            ("contaminated", "holds an item"),
            quoting,
        ),
    ):
        texts = [*good, *planted]
        table = pa.table(
            {
                "id": [f"d{number}" for number in range(len(texts))],
                "text": pa.array(texts, pa.large_string()),
                "synth_recipe": ["any"] * len(texts),
            }
        )
        (out,), _ = run_phases(stage, [table])
        labels = [("clean", label[0])] * len(good) + [label] * len(planted)
        found += zip(labels, out["drop_rule"].to_pylist(), strict=True)
    return found


def _edited(text: str, draw: random.Random) -> str:
    """Another word in two or three places."""
    words = text.split(" ")
    for _ in range(draw.randrange(1, 3)):
        words[draw.randrange(len(words))] = "indeed"
    return " ".join(words)


def tally(found: list[tuple[tuple[str, str], str | None]]) -> list[dict[str, Any]]:
    """For each fault: planted, caught for its reason, for another, passed; and the check's precision."""
    rejected = Counter(rule for _, rule in found if rule)
    caught = Counter(rule for label, rule in found if rule == label[0])
    by_label: dict[tuple[str, str], Counter] = {}
    for label, rule in found:
        by_label.setdefault(label, Counter())[rule] += 1
    return [
        {
            "check": check_name,
            "fault": kind,
            "planted": rules.total(),
            "caught": rules[check_name],
            "other": {rule: n for rule, n in rules.items() if rule not in (check_name, None)},
            "passed": rules[None],
            "precision": caught[check_name] / max(rejected[check_name], 1),
        }
        for (check_name, kind), rules in by_label.items()
    ]


def measure(each: int, folder: Path) -> list[dict[str, Any]]:
    """The rows of :func:`tally`: ``each`` faults of every kind, ``each`` clean outputs of every recipe."""
    sources = documents(DOCUMENTS)
    planted = [*clean(sources, each), *spoiled(sources, each)]
    found = [(one.label, rule) for one, (rule, _) in zip(planted, verdicts(sources, planted), strict=True)]
    return tally([*found, *over_datasets(sources, each, folder)])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--each", type=int, default=100, help="faults of every kind (100)")
    each = arguments.parse_args().each
    with tempfile.TemporaryDirectory() as folder:
        table = measure(each, Path(folder))
    print(
        f"{'check':16}{'fault':28}{'planted':>8}{'caught':>8}{'other':>7}{'passed':>8}{'recall':>8}{'precision':>11}"
    )
    rows = []
    for row in table:
        other = sum(row["other"].values())
        share = row["caught"] / row["planted"] if row["check"] != "clean" else row["passed"] / row["planted"]
        precision = "" if row["check"] == "clean" else f"{row['precision']:9.3f}"
        counts = "".join(f"{count:9}" for count in (row["planted"], row["caught"], other, row["passed"]))
        print(f"{row['check']:16}{row['fault']:33}{counts}{share:9.3f}{precision:>9}  {row['other'] or ''}")
        name = f"{row['check']}: {row['fault']}"
        what = "share that passes" if row["check"] == "clean" else "recall"
        rows.append(Row(name, round(share, 4), what))
        if row["check"] != "clean":
            rows.append(Row(name, round(row["precision"], 4), "precision of the check"))
    print()
    publish("synth_planted", rows, red=[], versions=versions_of("pyarrow", "resiliparse"), each=each)


if __name__ == "__main__":
    main()
