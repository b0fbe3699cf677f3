"""YAML read into frozen dataclasses: every mistake with file, line, field and the nearest name."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any

import yaml


class RecipeError(ValueError):
    """A recipe that cannot be used. Lists every mistake, a line each: file:line: what is wrong."""


def nearest(word: str, words: list[str]) -> str:
    """A suggestion to end an error message with: '; did you mean x?', or what there is."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f" (there is: {', '.join(words) or 'nothing'})"


class Reader:
    """One YAML file, its values, and the line of each of its keys."""

    def __init__(self, file: str | Path) -> None:
        self.file = str(file)
        self.errors: list[str] = []
        self._lines: dict[tuple, int] = {}
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{file}: cannot be read: {error}") from error
        try:
            tree = yaml.compose(text, Loader=yaml.SafeLoader)
            self.value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{file}:{mark.line + 1}" if mark else str(file)
            raise RecipeError(f"{where}: not YAML: {getattr(error, 'problem', error)}") from error
        if not isinstance(self.value, dict) or tree is None:
            raise RecipeError(f"{file}: a recipe is a mapping with the keys 'name', 'version' and 'prompt'")
        self._index(tree, ())

    def _index(self, node: yaml.Node, path: tuple) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, key.value)
                again = here in self._lines
                self._lines[here] = key.start_mark.line + 1
                if again:
                    self.error(here, "is given twice")
                self._index(value, here)

    def error(self, path: tuple, text: str) -> None:
        """Note that what stands at ``path`` is wrong."""
        known = path
        while known and known not in self._lines:
            known = known[:-1]
        where = f"{self.file}:{self._lines[known]}" if known else self.file
        field = f"field {'.'.join(map(str, path))!r} " if path else ""
        self.errors.append(f"{where}: {field}{text}")

    def raise_errors(self) -> None:
        if self.errors:
            raise RecipeError("\n".join(self.errors))

    def build(self, cls: Any, value: Any, path: tuple) -> Any:
        """``cls(**value)`` with names and types checked; None, and errors noted, where that fails."""
        if not isinstance(value, dict):
            self.error(path, f"must be a mapping, not {value!r}")
            return None
        hints = typing.get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        before = len(self.errors)
        given = {}
        for key, item in value.items():
            here = (*path, str(key))
            if key not in fields:
                self.error(here, "is unknown" + nearest(str(key), list(fields)))
            elif (fitted := _fit(item, hints[key])) is _WRONG:
                self.error(here, f"must be {_say(hints[key])}, not {item!r}")
            else:
                given[key] = fitted
        for name, field in fields.items():
            needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if needed and name not in value:
                self.error((*path, name), "is missing")
        if len(self.errors) > before:
            return None
        try:
            return cls(**given)
        except ValueError as error:
            self.error(path, str(error))
            return None


_WRONG = object()


def _fit(value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint`` says (a list becomes a tuple, an int a float), or _WRONG."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((fit for kind in arguments if (fit := _fit(value, kind)) is not _WRONG), _WRONG)
    if hint is types.NoneType:
        return None if value is None else _WRONG
    if origin is tuple:
        items = [_fit(item, arguments[0]) for item in value] if isinstance(value, list) else [_WRONG]
        return _WRONG if _WRONG in items else tuple(items)
    if origin is typing.Literal:
        return value if value in arguments else _WRONG
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kind = origin or hint
    return value if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) else _WRONG


def _say(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_say(kind) for kind in arguments)
    if origin is tuple:
        return f"a list of {_say(arguments[0])}"
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(
        hint, "null" if hint is types.NoneType else "a mapping"
    )
