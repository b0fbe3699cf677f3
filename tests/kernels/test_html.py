"""The HTML kernels against the plain Python that is their contract, and against time."""

from __future__ import annotations

import pydoc

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.text.html_names import TAGS
from kernels.text.html_reference import Tokens
from kernels.text.html_tokens import Workspace

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
