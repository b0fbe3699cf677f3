"""Main content of a page by its label: the text of some nodes without that of others, both named by XPath."""

from __future__ import annotations

import lxml.etree
import lxml.html

from pipelines.extract.charset import decode_page

# what no reader sees as text, and fields of forms
_UNSEEN = frozenset(
    ("head", "script", "style", "noscript", "template", "svg", "iframe", "object", "textarea", "select")
)
# elements that stand within a line; all others begin a new one
_INLINE = frozenset(
    ("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font")
    + ("i", "ins", "kbd", "label", "mark", "nobr", "q", "s", "samp", "small", "span", "strike", "strong")
    + ("sub", "sup", "time", "tt", "u", "var", "wbr")
)


def parse(html: bytes) -> lxml.html.HtmlElement:
    """The page's tree, as libxml2 builds it from the page's text in UTF-8."""
    text, _ = decode_page(html, "")
    parser = lxml.html.HTMLParser(encoding="utf-8", huge_tree=True)
    return lxml.html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)


def gold_text(root: lxml.html.HtmlElement, keep: str, drop: str = "") -> str:
    """Text of the nodes that ``keep`` selects, without those that ``drop`` does; a line a block.

    Both are XPaths with " | " between them, of elements (with all inside) and text nodes. Of nested
    choices the inner one holds. Raises ValueError where an expression is none, or selects nothing.
    """
    chosen = _select(root, keep, True) | _select(root, drop, False)
    parts: list[str] = []
    # an explicit stack: a page may be nested deeper than Python's calls
    stack: list[tuple[str, lxml.html.HtmlElement, bool]] = [("open", root, False)]
    while stack:
        step, element, kept = stack.pop()
        if step == "tail":
            if chosen.get((element, "tail"), kept) and element.tail:
                parts.append(element.tail)
            continue
        tag = element.tag
        if step == "close":
            parts.append("" if tag in _INLINE else "\n")
            continue
        # comments and processing instructions have no name
        if not isinstance(tag, str) or tag in _UNSEEN:
            continue
        kept = chosen.get((element, "element"), kept)
        parts.append("" if tag in _INLINE else "\n")
        if chosen.get((element, "text"), kept) and element.text:
            parts.append(element.text)
        stack.append(("close", element, kept))
        for child in reversed(element):
            stack += [("tail", child, kept), ("open", child, kept)]
    lines = (" ".join(line.split()) for line in "".join(parts).split("\n"))
    return "\n".join(line for line in lines if line)


def _select(root: lxml.html.HtmlElement, paths: str, verdict: bool) -> dict:
    """(element, which of its parts) -> verdict, of all nodes that the XPaths select."""
    chosen = {}
    for path in paths.split(" | ") if paths else ():
        try:
            nodes = root.xpath(path)
        except lxml.etree.XPathError as error:
            raise ValueError(f"{path} is no XPath: {error}") from error
        if not isinstance(nodes, list) or not nodes:
            raise ValueError(f"{path} selects nothing")
        for node in nodes:
            if isinstance(node, lxml.html.HtmlElement):
                chosen[node, "element"] = verdict
            elif getattr(node, "is_text", False) or getattr(node, "is_tail", False):
                chosen[node.getparent(), "text" if node.is_text else "tail"] = verdict
            else:
                raise ValueError(f"{path} selects something else than elements and text")
    return chosen
