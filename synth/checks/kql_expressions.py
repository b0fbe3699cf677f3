"""Tokens and expressions of KQL, for synth/checks/kql.py."""

from __future__ import annotations

import re

from synth.checks.kql_words import COMPARISONS

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    | (?P<string>[hH]?(?:@"(?:[^"]|"")*"|@'(?:[^']|'')*'|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|```.*?```))
    | (?P<literal>\b(?:datetime|date|timespan|time|guid|decimal|long|int|real|bool)\s*\([\w.:+\s-]*\))
    | (?P<number>0[xX][0-9a-fA-F]+|\d+(?:\.(?!\.)\d*)?(?:[eE][+-]?\d+)?
        (?:microseconds?|milliseconds?|sec(?:onds?)?|min(?:utes?)?|hours?|hrs?|days?|ticks?|ms|[dhms])?(?!\w))
    | (?P<name>[$A-Za-z_]\w*|\d+[A-Za-z_]\w*|\['[^'\n]+'\]|\["[^"\n]+"\])
    | (?P<op>==|!=|<>|=~|!~|<=|>=|=>|\.\.|[-+*/%|,;:.()\[\]{}<>=!~?])""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class KqlError(ValueError):
    """A query that is not KQL: what was expected, and the line."""


def tokens_of(query: str) -> list[tuple[str, str, int]]:
    tokens, at, line = [], 0, 1
    while at < len(query):
        match = _TOKEN.match(query, at)
        if not match:
            raise KqlError(f"line {line}: {query[at : at + 12]!r} begins nothing of KQL")
        kind = match.lastgroup or ""
        if kind != "space":
            tokens.append((kind, match[0], line))
        line += match[0].count("\n")
        at = match.end()
    return [*tokens, ("end", "the end", line)]


class Expressions:
    """Recursive descent over tokens (kind, text, line), expressions and brackets of it."""

    def __init__(self, tokens: list[tuple[str, str, int]]) -> None:
        self.tokens = tokens
        self.at = 0

    # of statements, which expressions may hold

    def pipeline(self) -> None:
        raise NotImplementedError

    def query_until(self, end: str) -> None:
        raise NotImplementedError

    # what stands here

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    @property
    def text(self) -> str:
        return self.tokens[self.at][1]

    def fail(self, wanted: str) -> KqlError:
        kind, text, line = self.tokens[self.at]
        return KqlError(f"line {line}: {wanted} expected, not {text if kind == 'end' else repr(text)}")

    def ahead(self, *texts: str) -> bool:
        return self.kind in ("op", "name") and self.text in texts

    def take(self, *texts: str) -> bool:
        if self.ahead(*texts):
            self.at += 1
            return True
        return False

    def need(self, *texts: str) -> None:
        if not self.take(*texts):
            raise self.fail(" or ".join(map(repr, texts)))

    def name(self) -> str:
        if self.kind != "name":
            raise self.fail("a name")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def peek(self, ahead: int = 1) -> str:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)][1]

    # expressions, from the loosest binding on

    def expression(self) -> None:
        self.conjunction()
        while self.take("or"):
            self.conjunction()

    def conjunction(self) -> None:
        self.comparison()
        while self.take("and"):
            self.comparison()

    def comparison(self) -> None:
        self.sum()
        while True:
            if self.take("==", "!=", "<>", "=~", "!~", "<", "<=", ">", ">=", "="):
                self.sum()
                continue
            if not (self.ahead("!") and self.peek() in COMPARISONS) and not self.ahead(*COMPARISONS):
                return
            self.take("!")
            word = self.name()
            if word == "matches":
                self.need("regex")
                self.sum()
            elif word == "between":
                self.need("(")
                self.sum()
                self.need("..")
                self.sum()
                self.need(")")
            elif word in ("in", "has_any", "has_all"):
                self.take("~")
                self.arguments()
            else:
                self.sum()

    def sum(self) -> None:
        self.product()
        while self.take("+", "-"):
            self.product()

    def product(self) -> None:
        self.unary()
        while self.ahead("*", "/", "%") and self.peek() not in (",", ")", "|", "the end"):
            self.at += 1
            self.unary()

    def unary(self) -> None:
        while self.take("-", "+"):
            pass
        self.postfix()

    def postfix(self) -> None:
        self.primary()
        while True:
            if self.take("."):
                if self.ahead("["):
                    self.bracket("[")
                else:
                    self.name()
            elif self.ahead("["):
                self.at += 1
                self.expression()
                self.need("]")
            elif self.ahead("("):
                self.arguments()
            elif self.kind == "name" and self.text.startswith("["):
                self.at += 1
            else:
                return

    def primary(self) -> None:
        if self.kind == "string":
            # neighbours are one string
            while self.kind == "string":
                self.at += 1
        elif self.kind in ("number", "literal"):
            self.at += 1
        elif self.ahead("dynamic", "typeof") and self.peek() == "(":
            self.at += 1
            self.bracket("(")
        elif self.kind == "name":
            if self.text in (
                "and",
                "or",
                "by",
                "on",
                "asc",
                "desc",
                "where",
                "summarize",
                "extend",
                "project",
            ):
                raise self.fail("an expression")
            self.at += 1
        elif self.ahead("(") and self._is_lambda():
            self.bracket("(")
            self.need("{")
            self.query_until("}")
            self.need("}")
        elif self.ahead("("):
            self.subquery()
        elif self.ahead("*"):
            self.at += 1
        elif self.take("{"):
            self.query_until("}")
            self.need("}")
        else:
            raise self.fail("an expression")

    def _is_lambda(self) -> bool:
        depth = 0
        for at in range(self.at, len(self.tokens)):
            text = self.tokens[at][1]
            depth += (text == "(") - (text == ")")
            if depth == 0:
                return self.tokens[at + 1][1] == "{"
        return False

    def arguments(self) -> None:
        self.need("(")
        while not self.take(")"):
            if self.kind == "name" and self.peek() == "=":
                self.at += 2
            self.pipeline()
            if not self.ahead(")"):
                self.need(",")

    def subquery(self) -> None:
        self.need("(")
        self.query_until(")")
        self.need(")")

    # brackets of which only the nesting is looked at

    def bracket(self, opening: str) -> None:
        self.need(opening)
        self.balanced(ends=(_CLOSING[opening],), empty=True)
        self.need(_CLOSING[opening])

    def balanced(self, ends: tuple[str, ...], empty: bool = False) -> None:
        start = self.at
        while self.kind != "end" and not self.ahead(*ends):
            if self.ahead("(", "[", "{"):
                self.bracket(self.text)
            elif self.ahead(")", "]", "}"):
                raise self.fail("an opening bracket before it")
            elif self.take(","):
                if (
                    self.at == start + 1
                    or self.kind == "end"
                    or self.ahead(",", *(end for end in ends if end not in ("]", ")")))
                ):
                    raise self.fail("something between commas")
            else:
                self.at += 1
        if (self.at == start and not empty) or self.peek(-1) in ("by", "=", "on"):
            raise self.fail("something")
