"""Main content of an HTML page by one of three extractors, and what the page says about itself."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import urljoin

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import DOMContext, HTMLTree, traverse_dom

from kernels.text import html_names as says
from kernels.text.html_model import ContentModel, page_text
from kernels.text.html_tokens import Workspace
from pipelines.extract.charset import checked_page, is_utf8, utf8_page

MODEL = Path(__file__).with_name("columnar.safetensors")
STRUCTURES = ("text", "markdown")
# resiliparse takes time quadratic in depth: 0.2 s at 3,000, 2.5 s at 10,000, 294 s at 100,000.
MAX_DEPTH = 3000

# Finds an element at that depth in native code, 40 times sooner than a walk through the tree.
_DEEP_ELEMENT = ">".join("*" * MAX_DEPTH)
_OPTOUT = re.compile(r"\b(noai|noindex|none)\b", re.IGNORECASE)
_COMMONS = re.compile(r"^https?://creativecommons\.org/(licenses|publicdomain)/", re.IGNORECASE)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*")
_DAY = re.compile(r"(\d{4})[-/](\d{2})[-/](\d{2})")
_own = threading.local()


class TooDeep(ValueError):
    """The page nests its elements deeper than ``MAX_DEPTH``."""


@dataclass(frozen=True)
class Page:
    """What the extractor found (``text``; ``confidence``, the F1 it expects of it, None where it does
    not say), and what the page says of itself.

    ``license``: the target of rel="license", else the first link to a Creative Commons license: a
    hint, not a proof. ``optout``: <meta name="robots"> says noai, noindex or none, or
    <meta name="tdm-reservation"> says 1.
    """

    text: str
    confidence: float | None
    title: str
    language: str
    license: str
    optout: bool
    canonical_url: str
    published_at: datetime | None


def extract_page(html: bytes, url: str, extractor: str = "columnar", structure: str = "text") -> Page:
    """Main content of a page in UTF-8, and what it says about itself.

    ``extractor`` is a name of ``EXTRACTORS``, ``structure`` one of ``STRUCTURES``. White space of
    <pre> is kept (not by trafilatura); no-break spaces are plain ones. Raises TooDeep, the columnar
    one never.
    """
    page = _workspace()
    page.tokenize(html)
    text, confidence = EXTRACTORS[extractor](page, structure)
    license_ = page.said(says.LICENSE).strip()
    if not license_ and _COMMONS.match(common := page.said(says.COMMONS).strip()):
        license_ = common
    return Page(
        text=text,
        confidence=confidence,
        title=" ".join(page.said(says.TITLE).replace("\0", "").split()),
        language=language if _LANGUAGE.fullmatch(language := page.said(says.LANGUAGE).strip()) else "",
        license=_joined(url, license_),
        optout=page.said(says.RESERVATION).strip() == "1" or opts_out(page.said(says.ROBOTS)),
        canonical_url=_joined(url, page.said(says.CANONICAL).strip()),
        published_at=_published(page),
    )


def extract_body(
    body: bytes, content_type: str, url: str, extractor: str = "columnar", structure: str = "text"
) -> tuple[Page, str]:
    """The page of a response's body, and its encoding; ``content_type`` is the whole header value."""
    html, encoding = utf8_page(body, content_type)
    page = extract_page(html, url, extractor, structure)
    if encoding == "utf-8" and "\ufffd" in page.text + page.title and not is_utf8(body):
        html, encoding = checked_page(body, content_type)
        page = extract_page(html, url, extractor, structure)
    return page, encoding


def opts_out(directives: str) -> bool:
    """Whether robots directives (a meta tag's, an X-Robots-Tag's) keep a page from being used."""
    return _OPTOUT.search(directives) is not None


def _columnar(page: Workspace, structure: str) -> tuple[str, float | None]:
    keep, expected = _model().choose(page)
    return page_text(page, keep, structure == "markdown"), expected


def _resiliparse(page: Workspace, structure: str) -> tuple[str, float | None]:
    tree = _tree(page)
    text = extract_plain_text(tree, main_content=True, alt_texts=False)
    return text.replace("\xa0", " "), None


def _trafilatura(page: Workspace, structure: str) -> tuple[str, float | None]:
    import trafilatura  # here, because it takes a second to import and few choose it

    _tree(page)
    text = trafilatura.extract(
        _decoded(page),
        output_format="markdown" if structure == "markdown" else "txt",
        include_comments=False,
        include_tables=True,
    )
    return (text or "").replace("\xa0", " "), None


EXTRACTORS: dict[str, Callable[[Workspace, str], tuple[str, float | None]]] = {
    "columnar": _columnar,
    "resiliparse": _resiliparse,
    "trafilatura": _trafilatura,
}


def _workspace() -> Workspace:
    """One a thread: its arrays are used from page to page."""
    if not hasattr(_own, "workspace"):
        _own.workspace = Workspace()
    return _own.workspace


@cache
def _model() -> ContentModel:
    return ContentModel.load(MODEL)


def _decoded(page: Workspace) -> str:
    return page.page.decode("utf-8", "replace").replace("\0", "")


def _tree(page: Workspace) -> HTMLTree:
    """Raises TooDeep."""
    tree = HTMLTree.parse(_decoded(page))
    # a bound but for the elements that a parser adds: half of it leaves room for them
    if 2 * page.balance > MAX_DEPTH:
        _check_depth(tree)
    return tree


def _joined(url: str, target: str) -> str:
    try:
        return urljoin(url, target) if target else ""
    except ValueError:
        return ""


def _published(page: Workspace) -> datetime | None:
    """The first date that the page gives for itself and that can be read; UTC where it names no zone."""
    for mark in (says.PUBLISHED, says.PUBLISHED_DATA, says.PUBLISHED_TIME):
        said = page.said(mark).strip()
        found: datetime | None
        try:
            found = datetime.fromisoformat(said)
        except ValueError:
            day = _DAY.match(said)
            try:
                found = datetime(*map(int, day.groups())) if day else None  # type: ignore[arg-type]
            except ValueError:
                found = None
        if found is not None and found.year > 1:
            return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    return None


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
