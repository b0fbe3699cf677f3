"""What a check gets and gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from synth.recipe import Recipe


_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def count_words(text: str) -> int:
    """Words as white space splits them; of Chinese and Japanese, which has none, two characters are one."""
    return len(text.split()) + len(_CJK.findall(text)) // 2


@dataclass(kw_only=True)
class Verdicts:
    """Of each of n new documents: whether it passes (None: the check has nothing to say), and why not."""

    passed: Sequence[bool | None]
    reasons: Sequence[str | None]
    measured: dict[str, Any] = field(default_factory=dict)
    """Columns of n values, of the types in the check's ``adds``."""


@dataclass(kw_only=True)
class Batch:
    """n new documents of one recipe, their sources, and what was found so far."""

    recipe: Recipe
    texts: list[str]
    sources: list[str]
    titles: list[str | None]
    source_row: np.ndarray
    """Which source each new document is from, int64 [n]."""
    finish_reasons: list[str | None]
    problems: dict[int, str]
    """Why a row could not be parsed; its text is then the raw output."""
    generate: Callable[..., list[str]] | None = None
    rules: list[str | None] = field(init=False)
    details: list[str | None] = field(init=False)

    def __post_init__(self) -> None:
        self.rules = [None] * len(self.texts)
        self.details = [None] * len(self.texts)

    def reject(self, rule: str, verdicts: Verdicts) -> None:
        """Give the rows that fail their rule, unless they have one."""
        for row, passed in enumerate(verdicts.passed):
            if passed is False and self.rules[row] is None:
                self.rules[row], self.details[row] = rule, verdicts.reasons[row]

    def each(self, judge: Callable[[int], str | None]) -> Verdicts:
        """The verdicts of ``judge(row)``, a reason or None, on the rows that were parsed."""
        reasons = [None if row in self.problems else judge(row) for row in range(len(self.texts))]
        passed = [None if row in self.problems else reason is None for row, reason in enumerate(reasons)]
        return Verdicts(passed=passed, reasons=reasons)

    def source(self, row: int) -> str:
        """Title and text that the new document was made from."""
        at = self.source_row[row]
        return f"{self.titles[at] or ''}\n{self.sources[at]}"
