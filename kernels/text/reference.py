"""The contract of ``statistics``: the same integers in plain Python, one text at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from kernels.text.c4 import LOREM, PHRASES, POLICY
from kernels.text.repetition import DUPLICATE_NGRAMS, TOP_NGRAMS
from kernels.text.statistics import STOP_WORDS
from kernels.text.words import ALPHA, CLOSER, SYMBOL, TERMINAL, class_table


def _is(char: str, kind: int) -> bool:
    return bool(class_table()[ord(char)] & kind)


def quality(text: str, stop_words: Sequence[str] = STOP_WORDS) -> dict[str, int]:
    words = text.split()
    text_words = [w for w in words if not all(_is(c, SYMBOL) for c in w)]
    lines = text.splitlines()
    return {
        "words": len(words),
        "text_words": len(text_words),
        "text_word_chars": sum(map(len, text_words)),
        "alpha_words": sum(any(_is(c, ALPHA) for c in w) for w in words),
        "stop_words": len(set(stop_words) & set(words)),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "lines": len(lines),
        "bullet_lines": sum(line.lstrip().startswith(("•", "-")) for line in lines),
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "…")) for line in lines),
    }


def _duplicates(pieces: list[str]) -> tuple[int, int]:
    seen: set[str] = set()
    number = chars = 0
    for piece in pieces:
        if piece in seen:
            number, chars = number + 1, chars + len(piece)
        seen.add(piece)
    return number, chars


def _top_ngram(words: list[str], n: int) -> int:
    ngrams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    if not ngrams:
        return 0
    # of equals max takes the first, and a Counter holds its keys in order of arrival
    top = max(ngrams, key=ngrams.__getitem__)
    return len(top) * ngrams[top]


def _duplicate_ngrams(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    chars = i = 0
    while i + n <= len(words):
        ngram = tuple(words[i : i + n])
        if ngram in seen:
            chars += sum(map(len, ngram))
            i += n
        else:
            seen.add(ngram)
            i += 1
    return chars


def repetition(text: str) -> dict[str, int]:
    words = text.split()
    lines = re.split("\n+", text)
    paragraphs = re.split("\n{2,}", text.strip())
    duplicate_lines, duplicate_line_chars = _duplicates(lines)
    duplicate_paragraphs, duplicate_paragraph_chars = _duplicates(paragraphs)
    return {
        "chars": len(text),
        "lines": len(lines),
        "duplicate_lines": duplicate_lines,
        "duplicate_line_chars": duplicate_line_chars,
        "paragraphs": len(paragraphs),
        "duplicate_paragraphs": duplicate_paragraphs,
        "duplicate_paragraph_chars": duplicate_paragraph_chars,
        **{f"top_{n}gram_chars": _top_ngram(words, n) for n in TOP_NGRAMS},
        **{f"duplicate_{n}gram_chars": _duplicate_ngrams(words, n) for n in DUPLICATE_NGRAMS},
    }


def _ends_sentence(word: str) -> bool:
    rest = word
    while rest and _is(rest[-1], CLOSER):
        rest = rest[:-1]
    return bool(rest) and _is(rest[-1], TERMINAL)


def _without_citations(line: str) -> bytes:
    return re.sub(rb"\[[0-9]*\]|\[edit\]|\[citation needed\]", b"", line.strip().encode())


def _c4_line(line: str, min_words: int, max_word_length: int) -> str:
    words = line.split()
    if any(len(word) > max_word_length for word in words):
        return "long_word_lines"
    kept = _without_citations(line)
    if not kept.endswith((b".", b"?", b"!", b'"', b"'")) or kept.endswith(b"..."):
        return "unterminated_lines"
    if len(words) < min_words:
        return "short_lines"
    kinds = {kind for phrase, kind in PHRASES.items() if phrase in kept.lower()}
    if LOREM in kinds:
        return "lorem_ipsum_lines"
    if kinds - {POLICY}:
        return "javascript_lines"
    if b"{" in kept:
        return "curly_bracket_lines"
    return "policy_lines" if kinds else "kept_lines"


def c4(text: str, min_words: int = 3, max_word_length: int = 1000) -> dict[str, int]:
    lines = text.splitlines()
    kinds = [_c4_line(line, min_words, max_word_length) for line in lines]
    kept = [
        _without_citations(line).decode()
        for line, kind in zip(lines, kinds, strict=True)
        if kind == "kept_lines"
    ]
    return {
        "lines": len(lines),
        **{kind: kinds.count(kind) for kind in (
            "long_word_lines", "unterminated_lines", "short_lines", "lorem_ipsum_lines",
            "javascript_lines", "curly_bracket_lines", "policy_lines", "kept_lines",
        )},
        "kept_sentences": sum(max(1, sum(map(_ends_sentence, line.split()))) for line in kept),
    }  # fmt: skip


def fineweb(text: str, short_line_chars: int = 30) -> dict[str, int]:
    lines = [line for line in text.split("\n") if line.strip()]
    return {
        "words": len(text.split()),
        "newlines": text.count("\n"),
        "chars_without_newlines": len(text.replace("\n", "")),
        "lines": len(lines),
        "terminal_lines": sum(_is(line[-1], TERMINAL) for line in lines),
        "short_lines": sum(len(line) <= short_line_chars for line in lines),
        "duplicate_line_chars": _duplicates(lines)[1],
    }


REFERENCES = {"quality": quality, "repetition": repetition, "c4": c4, "fineweb": fineweb}
