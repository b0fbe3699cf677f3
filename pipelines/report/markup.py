"""HTML from Python values, escaped unless it is ours: a page's text can never become markup."""

from __future__ import annotations

import html
from typing import Any

VOID = ("meta", "br", "hr")


class Markup(str):
    """Text that is HTML already. Only ``el`` and ``join`` make it."""

    __slots__ = ()


def join(*children: Any) -> Markup:
    """Children one after another: Markup as it is, lists flattened, None left out, the rest escaped."""
    parts = []
    for child in children:
        if isinstance(child, list | tuple):
            parts.append(join(*child))
        elif isinstance(child, Markup):
            parts.append(child)
        elif child is not None:
            parts.append(Markup(html.escape(str(child))))
    return Markup("".join(parts))


def el(tag: str, *children: Any, **attributes: Any) -> Markup:
    """An element. Attributes: ``class_`` is class, ``data_tip`` is data-tip; None leaves one out."""
    pairs = [
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    ]
    start = f"<{tag}{''.join(pairs)}>"
    return Markup(start if tag in VOID else f"{start}{join(*children)}</{tag}>")
