"""Sets of rules for ``decide``, by name. A document fails a rule when the value of its column is
below ``min``, above ``max``, not ``in`` the list, or ``not_in`` it but there; unless it passes the
rule under ``or``.
"""

from __future__ import annotations

GOPHER_QUALITY = {
    "gopher_too_few_words": {"column": "gopher_words", "min": 50},
    "gopher_too_many_words": {"column": "gopher_words", "max": 100_000},
    "gopher_short_words": {"column": "gopher_mean_word_length", "min": 3},
    "gopher_long_words": {"column": "gopher_mean_word_length", "max": 10},
    "gopher_hashes": {"column": "gopher_hash_ratio", "max": 0.1},
    "gopher_ellipses": {"column": "gopher_ellipsis_ratio", "max": 0.1},
    "gopher_bullet_lines": {"column": "gopher_bullet_line_ratio", "max": 0.9},
    "gopher_ellipsis_lines": {"column": "gopher_ellipsis_line_ratio", "max": 0.3},
    "gopher_alpha_words": {"column": "gopher_alpha_word_ratio", "min": 0.8},
    "gopher_stop_words": {"column": "gopher_stop_words", "min": 2},
}


def _repetition(limits: dict[str, float]) -> dict[str, dict]:
    return {
        f"repetition_{name}": {"column": f"repetition_{name}_ratio", "max": limit}
        for name, limit in limits.items()
    }


GOPHER_REPETITION = _repetition(
    {
        "duplicate_paragraph": 0.3,
        "duplicate_paragraph_char": 0.2,
        "duplicate_line": 0.3,
        "duplicate_line_char": 0.2,
        "top_2gram_char": 0.2,
        "top_3gram_char": 0.18,
        "top_4gram_char": 0.16,
        "duplicate_5gram_char": 0.15,
        "duplicate_6gram_char": 0.14,
        "duplicate_7gram_char": 0.13,
        "duplicate_8gram_char": 0.12,
        "duplicate_9gram_char": 0.11,
        "duplicate_10gram_char": 0.10,
    }
)

C4 = {
    "c4_lorem_ipsum": {"column": "c4_lorem_ipsum_lines", "max": 0},
    "c4_curly_bracket": {"column": "c4_curly_bracket_lines", "max": 0},
    "c4_too_few_sentences": {"column": "c4_kept_sentences", "min": 5},
}

FINEWEB = {
    "fineweb_punctuated_lines": {"column": "fineweb_punctuated_line_ratio", "min": 0.12},
    "fineweb_short_lines": {"column": "fineweb_short_line_ratio", "max": 0.67},
    "fineweb_duplicate_lines": {"column": "fineweb_duplicate_line_char_ratio", "max": 0.01},
    "fineweb_newlines": {"column": "fineweb_newlines_per_word", "max": 0.3},
}

# published thresholds, as datatrove has them by default, in the order of FineWeb's pipeline
WEB = {**GOPHER_REPETITION, **GOPHER_QUALITY, **C4, **FINEWEB}

# Chosen on labelled pages of documentation, beside pydoc's pages, source code, change logs and logs;
# benchmarks/curation/preset.py measures it. What goes wrongly is short: entries of a reference with
# one sentence, small source files, and short pages in languages that put no space between words.
# Left out on purpose: stop words (code has none), "{" and "javascript" (their subject), "#" and
# bullets (comments, options). Final punctuation and short lines count at their extremes only.
TECHNICAL = {
    # stubs, redirects, what is left of a page of links
    "technical_too_few_words": {"column": "gopher_words", "min": 65},
    # short tables of contents; in code and tables many a word has no letter
    "technical_too_few_sentences": {
        "column": "c4_kept_sentences",
        "min": 2,
        "or": {
            "column": "gopher_words",
            "min": 100,
            "or": {"column": "gopher_alpha_word_ratio", "max": 0.75},
        },
    },
    # indexes of any length: no line ends as a sentence does, or few lines are longer than a name
    "technical_names_only": {
        "column": "fineweb_punctuated_line_ratio",
        "min": 0.01,
        "or": {"column": "gopher_alpha_word_ratio", "max": 0.85},
    },
    "technical_short_lines": {
        "column": "fineweb_short_line_ratio",
        "max": 0.85,
        "or": {"column": "gopher_alpha_word_ratio", "max": 0.85},
    },
    # a word a line
    "technical_word_lists": {"column": "fineweb_newlines_per_word", "max": 0.8},
    # encoded data, minified code; and hex dumps, ASCII art, tables of numbers
    "technical_long_words": {"column": "gopher_mean_word_length", "max": 25},
    "technical_short_words": {"column": "gopher_mean_word_length", "min": 2},
    "technical_alpha_words": {"column": "gopher_alpha_word_ratio", "min": 0.4},
    "technical_lorem_ipsum": {"column": "c4_lorem_ipsum_lines", "max": 0},
    # API pages repeat inherited members and table rows: far above the limits for prose
    "technical_duplicate_lines": {"column": "repetition_duplicate_line_char_ratio", "max": 0.9},
    "technical_duplicate_paragraphs": {
        "column": "repetition_duplicate_paragraph_char_ratio",
        "max": 0.5,
    },
    "technical_top_2gram": {"column": "repetition_top_2gram_char_ratio", "max": 0.3},
    # lists of inherited members name their class in each line; pydoc's of ast reaches 0.19
    "technical_top_4gram": {"column": "repetition_top_4gram_char_ratio", "max": 0.2},
    # spaces do not count in these two: a text of nothing but one phrase reaches about 0.8
    "technical_duplicate_5gram": {
        "column": "repetition_duplicate_5gram_char_ratio",
        "max": 0.75,
    },
    "technical_duplicate_10gram": {
        "column": "repetition_duplicate_10gram_char_ratio",
        "max": 0.75,
    },
}

PRESETS = {"web": WEB, "technical": TECHNICAL}
