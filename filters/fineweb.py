"""FineWeb's own rules as columns (arXiv 2406.17557, section 3.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from filters.columns import ratio, with_columns
from kernels.text.statistics import text_statistics


@dataclass(frozen=True, kw_only=True)
class FineWeb:
    """Shares of lines that end in punctuation, of short lines, of characters in duplicate lines
    (of lines that hold a word), and line breaks for each word.
    """

    stage: ClassVar = "fineweb"
    shape: ClassVar = "map"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ("numba",)
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "documents"
    needs: ClassVar = ("text",)
    adds: ClassVar = {
        "fineweb_lines": "int32",
        "fineweb_punctuated_line_ratio": "float64",
        "fineweb_short_line_ratio": "float64",
        "fineweb_duplicate_line_char_ratio": "float64",
        "fineweb_newlines_per_word": "float64",
    }

    short_line_chars: int = 30
    """A line of at most so many characters is a short one."""

    def __post_init__(self) -> None:
        if self.short_line_chars < 0:
            raise ValueError(f"short_line_chars is {self.short_line_chars}; 0 or more")

    def annotate(self, table: pa.Table) -> pa.Table:
        count = text_statistics(table["text"], "fineweb", short_line_chars=self.short_line_chars)
        values = {
            "fineweb_lines": count["lines"],
            "fineweb_punctuated_line_ratio": ratio(count["terminal_lines"], count["lines"]),
            "fineweb_short_line_ratio": ratio(count["short_lines"], count["lines"]),
            "fineweb_duplicate_line_char_ratio": ratio(
                count["duplicate_line_chars"], count["chars_without_newlines"]
            ),
            "fineweb_newlines_per_word": ratio(count["newlines"], count["words"]),
        }
        return with_columns(table, self.adds, values)
