"""Rules over columns make the verdict; nothing else in a chain of annotators drops by quality."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.presets import PRESETS

CONDITIONS = ("min", "max", "in", "not_in")


def _nearest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True, kw_only=True)
class Decide:
    """Drops a document by the first rule it fails; ``drop_rule`` names it, and ``failed_rules``
    lists all it fails ("would also have been dropped by"). A rule {column, min, max, in, not_in}
    is failed when the value is below ``min``, above ``max``, outside ``in`` or inside ``not_in``.
    A null fails no rule. A document that passes the second rule under a rule's ``or`` passes both.

    Example: presets: [technical], rules: {english: {column: language_label, in: [en]},
    technical_too_few_words: {min: 50}, technical_long_words: null}.
    """

    stage: ClassVar = "decide"
    shape: ClassVar = "map"
    version: ClassVar = 2
    determinism: ClassVar = "exact"
    libraries: ClassVar = ()
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "documents"
    needs: ClassVar = ()
    adds: ClassVar = {"failed_rules": "list<string>"}

    presets: tuple[str, ...] = ()
    """Named sets of rules, in order: ``web`` (the published Gopher, C4 and FineWeb thresholds),
    ``technical`` (documentation, code, logs, tables)."""
    rules: dict[str, dict[str, Any] | bool | None] = field(default_factory=dict)
    """Rules by name, after those of the presets. Under the name of a preset's rule: what is given
    replaces that part of it; null or false turns it off."""

    def __post_init__(self) -> None:
        if not self._effective():
            known = ", ".join(PRESETS)
            raise ValueError(f"decide has no rules: give presets ({known}) or write rules")

    def _effective(self) -> dict[str, dict[str, Any]]:
        """The rules in force, in order, checked."""
        effective: dict[str, dict[str, Any]] = {}
        for preset in self.presets:
            if preset not in PRESETS:
                raise ValueError(f"presets: no {preset!r}{_nearest(preset, PRESETS)}")
            effective |= PRESETS[preset]
        for name, rule in self.rules.items():
            if rule is None or rule is False:
                if name not in effective:
                    raise ValueError(
                        f"rules: {name!r} is turned off, but no preset in use has it"
                        + _nearest(name, effective)
                    )
                del effective[name]
            elif isinstance(rule, dict):
                effective[name] = {**effective.get(name, {}), **rule}
            else:
                raise ValueError(f"rules: {name!r} is {rule!r}; write a mapping, null or false")
        return {name: _checked(name, rule) for name, rule in effective.items()}

    def columns(self) -> set[str]:
        """Columns that the rules read."""
        return {part["column"] for rule in self._effective().values() for part in _alternatives(rule)}

    def annotate(self, table: pa.Table) -> pa.Table:
        rules = self._effective()
        names = pa.array(rules, pa.string())
        failed = np.zeros((table.num_rows, len(rules)), bool)
        for r, (name, rule) in enumerate(rules.items()):
            failed[:, r] = True
            for part in _alternatives(rule):
                column = part["column"]
                if column not in table.column_names:
                    raise ValueError(
                        f"decide: rule {name!r} reads column {column!r}, which no stage before it adds"
                        + _nearest(column, table.column_names)
                    )
                failed[:, r] &= _fails(name, part, table[column])
        any_failed = failed.any(axis=1)
        first = pa.array(failed.argmax(axis=1), mask=~any_failed)
        ends = np.concatenate([[0], failed.sum(axis=1).cumsum()]).astype(np.int32)
        all_failed = pa.ListArray.from_arrays(ends, names.take(pa.array(failed.nonzero()[1])))
        old = [name for name in ("drop_rule", "failed_rules") if name in table.column_names]
        table = table.drop_columns(old)
        table = table.append_column("failed_rules", all_failed)
        return table.append_column("drop_rule", names.take(first))


def _alternatives(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """The rule and those behind its ``or``: failing it is failing each of them."""
    return [rule, *(_alternatives(rule["or"]) if "or" in rule else [])]


def _checked(name: str, rule: dict[str, Any]) -> dict[str, Any]:
    rule = {key: value for key, value in rule.items() if value is not None}
    for key in rule:
        if key not in ("column", *CONDITIONS, "or"):
            near = _nearest(key, ("column", *CONDITIONS, "or"))
            raise ValueError(f"rules: {name!r} has an unknown key {key!r}{near}")
    if "or" in rule:
        if not isinstance(rule["or"], dict):
            raise ValueError(f"rules: {name!r}: or must be a rule, not {rule['or']!r}")
        rule["or"] = _checked(name, rule["or"])
    if not isinstance(rule.get("column"), str):
        raise ValueError(f"rules: {name!r} names no column")
    if not any(key in rule for key in CONDITIONS):
        raise ValueError(f"rules: {name!r} has no condition; give one of {', '.join(CONDITIONS)}")
    for key in ("min", "max"):
        if not isinstance(rule.get(key, 0), int | float):
            raise ValueError(f"rules: {name!r}: {key} must be a number, not {rule[key]!r}")
    for key in ("in", "not_in"):
        if not isinstance(rule.get(key, ()), list | tuple):
            raise ValueError(f"rules: {name!r}: {key} must be a list, not {rule[key]!r}")
    if rule.get("min", -np.inf) > rule.get("max", np.inf):
        raise ValueError(f"rules: {name!r} has min {rule['min']} above max {rule['max']}")
    return rule


def _fails(name: str, rule: dict[str, Any], column: pa.ChunkedArray) -> np.ndarray:
    fails = pa.chunked_array([np.zeros(len(column), bool)])
    try:
        if "min" in rule:
            fails = pc.or_(fails, pc.fill_null(pc.less(column, rule["min"]), False))
        if "max" in rule:
            fails = pc.or_(fails, pc.fill_null(pc.greater(column, rule["max"]), False))
        for key in ("in", "not_in"):
            if key in rule:
                listed = pc.is_in(column, pa.array(rule[key], column.type))
                inside = pc.and_(listed, pc.is_valid(column))
                outside = pc.and_(pc.invert(listed), pc.is_valid(column))
                fails = pc.or_(fails, outside if key == "in" else inside)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(
            f"decide: rule {name!r} does not fit column {rule['column']!r} of type {column.type}: {error}"
        ) from error
    return fails.to_numpy()
