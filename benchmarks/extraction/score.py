"""How WCXB scores an extractor: F1 of the words of a page, as multisets."""

from __future__ import annotations

import re
from collections import Counter

WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def word_scores(found: Counter, truth: Counter) -> tuple[float, float, float]:
    """(F1, precision, recall) of the words found; a page without main content asks for none."""
    if not truth or not found:
        return (1.0, 1.0, 1.0) if not truth and not found else (0.0, 0.0, 0.0)
    both = sum((found & truth).values())
    precision, recall = both / sum(found.values()), both / sum(truth.values())
    return (2 * precision * recall / (precision + recall) if both else 0.0), precision, recall
