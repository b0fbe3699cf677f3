"""What a technical text mentions by name: flags, URLs, paths, numbers, names; and what a source knows.

A mention counts by its shape wherever it stands, and in code (fenced or in backticks) every word is
one. Membership is by occurrence: "--force" is in a text that has "--force=WHEN" and not in one that
has "--force-with-lease". Quotes, dashes and spaces of typesetting are ASCII's before all that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from synth.checks.vocabulary import (
    ANY_WORDS,
    BRANDS,
    EXTENSIONS,
    PLACEHOLDERS,
    SHELLS,
    UNITS,
    WORD_VALUES,
    WORDS_BY_FENCE,
)

_TYPESET = str.maketrans(
    {"\u2010": "-", "\u2011": "-", "\u2212": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "}
    | {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u200b": None, "\u2026": "..."}
)
_QUOTE = re.compile(r"`([^`'\n]{1,40})'")
_DASHED_FLAG = re.compile(r"(?<!\w)–(?=[a-z])")

_RESERVED = re.compile(r"(?:https?://)?(?:[\w-]+\.)*example\.(?:com|org|net)\b")
_URL = re.compile(r"\b(?:https?|ftp|s3|gs|wss?)://[^\s<>\"'`\])}|]+")
_PATH = re.compile(
    rf"""(?<![\w.~/<:$}}+-])(?:
    (?:~|\.{{1,2}})?/[\w.@%+-]+(?:/[\w.@%+-]*)*
    | (?:[A-Za-z]:|HK\w+|%\w+%)\\[\w.\\@%+-]+
    | (?:[\w.@+-]+/)*[\w@+-][\w.@+-]*\.(?:{"|".join(EXTENSIONS)})(?![\w(-]|\.\w)
    )""",
    re.VERBOSE,
)
_FLAG = re.compile(r"(?<![\w)-])(?:--[A-Za-z][\w.-]*\w|-[A-Za-z][\w-]*|--[A-Za-z])(?![\w-])")
_NUMBER = re.compile(
    r"(?<![\w.])(?:0[xX][0-9a-fA-F]+|[0-9][0-9,_']*(?:\.[0-9]+)*)(?:[:/–-][0-9]+(?:\.[0-9]+)*)*"
    r"(?:(?P<glued>[A-Za-zµ%][\w/]*)|[ -](?P<unit>(?:k|m|g)bit/s|[A-Za-zµ]+|%))?",
)
_ORDINAL = frozenset(("st", "nd", "rd", "th"))
_NAME = re.compile(r"(?<![\w@])[A-Za-z_]\w*(?:(?:\.|::|->)[A-Za-z_]\w*)*(?:\(\))?")
_CODE_WORD = re.compile(r"(?<![\w$<])[A-Za-z_]\w+(?:[.-]\w+)*")
_FENCE = re.compile(r"^[ \t]*```([\w+-]*)[^\n]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<![\w`])(`{1,2})(?![`\s])([^`\n]{1,200})(?<!\s)\1(?![\w`])")
_PLACEHOLDER = re.compile(r"<[A-Za-z][\w .|-]*>|\$\{?\w+\}?|\{\w*\}|\bYOUR[_-]\w+")
_COMMENT = re.compile(r"(?:(?<=\s)|^)(?:#|//)(?= |$).*$", re.MULTILINE)
_QUOTED = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'")
# "3. ", "Step 3", "## 3", "Q3": the number of the thing, not a number of the source
_LABEL = re.compile(
    r"^[ \t>#*_|-]*\(?\d{1,2}[.):](?=\s)|\b[qa]\d{1,2}(?=[.:)])"
    r"|\b(?:step|question|answer|option|part|phase|example|method|case|rule)[ #]?\d{1,2}\b",
    re.MULTILINE | re.IGNORECASE,
)
# names that the code gives itself
_OWN = re.compile(
    r"\b(\w+)[ \t]+=[ \t]|\b(?:let|def|as|for|class|lambda)[ \t]+(\w+)"
    r"|(?:\b(?:extend|summarize|project|by)\s+|,\s*)(\w+)[ \t]*=(?!=)"
)


@dataclass(frozen=True)
class Mention:
    """One thing a text names: ``kind`` is "flag", "url", "path", "number" or "name"."""

    kind: str
    text: str
    unit: str | None = None
    is_word: bool = False
    """A word that counts only because it stands in code."""


def normal(text: str) -> str:
    """``text`` with ASCII quotes, spaces and dashes: `so' is 'so', a dash before a word is a flag's."""
    return _QUOTE.sub(r"'\1'", _DASHED_FLAG.sub("--", text.translate(_TYPESET)))


def mentions(text: str) -> Iterator[Mention]:
    """Everything that ``text`` mentions, in no order."""
    text = re.sub(r"\\([_*`#<>-])", r"\1", normal(text))
    text = _LABEL.sub(lambda match: " " * len(match[0]), text)
    rest = []
    end = 0
    for fence in _FENCE.finditer(text):
        rest.append(text[end : fence.start()])
        end = fence.end()
        yield from _of_code(fence[2], fence[1].lower())
    prose = "\n".join([*rest, text[end:]])
    for inline in _INLINE.finditer(prose):
        yield from _of_code(inline[2], "")
    yield from _of_prose(_INLINE.sub(" ` ", prose))


def _of_code(code: str, language: str) -> Iterator[Mention]:
    code = _PLACEHOLDER.sub(lambda match: " " * (len(match[0]) > 1) + "<", code)
    comments = " ".join(_COMMENT.findall(code))
    code = _COMMENT.sub("", code)
    yield from _of_prose(comments)
    known = WORDS_BY_FENCE.get(language, ANY_WORDS)
    own = {name for names in _OWN.findall(code) for name in names if name}
    if language in SHELLS:
        own = set()
    shaped, bare = _by_shape(code)
    for mention in shaped:
        name = mention.text.removesuffix("()")
        if mention.kind == "name":
            if not (name in own or name.lower() in known or name in known):
                yield mention
        # code needs nothing and one without a source
        elif mention.unit or mention.text not in ("0", "1"):
            yield mention
    # of quoted text only single words are names of code
    bare = _QUOTED.sub(
        lambda match: f" {said} " if " " not in (said := match[1] or match[2] or "") else " ", bare
    )
    for match in _CODE_WORD.finditer(bare):
        word = match[0]
        if word not in own and word not in known and word.lower() not in known and word not in PLACEHOLDERS:
            yield Mention("name", word, is_word=True)


def _of_prose(text: str) -> Iterator[Mention]:
    yield from _by_shape(text)[0]


def _by_shape(text: str) -> tuple[list[Mention], str]:
    """What counts wherever it stands, and the text with that blanked out."""
    found: list[Mention] = []

    def note(kind: str, match: re.Match) -> str:
        word = match[0].rstrip(".,;:!?'*_") if kind != "flag" else match[0]
        if word and not (kind in ("url", "path") and _is_free(word)):
            found.append(Mention(kind, word))
        return " " + match[0][len(word) :]

    text = _URL.sub(lambda match: note("url", match), text)
    text = _PATH.sub(lambda match: note("path", match), text)
    text = _FLAG.sub(lambda match: note("flag", match), text)
    text = _NUMBER.sub(lambda match: _note_number(match, found), text)
    for match in _NAME.finditer(text):
        if _is_shaped(match[0]):
            found.append(Mention("name", match[0]))
    return found, text


def _is_free(word: str) -> bool:
    return word in ("/dev/null", "/", "./", "../", "~/") or bool(_RESERVED.match(word))


def _note_number(match: re.Match, found: list[Mention]) -> str:
    glued, unit = match["glued"], match["unit"]
    end = match.end() if not unit else match.start("unit") - 1
    canonical = UNITS.get((glued or unit or "").lower())
    if glued and not canonical:
        if glued.lower() not in _ORDINAL:
            found.append(Mention("number", match[0]))
        return " "
    digits = match[0][: (match.start("glued") if glued else end) - match.start()]
    if unit and canonical:
        # "8 m" and "a 5 d" are too short to be told from words of their own, unless glued
        found.append(Mention("number", digits, canonical if len(unit) > 1 or unit in "%sh" else None))
        return " "
    found.append(Mention("number", digits, canonical))
    # a word that is no unit goes back
    return " " + match[0][end - match.start() :]


def _is_shaped(word: str) -> bool:
    """Whether prose would not spell a word so: snake_case, two humps, a.b, f(), letters with digits."""
    if word.endswith("()"):
        return True
    parts = re.split(r"\.|::|->", word)
    if len(parts) > 1:
        # "e.g", "i.e", and a full stop without the space after it
        return all(len(part) > 1 for part in parts) and not (
            parts[1][:1].isupper() and parts[1][1:].islower()
        )
    if word.lower() in BRANDS:
        return False
    inner = word.strip("_")
    return (
        "_" in inner
        or word.startswith("__")
        or bool(re.search(r"[a-z][A-Z]", inner))
        or bool(re.fullmatch(r"[A-Za-z]+\d+\w*", inner))
    )


class Source:
    """What a source knows: asked of each mention of the documents that were made from it."""

    def __init__(self, text: str) -> None:
        self.text = normal(text)
        # --[no-]color is two flags
        self.text += " " + re.sub(r"\[(no-)\]", r"\1", self.text) if "[no-]" in self.text else ""
        self.text += " " + self.text.replace("[no-]", "") if "[no-]" in self.text else ""

    @cached_property
    def folded(self) -> str:
        return self.text.lower()

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(re.findall(r"[a-z_]\w*", self.folded))

    @cached_property
    def numbers(self) -> dict[str, set[str | None]]:
        """Units in which each number comes, None where it has none."""
        found: dict[str, set[str | None]] = {}
        notes: list[Mention] = []
        for match in _NUMBER.finditer(self.text):
            _note_number(match, notes)
        for note in notes:
            for part in {note.text, *re.split(r"[:/–-]", note.text)}:
                found.setdefault(_value(part), set()).add(note.unit)
        # digits inside of names and paths, and numbers in words
        for digits in re.findall(r"\d+(?:\.\d+)*", self.text):
            found.setdefault(_value(digits), set())
        for word in self.words & WORD_VALUES.keys():
            found.setdefault(WORD_VALUES[word], set()).add(None)
        return found

    def knows(self, mention: Mention) -> bool:
        """Whether the source mentions it too."""
        if mention.kind == "number":
            return self._knows_number(mention)
        word = mention.text
        if mention.kind in ("url", "path"):
            word = word.rstrip("/\\").removeprefix("./")
            return not word.strip("./~") or self._occurs(word, self.text, r"(?!\w)(?![.-]\w)")
        if mention.kind == "flag":
            return self._knows_flag(word)
        word = word.removesuffix("()")
        if mention.is_word:
            return all(self._has_word(part) for part in re.split(r"[.-]", word))
        if word.isupper() or word.islower() or "_" in word.strip("_"):
            known = self._occurs(word, self.text, r"(?!\w)")
        else:
            known = self._occurs(word, self.text, r"(?!\w)") or self._occurs(
                word[0].swapcase() + word[1:], self.text, r"(?!\w)"
            )
        parts = re.split(r"\.|::|->", word)
        if known or len(parts) == 1:
            return known or word.strip("_").lower() in self.words
        return all(self._occurs(part, self.text, r"(?!\w)") for part in parts)

    def _has_word(self, word: str) -> bool:
        if not word or word.isdigit():
            return True
        # with capitals it is spelled so on purpose
        return word in self.words if word.islower() else self._occurs(word, self.text, r"(?!\w)")

    def _knows_flag(self, flag: str) -> bool:
        if self._occurs(flag, self.text, r"(?![\w-])"):
            return True
        # -la is -l and -a
        letters = flag[1:]
        return (
            not flag.startswith("--")
            and len(letters) in (2, 3)
            and letters.isalpha()
            and all(self._occurs(f"-{letter}", self.text, r"(?![\w-])") for letter in letters)
        )

    def _knows_number(self, mention: Mention) -> bool:
        number, unit = mention.text, mention.unit
        if (units := self.numbers.get(_value(number))) is not None:
            # in the source it may stand under a heading that gives the unit
            return unit is None or unit in units or None in units or not units
        if self._occurs(number.lower(), self.folded, r"(?!\w)(?!\.\d)"):
            return True
        parts = re.split(r"[:/–-]", number)
        return len(parts) > 1 and all(_value(part) in self.numbers for part in parts)

    @staticmethod
    def _occurs(word: str, text: str, after: str) -> bool:
        before = r"(?<![\w-])" if word.startswith("-") else r"(?<!\w)"
        return word in text and re.search(before + re.escape(word) + after, text) is not None


def _value(number: str) -> str:
    """One spelling of a number: no thousands separators, no ".0" at the end."""
    if number[:2].lower() == "0x":
        return number.lower()
    number = re.sub(r"(?<=\d)[,_'](?=\d{3}(?:\D|$))", "", number).rstrip(",_'")
    return re.sub(r"^(\d+)\.0+$", r"\1", number)
