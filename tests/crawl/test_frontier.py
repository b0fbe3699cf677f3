from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.crawl.frontier import Frontier
from pipelines.crawl.guard import AddressRefused, guard_reactor, is_public
from pipelines.crawl.urls import Answer, Scope, answer_of, canonical
from pipelines.warc import Record

NODES = [f"u{i}" for i in range(12)]
ANSWERS = st.dictionaries(
    st.sampled_from(NODES),
    st.one_of(
        st.lists(st.sampled_from(NODES), max_size=3).map(lambda links: Answer(tuple(links))),
        st.sampled_from(NODES).map(lambda target: Answer((), target)),
    ),
)


def run(answers: dict[str, Answer], max_pages: int, max_depth: int) -> list[tuple[int, str]]:
    frontier, order = Frontier(["u0", "u1"], max_pages, max_depth), []
    while wave := frontier.next_wave():
        for url in frontier.admit(wave):
            order.append((frontier.depth, url))
            frontier.add(answers.get(url, Answer()))
    return order


def shortest(answers: dict[str, Answer]) -> dict[str, int]:
    """Depth of each URL by relaxation until nothing changes; a redirect costs nothing."""
    depth = {"u0": 0, "u1": 0}
    while True:
        new = dict(depth)
        for url, at in depth.items():
            answer = answers.get(url, Answer())
            for target, cost in [*((t, 1) for t in answer.links), (answer.redirect, 0)]:
                if target is not None:
                    new[target] = min(new.get(target, 99), at + cost)
        if new == depth:
            return depth
        depth = new


@given(ANSWERS, st.integers(0, 6))
def test_depth_is_the_shortest_path(answers, max_depth):
    found = run(answers, 100, max_depth)
    chains = sum(answer.redirect is not None for answer in answers.values())
    if chains <= 5:  # longer chains of redirects go one level deeper, as documented
        expected = {url: at for url, at in shortest(answers).items() if at <= max_depth}
        assert {url: depth for depth, url in found} == expected
    assert len({url for _, url in found}) == len(found)


@given(ANSWERS, st.integers(1, 12))
def test_max_pages_cuts_the_same_order(answers, max_pages):
    assert run(answers, max_pages, 9) == run(answers, 100, 9)[:max_pages]


def test_an_endless_chain_of_redirects_gets_deeper():
    answers = {f"u{i}": Answer((), f"u{i + 1}") for i in range(1000)}
    assert len(run(answers, 10_000, 3)) < 30


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("HTTP://Example.ORG:80/a/../b?z=1&a=2#f", "http://example.org/b?z=1&a=2"),
        ("https://example.org:443", "https://example.org/"),
        ("http://example.org:8080/%7ea b/é", "http://example.org:8080/%7Ea%20b/%C3%A9"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x"),
        ("http://user:pw@example.org/", None),
        ("file:/etc/passwd", None),
        ("javascript:alert(1)", None),
        ("http://", None),
        ("http://a:99999/", None),
        ("http://[bad/", None),
        ("http://example.org/" + "x" * 3000, None),
    ],
)
def test_canonical(given, expected):
    assert canonical(given) == expected
    if expected:
        assert canonical(expected) == expected


SCOPE = Scope(hosts=frozenset({"a.org"}), allow=(), deny=(re.compile("/no/"),))


def page(body: str, **changes) -> Record:
    common = {"kind": "response", "offset": 0, "url": "http://a.org/d/p", "status": 200}
    headers = changes.pop("headers", ()) + (("content-type", "text/html"),)
    return Record(**{**common, "headers": headers, "body": body.encode(), **changes})


def test_links_of_a_page():
    body = """<base href="/base/"><a href=x>1</a><A HREF=' ../y?q#f '>2</A><area href=//a.org/z>
    <a href=http://b.org/>3</a><a href=/no/w>4</a><a rel="x NoFollow" href=/v>5</a><a name=k>6</a>
    <a href="http://[bad">7</a><a href=x>again</a>"""
    links = ("http://a.org/base/x", "http://a.org/y?q", "http://a.org/z")
    assert answer_of(page(body), SCOPE) == Answer(links)
    assert answer_of(page(body, status=404), SCOPE) == Answer()
    assert answer_of(page(""), SCOPE) == Answer()
    meta = "<meta name=ROBOTS content='noindex, NOFOLLOW'>"
    assert answer_of(page(meta + body), SCOPE) == Answer()
    tag = (("x-robots-tag", "nofollow"),)
    assert answer_of(page(body, headers=tag), SCOPE) == Answer()


def test_target_of_a_redirect():
    def moved(to: str) -> Record:
        return page("", status=301, headers=(("location", to),))

    assert answer_of(moved("q"), SCOPE) == Answer((), "http://a.org/d/q")
    assert answer_of(moved("http://b.org/"), SCOPE) == Answer()
    assert answer_of(page("", status=304), SCOPE).redirect in (None, "http://a.org/d/p")


def test_many_links_take_linear_time():
    import time

    body = "".join(f"<p><a href='/{i}'>x</a>" for i in range(20_000))
    start = time.perf_counter()
    assert len(answer_of(page(body), SCOPE).links) == 20_000
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("192.168.0.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False), ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True), ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False), ("::", False),
    ],
)  # fmt: skip
def test_is_public(address, public):
    assert is_public(address) is public


def test_the_guard_sees_the_address_that_is_dialled():
    class Reactor:
        dialled: list = []

        def connectTCP(self, host, port, factory):
            self.dialled.append((host, port, factory))
            return "connector"

    reactor = Reactor()
    guard_reactor(reactor)
    assert reactor.connectTCP("8.8.8.8", 443, "f") == "connector"
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1 is not a public address"):
        reactor.connectTCP("10.0.0.1", 80, "f")
    assert reactor.dialled == [("8.8.8.8", 443, "f")]
