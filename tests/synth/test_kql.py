"""The grammar of KQL: queries of ours are read, broken ones are not, and the error says where."""

from __future__ import annotations

import random

import pytest

from benchmarks.synth.queries import QUERIES, breakers
from synth.checks.kql import KqlError, check_kql


@pytest.mark.parametrize("query", QUERIES)
def test_whole_queries(query):
    check_kql(query)


@pytest.mark.parametrize("way", breakers())
def test_broken_queries(way):
    draw = random.Random(0)
    broken = [(query, breakers()[way](query, draw)) for query in QUERIES]
    broken = [worse for query, worse in broken if worse is not None and worse != query]
    assert broken
    for query in broken:
        with pytest.raises(KqlError):
            check_kql(query)


def test_the_error_says_where():
    with pytest.raises(KqlError, match=r"line 3: an operator such as 'where'.* not 'wher'"):
        check_kql("Perf\n| take 10\n| wher x == 1")
    with pytest.raises(KqlError, match="line 1: '\\)' expected, not the end"):
        check_kql("Perf | where (x > 1")


@pytest.mark.parametrize("depth", [50, 100_000])
def test_depth_is_no_crash(depth):
    from synth.checks.syntax import kql_problem

    query = "print " + "(" * depth + "1" + ")" * depth
    assert (kql_problem(query) is None) == (depth == 50)
