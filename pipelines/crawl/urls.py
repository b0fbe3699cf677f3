"""URLs: one spelling for each, which of them are followed, and which a page names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit, urlunsplit

from lxml import etree
from w3lib.url import safe_url_string

from pipelines.extract.charset import decode_page
from pipelines.warc import Record

MAX_URL_LENGTH = 2083
HTML_TYPES = ("text/html", "application/xhtml+xml")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ESCAPE = re.compile(r"%[0-9a-f]{2}", re.IGNORECASE)


def canonical(url: str) -> str | None:
    """The one spelling of an http(s) URL that the crawl asks for, or None when it has none.

    Lower-case scheme and host, no default port, no fragment, "/" for an empty path, no dot
    segments, characters that need it percent-encoded. The query stays as it is: its order may
    matter.
    """
    try:
        parts = urlsplit(safe_url_string(url.strip()))
        port = parts.port
    except (ValueError, UnicodeError):
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.username is not None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port not in (None, _DEFAULT_PORTS[parts.scheme]):
        host = f"{host}:{port}"
    path = _ESCAPE.sub(lambda match: match[0].upper(), parts.path) or "/"
    if "/." in path:
        path = urlsplit(urljoin("http://host/", "." + path)).path
    bare = urlunsplit((parts.scheme, host, path, parts.query, ""))
    return bare if len(bare) <= MAX_URL_LENGTH else None


def host_of(url: str) -> str:
    """Host and, unless it is the scheme's own, port of a canonical URL: the unit of politeness."""
    return urlsplit(url).netloc


def origin_of(url: str) -> str:
    """Scheme and host of a URL: what one robots.txt speaks for."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which links are followed."""

    hosts: frozenset[str]
    allow: tuple[re.Pattern[str], ...]
    deny: tuple[re.Pattern[str], ...]

    def __contains__(self, url: str) -> bool:
        if host_of(url) not in self.hosts or any(rule.search(url) for rule in self.deny):
            return False
        return not self.allow or any(rule.search(url) for rule in self.allow)


@dataclass(frozen=True)
class Answer:
    """Where a fetched URL leads: the links of its page, or the target of its redirect."""

    links: tuple[str, ...] = ()
    redirect: str | None = None


def answer_of(page: Record, scope: Scope) -> Answer:
    """Read from a WARC record alone, so that a resumed crawl finds what the first one found."""
    if 300 <= page.status < 400:
        return Answer(redirect=_follow(page.url, page.header("location"), scope))
    if page.status != 200 or page.content_type not in HTML_TYPES:
        return Answer()
    text, _ = decode_page(page.body, page.header("content-type"))
    tree = _parse(text)
    if tree is None or re.search(r"\b(nofollow|none)\b", _directives(tree, page)):
        return Answer()
    base = next((href for node in tree.iter("base") if (href := node.get("href"))), "")
    root = _join(page.url, base) or page.url
    found = set()
    for anchor in tree.iter("a", "area"):
        href = anchor.get("href")
        if href is None or "nofollow" in (anchor.get("rel") or "").lower().split():
            continue
        if url := _follow(root, href, scope):
            found.add(url)
    return Answer(links=tuple(sorted(found)))


def _parse(text: str) -> etree._Element | None:
    # lxml, because indexing a resiliparse selection is quadratic: 43 s for a page of 3,000 links.
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True)
    try:
        return etree.fromstring(text.replace("\0", "").encode(), parser)
    except etree.XMLSyntaxError:
        return None


def _directives(tree: etree._Element, page: Record) -> str:
    """What <meta name="robots"> and X-Robots-Tag say, in lower case."""
    metas = [node for node in tree.iter("meta") if (node.get("name") or "").lower() == "robots"]
    said = [node.get("content") or "" for node in metas] + [page.header("x-robots-tag")]
    return ",".join(said).lower()


def _follow(base: str, reference: str, scope: Scope) -> str | None:
    """The canonical URL that ``reference`` means on the page ``base``, if it is to be followed."""
    url = canonical(_join(base, reference))
    return url if url and url in scope else None


def _join(base: str, reference: str) -> str:
    """The absolute URL, or "" if the reference makes none (a bad IPv6 host)."""
    try:
        return urljoin(base, reference.strip())
    except ValueError:
        return ""
