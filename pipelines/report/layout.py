"""What every section is made of: figures as text, tables, bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.report.markup import Markup, el


def number(value: float) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """12.3%; "<0.1%" where rounding would hide that there is something."""
    percent = 100 * part / whole if whole else 0.0
    return "<0.1%" if 0 < percent < 0.05 else f"{percent:.1f}%"


def seconds(value: float) -> str:
    """<0.1 s, 0.4 s, 12 s, 3 min 20 s, 1 h 5 min."""
    if value < 9.95:
        return f"{value:.1f} s" if value >= 0.05 else "<0.1 s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def table(columns: list[str], rows: list[Markup]) -> Markup:
    """Columns named "#..." hold numbers, "=..." pictures."""
    looks = {"#": "num", "=": "wide"}
    heads = [el("th", name.lstrip("#="), class_=looks.get(name[:1]), scope="col") for name in columns]
    return el("div", el("table", el("thead", el("tr", heads)), el("tbody", rows)), class_="scroll")


def row(*cells: Any, class_: str | None = None) -> Markup:
    """The first cell is a name; those of Markup are cells' content, ("#", x) numbers."""
    made = [el("td", cells[0], class_="name")]
    for cell in cells[1:]:
        if isinstance(cell, tuple):
            made.append(el("td", cell[1], class_="num"))
        else:
            made.append(el("td", cell))
    return el("tr", made, class_=class_)


def meter(parts: Sequence[tuple[float, str, int, str]], whole: float, class_: str = "meter") -> Markup:
    """A bar of (value, color, opacity in percent, tip); its full width stands for ``whole``."""
    return el(
        "div",
        [
            el(
                "i",
                data_tip=tip,
                style=f"width:{100 * value / whole:.2f}%;"
                f"background:color-mix(in srgb, {color} {opacity}%, transparent)",
            )
            for value, color, opacity, tip in parts
            if value
        ],
        class_=class_,
    )


def swatch(color: str) -> Markup:
    return el("i", class_="swatch", style=f"background:{color}")
