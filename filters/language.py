"""Which language a text is in, by resiliparse's fast detector (101 languages)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
from resiliparse.parse.lang import detect_fast

from filters.columns import with_columns
from kernels.text.buffers import text_buffers


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
        labels, scores = [], []
        # the library knows no batches
        for start in _starts(table["text"], self.first_chars):
            label, score = detect_fast(start) if start else ("unknown", 0)
            labels.append(label)
            scores.append(score)
        values = {
            "language_label": pa.array(labels, pa.string()),
            "language_score": pa.array(scores, pa.int32()),
        }
        return with_columns(table, self.adds, values)


def _starts(texts: pa.ChunkedArray, chars: int) -> Iterator[str]:
    """The first ``chars`` characters of each text; bytes that are not UTF-8 are passed over."""
    data, offsets = text_buffers(texts)
    view = data.data
    # most characters are one byte: so many bytes nearly always hold enough of them
    guess = chars + chars // 8
    bounds = offsets.tolist()
    for begin, end in zip(bounds, bounds[1:], strict=False):
        start = str(view[begin : min(end, begin + guess)], "utf-8", "ignore")
        if len(start) < chars and begin + guess < end:
            start = str(view[begin : min(end, begin + 4 * chars)], "utf-8", "ignore")
        yield start[:chars]
