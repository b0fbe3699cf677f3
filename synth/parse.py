"""From what a writer gave back to the texts of new documents."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synth.recipe import Recipe


class ParseError(ValueError):
    """An output that is not in its recipe's form; says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """The output as it is, one document."""

    def parse(self, raw: str) -> list[str]:
        return [raw]


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """The output up to the end of its last whole sentence or line, for writers that never end."""

    def parse(self, raw: str) -> list[str]:
        ends = [match.end() for match in re.finditer(r"[.!?。！？](?=\s|$)|\S(?=[ \t]*\n)", raw)]
        if not ends:
            raise ParseError("no sentence or line comes to an end")
        return [raw[: ends[-1]]]


PARSERS: dict[str, Any] = {"text": Text, "continuation": Continuation}


def parse(recipe: Recipe, raw_text: str) -> list[str]:
    """The texts of the new documents in an output, at least one. Raises ParseError with the reason."""
    text = raw_text.replace("\r\n", "\n").strip()
    # an output wrapped whole in a fence is meant as what is inside
    match = re.fullmatch(r"```(?:markdown|md|text)?\n(.*?)\n?```", text, re.DOTALL)
    if match and "```" not in match[1]:
        text = match[1].strip()
    if not text:
        raise ParseError("is empty")
    return recipe.built_parser.parse(text)
