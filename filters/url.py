"""What a URL alone says about a page: block lists, patterns, depth, long numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.columns import with_columns

# scheme, user, host (a name, or [IPv6]), port, path, query; a fragment is left out
_PARTS = (
    r"^(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//(?:[^/?#@]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:]*)(?::[0-9]*)?"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?"
)


@dataclass(frozen=True, kw_only=True)
class UrlRules:
    """Adds ``url_host`` and, for ``decide`` to judge, ``url_rule``: the first list that knows the
    URL ("host", "pattern" or "keyword", null for none); ``url_length`` in characters,
    ``url_depth`` (parts of the path), ``url_query_parameters`` and ``url_longest_number`` (digits
    in a row in path and query: session and ticket numbers). Null and 0 where there is no URL.
    """

    stage: ClassVar = "url_rules"
    shape: ClassVar = "map"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ("pyarrow",)
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "documents"
    needs: ClassVar = ("url",)
    adds: ClassVar = {
        "url_host": "string",
        "url_rule": "string",
        "url_length": "int32",
        "url_depth": "int32",
        "url_query_parameters": "int32",
        "url_longest_number": "int32",
    }

    blocked_hosts: tuple[str, ...] = ()
    """Host names; "example.org" blocks its subdomains too. Without scheme, port or path."""
    blocked_patterns: tuple[str, ...] = ()
    """Regular expressions (RE2) searched for in the whole URL."""
    blocked_keywords: tuple[str, ...] = ()
    """Words that may not stand in the URL, in any case, between characters that are no letters or
    digits."""

    def __post_init__(self) -> None:
        for host in self.blocked_hosts:
            if not re.fullmatch(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*|\[[0-9A-Fa-f:.]+\]", host):
                raise ValueError(f"blocked_hosts: {host!r} is no host name; write it without"
                                 " scheme, port or path")  # fmt: skip
        for pattern in self.blocked_patterns:
            try:
                pc.match_substring_regex(pa.array([""]), pattern)
            except pa.ArrowInvalid as error:
                raise ValueError(f"blocked_patterns: {pattern!r}: {error}") from error
        for keyword in self.blocked_keywords:
            if not re.fullmatch(r"[A-Za-z0-9]+", keyword):
                raise ValueError(
                    f"blocked_keywords: {keyword!r} is not one word of letters and digits;"
                    " use blocked_patterns"
                )

    def annotate(self, table: pa.Table) -> pa.Table:
        url = pc.fill_null(table["url"], "").cast(pa.string())
        parts = pc.extract_regex(url, _PARTS)
        host, path, query = (pc.struct_field(parts, name) for name in ("host", "path", "query"))
        host = pc.utf8_lower(host)
        rest = pc.binary_join_element_wise(path, query, "?", null_handling="replace")
        values = {
            "url_host": pc.utf8_rtrim(host, characters="."),
            "url_rule": self._first_list(url, host),
            "url_length": pc.utf8_length(url),
            "url_depth": pc.count_substring_regex(path, r"[^/]+"),
            "url_query_parameters": pc.count_substring_regex(query, r"[^&;]+"),
            "url_longest_number": _longest_number(rest),
        }
        values = {
            name: values[name] if kind == "string" else pc.fill_null(values[name], 0)
            for name, kind in self.adds.items()
        }
        return with_columns(table, self.adds, values)

    def _first_list(self, url: pa.ChunkedArray, host: pa.ChunkedArray) -> pa.ChunkedArray:
        rule = pa.nulls(len(url), pa.string())
        words = "|".join(map(re.escape, self.blocked_keywords))
        # the last that applies stays, so the first list comes last
        if words:
            keyword = rf"(?i)(?:^|[^A-Za-z0-9])(?:{words})(?:[^A-Za-z0-9]|$)"
            rule = pc.if_else(pc.match_substring_regex(url, keyword), "keyword", rule)
        for pattern in self.blocked_patterns:
            rule = pc.if_else(pc.match_substring_regex(url, pattern), "pattern", rule)
        if self.blocked_hosts:
            rule = pc.if_else(self._host_is_blocked(host), "host", rule)
        return rule

    def _host_is_blocked(self, host: pa.ChunkedArray) -> pa.ChunkedArray:
        blocked = pa.array([name.lower() for name in self.blocked_hosts], pa.string())
        host = pc.utf8_rtrim(pc.fill_null(host, ""), characters=".")
        found = pc.is_in(host, blocked)
        # a.b.c, then b.c, then c, until no host has a dot left
        while pc.any(pc.match_substring(host, ".")).as_py():
            host = pc.replace_substring_regex(host, r"^[^.]*\.?", "")
            found = pc.or_(found, pc.is_in(host, blocked))
        return found


def _longest_number(text: pa.ChunkedArray) -> pa.Array:
    """Digits of the longest run of 0-9 in each text."""
    # runs of other characters become one space, so that what is left splits into numbers
    numbers = pc.split_pattern(pc.replace_substring_regex(text, r"[^0-9]+", " "), " ")
    numbers = numbers.combine_chunks() if isinstance(numbers, pa.ChunkedArray) else numbers
    lengths = pc.binary_length(pc.list_flatten(numbers)).to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(numbers).to_numpy(zero_copy_only=False)
    longest = np.zeros(len(numbers), np.int32)
    np.maximum.at(longest, rows, lengths.astype(np.int32))
    return pa.array(longest)
