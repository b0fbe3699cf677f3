"""What the HTML standard says of names: tags and how they nest, character references, in hash tables.

A name's hash is a polynomial of its bytes modulo 2^64 (:func:`name_hash`), so that a kernel has it
when it has read the name. Tables are open-addressed, empty where the key is 0.
"""

from __future__ import annotations

import html.entities
from collections.abc import Iterable

import numpy as np
from numba import njit

_GOLDEN = 0x9E3779B97F4A7C15
_ALL = 0xFFFFFFFFFFFFFFFF
HASH_START = np.uint64(7)
HASH_STEP = np.uint64(31)

# tag 0 is any element without a name below
_NAMES = (
    "? html head body div p section article main header footer nav aside h1 h2 h3 h4 h5 h6 ul ol li dl dt "
    "dd table thead tbody tfoot tr td th caption form fieldset legend button label select option textarea "
    "figure figcaption blockquote pre details summary dialog address hr br center menu a code span img time "
    "input noscript script style svg template iframe title meta link"
)
_OTHER_VOID = "area base col embed param source track wbr frame"
_FORMATS = (
    "b i em strong u s small big font sub sup abbr cite q mark ins del kbd samp var tt bdi bdo nobr "
    "strike dfn"
)
TAGS = {name: number for number, name in enumerate(_NAMES.split())}
NUM_TAGS = len(TAGS) + 2
TAGS |= dict.fromkeys(_OTHER_VOID.split(), NUM_TAGS - 2) | dict.fromkeys(_FORMATS.split(), NUM_TAGS - 1)


def _is(names: str) -> np.ndarray:
    marked = np.zeros(NUM_TAGS, np.bool_)
    marked[[TAGS[name] for name in names.split()]] = True
    return marked


def _bits(names: str) -> np.uint64:
    return np.uint64(sum(1 << TAGS[name] for name in names.split()))


# text before and after these is not of one line
BLOCK_TAGS = np.arange(NUM_TAGS) <= TAGS["menu"]
BLOCK_TAGS[[TAGS["?"], TAGS["br"]]] = False
BLOCK_TAGS[TAGS["noscript"]] = True
VOID_TAGS = _is("hr br img input meta link area")
# their content is no markup
RAW_TAGS = _is("script style svg template iframe title textarea")
# a start tag ends the open elements of CLOSES above the nearest one of STOPS
CLOSES = np.zeros(NUM_TAGS, np.uint64)
STOPS = np.zeros(NUM_TAGS, np.uint64)
for _names, _ends, _until in (
    (
        "div p section article main header footer nav aside h1 h2 h3 h4 h5 h6 ul ol dl table form fieldset "
        "figure figcaption blockquote pre details dialog address hr center menu",
        "p",
        "table td th caption button body",
    ),
    ("li", "li p", "ul ol menu body td th div"),
    ("dt dd", "dt dd p", "dl body td div"),
    ("tr", "tr td th p", "table body"),
    ("td th", "td th p", "tr table body"),
    ("tbody thead tfoot", "tbody thead tfoot tr td th", "table body"),
    ("option", "option", "select body"),
):
    for _name in _names.split():
        CLOSES[TAGS[_name]], STOPS[TAGS[_name]] = _bits(_ends), _bits(_until)
# an end tag of a block does not reach past these, unless it is one of a table's own
END_STOPS = _bits("table td th body caption")
TABLE_PARTS = _is("table thead tbody tfoot tr td th caption")

# bits of an element's flags, and of all that it holds
_ANCESTORS = (
    "nav header footer aside main article section form table li pre h1 h2 figure button label dialog "
    "details blockquote dl a select noscript"
)
TAG_FLAGS = np.zeros(NUM_TAGS, np.int64)
for _bit, _name in enumerate(_ANCESTORS.split()):
    TAG_FLAGS[TAGS[_name]] = 1 << _bit
for _name in ("h3", "h4", "h5", "h6"):
    TAG_FLAGS[TAGS[_name]] = TAG_FLAGS[TAGS["h2"]]
HIDDEN, ARIA_HIDDEN = 1 << 24, 1 << 25

# what a page says about itself: kinds of marks, and the names that <meta> has for them
(
    TITLE,
    LANGUAGE,
    ROBOTS,
    RESERVATION,
    LICENSE,
    COMMONS,
    CANONICAL,
    PUBLISHED,
    PUBLISHED_DATA,
    PUBLISHED_TIME,
) = range(10)
NUM_MARKS = 10
META_NAMES = {
    "robots": ROBOTS,
    "tdm-reservation": RESERVATION,
    "article:published_time": PUBLISHED,
    "og:article:published_time": PUBLISHED,
    "datepublished": PUBLISHED,
    "citation_publication_date": PUBLISHED,
    "dc.date.issued": PUBLISHED,
}


# attributes that tell something
(CLASS, ID, HIDDEN_ATTRIBUTE, ARIA_ATTRIBUTE, STYLE, REL, HREF, NAME, CONTENT, TYPE, LANG, DATETIME) = range(
    12
)
ATTRIBUTES = {
    "class": CLASS,
    "id": ID,
    "role": ID,
    "aria-label": ID,
    "itemtype": ID,
    "hidden": HIDDEN_ATTRIBUTE,
    "aria-hidden": ARIA_ATTRIBUTE,
    "style": STYLE,
    "rel": REL,
    "href": HREF,
    "name": NAME,
    "property": NAME,
    "itemprop": NAME,
    "content": CONTENT,
    "type": TYPE,
    "lang": LANG,
    "datetime": DATETIME,
}


def name_hash(name: str) -> int:
    """The hash of a name's UTF-8 bytes."""
    value = int(HASH_START)
    for byte in name.encode():
        value = (value * int(HASH_STEP) + byte) & _ALL
    return value


def word_id(name: str, seed: int = 0) -> int:
    """18 bits of a name's hash: its place in a word table."""
    return (((name_hash(name) ^ seed) * _GOLDEN) & _ALL) >> 46


NUM_WORDS = 1 << 18


def _table(items: Iterable[tuple[str, int]], size: int) -> tuple[np.ndarray, np.ndarray]:
    keys, values = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for name, value in items:
        key = name_hash(name)
        at = (key ^ key >> 9) & (size - 1)
        while keys[at]:
            assert keys[at] != key, name
            at = (at + 1) & (size - 1)
        keys[at], values[at] = key, value
    return keys, values


TAG_KEYS, TAG_VALUES = _table(((name, tag) for name, tag in TAGS.items() if tag), 1024)
META_KEYS, META_VALUES = _table(META_NAMES.items(), 64)
ATTRIBUTE_KEYS, ATTRIBUTE_VALUES = _table(ATTRIBUTES.items(), 128)
# "amp;" and, where the standard knows it without its semicolon, "amp": the first code point, and the
# second one times 2^21
ENTITY_KEYS, ENTITY_VALUES = _table(
    (
        (name, sum(ord(char) << 21 * k for k, char in enumerate(value)))
        for name, value in html.entities.html5.items()
    ),
    8192,
)
LONGEST_ENTITY = max(map(len, html.entities.html5))
LONGEST_BARE_ENTITY = max(len(name) for name in html.entities.html5 if not name.endswith(";"))
# numbers from 128 to 159 mean what windows-1252 means by them, 0 where it means nothing
CODE_PAGE = np.array([ord(bytes([b]).decode("cp1252", "ignore") or "\0") for b in range(128, 160)])


@njit(nogil=True, cache=True, inline="always")
def look_up(keys, values, key, absent):
    """The value of a table's key, or ``absent``."""
    at = np.int64((key ^ (key >> np.uint64(9))) & np.uint64(keys.size - 1))
    while keys[at] != 0:
        if keys[at] == key:
            return values[at]
        at = (at + 1) & (keys.size - 1)
    return np.int64(absent)


@njit(nogil=True, cache=True, inline="always")
def word_of(value):
    """:func:`word_id` of a hash."""
    return np.int64((value * np.uint64(_GOLDEN)) >> np.uint64(46))
