"""datatrove's filters of Gopher quality, Gopher repetition, C4 and FineWeb, whole and rule by rule.

The first argument says how words and sentences are split: "default" is datatrove's own English
tokenizer (spaCy), "space" at white space, and sentences as ``kernels.text.reference`` ends them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    c4_filters,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)

from benchmarks.peers import serve

NEVER, SOME = float("inf"), 1e-9
FILTERS = (GopherQualityFilter, GopherRepetitionFilter, C4QualityFilter, FineWebQualityFilter)
# limits out of reach, so that no filter stops at the first rule that fails
UNLIMITED: tuple[dict, ...] = (
    {
        "min_doc_words": SOME,
        "max_doc_words": NEVER,
        "min_avg_word_length": SOME,
        "max_avg_word_length": NEVER,
        "max_symbol_word_ratio": NEVER,
        "max_bullet_lines_ratio": NEVER,
        "max_ellipsis_lines_ratio": NEVER,
        "max_non_alpha_words_ratio": SOME,
    },
    {
        "dup_line_frac": NEVER,
        "dup_para_frac": NEVER,
        "dup_line_char_frac": NEVER,
        "dup_para_char_frac": NEVER,
        "top_n_grams": tuple((n, NEVER) for n in (2, 3, 4)),
        "dup_n_grams": tuple((n, NEVER) for n in (5, 6, 7, 8, 9, 10)),
    },
    {},
    {"line_punct_thr": -1, "short_line_thr": NEVER, "char_duplicates_ratio": NEVER, "new_line_ratio": NEVER},
)
# reason of datatrove -> our rule, and how to switch datatrove's rule off
GOPHER = {
    "gopher_short_doc": ("gopher_too_few_words", "min_doc_words"),
    "gopher_long_doc": ("gopher_too_many_words", "max_doc_words"),
    "gopher_below_avg_threshold": ("gopher_short_words", "min_avg_word_length"),
    "gopher_above_avg_threshold": ("gopher_long_words", "max_avg_word_length"),
    "gopher_too_many_ellipsis": ("gopher_ellipses", "max_symbol_word_ratio"),
    "gopher_too_many_bullets": ("gopher_bullet_lines", "max_bullet_lines_ratio"),
    "gopher_too_many_end_ellipsis": ("gopher_ellipsis_lines", "max_ellipsis_lines_ratio"),
    "gopher_below_alpha_threshold": ("gopher_alpha_words", "max_non_alpha_words_ratio"),
    "gopher_enough_stop_words": ("gopher_stop_words", "min_stop_words"),
}
REPETITION = {
    "dup_para_frac": ("repetition_duplicate_paragraph", "dup_para_frac"),
    "dup_para_char_frac": ("repetition_duplicate_paragraph_char", "dup_para_char_frac"),
    "dup_line_frac": ("repetition_duplicate_line", "dup_line_frac"),
    "dup_line_char_frac": ("repetition_duplicate_line_char", "dup_line_char_frac"),
}
FINEWEB = {
    "line_punct_ratio": ("fineweb_punctuated_lines", "line_punct_thr", -1),
    "short_line_ratio": ("fineweb_short_lines", "short_line_threshold", NEVER),
    "char_dup_ratio": ("fineweb_duplicate_lines", "char_duplicates_ratio", NEVER),
    "list_ratio": ("fineweb_newlines", "new_line_ratio", NEVER),
}
# what datatrove counts for a line that goes, and our name of it
C4_LINES = {
    "line-filter-too_long_word": "long_word_lines",
    "line-filter-no_terminal_punc": "unterminated_lines",
    "line-filter-too_few_words": "short_lines",
    "line-filter-javascript": "javascript_lines",
    "line-filter-policy": "policy_lines",
    "line-kept": "kept_lines",
    "lorem_ipsum": "lorem_ipsum_lines",
    "curly_bracket": "curly_bracket_lines",
}


class NoHashes(str):
    """A text in which no "#" is counted: the only way to ask for what the same limit says next."""

    def count(self, part: str) -> int:  # type: ignore[override]
        return 0 if part == "#" else super().count(part)


def reason(step: object, text: str) -> str | None:
    verdict = step.filter(Document(text=text, id=""))  # type: ignore[attr-defined]
    return None if verdict is True else verdict[1]


def gopher_rules(text: str) -> list[str]:
    """Our names of all rules of GopherQualityFilter that the text fails: each is switched off in turn."""
    step, failed = GopherQualityFilter(), []
    while found := reason(step, text):
        if found == "gopher_too_many_hashes":
            failed.append("gopher_hashes")
            text = NoHashes(text)
        else:
            rule, parameter = GOPHER[found]
            failed.append(rule)
            setattr(step, parameter, None)
    return failed


def repetition_rules(text: str) -> list[str]:
    step, failed = GopherRepetitionFilter(), []
    while found := reason(step, text):
        if found in REPETITION:
            rule, parameter = REPETITION[found]
            setattr(step, parameter, None)
        else:
            kind, n = found.split("_")[0], int(found.split("_")[1])
            kind = "top" if kind == "top" else "duplicate"
            rule = f"repetition_{kind}_{n}gram_char"
            limits = "top_n_grams" if kind == "top" else "dup_n_grams"
            setattr(step, limits, tuple(pair for pair in getattr(step, limits) if pair[0] != n))
        failed.append(rule)
    return failed


def fineweb_rules(text: str) -> list[str]:
    step, failed = FineWebQualityFilter(), []
    while found := reason(step, text):
        rule, parameter, value = FINEWEB[found]
        failed.append(rule)
        setattr(step, parameter, value)
    return failed


class C4Line(C4QualityFilter):
    """Which way a single line goes, and its sentences if it stays."""

    def __init__(self) -> None:
        super().__init__(min_num_sentences=0)
        self.seen: list[str] = []

    def stat_update(self, *names: str, **_: object) -> None:
        self.seen += names

    def fate(self, line: str) -> str:
        self.seen = []
        found = reason(self, line)
        return C4_LINES[found or next(name for name in self.seen if name != "line-total")]


def c4_counts(text: str) -> dict[str, int]:
    """Lines by their fate and sentences, counted line by line so that none hides another."""
    sentences = 0
    split = c4_filters.split_into_sentences

    def count_sentences(line: str, language: str) -> list[str]:
        nonlocal sentences
        found = split(line, language)
        sentences += len(found)
        return found

    c4_filters.split_into_sentences = count_sentences
    step = C4Line()
    # a line of datatrove ends where str.splitlines says; an empty one is no text of its own
    fates = Counter(step.fate(line) if line.strip() else "unterminated_lines" for line in text.splitlines())
    c4_filters.split_into_sentences = split
    return {**{name: fates[name] for name in C4_LINES.values()}, "kept_sentences": sentences}


def split_at_spaces() -> None:
    for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
        module.split_into_words = lambda text, language: text.split()


def our_sentences() -> Callable[[str, str], list[str]]:
    from kernels.text.reference import _ends_sentence

    return lambda line, language: [""] * max(1, sum(map(_ends_sentence, line.split())))


def main() -> None:
    space = sys.argv[1] == "space"
    if space:
        split_at_spaces()
    texts: list[str] = []

    def load(file: str, start: int, stop: int) -> int:
        table = pq.read_table(file, columns=["text"]).slice(start, stop - start)
        texts[:] = table["text"].to_pylist()
        return sum(len(text.encode()) for text in texts)

    def chain(by: str, everything: bool) -> list[int]:
        """How many texts each filter keeps, of all: text by text, as a pipeline goes, so that what
        datatrove remembers of a text's words serves all filters; or filter by filter. With the usual
        limits, or counting everything."""
        steps = [
            step(**limits if everything else {}) for step, limits in zip(FILTERS, UNLIMITED, strict=True)
        ]
        kept = [0] * len(steps)
        if space:
            # the cheapest there is: this is timed
            c4_filters.split_into_sentences = lambda line, language: line.split(". ")
        pairs = [(text, s) for text in texts for s in range(len(steps))]
        if by == "filter":
            pairs.sort(key=lambda pair: pair[1])
        for text, s in pairs:
            kept[s] += reason(steps[s], text) is None
        return kept

    def rules() -> list[dict]:
        """Of each text: our names of the rules it fails (but C4's), and C4's counts."""
        if space:
            c4_filters.split_into_sentences = our_sentences()
        found = []
        for text in texts:
            failed = gopher_rules(text) + repetition_rules(text) + fineweb_rules(text)
            page = C4QualityFilter().filter(Document(text=text, id="")) is True
            found.append({"failed": failed, "c4": c4_counts(text), "c4_kept": page})
        return found

    serve(load=load, chain=chain, rules=rules)


if __name__ == "__main__":
    main()
