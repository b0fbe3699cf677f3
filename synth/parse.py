"""From what a writer gave back to the texts of new documents.

A parser is a frozen dataclass whose fields are its parameters in a recipe, with
``parse(raw) -> list of texts``. It refuses what is not in the form that the recipe asked for, and
writes what is in one spelling: "Q:", "**Question 1:**" and "### How ...?" become the same document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synth.recipe import Recipe


class ParseError(ValueError):
    """An output that is not in its recipe's form; says what is missing."""


def parse(recipe: Recipe, raw_text: str) -> list[str]:
    """The texts of the new documents in an output, at least one. Raises ParseError with the reason."""
    text = raw_text.replace("\r\n", "\n").strip()
    # an output wrapped whole in a fence is meant as what is inside
    match = re.fullmatch(r"```(?:markdown|md|text)?\n(.*?)\n?```", text, re.DOTALL)
    if match and "```" not in match[1]:
        text = match[1].strip()
    if not text:
        raise ParseError("is empty")
    if len(re.findall(r"^ *```", text, re.MULTILINE)) % 2:
        raise ParseError("a fenced block is not closed")
    return recipe.built_parser.parse(text)


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


# a line's label, as "Q:", "**Question 3:**", "2. Q.", "### Answer:"
def _label(*words: str) -> str:
    names = "|".join(map(re.escape, words))
    return rf"(?:[#*_> \t-]|\d+[.)])*(?:{names})[ \t]*\d*[ \t]*[*_]*[ \t]*[:.][*_]*[ \t]*"


_QUESTION = re.compile(
    rf"^(?:{_label('Question', 'Q')}|#+[ \t]+(?=.*\?[ \t]*$))", re.MULTILINE | re.IGNORECASE
)
_ANSWER = re.compile(rf"^{_label('Answer', 'A')}", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Questions and answers: "Q: ... A: ..." or a heading that asks, and the text under it."""

    least: int = 2
    """Pairs, at least."""

    def parse(self, raw: str) -> list[str]:
        pairs: list[str] = []
        for part in _cut(_QUESTION, raw):
            halves = _ANSWER.split(part, maxsplit=1)
            if len(halves) == 1:
                halves = part.split("\n", 1)
            question, answer = halves[0].strip(" \t\n*"), halves[-1].strip()
            if len(halves) < 2 or not question or not answer:
                raise ParseError(f"question {len(pairs) + 1} has no {'answer' if question else 'text'}")
            pairs.append(f"Question: {question}\nAnswer: {answer}")
        if len(pairs) < self.least:
            raise ParseError(f"{len(pairs)} questions with answers, not {self.least}")
        return ["\n\n".join(pairs)]


_BULLET = re.compile(r"^[ \t]*(?:[-*+•]|\d+[.)])[ \t]+(?=\S)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list: bullets or numbers; a heading above it may stay."""

    least: int = 3

    def parse(self, raw: str) -> list[str]:
        if (found := len(_BULLET.findall(raw))) < self.least:
            raise ParseError(f"{found} list items, not {self.least}")
        return [raw]


_STEP = re.compile(r"^[ \t#*]*(?:step[ \t]+)?(\d+)[.):][ \t*]+\S", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A text with steps numbered 1, 2, ..., as a list or as headings."""

    least: int = 3

    def parse(self, raw: str) -> list[str]:
        steps = {int(number) for number in _STEP.findall(raw)}
        missing = [number for number in range(1, self.least + 1) if number not in steps]
        if missing:
            raise ParseError(f"no step {missing[0]}: needs {self.least} numbered steps")
        return [raw]


@dataclass(frozen=True, kw_only=True)
class Sections:
    """Sections under the given headings, all of them, in this order, none empty."""

    headings: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.headings:
            raise ValueError("headings: name at least one")

    def parse(self, raw: str) -> list[str]:
        head, parts, at = "", [], 0
        for number, name in enumerate(self.headings):
            line = re.compile(rf"^[#*\d. \t]*{re.escape(name)}[ \t*:]*(?:$|(?<=[:*])[ \t]*)", re.M | re.I)
            match = line.search(raw, at)
            if not match:
                raise ParseError(f"no section {name!r}")
            before = raw[at : match.start()].strip()
            if number == 0:
                head = before
            elif not before:
                raise ParseError(f"section {self.headings[number - 1]!r} is empty")
            else:
                parts.append(before)
            at = match.end()
        if not raw[at:].strip():
            raise ParseError(f"section {self.headings[-1]!r} is empty")
        parts.append(raw[at:].strip())
        named = [f"## {name}\n\n{part}" for name, part in zip(self.headings, parts, strict=True)]
        return ["\n\n".join(filter(None, [head, *named]))]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A Markdown table whose rows all have as many cells as its head; text around it may stay."""

    least_rows: int = 2
    least_columns: int = 2

    def parse(self, raw: str) -> list[str]:
        lines = [line.strip() for line in raw.splitlines() if line.strip().startswith("|")]
        sizes = [len(re.findall(r"(?<!\\)\|", line.strip("|"))) + 1 for line in lines]
        if len(lines) < 3 or not re.fullmatch(r"\|(?:[ \t]*:?-+:?[ \t]*\|?)+", lines[1]):
            raise ParseError("no table with a head")
        if len(set(sizes)) > 1:
            wrong = next(number for number, size in enumerate(sizes) if size != sizes[0])
            raise ParseError(f"line {wrong + 1} of the table has {sizes[wrong]} cells, its head {sizes[0]}")
        if sizes[0] < self.least_columns or len(lines) - 2 < self.least_rows:
            raise ParseError(
                f"a table of {sizes[0]} columns and {len(lines) - 2} rows, "
                f"not {self.least_columns} and {self.least_rows}"
            )
        return [raw]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Requests in words, each with what answers it in code, fenced or on the label's line."""

    code: str
    """Language of the fence, "bash" or "kql"; the check "syntax" reads it."""
    ask: str = "Request"
    give: str = "Command"
    least: int = 2

    def parse(self, raw: str) -> list[str]:
        pairs: list[str] = []
        label = re.compile(rf"^{_label(self.ask)}", re.M | re.I)
        give = re.compile(rf"^{_label(self.give)}", re.M | re.I)
        for part in _cut(label, raw):
            request, _, rest = part.partition("\n")
            fence = re.search(r"```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```", rest, re.DOTALL)
            if fence:
                code, note = fence[1], give.sub("", rest[: fence.start()]).strip()
                request, note = f"{request.strip()} {note}".strip(), rest[fence.end() :].strip()
            else:
                line = give.split(rest, maxsplit=1)
                code, _, note = line[-1].partition("\n") if len(line) > 1 else ("", "", "")
                code, note = code.strip().strip("`"), note.strip()
            if not request.strip(" *") or not code.strip():
                raise ParseError(f"{self.ask.lower()} {len(pairs) + 1} has no {self.give.lower()}")
            block = f"```{self.code}\n{code.strip()}\n```"
            pairs.append("\n\n".join(filter(None, [f"{self.ask}: {request.strip(' *')}", block, note])))
        if len(pairs) < self.least:
            raise ParseError(
                f"{len(pairs)} pairs of {self.ask.lower()} and {self.give.lower()}, not {self.least}"
            )
        return ["\n\n".join(pairs)]


_TURN = re.compile(r"^[*_ \t>-]*([A-Z][\w.' -]{0,30}?)[*_ \t]*:[*_ \t]+(?=\S)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """Turns "Name: what they say" of several speakers."""

    least_turns: int = 6
    least_speakers: int = 2

    def parse(self, raw: str) -> list[str]:
        # what a turn says may hold fenced code with lines of its own
        bare = re.sub(r"^```.*?^```", "", raw, flags=re.DOTALL | re.MULTILINE)
        speakers = _TURN.findall(bare)
        # who speaks once may be a label in the text
        several = {name for name in speakers if speakers.count(name) > 1}
        turns = sum(name in several for name in speakers)
        if turns < self.least_turns or len(several) < self.least_speakers:
            raise ParseError(
                f"{turns} turns of {len(several)} speakers, not {self.least_turns} of {self.least_speakers}"
            )
        return [raw]


def _cut(start: re.Pattern[str], raw: str) -> list[str]:
    """The parts that begin with ``start``, without it; what stands before the first is left out."""
    matches = list(start.finditer(raw))
    ends = [*(match.start() for match in matches[1:]), len(raw)]
    # without a start there is one end too many
    return [raw[match.end() : end] for match, end in zip(matches, ends, strict=False)]


PARSERS: dict[str, Any] = {
    "text": Text,
    "continuation": Continuation,
    "questions": Questions,
    "items": Items,
    "steps": Steps,
    "sections": Sections,
    "table": Table,
    "pairs": Pairs,
    "dialogue": Dialogue,
}
