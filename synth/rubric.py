"""Rubrics as data: what a model is asked about a document, and how its answer becomes a label."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from synth.reading import Reader
from synth.recipe import quote

FOLDER = Path(__file__).parent / "rubrics"
_NUMBER = re.compile(r"(?<![\w.-])(-?\d+)(?![\w.]*\d)")


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """A question about a document, answered by one of ``labels`` or by a number of ``grades``."""

    name: str
    version: int
    """Raised by hand whenever the question or its answers change."""
    prompt: str
    """What comes after the document."""
    labels: tuple[str, ...] = ()
    """The words that may be answered; the first that stands in the answer is the label."""
    grades: dict[str, list[int]] = field(default_factory=dict)
    """Label: [lowest, highest] grade; a grade in no band gives no label."""
    max_tokens: int = 16

    def __post_init__(self) -> None:
        if bool(self.labels) == bool(self.grades):
            raise ValueError("give either `labels` or `grades`, and not both")
        if len(self.labels or self.grades) < 2:
            raise ValueError("needs two labels at least")
        for label, band in self.grades.items():
            if len(band) != 2 or not all(isinstance(end, int) for end in band) or band[0] > band[1]:
                raise ValueError(f"grades.{label}: write [lowest, highest], not {band!r}")

    def messages(self, text: str, title: str | None) -> list[dict[str, str]]:
        """The chat: document first, then the question."""
        return [{"role": "user", "content": f"{quote(text, title)}\n\n{self.prompt.strip()}\n"}]

    def read(self, answer: str) -> tuple[str | None, int | None, bool]:
        """(label, grade, whether it is an answer at all) of what the model said."""
        if self.labels:
            words = "|".join(re.escape(label) for label in sorted(self.labels, key=len, reverse=True))
            found = re.search(rf"(?<!\w)(?:{words})(?!\w)", answer, re.IGNORECASE)
            if not found:
                return None, None, False
            return next(label for label in self.labels if label.lower() == found[0].lower()), None, True
        number = _NUMBER.search(answer)
        if not number:
            return None, None, False
        grade = int(number[1])
        label = next((name for name, (low, high) in self.grades.items() if low <= grade <= high), None)
        return label, grade, True

    def identity(self) -> dict[str, Any]:
        """Everything that can change an answer, as JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def load_rubric(path: str | Path) -> Rubric:
    """The rubric of a YAML file. Raises RecipeError with every mistake: file, line, field, nearest name."""
    reader = Reader(path)
    rubric = reader.build(Rubric, reader.value, ())
    reader.raise_errors()
    return rubric


@cache
def builtin_rubrics() -> dict[str, Rubric]:
    """The rubrics of ``synth/rubrics/*.yaml`` by name."""
    rubrics = [load_rubric(path) for path in sorted(FOLDER.glob("*.yaml"))]
    return {rubric.name: rubric for rubric in rubrics}
