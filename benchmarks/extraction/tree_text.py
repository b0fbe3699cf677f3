"""The text of a page as an HTML5 parser has it: lexbor's tree, through resiliparse."""

from __future__ import annotations

from resiliparse.parse.html import DOMNode, HTMLTree, NodeType

from kernels.text.html_names import BLOCK_TAGS, TAGS

# what is no text of the page: its content is no markup, or is shown elsewhere
LEFT_OUT = frozenset(
    ("script", "style", "svg", "template", "iframe", "title", "textarea", "noembed", "noframes")
)
BLOCKS = frozenset(name for name, tag in TAGS.items() if BLOCK_TAGS[tag]) | {"br"}


def tree_text(node: DOMNode) -> str:
    """The text in a node, with a space where a block begins or ends and for each <br>."""
    parts: list[str] = []
    todo: list[DOMNode | None] = [node]
    while todo:
        here = todo.pop()
        if here is None:
            parts.append(" ")
        elif here.type == NodeType.TEXT:
            parts.append(here.text)
        elif here.type in (NodeType.ELEMENT, NodeType.DOCUMENT) and here.tag not in LEFT_OUT:
            if here.tag in BLOCKS:
                parts.append(" ")
                todo.append(None)
            todo += reversed(list(_children(here)))
    return "".join(parts)


def preformatted(tree: HTMLTree) -> list[str]:
    """The text of each <pre>, to the character; a <br> in it is a line break."""
    found = []
    for node in tree.document.query_selector_all("pre"):
        parts = []
        for child in _walk(node):
            if child.type == NodeType.TEXT:
                parts.append(child.text)
            elif child.tag == "br":
                parts.append("\n")
        found.append("".join(parts).replace("\xa0", " "))
    return found


def _children(node: DOMNode):
    child = node.first_child
    while child is not None:
        yield child
        child = child.next


def _walk(node: DOMNode):
    todo = [node]
    while todo:
        here = todo.pop()
        yield here
        if here.tag not in LEFT_OUT:
            todo += reversed(list(_children(here)))
