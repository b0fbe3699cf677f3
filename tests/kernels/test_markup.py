"""kernels.text.markup against the plain Python that is its contract."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.text.markup import reference_markup, scan_markup

PIECES = [
    b"<", b"<p>", b"</p>", b"<br>", b"<BR/>", b"<!-- x", b">", b"rel", b"Rel ", b"=", b" = '", b'"',
    b"license", b"LICENSE", b"nofollow ", b"licens", b"robots", b"Robots", b"tdm-reservation",
    b"creativecommons.org/", b"creativecommons.org", b"\0", b"\n\t ", b"x" * 61, b"y" * 250, b"\xff",
]  # fmt: skip
pages = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join) | st.binary(max_size=200)


@settings(deadline=None)
@given(pages)
@example(b"")
@example(b"<")
@example(b"rel=" + b"x" * 255 + b"license")
@example(b"rel=" + b"x" * 256 + b"license")
def test_the_kernel_keeps_its_contract(page):
    assert scan_markup(page) == reference_markup(page)


@pytest.mark.parametrize("word", ["license", "robots", "reservation", "commons", "nul"])
def test_a_word_is_found_wherever_blocks_end(word):
    markup = {
        "license": b'<a rel="license" href=x>',
        "robots": b"<meta name=robots>",
        "reservation": b"<meta name='TDM-Reservation'>",
        "commons": b"<a href='https://CreativeCommons.org/'>",
        "nul": b"\0",
    }[word]
    for before in range(400):
        for after in (0, 1, 63, 64, 200):
            found = scan_markup(b"-" * before + markup + b"-" * after)
            names = ("license", "robots", "reservation", "commons", "nul")
            assert [name for name in names if getattr(found, name)] == [word]


def test_prose_about_a_license_names_none():
    found = scan_markup(b"<p class=a>The license = MIT. Robots may <a rel=next>read</a> the LICENSE.</p>")
    assert not found.license and not found.robots
