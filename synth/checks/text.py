"""Checks on the output as a text: did it end, does it talk about itself, language, length, repetition."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from filters.language import Language
from filters.text_statistics import TextStatistics
from synth.checks.base import Batch, Verdicts


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The writer ended by itself: its ``finish_reason`` is one of ``accept``."""

    check: ClassVar = "finish"
    adds: ClassVar[dict[str, str]] = {}

    accept: tuple[str, ...] = ("stop",)

    def run(self, batch: Batch) -> Verdicts:
        passed = [reason in self.accept for reason in batch.finish_reasons]
        return Verdicts(passed=passed, reasons=[f"finish reason {r!r}" for r in batch.finish_reasons])


@dataclass(frozen=True, kw_only=True)
class Parse:
    """The recipe's parser understands the output."""

    check: ClassVar = "parse"
    adds: ClassVar[dict[str, str]] = {}

    def run(self, batch: Batch) -> Verdicts:
        rows = range(len(batch.texts))
        return Verdicts(
            passed=[row not in batch.problems for row in rows],
            reasons=[batch.problems.get(row) for row in rows],
        )


_META = re.compile(
    r"""\b(?:
    as\ an\ ai\b | as\ a\ (?:large\ )?language\ model
    | i(?:'m|\ am)\ (?:just\ )?an?\ (?:ai|language\ model)
    | i(?:'m|\ am)\ (?:sorry|unable\ to|not\ able\ to)\b | i\ apologi[sz]e
    | i\ (?:can(?:'|no)t|will\ not|won't)\ (?:help|assist|fulfil|provide|comply|answer|write|create)
    | (?:here\ is|here's|here\ are|below\ is|this\ is)\ (?:the|a|an|your|my)\ (?:[\w-]+\ ){0,4}?
      (?:document|summary|rewrite|rewriting|rewritten|version|text|list|faq|tutorial|runbook|table|passage
      |article|answers?|questions?|dialogue|conversation)\b
    | the\ (?:source|provided|original|above)\ (?:document|text|passage|article)\b
    | the\ (?:document|text|passage|article)\ (?:above|provided)\b
    | hope\ this\ helps | let\ me\ know\ if\ you | feel\ free\ to\ ask | is\ there\ anything\ else
    )""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The output neither refuses nor speaks of the task, the source or the writer."""

    check: ClassVar = "refusal"
    adds: ClassVar[dict[str, str]] = {}

    def run(self, batch: Batch) -> Verdicts:
        def judge(row: int) -> str | None:
            source = batch.source(row).lower()
            for match in _META.finditer(batch.texts[row]):
                # a document may be about such sentences
                if match[0].lower() not in source:
                    return f"says {match[0]!r}"
            return None

        return batch.each(judge)


@dataclass(frozen=True, kw_only=True)
class LengthBand:
    """Words, and words for each word of the source, lie in the recipe's ``length``."""

    check: ClassVar = "length"
    adds: ClassVar[dict[str, str]] = {"synth_words": "int32", "synth_length_ratio": "float64"}

    def run(self, batch: Batch) -> Verdicts:
        band = batch.recipe.length
        words = [len(text.split()) for text in batch.texts]
        sources = [len(text.split()) for text in batch.sources]
        ratios = [n / max(sources[at], 1) for n, at in zip(words, batch.source_row, strict=True)]

        def judge(row: int) -> str | None:
            if not band.least_words <= words[row] <= band.most_words:
                return f"{words[row]} words, not {band.least_words} to {band.most_words}"
            if not band.least_ratio <= ratios[row] <= band.most_ratio:
                return f"{ratios[row]:.2f} of its source, not {band.least_ratio} to {band.most_ratio}"
            return None

        verdicts = batch.each(judge)
        verdicts.measured = {"synth_words": words, "synth_length_ratio": ratios}
        return verdicts


_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|^ {4,}.*$|https?://\S+", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class LanguageKept:
    """The prose is in the language of the source's prose; too little prose says nothing."""

    check: ClassVar = "language"
    adds: ClassVar[dict[str, str]] = {"synth_language": "string"}

    least_chars: int = 200
    """Prose of fewer characters, code aside, is not told: short texts are often labelled wrongly."""

    def run(self, batch: Batch) -> Verdicts:
        labels = self._labels(batch.texts)
        sources = self._labels(batch.sources)

        def judge(row: int) -> str | None:
            there, here = sources[batch.source_row[row]], labels[row]
            if here is None or there in (None, "unknown") or here == there:
                return None
            return f"{here}, its source is {there}"

        verdicts = batch.each(judge)
        verdicts.measured = {"synth_language": labels}
        return verdicts

    def _labels(self, texts: list[str]) -> list[str | None]:
        prose = [_CODE.sub(" ", text) for text in texts]
        table = pa.table({"text": pa.array(prose, pa.large_string())})
        labels = Language().annotate(table)["language_label"].to_pylist()
        return [
            label if len(text) >= self.least_chars else None
            for text, label in zip(prose, labels, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """The output does not say the same thing over and over."""

    check: ClassVar = "repetition"
    adds: ClassVar[dict[str, str]] = {"synth_repetition": "float64"}

    most: float = 0.3
    """Share of characters in word 5-grams met before in the output."""

    def run(self, batch: Batch) -> Verdicts:
        table = pa.table({"text": pa.array(batch.texts, pa.large_string())})
        column = "repetition_duplicate_5gram_char_ratio"
        shares = TextStatistics(families=("repetition",)).annotate(table)[column].to_pylist()
        verdicts = batch.each(
            lambda row: f"{shares[row]:.0%} repeats itself" if shares[row] > self.most else None
        )
        verdicts.measured = {"synth_repetition": shares}
        return verdicts
