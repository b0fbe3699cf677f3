"""Checks on what a writer gave back: each a column, the first that fails the reason of the rejection.

The checks of this package look at one output and its source. Those that look at a whole data set
are stages: ``minhash_dedup`` (near-duplicates within and across recipes), ``decontaminate``, and
``template_monitor`` of synth/checks/template.py. A check is a frozen dataclass whose fields are its
parameters in a recipe, with ``run(batch) -> Verdicts``; it never sees the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from synth.checks.base import Batch, Verdicts, count_words
from synth.checks.identifiers import Identifiers
from synth.checks.judge import Judge
from synth.checks.overlap import Copy, Drift
from synth.checks.syntax import Syntax
from synth.checks.text import Finish, LanguageKept, LengthBand, Parse, Refusal, Repetition
from synth.parse import ParseError, parse

if TYPE_CHECKING:
    from synth.recipe import Recipe

# cheap first: the first that fails is the reason
_ORDER = (
    Finish,
    Parse,
    Refusal,
    LengthBand,
    LanguageKept,
    Repetition,
    Identifiers,
    Syntax,
    Copy,
    Drift,
    Judge,
)
CHECKS: dict[str, Any] = {cls.check: cls for cls in _ORDER}
REQUIRED = tuple(name for name in CHECKS if name != "judge")
"""The checks that run unless a recipe switches them off."""
COLUMNS: dict[str, str] = {
    **{f"check_{name}": "bool" for name in CHECKS},
    **{column: kind for cls in _ORDER for column, kind in cls.adds.items()},
    "check_detail": "string",
    "drop_rule": "string",
}
"""What :func:`check` adds, whatever the recipe; null where a check did not run."""
SCHEMA = pa.schema(
    [
        ("output_row", pa.int64()),
        ("ordinal", pa.int32()),
        ("text", pa.large_string()),
        *((name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()),
    ]
)

Generate = Callable[[list[list[dict[str, str]]]], list[str]]


def check(recipe: Recipe, sources: pa.Table, outputs: pa.Table, generate: Generate | None = None) -> pa.Table:
    """Parse the outputs of one recipe into new documents and check each: a table of SCHEMA.

    sources   a row a document (or the part of one that the prompt held): ``text``, ``title`` if there is one
    outputs   a row a generation: ``output`` (string), ``finish_reason`` (string), ``source_row`` (int64)
    generate  answers chats, for the check "judge": lists of {"role", "content"} to texts

    Each output has at least one row, in order of (``output_row``, ``ordinal``); one that does not
    finish or parse has one with the raw text. ``drop_rule`` is the name of the first check that
    fails, null for a good document; ``check_detail`` says what it found.
    """
    texts: list[str] = []
    rows: list[int] = []
    ordinals: list[int] = []
    problems: dict[int, str] = {}
    for row, raw in enumerate(outputs["output"].to_pylist()):
        try:
            found = parse(recipe, raw or "")
        except ParseError as error:
            problems[len(texts)] = str(error)
            found = [raw or ""]
        texts += found
        rows += [row] * len(found)
        ordinals += range(len(found))
    taken = outputs.take(pa.array(rows, pa.int64()))
    batch = Batch(
        recipe=recipe,
        texts=texts,
        sources=sources["text"].to_pylist(),
        titles=sources["title"].to_pylist() if "title" in sources.column_names else [None] * len(sources),
        source_row=np.asarray(taken["source_row"].to_pylist(), np.int64),
        finish_reasons=taken["finish_reason"].to_pylist(),
        problems=problems,
        generate=generate,
    )
    columns: dict[str, Any] = {"output_row": rows, "ordinal": ordinals, "text": texts}
    for step in recipe.built_checks:
        verdicts = step.run(batch)
        columns[f"check_{step.check}"] = verdicts.passed
        columns |= verdicts.measured
        batch.reject(step.check, verdicts)
    columns["drop_rule"], columns["check_detail"] = batch.rules, batch.details
    nothing = [None] * len(texts)
    return pa.table({f.name: pa.array(columns.get(f.name, nothing), f.type) for f in SCHEMA})


__all__ = ["CHECKS", "COLUMNS", "REQUIRED", "SCHEMA", "Batch", "Verdicts", "check", "count_words"]
