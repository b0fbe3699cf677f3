"""The columns behind the Gopher, C4 and FineWeb rules, from one walk over the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from filters.columns import ratio, with_columns
from kernels.text.repetition import DUPLICATE_NGRAMS, TOP_NGRAMS
from kernels.text.statistics import STOP_WORDS, text_statistics

Family = Literal["gopher", "repetition", "c4", "fineweb"]
# what kernels.text.statistics calls the counts of a family
_GROUPS = {"gopher": "quality", "repetition": "repetition", "c4": "c4", "fineweb": "fineweb"}
COLUMNS: dict[str, dict[str, str]] = {
    "gopher": {
        "gopher_words": "int32",
        "gopher_mean_word_length": "float64",
        "gopher_hash_ratio": "float64",
        "gopher_ellipsis_ratio": "float64",
        "gopher_bullet_line_ratio": "float64",
        "gopher_ellipsis_line_ratio": "float64",
        "gopher_alpha_word_ratio": "float64",
        "gopher_stop_words": "int32",
    },
    "repetition": {
        "repetition_duplicate_line_ratio": "float64",
        "repetition_duplicate_line_char_ratio": "float64",
        "repetition_duplicate_paragraph_ratio": "float64",
        "repetition_duplicate_paragraph_char_ratio": "float64",
        **{f"repetition_top_{n}gram_char_ratio": "float64" for n in TOP_NGRAMS},
        **{f"repetition_duplicate_{n}gram_char_ratio": "float64" for n in DUPLICATE_NGRAMS},
    },
    "c4": {
        "c4_lines": "int32",
        "c4_removed_line_ratio": "float64",
        "c4_kept_sentences": "int32",
        "c4_lorem_ipsum_lines": "int32",
        "c4_curly_bracket_lines": "int32",
        "c4_javascript_lines": "int32",
        "c4_policy_lines": "int32",
    },
    "fineweb": {
        "fineweb_lines": "int32",
        "fineweb_punctuated_line_ratio": "float64",
        "fineweb_short_line_ratio": "float64",
        "fineweb_duplicate_line_char_ratio": "float64",
        "fineweb_newlines_per_word": "float64",
    },
}


@dataclass(frozen=True, kw_only=True)
class TextStatistics:
    """Statistics of words, lines and repetition, all from one walk over the text.

    Words are split at white space only. ``gopher_*`` (arXiv 2112.11446, appendix A): words that are
    nothing but punctuation do not count for ``gopher_words`` and ``gopher_mean_word_length``.
    ``repetition_*`` (Table A1 there): duplicate lines and paragraphs, the most frequent 2- to
    4-grams, 5- to 10-grams met before; shares of characters are of all characters of the text.
    ``c4_*`` (arXiv 1910.10683, section 2.2, and the published code): the lines that C4 would take
    out, each for the first reason that fits (a word too long, no final punctuation, too few words,
    "lorem ipsum", "javascript", "{", a policy phrase), and the sentences that would be left; the
    text stays as it is, so that ``decide`` alone drops. ``fineweb_*`` (arXiv 2406.17557, section
    3.6): of lines that hold a word, those that end in punctuation, short ones, characters in
    duplicate ones; and line breaks for each word.
    """

    stage: ClassVar = "text_statistics"
    shape: ClassVar = "map"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ("numba", "unicodedata")
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "documents"
    needs: ClassVar = ("text",)

    families: tuple[Family, ...] = tuple(COLUMNS)
    """Which columns to add, all by default; a text is walked once however many these are."""
    stop_words: tuple[str, ...] = STOP_WORDS
    """Words of which ``gopher_stop_words`` counts the different ones, as written; at most 64."""
    min_words_per_line: int = 3
    """For ``c4_*``, a line with fewer words is one that goes."""
    max_word_length: int = 1000
    """For ``c4_*``, a line with a word of more characters is one that goes."""
    short_line_chars: int = 30
    """For ``fineweb_short_line_ratio``, a line of at most so many characters is a short one."""

    def __post_init__(self) -> None:
        wrong = [family for family in self.families if family not in COLUMNS]
        if wrong or not self.families:
            raise ValueError(f"families: {wrong or 'none'}; give some of {', '.join(COLUMNS)}")
        if not 1 <= len(self.stop_words) <= 64:
            raise ValueError(f"stop_words: 1 to 64 words, not {len(self.stop_words)}")
        wrong = [word for word in self.stop_words if word.split() != [word]]
        if wrong:
            raise ValueError(f"stop_words: {wrong[0]!r} is not one word")
        if self.min_words_per_line < 0:
            raise ValueError(f"min_words_per_line is {self.min_words_per_line}; 0 or more")
        if self.max_word_length < 1:
            raise ValueError(f"max_word_length is {self.max_word_length}; 1 or more")
        if self.short_line_chars < 0:
            raise ValueError(f"short_line_chars is {self.short_line_chars}; 0 or more")

    @property
    def adds(self) -> dict[str, str]:
        return {name: kind for family in self.families for name, kind in COLUMNS[family].items()}

    def annotate(self, table: pa.Table) -> pa.Table:
        counts = text_statistics(
            table["text"],
            [_GROUPS[family] for family in self.families],
            stop_words=self.stop_words,
            min_words_per_line=self.min_words_per_line,
            max_word_length=self.max_word_length,
            short_line_chars=self.short_line_chars,
        )
        values: dict[str, np.ndarray] = {}
        for family in self.families:
            prefix = f"{_GROUPS[family]}."
            values |= _VALUES[family](
                {name.removeprefix(prefix): n for name, n in counts.items() if name.startswith(prefix)}
            )
        return with_columns(table, self.adds, values)


def _gopher(count: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "gopher_words": count["text_words"],
        "gopher_mean_word_length": ratio(count["text_word_chars"], count["text_words"]),
        "gopher_hash_ratio": ratio(count["hashes"], count["words"]),
        "gopher_ellipsis_ratio": ratio(count["ellipses"], count["words"]),
        "gopher_bullet_line_ratio": ratio(count["bullet_lines"], count["lines"]),
        "gopher_ellipsis_line_ratio": ratio(count["ellipsis_lines"], count["lines"]),
        "gopher_alpha_word_ratio": ratio(count["alpha_words"], count["words"]),
        "gopher_stop_words": count["stop_words"],
    }


def _repetition(count: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = {}
    for piece in ("line", "paragraph"):
        name = f"repetition_duplicate_{piece}"
        values[f"{name}_ratio"] = ratio(count[f"duplicate_{piece}s"], count[f"{piece}s"])
        values[f"{name}_char_ratio"] = ratio(count[f"duplicate_{piece}_chars"], count["chars"])
    for ngram in [*(f"top_{n}gram" for n in TOP_NGRAMS), *(f"duplicate_{n}gram" for n in DUPLICATE_NGRAMS)]:
        values[f"repetition_{ngram}_char_ratio"] = ratio(count[f"{ngram}_chars"], count["chars"])
    return values


def _c4(count: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = {f"c4_{field}": counts for field, counts in count.items()}
    values["c4_removed_line_ratio"] = ratio(count["lines"] - count["kept_lines"], count["lines"])
    return values


def _fineweb(count: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "fineweb_lines": count["lines"],
        "fineweb_punctuated_line_ratio": ratio(count["terminal_lines"], count["lines"]),
        "fineweb_short_line_ratio": ratio(count["short_lines"], count["lines"]),
        "fineweb_duplicate_line_char_ratio": ratio(
            count["duplicate_line_chars"], count["chars_without_newlines"]
        ),
        "fineweb_newlines_per_word": ratio(count["newlines"], count["words"]),
    }


_VALUES = {"gopher": _gopher, "repetition": _repetition, "c4": _c4, "fineweb": _fineweb}
