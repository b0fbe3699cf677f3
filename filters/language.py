"""Which language a text is in, by resiliparse's fast detector (101 languages)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from resiliparse.parse.lang import detect_fast

from filters.columns import with_columns


@dataclass(frozen=True, kw_only=True)
class Language:
    """Adds ``language_label`` (ISO 639-1 code, or "unknown") and ``language_score``, the distance
    from that language's profile: lower is surer, over 1200 is "unknown" with score 0. Text of
    under some 150 characters, and text that is mostly code, is often labelled wrongly.
    """

    stage: ClassVar = "language"
    shape: ClassVar = "map"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ("resiliparse",)
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "documents"
    needs: ClassVar = ("text",)
    adds: ClassVar = {"language_label": "string", "language_score": "int32"}

    first_chars: int = 4000
    """Only so many characters from the start of a text are looked at."""

    def __post_init__(self) -> None:
        if self.first_chars < 1:
            raise ValueError(f"first_chars is {self.first_chars}; 1 or more")

    def annotate(self, table: pa.Table) -> pa.Table:
        starts = pc.utf8_slice_codeunits(pc.fill_null(table["text"], ""), 0, self.first_chars)
        # the library knows no batches
        found = [detect_fast(text) if text else ("unknown", 0) for text in starts.to_pylist()]
        values = {
            "language_label": pa.array([label for label, _ in found], pa.string()),
            "language_score": pa.array([score for _, score in found], pa.int32()),
        }
        return with_columns(table, self.adds, values)
