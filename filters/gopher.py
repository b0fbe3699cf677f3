"""Gopher's quality and repetition rules as columns (arXiv 2112.11446, appendix A, Table A1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from filters.columns import ratio, with_columns
from kernels.text.repetition import DUPLICATE_NGRAMS, TOP_NGRAMS
from kernels.text.statistics import STOP_WORDS, text_statistics


@dataclass(frozen=True, kw_only=True)
class GopherQuality:
    """Word, symbol and bullet statistics. Words are split at white space only, and those made of
    nothing but punctuation do not count for ``gopher_words`` and ``gopher_mean_word_length``.
    """

    stage: ClassVar = "gopher_quality"
    shape: ClassVar = "map"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ("numba", "unicodedata")
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "documents"
    needs: ClassVar = ("text",)
    adds: ClassVar = {
        "gopher_words": "int32",
        "gopher_mean_word_length": "float64",
        "gopher_hash_ratio": "float64",
        "gopher_ellipsis_ratio": "float64",
        "gopher_bullet_line_ratio": "float64",
        "gopher_ellipsis_line_ratio": "float64",
        "gopher_alpha_word_ratio": "float64",
        "gopher_stop_words": "int32",
    }

    stop_words: tuple[str, ...] = STOP_WORDS
    """Words of which ``gopher_stop_words`` counts the different ones, as written; at most 64."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.stop_words) <= 64:
            raise ValueError(f"stop_words: 1 to 64 words, not {len(self.stop_words)}")
        wrong = [word for word in self.stop_words if word.split() != [word]]
        if wrong:
            raise ValueError(f"stop_words: {wrong[0]!r} is not one word")

    def annotate(self, table: pa.Table) -> pa.Table:
        count = text_statistics(table["text"], "quality", stop_words=tuple(self.stop_words))
        values = {
            "gopher_words": count["text_words"],
            "gopher_mean_word_length": ratio(count["text_word_chars"], count["text_words"]),
            "gopher_hash_ratio": ratio(count["hashes"], count["words"]),
            "gopher_ellipsis_ratio": ratio(count["ellipses"], count["words"]),
            "gopher_bullet_line_ratio": ratio(count["bullet_lines"], count["lines"]),
            "gopher_ellipsis_line_ratio": ratio(count["ellipsis_lines"], count["lines"]),
            "gopher_alpha_word_ratio": ratio(count["alpha_words"], count["words"]),
            "gopher_stop_words": count["stop_words"],
        }
        return with_columns(table, self.adds, values)


@dataclass(frozen=True, kw_only=True)
class GopherRepetition:
    """How much of a text repeats: lines, paragraphs, the most frequent 2- to 4-grams, and 5- to
    10-grams met before. Shares of characters are of all characters of the text.
    """

    stage: ClassVar = "gopher_repetition"
    shape: ClassVar = "map"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ("numba", "unicodedata")
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "documents"
    needs: ClassVar = ("text",)
    adds: ClassVar = {
        "repetition_duplicate_line_ratio": "float64",
        "repetition_duplicate_line_char_ratio": "float64",
        "repetition_duplicate_paragraph_ratio": "float64",
        "repetition_duplicate_paragraph_char_ratio": "float64",
        **{f"repetition_top_{n}gram_char_ratio": "float64" for n in TOP_NGRAMS},
        **{f"repetition_duplicate_{n}gram_char_ratio": "float64" for n in DUPLICATE_NGRAMS},
    }

    def annotate(self, table: pa.Table) -> pa.Table:
        count = text_statistics(table["text"], "repetition")
        values = {}
        for piece in ("line", "paragraph"):
            name = f"repetition_duplicate_{piece}"
            values[f"{name}_ratio"] = ratio(count[f"duplicate_{piece}s"], count[f"{piece}s"])
            chars = count[f"duplicate_{piece}_chars"]
            values[f"{name}_char_ratio"] = ratio(chars, count["chars"])
        ngrams = [f"top_{n}gram" for n in TOP_NGRAMS]
        ngrams += [f"duplicate_{n}gram" for n in DUPLICATE_NGRAMS]
        for ngram in ngrams:
            chars = count[f"{ngram}_chars"]
            values[f"repetition_{ngram}_char_ratio"] = ratio(chars, count["chars"])
        return with_columns(table, self.adds, values)
