"""Checks on the output as a text: did it end, does it talk about itself, language, length, repetition."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
from resiliparse.parse.lang import detect_fast

from filters.text_statistics import TextStatistics
from synth.checks.base import Batch, Verdicts, count_words


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
        words = [count_words(text) for text in batch.texts]
        sources = [count_words(text) for text in batch.sources]
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


# code, and words that are spelled as names of code
_CODE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|^ {4,}[^\n]*$|(?<!\S)\S*(?:[/_=<>|\\]|\w\.\w|--)\S*",
    re.DOTALL | re.MULTILINE,
)
# Greek to the end of the plane, spaces and signs aside: what a Latin text has none of
_OTHER_SCRIPT = re.compile(r"[\u0370-\u1dff\u3040-\ud7ff\uf900-\ufdff]")
_ALL_LANGUAGES = 200
_NEAR = 1.02


@dataclass(frozen=True, kw_only=True)
class LanguageKept:
    """The prose is in the language of the source's prose, and in its script.

    resiliparse's detector measures how far a text is from each language's profile. Of short technical
    prose the nearest is often a neighbour of the right one: so the source may be in any that is nearly
    as near, and the output fails when all of those are further off than its nearest by ``margin``.
    """

    check: ClassVar = "language"
    adds: ClassVar[dict[str, str]] = {"synth_language": "string"}

    least_bytes: int = 200
    """Prose of fewer bytes, code aside, has no language."""
    margin: float = 1.05
    most_other_script: float = 0.005
    """Share of characters in a script other than Latin, where the source has less than a tenth of that."""

    def run(self, batch: Batch) -> Verdicts:
        distances = [self._distances(text) for text in batch.texts]
        labels = [min(far, key=far.__getitem__) if far else None for far in distances]
        sources = {at: self._near(batch.sources[at]) for at in set(batch.source_row.tolist())}

        def judge(row: int) -> str | None:
            at = int(batch.source_row[row])
            share = _other_script(batch.texts[row])
            if share > self.most_other_script and _other_script(batch.sources[at]) < share / 10:
                return f"{share:.0%} in a script that its source has not"
            there, here, far = sources[at], labels[row], distances[row]
            if not there or here is None or min(far[one] for one in there) < self.margin * far[here]:
                return None
            return f"{here}, its source is {there[0]}"

        verdicts = batch.each(judge)
        verdicts.measured = {"synth_language": labels}
        return verdicts

    def _near(self, text: str) -> list[str]:
        """The languages that a source may be in, the likeliest first."""
        far = self._distances(text)
        ordered = sorted(far, key=far.__getitem__)
        return [one for one in ordered if far[one] <= _NEAR * far[ordered[0]]]

    def _distances(self, text: str) -> dict[str, int]:
        """How far the prose is from each language, none for too little prose."""
        prose = _CODE.sub(" ", text)[:4000]
        if len(prose.encode(errors="replace")) < self.least_bytes:
            return {}
        found: Any = detect_fast(prose, cutoff=1 << 30, n_results=_ALL_LANGUAGES)
        return dict(found)


def _other_script(text: str) -> float:
    return len(_OTHER_SCRIPT.findall(text)) / max(len(text), 1)


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
