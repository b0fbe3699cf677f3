"""An LLM that grades a sample of the outputs against their sources, if a recipe asks for it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import ClassVar

from synth.checks.base import Batch, Verdicts

RUBRIC = (
    "Below the source stands a document that was written from it. Grade how well the source supports it,"
    " with one number: 5 everything stands in the source; 4 harmless additions; 3 one unsupported claim;"
    " 2 several; 1 another subject, or contradictions. Answer with the number alone."
)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A share of the outputs, chosen by their text, gets at least the grade ``least`` of an LLM.

    Only outputs that no other check rejects are asked about. An answer without a grade is no
    verdict. Without a ``generate`` for :func:`synth.checks.check` it is an error.
    """

    check: ClassVar = "judge"
    adds: ClassVar[dict[str, str]] = {"synth_judge_grade": "int32"}

    share: float = 0.02
    least: int = 4
    rubric: str = RUBRIC

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 1 <= self.least <= 5:
            raise ValueError(f"share must lie above 0 and up to 1, least in 1..5: {self.share}, {self.least}")

    def run(self, batch: Batch) -> Verdicts:
        if batch.generate is None:
            raise ValueError(f"recipe {batch.recipe.name!r}: the check 'judge' needs an engine to ask")
        rows = [
            row for row, rule in enumerate(batch.rules) if rule is None and self._chosen(batch.texts[row])
        ]
        answers = batch.generate([self._chat(batch, row) for row in rows]) if rows else []
        grades: list[int | None] = [None] * len(batch.texts)
        for row, answer in zip(rows, answers, strict=True):
            # the number alone, as 4, **4** or 4/5
            match = re.match(r"\W*([1-5])(?!\d)", answer)
            grades[row] = int(match[1]) if match else None
        return Verdicts(
            passed=[None if grade is None else grade >= self.least for grade in grades],
            reasons=[f"grade {grade}" for grade in grades],
            measured={"synth_judge_grade": grades},
        )

    def _chosen(self, text: str) -> bool:
        digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
        return int.from_bytes(digest) < self.share * 2**64

    def _chat(self, batch: Batch, row: int) -> list[dict[str, str]]:
        from synth.recipe import quote

        at = batch.source_row[row]
        parts = [quote(batch.sources[at], batch.titles[at]), self.rubric, quote(batch.texts[row])]
        return [{"role": "user", "content": "\n\n".join(parts)}]
