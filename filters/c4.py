"""C4's line rules as columns (arXiv 1910.10683, section 2.2, and the published code)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from filters.columns import ratio, with_columns
from kernels.text.statistics import text_statistics


@dataclass(frozen=True, kw_only=True)
class C4:
    """Counts the lines that C4 would take out of a text, and the sentences that would be left.

    C4 itself removes those lines; this stage leaves the text as it is, so that ``decide`` alone
    drops. A line counts for the first reason that fits: a word too long, no final punctuation,
    too few words, "lorem ipsum", "javascript", "{", a policy phrase. C4 drops a page with a
    "lorem ipsum" or "{" line, or with fewer than five sentences left.
    """

    stage: ClassVar = "c4"
    shape: ClassVar = "map"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ("numba",)
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "documents"
    needs: ClassVar = ("text",)
    adds: ClassVar = {
        "c4_lines": "int32",
        "c4_removed_line_ratio": "float64",
        "c4_kept_sentences": "int32",
        "c4_lorem_ipsum_lines": "int32",
        "c4_curly_bracket_lines": "int32",
        "c4_javascript_lines": "int32",
        "c4_policy_lines": "int32",
    }

    min_words_per_line: int = 3
    """A line with fewer words is one that goes."""
    max_word_length: int = 1000
    """A line with a word of more characters is one that goes."""

    def __post_init__(self) -> None:
        if self.min_words_per_line < 0:
            raise ValueError(f"min_words_per_line is {self.min_words_per_line}; 0 or more")
        if self.max_word_length < 1:
            raise ValueError(f"max_word_length is {self.max_word_length}; 1 or more")

    def annotate(self, table: pa.Table) -> pa.Table:
        count = text_statistics(
            table["text"],
            "c4",
            min_words_per_line=self.min_words_per_line,
            max_word_length=self.max_word_length,
        )
        values = {f"c4_{field}": counts for field, counts in count.items()}
        removed = count["lines"] - count["kept_lines"]
        values["c4_removed_line_ratio"] = ratio(removed, count["lines"])
        return with_columns(table, self.adds, values)
