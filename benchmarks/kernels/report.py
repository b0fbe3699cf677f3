"""What the sweeps found: kernels.csv with every figure, kernels.md to read, kernels.svg, the roofline."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from html import escape
from pathlib import Path

from benchmarks.kernels.measure import Ceilings
from benchmarks.kernels.sweep import Figure, Found

COLORS = (
    "#d62728",
    "#1f77b4",
    "#2ca02c",
    "#ff7f0e",
    "#9467bd",
    "#17becf",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#000",
    "#98df8a",
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 980, 560, 70, 260, 40, 50


def write(folder: Path, name: str, found: Found, ceilings: Ceilings, facts: dict[str, str]) -> list[Path]:
    """The three files, as ``name`` in ``folder``; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("csv", "md", "svg")]
    with open(paths[0], "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Figure)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _round(value) for key, value in asdict(x).items()} for x in found.figures)
    paths[1].write_text(_page(found, ceilings, facts, paths[2].name))
    paths[2].write_text(roofline(found.figures, ceilings))
    return paths


def _page(found: Found, ceilings: Ceilings, facts: dict[str, str], picture: str) -> str:
    lines = ["# Attention kernels, side by side", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += [
        f"- ceilings of this run: {ceilings.flops / 1e12:.3g} TFLOP/s (matmul), "
        f"{ceilings.bytes / 1e9:,.0f} GB/s (copy, read and write)",
        "",
        "Milliseconds are medians; the percentiles 20 and 80, memory and errors are in the CSV. In brackets:"
        " TFLOP/s (the causal half counted once) or GB/s over the bytes that must move, then the share of"
        " the speed that the ceilings allow.",
        "",
        f"![roofline]({picture})",
    ]
    for area, phase in dict.fromkeys((x.area, x.phase) for x in found.figures):
        lines += ["", f"## {area}: {phase}", ""]
        lines += _table([x for x in found.figures if (x.area, x.phase) == (area, phase)])
    for title, entries in (
        ("Wrong, so not timed", found.wrong),
        ("Refused", found.refused),
        ("Dropped: no time was left", dict.fromkeys(found.dropped, "")),
    ):
        if entries:
            lines += ["", f"## {title}", ""]
            lines += [f"- {who}" + (f": {why}" if why else "") for who, why in entries.items()]
    return "\n".join(lines) + "\n"


def _table(figures: list[Figure]) -> list[str]:
    """A row a problem, a column a provider."""
    providers = list(dict.fromkeys(x.provider for x in figures))
    lines = ["| problem | " + " | ".join(providers) + " |", "|---" * (len(providers) + 1) + "|"]
    for problem in dict.fromkeys(x.problem for x in figures):
        cells = {x.provider: _cell(x) for x in figures if x.problem == problem}
        lines.append(f"| {problem} | " + " | ".join(cells.get(name, "") for name in providers) + " |")
    return lines


def _cell(figure: Figure) -> str:
    speed = f"{figure.gigabytes:,.0f} GB/s"
    if figure.phase in ("forward", "backward"):
        speed = f"{figure.tflops:.3g} TFLOP/s"
    return f"{figure.milliseconds:.3g} ({speed}, {figure.share:.0%})"


def roofline(figures: Iterable[Figure], ceilings: Ceilings) -> str:
    """SVG: TFLOP/s over FLOP a byte, both logarithmic, under what the ceilings allow."""
    shown = [x for x in figures if x.tflops > 0]
    ridge = ceilings.flops / ceilings.bytes
    xs = [*(x.flop_per_byte for x in shown), ridge]
    ys = [*(x.tflops for x in shown), ceilings.flops / 1e12]
    x_low, x_high = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs) * 1.5))
    y_low, y_high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys) * 1.1))

    def at(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (math.log10(y) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return LEFT + right, HEIGHT - BOTTOM - up

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, "TFLOP/s over FLOP a byte that must move; the line is what this machine allows", 14),
    ]
    for power in range(x_low, x_high + 1):
        x, y = at(10.0**power, 10.0**y_low)
        parts.append(f'<path d="M{x:.1f} {y:.1f}V{TOP}" stroke="#ddd"/>')
        parts.append(_text(x, y + 18, f"{10.0**power:g}", anchor="middle"))
    for power in range(y_low, y_high + 1):
        x, y = at(10.0**x_low, 10.0**power)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(x - 8, y + 4, f"{10.0**power:g}", anchor="end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "FLOP/byte", anchor="middle"))
    # where memory is slow the line may begin at the bottom of the picture, not at its left
    start = max(10.0**x_low, 10.0**y_low * 1e12 / ceilings.bytes)
    roof = [at(x, min(ceilings.flops, x * ceilings.bytes) / 1e12) for x in (start, ridge, 10.0**x_high)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in roof)
    parts.append(f'<path d="M{path}" fill="none" stroke="black" stroke-width="2"/>')
    providers = list(dict.fromkeys(x.provider for x in shown))
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(providers)}
    for figure in shown:
        x, y = at(figure.flop_per_byte, figure.tflops)
        fill = "none" if figure.phase == "backward" else color[figure.provider]
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" fill-opacity="0.7" '
            f'stroke="{color[figure.provider]}"><title>{escape(_title(figure))}</title></circle>'
        )
    for i, name in enumerate(providers):
        y = TOP + 14 + 20 * i
        parts.append(f'<circle cx="{WIDTH - RIGHT + 24}" cy="{y - 4}" r="5" fill="{color[name]}"/>')
        parts.append(_text(WIDTH - RIGHT + 36, y, name))
    parts.append(
        _text(WIDTH - RIGHT + 18, TOP + 30 + 20 * len(providers), "filled: forward, decode; hollow: backward")
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _title(figure: Figure) -> str:
    return f"{figure.provider}, {figure.phase}, {figure.problem}: {figure.tflops:.3g} TFLOP/s"


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _round(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value
