"""Syntax of KQL queries (Kusto Query Language): statements, pipes, operators and expressions.

A recursive descent over the language's published grammar, learn.microsoft.com/kusto/query, as far
as queries in documentation go; it knows no schema, so names and types are not its business. Of
operators that are rare (scan, top-nested, the graph ones) only the brackets are checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from synth.checks.kql_expressions import Expressions, KqlError, tokens_of
from synth.checks.kql_words import BRACKETS_ONLY, OPERATORS

__all__ = ["KqlError", "check_kql"]

# "graph-shortest" is on the way to "graph-shortest-paths"
_HEADS = frozenset(name[: dash.start()] for name in OPERATORS for dash in re.finditer("-|$", name))
_COMMANDS = frozenset(
    ("show", "create", "alter", "drop", "ingest", "set", "append", "delete", "rename", "clear")
)


def check_kql(query: str) -> None:
    """Raise KqlError unless ``query`` is one or more statements of KQL."""
    command = re.match(r"\s*\.([a-z]+)\b", query)
    tokens = tokens_of(query[command.end() :] if command else query)
    if command:
        # management commands have a grammar each
        if command[1] not in _COMMANDS:
            raise KqlError(f"line 1: no management command is called .{command[1]}")
        _Query(tokens).balanced(ends=())
    else:
        _Query(tokens).query()


class _Query(Expressions):
    # statements

    def query(self) -> None:
        while True:
            self.statement()
            if not self.take(";"):
                # documents separate queries by an empty line too, but one block is one query
                if self.kind != "end":
                    raise self.fail("'|' or ';'")
                return
            if self.kind == "end":
                return

    def statement(self) -> None:
        if self.take("let"):
            self.name()
            self.need("=")
            self.take("view")
            self.pipeline()
        elif self.ahead("set", "declare", "alias", "restrict", "pattern") and self.peek() not in ("|", "("):
            self.at += 1
            self.balanced(ends=(";",))
        else:
            self.pipeline()

    def pipeline(self) -> None:
        called = self.peek() == "("
        if self.ahead("print", "union") or (self.ahead("range", "search", "find") and not called):
            operator = self.name()
            self.range() if operator == "range" else self.operator(operator)
        elif self.ahead("datatable", "externaldata"):
            self.at += 1
            self.bracket("(")
            if self.ahead("["):
                self.bracket("[")
            elif self.kind == "name" and self.text.startswith("["):
                # a list of one text looks like a name in brackets
                self.at += 1
            if self.take("with"):
                self.bracket("(")
        elif self.ahead("evaluate"):
            self.operator(self.name())
        else:
            self.expression()
        self.pipes()

    def pipes(self) -> None:
        while self.take("|"):
            self.operator(self.operator_name())

    def operator_name(self) -> str:
        word = self.name()
        while self.ahead("-") and f"{word}-{self.peek()}" in _HEADS:
            self.at += 1
            word = f"{word}-{self.name()}"
        if word not in OPERATORS:
            self.at -= 1
            raise self.fail("an operator such as 'where' or 'summarize'")
        return word

    def range(self) -> None:
        self.name()
        for word in ("from", "to", "step"):
            self.need(word)
            self.expression()

    # operators

    def operator(self, name: str) -> None:
        method = _METHODS.get(name)
        if name in BRACKETS_ONLY:
            self.balanced(ends=("|", ";", ")", "}"))
        elif method:
            self.hints()
            method(self)
        elif name in ("where", "filter", "take", "limit", "sample", "invoke", "evaluate"):
            self.hints()
            self.expression()
            if name == "evaluate" and self.take(":"):
                self.bracket("(")
        elif name in ("extend", "project", "print", "project-rename"):
            self.columns()
        elif name in ("project-away", "project-keep", "project-reorder", "distinct"):
            self.hints()
            self.columns(wild=True)
        elif name == "as":
            self.hints()
            self.name()
        elif name not in ("consume", "getschema"):
            raise self.fail(f"something that follows {name!r}")

    def hints(self) -> None:
        """``kind=leftouter``, ``hint.strategy=shuffle``, ``bin=...``, before an operator's arguments."""
        while (
            self.kind == "name"
            and (
                self.text
                in (
                    "kind",
                    "withsource",
                    "isfuzzy",
                    "bagexpansion",
                    "with_itemindex",
                    "flags",
                    "decodeblocks",
                )
            )
            and self.peek() == "="
        ) or (self.ahead("hint") and self.peek() == "."):
            if self.take("hint"):
                self.need(".")
            self.name()
            while self.take("."):
                self.name()
            self.need("=")
            self.at += self.kind in ("name", "string", "number")

    def columns(self, wild: bool = False) -> None:
        self.column(wild)
        while self.take(","):
            self.column(wild)

    def column(self, wild: bool = False) -> None:
        if wild and self.take("*"):
            self.order()
            return
        if self.ahead("(") and self._closes_before_equals():
            self.bracket("(")
            self.need("=")
        elif self.kind == "name" and self.peek() == "=":
            self.at += 2
        self.expression()
        if wild:
            # Event* and *_s are patterns of names
            while self.take("*"):
                if self.kind == "name":
                    self.at += 1
            self.order()

    def _closes_before_equals(self) -> bool:
        depth = 0
        for at in range(self.at, len(self.tokens)):
            text = self.tokens[at][1]
            depth += (text == "(") - (text == ")")
            if depth == 0:
                return self.tokens[at + 1][1] == "="
        return False

    def order(self) -> None:
        self.take("asc", "desc", "granny-asc", "granny-desc")
        if self.take("nulls"):
            self.need("first", "last")

    def summarize(self) -> None:
        if not self.ahead("by"):
            self.columns()
        if self.take("by"):
            self.columns()

    def sort(self) -> None:
        self.need("by")
        while True:
            self.expression()
            self.order()
            if not self.take(","):
                return

    def top(self) -> None:
        self.expression()
        self.sort()

    def sample_distinct(self) -> None:
        self.expression()
        self.need("of")
        self.expression()

    def count(self) -> None:
        if self.take("as"):
            self.name()

    def join(self) -> None:
        self.postfix() if not self.ahead("(") else self.subquery()
        self.hints()
        self.need("on", "where")
        self.columns()

    def query_until(self, end: str) -> None:
        while True:
            self.statement()
            if not self.take(";") or self.ahead(end):
                return

    def union(self) -> None:
        self.hints()
        while True:
            self.subquery() if self.ahead("(") else self.column(wild=True)
            self.hints()
            if not self.take(","):
                return

    def mv_expand(self) -> None:
        while True:
            self.column()
            if self.take("to"):
                self.need("typeof")
                self.bracket("(")
            if not self.take(","):
                break
        if self.take("limit"):
            self.expression()

    def mv_apply(self) -> None:
        self.mv_expand()
        self.need("on")
        self.need("(")
        # its rows are the source
        self.operator(self.operator_name())
        self.pipes()
        self.need(")")

    def parse(self) -> None:
        self.expression()
        self.need("with")
        pieces = 0
        while self.kind in ("string", "name") or self.ahead("*"):
            typed = self.kind == "name"
            self.at += 1
            if typed and self.take(":"):
                self.name()
            pieces += 1
        if not pieces:
            raise self.fail("a pattern")

    def make_series(self) -> None:
        while True:
            self.column()
            if self.take("default"):
                self.need("=")
                self.expression()
            if not self.take(","):
                break
        self.need("on")
        self.sum()
        if self.take("from"):
            self.expression()
        if self.take("to"):
            self.expression()
        if self.take("in"):
            self.expression()
        if self.take("step"):
            self.expression()
        if self.take("by"):
            self.columns()

    def render(self) -> None:
        self.name()
        if self.take("with"):
            self.bracket("(")
        # older spellings: kind=stacked title="..." by column
        while self.kind == "name" and self.peek() == "=":
            self.at += 2
            self.primary()
        if self.take("by"):
            self.columns()

    def serialize(self) -> None:
        if self.kind == "name":
            self.columns()


_METHODS: dict[str, Callable[[_Query], None]] = {
    "summarize": _Query.summarize,
    "sort": _Query.sort,
    "order": _Query.sort,
    "top": _Query.top,
    "sample-distinct": _Query.sample_distinct,
    "count": _Query.count,
    "join": _Query.join,
    "lookup": _Query.join,
    "union": _Query.union,
    "mv-expand": _Query.mv_expand,
    "mvexpand": _Query.mv_expand,
    "mv-apply": _Query.mv_apply,
    "parse": _Query.parse,
    "parse-where": _Query.parse,
    "make-series": _Query.make_series,
    "render": _Query.render,
    "serialize": _Query.serialize,
}
