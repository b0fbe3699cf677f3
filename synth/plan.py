"""What will be asked: recipes for each document by rules, long documents in parts, tokens counted.

All recipes of a part share the document at the head of their prompts, so that an engine reads it
once; that is why a document is cut for all of its recipes alike.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from synth.prompt import Prompts
from synth.recipe import Recipe

SLACK = 32  # tokens that a chat template and its seams may take
LEAST_ROOM = 64  # tokens; less than that of a document says nothing
CHARS_A_TOKEN = 3.0  # where no tokenizer is known; rather too few than too many

_HEADING = re.compile(r"^(?:#{1,6} \S|[A-Z][A-Z0-9 _/&-]{2,60}$|.+\n(?:={3,}|-{3,})$)", re.M)


def token_counter(prompts: Prompts | None) -> Callable[[str], int]:
    """Counts the tokens of a text, about so where no tokenizer is known."""
    return prompts.count if prompts else lambda text: int(len(text) / CHARS_A_TOKEN) + 1


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a column's value must be, of those given."""

    is_: tuple[str, ...] = ()
    """One of these texts."""
    least: float | None = None
    """At least this."""
    most: float | None = None
    """At most this."""

    def holds(self, value: Any) -> bool:
        if value is None:
            return False
        if self.is_ and str(value) not in self.is_:
            return False
        if self.least is not None and value < self.least:
            return False
        return self.most is None or value <= self.most


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which recipes a document gets; of several rules the first that fits decides."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    recipes: tuple[str, ...]
    """Names of recipes; none leaves the document alone."""
    draw: int = 0
    """Take this many of them, chosen by the document's id and the seed; 0 takes all."""
    share: float = 1.0
    """Of the documents that fit, this share, chosen in the same way, gets them; the others get none."""
    where: dict[str, str | float | list[str] | dict[str, float]] = field(default_factory=dict)
    """Conditions on columns, all must hold: a value or a list of them, or {least:, most:}. ``words``
    is the length of the text. A null fits no condition."""

    def __post_init__(self) -> None:
        if self.draw < 0:
            raise ValueError(f"draw is {self.draw}: it must be 0 (all) or more")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}: it must be above 0 and at most 1")
        _ = self.conditions

    @property
    def conditions(self) -> dict[str, Condition]:
        found = {}
        for column, given in self.where.items():
            if isinstance(given, Mapping):
                if not given or set(given) - {"least", "most"}:
                    raise ValueError(f"where.{column}: write {{least: 0.5, most: 1}}, not {given!r}")
                found[column] = Condition(least=given.get("least"), most=given.get("most"))
            else:
                values = given if isinstance(given, list) else [given]
                found[column] = Condition(is_=tuple(str(value) for value in values))
        return found


@dataclass(frozen=True)
class Part:
    """A piece of one document and the recipes it goes through. ``row`` of the shard, ``number`` from 0."""

    row: int
    number: int
    id: str
    title: str | None
    text: str
    recipes: tuple[Recipe, ...]


@dataclass
class Plan:
    """Everything that will be asked of one shard, and why some rows are not asked about."""

    parts: list[Part]
    left_out: dict[int, str]
    budget: dict[str, dict[str, int]]

    @property
    def requests(self) -> int:
        return sum(len(part.recipes) for part in self.parts)


class Planner:
    """Plans shards. ``count`` gives the tokens of a text."""

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        rules: Sequence[Rule],
        *,
        context: int,
        most_parts: int,
        count: Callable[[str], int],
    ):
        self.recipes, self.context, self.most_parts = recipes, context, most_parts
        self.rules = [(rule, rule.conditions) for rule in rules or [Rule(recipes=tuple(recipes))]]
        self.count = count
        self.room = {name: self._room(recipe) for name, recipe in recipes.items()}

    def _room(self, recipe: Recipe) -> int:
        """Tokens that a document may take beside the recipe's own words and the answer."""
        if recipe.chat:
            own = sum(self.count(message["content"]) for message in recipe.messages("", None))
        else:
            own = self.count(recipe.completion_prompt("", None))
        room = self.context - own - recipe.sampling.max_tokens - SLACK
        if room < LEAST_ROOM:
            raise ValueError(
                f"recipe {recipe.name!r}: of a context of {self.context} tokens, {own} of instruction and"
                f" {recipe.sampling.max_tokens} of answer leave {max(room, 0)} for the document: raise"
                " engine.context, or lower max_tokens"
            )
        return room

    def plan(self, table: pa.Table, seed: int) -> Plan:
        """The plan of one shard. Columns: id, text, and those that rules name; title and split if there."""
        columns = {name: table[name].to_pylist() for name in self._columns(table)}
        plan = Plan([], {}, {})
        for row in range(table.num_rows):
            document = {name: values[row] for name, values in columns.items()}
            reason, parts = self._document(row, document, seed)
            plan.parts += parts
            if not parts:
                plan.left_out[row] = reason
        plan.budget = self._budget(plan.parts)
        return plan

    def _columns(self, table: pa.Table) -> set[str]:
        wanted = {"id", "text"} | {column for _, where in self.rules for column in where if column != "words"}
        return wanted | ({"title", "split"} & set(table.column_names))

    def _document(self, row: int, document: dict[str, Any], seed: int) -> tuple[str, list[Part]]:
        if document.get("split") == "heldout":
            return "heldout", []
        text = document["text"] or ""
        document["words"] = len(text.split())
        chosen = self._choose(document, seed)
        if not chosen:
            return "no_recipe", []
        long_enough = [r for r in chosen if document["words"] >= r.length.least_source_words]
        if not long_enough:
            return "too_short", []
        words = min(recipe.length.most_source_words for recipe in long_enough)
        title = document.get("title")
        tokens = min(self.room[recipe.name] for recipe in long_enough) - self.count(title or "")
        pieces = split_text(text, words, max(tokens, LEAST_ROOM), self.count)
        parts = []
        for number, piece in enumerate(pieces[: self.most_parts]):
            size = len(piece.split())
            fits = tuple(r for r in long_enough if size >= r.length.least_source_words)
            if fits:
                parts.append(Part(row, number, document["id"], title, piece, fits))
        return "too_short", parts

    def _choose(self, document: dict[str, Any], seed: int) -> list[Recipe]:
        for rule, conditions in self.rules:
            if all(condition.holds(document.get(column)) for column, condition in conditions.items()):
                names = list(rule.recipes)
                if not in_share(rule.share, seed, document["id"]):
                    return []
                if rule.draw:
                    names = sorted(names, key=lambda name: _hash(seed, document["id"], name))[: rule.draw]
                return [self.recipes[name] for name in sorted(names)]
        return []

    def _budget(self, parts: list[Part]) -> dict[str, dict[str, int]]:
        """Per recipe: requests, tokens of prompts, and the most tokens that answers may take."""
        sums: dict[str, Counter[str]] = {}
        for part in parts:
            size = self.count(part.text) + self.count(part.title or "")
            for recipe in part.recipes:
                own = self.context - self.room[recipe.name] - recipe.sampling.max_tokens
                total = sums.setdefault(recipe.name, Counter())
                total.update(requests=1, prompt_tokens=size + own, output_tokens=recipe.sampling.max_tokens)
        return {name: dict(sums[name]) for name in sorted(sums)}


def _hash(*parts: object) -> bytes:
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()


def in_share(share: float, *parts: object) -> bool:
    """Whether what ``parts`` name is among that share of all, by their hash alone."""
    return int.from_bytes(_hash(*parts)) < share * 2**64


def request_seed(seed: int, id: str, part: int, recipe: Recipe, attempt: int) -> int:
    """31 bits, a function of run, document and question alone, so never of shard or time."""
    digest = _hash(seed, id, part, recipe.name, recipe.version, attempt)
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


def split_text(text: str, words: int, tokens: int, count: Callable[[str], int]) -> list[str]:
    """``text`` in pieces of at most ``words`` and ``tokens``: cut at headings, else at empty lines,
    else at lines, else between words. Pieces are as long as they can be; nothing is lost but white
    space at the seams."""

    def fits(piece: str) -> bool:
        # a token is a character at least: most texts need not be encoded to see that they fit
        return len(piece.split()) <= words and (len(piece) <= tokens or count(piece) <= tokens)

    def pieces(text: str, level: int) -> Iterator[str]:
        if fits(text):
            yield text
            return
        held = ""
        for block in _blocks(text, level):
            if held and fits(held + block):
                held += block
                continue
            if held:
                yield held
            held = ""
            if fits(block):
                held = block
            elif level < 3:
                *whole, held = pieces(block, level + 1)
                yield from whole
            else:
                yield from _cut(block, fits)
        if held:
            yield held

    return [piece.strip() for piece in pieces(text, 0) if piece.strip()]


def _blocks(text: str, level: int) -> list[str]:
    """The blocks of a text, which put together give it again."""
    if level == 0:
        starts = [match.start() for match in _HEADING.finditer(text)]
        bounds = sorted({0, *starts, len(text)})
        return [text[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    pattern = (r"(?s).+?(?:\n[ \t]*\n\s*|\Z)", r"[^\n]*\n|[^\n]+\Z", r"\s*\S+\s*")[level - 1]
    return re.findall(pattern, text)


def _cut(block: str, fits: Callable[[str], bool]) -> Iterator[str]:
    """A word without end, in halves until they fit."""
    if fits(block) or len(block) < 2:
        yield block
        return
    middle = len(block) // 2
    yield from _cut(block[:middle], fits)
    yield from _cut(block[middle:], fits)
