"""Main content of an HTML page, and what the page says about itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urljoin

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import DOMContext, HTMLTree, traverse_dom

from kernels.text.markup import Markup, scan_markup

EXTRACTORS = ("resiliparse", "trafilatura")
# resiliparse takes time quadratic in depth: 0.2 s at 3,000, 2.5 s at 10,000, 294 s at 100,000.
MAX_DEPTH = 3000

# Finds an element at that depth in native code, 40 times sooner than a walk through the tree.
_DEEP_ELEMENT = ">".join("*" * MAX_DEPTH)
_LICENSE = re.compile(r"^https?://creativecommons\.org/(licenses|publicdomain)/", re.IGNORECASE)
_OPTOUT = re.compile(r"\b(noai|noindex|none)\b", re.IGNORECASE)


class TooDeep(ValueError):
    """The page nests its elements deeper than ``MAX_DEPTH``."""


@dataclass(frozen=True)
class Page:
    """``text`` keeps the white space of <pre> as it is; no-break spaces are plain spaces in it."""

    title: str
    text: str
    license: str
    optout: bool


def extract_page(html: str, url: str, extractor: str, markup: Markup | None = None) -> Page:
    """Title, main content, license and opt-out of a page. ``markup``: of its bytes, if that is known.

    ``license``: the target of rel="license", else the first link to a Creative Commons license: a
    hint, not a proof. ``optout``: <meta name="robots"> says noai, noindex or none, or
    <meta name="tdm-reservation"> says 1. Raises TooDeep.
    """
    if markup is None or markup.nul:
        html = html.replace("\0", "")
        markup = scan_markup(html.encode("utf-8", "replace"))
    tree = HTMLTree.parse(html)
    if markup.depth > MAX_DEPTH:
        _check_depth(tree)
    if extractor == "trafilatura":
        import trafilatura  # here, because it takes a second to import and few choose it

        text = trafilatura.extract(html, include_comments=False, include_tables=True) or ""
    else:
        text = extract_plain_text(tree, main_content=True, alt_texts=False)
    # After the text: a title or a link must not change what is extracted.
    return Page(
        title=" ".join((tree.title or "").split()),
        text=text.replace("\xa0", " "),
        license=_license(tree, markup, url),
        optout=_optout(tree, markup),
    )


def opts_out(directives: str) -> bool:
    """Whether robots directives (a meta tag's, an X-Robots-Tag's) keep a page from being used."""
    return _OPTOUT.search(directives) is not None


def _license(tree: HTMLTree, markup: Markup, url: str) -> str:
    target = ""
    if markup.license:
        target = _first(tree, "link[rel~=license i][href], a[rel~=license i][href]", "href")
    if not target and markup.commons:
        target = _first(tree, "a[href*='creativecommons.org/licenses/']", "href")
        target = target or _first(tree, "a[href*='creativecommons.org/publicdomain/']", "href")
        target = target if _LICENSE.match(target) else ""
    try:
        return urljoin(url, target) if target else ""
    except ValueError:
        return ""


def _optout(tree: HTMLTree, markup: Markup) -> bool:
    if markup.reservation and _first(tree, "meta[name='tdm-reservation' i][content]", "content") == "1":
        return True
    return markup.robots and opts_out(_first(tree, "meta[name='robots' i][content]", "content"))


def _first(tree: HTMLTree, selector: str, attribute: str) -> str:
    """The attribute of the first element that the CSS selector finds, stripped; "" without one."""
    node = tree.document.query_selector(selector) if tree.document is not None else None
    return (node.getattr(attribute) or "").strip() if node is not None else ""


def _check_depth(tree: HTMLTree) -> None:
    """Raise TooDeep."""
    if tree.document is None or tree.document.query_selector(_DEEP_ELEMENT) is None:
        return
    deepest = 0

    def look(context: DOMContext) -> None:
        nonlocal deepest
        deepest = max(deepest, context.depth)

    # text in that element is one deeper
    traverse_dom(tree.document, look)
    if deepest > MAX_DEPTH:
        raise TooDeep(f"elements are nested {deepest} deep, more than {MAX_DEPTH}")
