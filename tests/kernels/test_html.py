"""The HTML kernels against the plain Python that is their contract, and against time."""

from __future__ import annotations

import pydoc
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.text import html_model
from kernels.text.html_features import FEATURE_VERSION
from kernels.text.html_model import ContentModel, ModelError, page_text
from kernels.text.html_names import NUM_WORDS, TAGS
from kernels.text.html_reference import Tokens, tree_scores
from kernels.text.html_tokens import Workspace
from kernels.text.html_trees import LEAF_SCALE, PROBABILITY, add_trees, cut, levels

NAMES = [name.encode() for name in TAGS if name != "?"]
PIECES = [
    b"<!--", b"-->", b"--!>", b"<!-->", b"<!DOCTYPE html>", b"<![CDATA[x]]>", b"<?php", b"</>", b"</", b"<",
    b"< ", b">", b"&", b"&amp;", b"&amp", b"&notit;", b"&NotEqualTilde;", b"&#65;", b"&#x41", b"&#150;",
    b"&#0;", b"&#", b"&#x110000;", b"&nbsp;", b"\xc2\xa0", b"\xc3\xa9", b"\xff", b"\0", b"\r\n", b"\r",
    b"\n\n",
    b"\t ", b"word", b"Two words.", b"x", b"<script><!-- <script> </script>", b"<p class='aB cd-ef x1'",
    b" id=mainContent", b" hidden", b" aria-hidden=true", b' style="Display : none"', b"<html lang=en>",
    b" href='https://creativecommons.org/licenses/x'", b" rel='nofollow license'", 
    b"<time itemprop=x datetime=2020>", b" itemtype=a/Ab",
    b"<link rel=canonical href=/a>", b"<meta name=Robots content='noindex'>", b"/>", b"'", b'"', b"=", b" ",
    b'<script type="application/ld+json">{"datePublished": "2024-05-06"}</script>', b"<svg/>", b"<pre>\n",
    b"<br>", b"</br>", b"<pre>\r\n  a\n",
]  # fmt: skip
tags = st.builds(
    lambda end, name, rest: b"<" + end + name + rest,
    st.sampled_from([b"", b"", b"/"]),
    st.sampled_from([*NAMES, b"x-y", b"DIV", b"Pre"]),
    st.sampled_from([b">", b">", b" ", b" class=a>", b"/>", b"\n"]),
)
soup = st.lists(tags | st.sampled_from(PIECES), max_size=40).map(b"".join) | st.binary(max_size=120)
WORKSPACE = Workspace()


def tokens(page: bytes) -> tuple:
    WORKSPACE.tokenize(page)
    marks = {int(k): tuple(map(int, WORKSPACE.marks[k])) for k in np.flatnonzero(WORKSPACE.marks[:, 1])}
    return (
        WORKSPACE.elements[:, :7].tolist(),
        WORKSPACE.words.tolist(),
        WORKSPACE.blocks[:, :13].tolist(),
        WORKSPACE.text.tobytes(),
        marks,
    )


def expected(page: bytes) -> tuple:
    said = Tokens(page)
    return said.elements, said.words, said.blocks, bytes(said.text), said.marks


@settings(deadline=None, max_examples=400)
@given(soup)
@example(b"")
@example(b"<p")
@example(b"&")
@example(b"x<p>" * 600 + b"<div>" * 600 + b"y" + b"</div>" * 300 + b"z")
def test_the_tokenizer_keeps_its_contract(page):
    assert tokens(page) == expected(page)


def test_a_page_of_pydoc_is_read_alike():
    page = pydoc._url_handler("argparse.html", "text/html").encode()
    assert tokens(page) == expected(page)
    assert len(WORKSPACE.blocks) > 100


HOSTILE = {
    "nested div": lambda n: b"<div>" * n + b"x" + b"</div>" * n,
    "unclosed tags": lambda n: b"<p><b>x<i>" * n,
    "crosswise": lambda n: b"<b><i>" * n + b"x</b></i>" * n,
    "nested tables": lambda n: b"<table><tr><td>" * n + b"x",
    "long attribute": lambda n: b'<p class="' + b"aB c-d " * n + b'">x',
    "many attributes": lambda n: b"<p " + b"a=b class=c " * n + b">x",
    "unclosed quotes": lambda n: b"<a b='<a c=\"" * n,
    "unclosed comment": lambda n: b"x<!--" * n,
    "comments in scripts": lambda n: b"<script><!--</script>" * n,
    "scripts in scripts": lambda n: b"<script><!--<script></script>" * n,
    "unclosed raw text": lambda n: b"<svg><title><template><iframe>" * n,
    "half references": lambda n: b"&am&#x&#" * n,
    "lone <": lambda n: b"<" * 4 * n,
    "one line": lambda n: b"word " * 2 * n,
    "breaks": lambda n: b"<br>&nbsp;" * n,
    "NUL": lambda n: b"\0a" * 4 * n,
    "preformatted": lambda n: b"<pre>" + b"<div>x\n" * n,
    "end tags": lambda n: b"</div></p></b>" * n,
    "styles": lambda n: b'<p style="' + b"display:" * n + b'">x',
    "JSON-LD": lambda n: b'<script type="application/ld+json">' + b'"datePublished":""' * n + b"</script>",
}


def cpu(page: bytes) -> float:
    """Seconds of CPU time, the least of three tries."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        WORKSPACE.tokenize(page)
        best = min(best, time.process_time() - started)
    return best


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_the_bytes(name):
    small, large = HOSTILE[name](10_000), HOSTILE[name](80_000)
    tokens(small[:40_000])
    assert tokens(small[:4_000]) == expected(small[:4_000])
    # a square would make it 64 times; short times are mostly the memory's that is touched first
    assert cpu(large) < 20 * max(cpu(small), 0.001)
    first = tokens(large)[3]
    assert tokens(large)[3] == first


def lay_out(page: str, markdown: bool = False) -> str:
    WORKSPACE.tokenize(page.encode())
    return page_text(WORKSPACE, np.ones(len(WORKSPACE.blocks), np.bool_), markdown)


PAGE = """<h1>A<br>title</h1>text<p>one<br>two</p><p>three</p><ul><li>a<li>b<ol><li>c<li><p>d<p>e</ol></ul>
<pre>\n  def f(x):\n\treturn x &lt; 1 ```\n</pre><table><tr><th>k<th>v|w<tr><td>1<td><p>2</table><p>end"""


def test_the_text_has_lines_lists_tables_and_code():
    assert lay_out(PAGE) == (
        "A\ntitle\n\ntext\n\none\ntwo\n\nthree\n\na\nb\nc\nd\ne\n\n"
        "  def f(x):\n\treturn x < 1 ```\n\nk\tv|w\n1\t2\n\nend"
    )


def test_markdown():
    assert lay_out(PAGE, markdown=True) == (
        "# A title\n\ntext\n\none\ntwo\n\nthree\n\n- a\n- b\n    1. c\n    1. d\n        e\n\n"
        "````\n  def f(x):\n\treturn x < 1 ```\n````\n\n| k | v\\|w |\n|---|---|\n| 1 | 2 |\n\nend"
    )


def test_trees_and_cut_keep_their_contract():
    rng = np.random.default_rng(3)
    columns = rng.standard_normal((5, 70)).astype(np.float32)
    features = rng.integers(0, 5, (9, 31)).astype(np.int32)
    thresholds = rng.standard_normal((9, 31)).astype(np.float32)
    # the last leaf always stays, as in every tree
    masks = rng.integers(0, 2**32, (9, 31), dtype=np.uint32) | np.uint32(2**31)
    leaves = rng.integers(-LEAF_SCALE, LEAF_SCALE, (9, 32))
    scores = np.empty(70, np.int64)
    add_trees(columns, 70, features, thresholds, masks, leaves, np.empty(70, np.uint32), scores)
    assert scores.tolist() == tree_scores(columns, features, thresholds, masks, leaves)
    found = np.empty(70, np.int64)
    levels(scores, 70, found)
    weights = rng.integers(1, 50, 70)
    lowest, expected_f1 = cut(found, weights)
    chances = PROBABILITY[found] / 2**16

    def f1(least: int) -> float:
        kept = found >= least
        return 2 * (chances * weights)[kept].sum() / (weights[kept].sum() + (chances * weights).sum())

    assert expected_f1 == pytest.approx(max(f1(level) for level in set(found.tolist())))
    assert f1(lowest) == pytest.approx(expected_f1)


def model() -> ContentModel:
    rng = np.random.default_rng(1)
    return ContentModel(
        rng.integers(-9, 9, NUM_WORDS).astype(np.int8),
        rng.integers(-9, 9, NUM_WORDS).astype(np.int8),
        np.zeros((2, 3), np.int32),
        np.full((2, 3), np.inf, np.float32),
        np.full((2, 3), 2**32 - 1, np.uint32),
        np.ones((2, 32), np.int64),
        facts={"made": "here"},
    )


def test_a_model_file_is_the_model(tmp_path):
    model().save(tmp_path / "a")
    model().save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = ContentModel.load(tmp_path / "a")
    assert again.facts == {"made": "here"} and (again.class_words == model().class_words).all()


def test_another_model_is_refused(tmp_path, monkeypatch):
    (tmp_path / "text").write_text("no model")
    with pytest.raises(ModelError, match="is no model of the extractor"):
        ContentModel.load(tmp_path / "text")
    with pytest.raises(ModelError, match="is no model of the extractor"):
        ContentModel.load(tmp_path / "none")
    monkeypatch.setattr(html_model, "FEATURE_VERSION", 99)
    model().save(tmp_path / "newer")
    monkeypatch.undo()
    with pytest.raises(ModelError, match=f"feature version 99, this program has {FEATURE_VERSION}"):
        ContentModel.load(tmp_path / "newer")
    replace(model(), features=np.full((2, 3), 9999, np.int32)).save(tmp_path / "wild")
    with pytest.raises(ModelError, match="tests a feature that there is not"):
        ContentModel.load(tmp_path / "wild")
    replace(model(), class_words=np.zeros(5, np.int8)).save(tmp_path / "short")
    with pytest.raises(ModelError, match="class_words is int8"):
        ContentModel.load(tmp_path / "short")
