"""The page's pictures, as HTML and SVG without a script: the funnel, the loss curve, reliability."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from pipelines.report.facts import Step, Unit
from pipelines.report.layout import number, share, swatch
from pipelines.report.markup import Markup, el, join

COLORS = 8
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 330, 56, 20, 16, 36
MAX_POINTS, MAX_SPOTS = 600, 160
Scale = Callable[[float], float]  # a value to its place in the picture


def rule_colors(steps: Sequence[Step]) -> dict[str, str]:
    """A color for each of the rules that dropped most, one gray for all others."""
    total: Counter = Counter()
    for step in steps:
        total.update(step.dropped)
    ordered = [rule for rule, _ in total.most_common()]
    return {r: f"var(--c{i})" if i < COLORS else "var(--rest)" for i, r in enumerate(ordered)}


# -- the funnel ------------------------------------------------------------------------------------


def funnel(path: list[Unit], colors: dict[str, str]) -> Markup:
    """One bar a node along the main path: what it kept, and what it dropped by which rule."""
    floors = [floor for unit in path for floor in _floors(unit)]
    tokens = path[-1].tokens
    widest = max(1, *(_total(step) for step, _ in floors))
    rows = []
    for place, (step, subtitle) in enumerate(floors):
        last = place + 1 == len(floors)
        after = step.rows_out if last else _total(floors[place + 1][0])
        link = None if last and not tokens else _link(step.rows_out / widest, after / widest)
        rows.append(
            el(
                "div",
                el("div", el("b", step.node), el("small", subtitle), class_="who"),
                el("div", _bar(step, widest, colors), link, class_="shape"),
                _leaving(step, colors),
                class_="floor",
            )
        )
    if tokens:
        rows.append(_token_floor(path[-1], floors[-1][0].rows_out, widest))
    return el("div", rows, class_="funnel")


def _floors(unit: Unit) -> list[tuple[Step, str]]:
    """The steps of a unit that are worth a bar: the last, and those that let rows go."""
    shown: list[tuple[Step, str]] = []
    quiet: list[str] = []
    steps = unit.steps()
    for place, step in enumerate(steps):
        if place + 1 < len(steps) and not step.dropped and not step.quarantined:
            quiet.append(step.node)
            continue
        kept = f"{number(step.rows_out)} rows"
        if quiet:
            kept += f" · after {', '.join(quiet[:3])}" + (f" + {len(quiet) - 3}" if quiet[3:] else "")
        shown.append((step, kept))
        quiet = []
    return shown


def _total(step: Step) -> int:
    return step.rows_out + sum(step.dropped.values()) + step.quarantined


def _bar(step: Step, widest: int, colors: dict[str, str]) -> Markup:
    total = _total(step)

    def part(rows: int, label: str, **look: str) -> Markup | None:
        if not rows:
            return None
        tip = f"{label}: {number(rows)} of {number(total)} rows ({share(rows, total)})"
        width = f"width:{100 * rows / widest:.3f}%"
        color = f";background:{look['color']}" if "color" in look else ""
        return el("i", data_tip=tip, style=width + color, class_=look.get("class_"), tabindex="0")

    ordered = sorted(step.dropped.items(), key=lambda item: -item[1])
    return el(
        "div",
        part(step.rows_out, "kept", class_="keep"),
        [part(rows, rule, color=colors[rule]) for rule, rows in ordered],
        part(step.quarantined, "quarantined", class_="fail"),
        class_="bar",
        role="img",
        aria_label=f"{step.node}: {number(step.rows_out)} of {number(total)} rows kept",
    )


def _link(above: float, below: float) -> Markup:
    points = f"0,0 {1000 * above:.1f},0 {1000 * below:.1f},100 0,100"
    polygon = el("polygon", points=points)
    return el(
        "svg", polygon, class_="link", viewBox="0 0 1000 100", preserveAspectRatio="none",
        aria_hidden="true",
    )  # fmt: skip


def _leaving(step: Step, colors: dict[str, str]) -> Markup:
    """The names of what left, the three biggest by name."""
    ordered = sorted(step.dropped.items(), key=lambda item: -item[1])
    parts = [
        el("span", swatch(colors[rule]), f"{rule} ", el("b", number(rows))) for rule, rows in ordered[:3]
    ]
    if ordered[3:]:
        rest = number(sum(rows for _, rows in ordered[3:]))
        parts.append(el("span", f"{len(ordered) - 3} more rules ", el("b", rest), class_="soft"))
    if step.quarantined:
        parts.append(el("span", swatch("var(--bad)"), "quarantined ", el("b", number(step.quarantined))))
    if step.rows_in and _total(step) > step.rows_in:
        grown = f"{number(step.rows_in)} rows in, {number(_total(step))} out"
        parts.append(el("span", grown, class_="soft"))
    return el("div", parts, class_="goes")


def _token_floor(unit: Unit, rows: int, widest: int) -> Markup:
    each = f"{number(unit.tokens / rows)} tokens a document" if rows else ""
    tip = f"{number(unit.tokens)} tokens in {number(rows)} documents"
    width = f"width:{100 * rows / widest:.3f}%"
    return el(
        "div",
        el("div", el("b", number(unit.tokens)), el("small", "tokens"), class_="who"),
        el("div", el("div", el("i", data_tip=tip, style=width, class_="tok", tabindex="0"), class_="bar")),
        el("div", el("span", each, class_="soft"), class_="goes"),
        class_="floor",
    )  # fmt: skip


# -- the loss curve --------------------------------------------------------------------------------


def loss_curve(lines: list[dict]) -> Markup:
    """Loss in nats a token over steps; ``lines`` have step and loss, heldout_loss, or both."""
    train = _thin([(row["step"], row["loss"]) for row in lines if "loss" in row])
    heldout = [(row["step"], row["heldout_loss"]) for row in lines if "heldout_loss" in row]
    values = [value for _, value in train + heldout]
    ticks = nice_ticks(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    end = max(1, lines[-1]["step"])

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / end

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / ((high - low) or 1)

    def line(points: list[tuple[float, float]], class_: str) -> Markup | None:
        joined = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        return el("polyline", points=joined, class_=class_) if points else None

    label = "Loss over steps"
    if heldout:
        label += f": held-out from {heldout[0][1]:.3f} to {heldout[-1][1]:.3f}"
    return el(
        "svg",
        [_y_tick(tick, y(tick)) for tick in ticks],
        [el("text", number(s), x=f"{x(s):.1f}", y=HEIGHT - 14, text_anchor="middle")
         for s in nice_ticks(0, end) if s <= end],
        line(train, "train"),
        line(heldout, "heldout"),
        [el("circle", cx=f"{x(s):.1f}", cy=f"{y(v):.1f}", r=3.5, class_="dot") for s, v in heldout[-40:]],
        _ends(heldout, x, y),
        _spots(train, heldout, x),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="plot",
        role="img",
        aria_label=label,
    )  # fmt: skip


def _thin(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS points, each the mean of its neighbors."""
    width = math.ceil(len(points) / MAX_POINTS) or 1
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]


def nice_ticks(low: float, high: float) -> list[float]:
    """Some five round numbers from at most ``low`` to at least ``high``."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 6)
    first, last = math.floor(low / step), math.floor(high / step) + (high % step > 0 or low == high)
    return [round(place * step, 10) for place in range(first, last + 1)]


def _y_tick(value: float, height: float) -> Markup:
    return join(
        el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{height:.1f}", y2=f"{height:.1f}", class_="grid"),
        el("text", f"{value:g}", x=LEFT - 10, y=f"{height + 4:.1f}", text_anchor="end"),
    )


def _ends(points: list, x: Scale, y: Scale) -> Markup | None:
    """The first and the last held-out loss in figures."""
    if len(points) < 2:
        return None
    (first, begin), (last, end) = points[0], points[-1]
    return join(
        el("text", f"{begin:.3f}", x=f"{x(first) + 9:.1f}", y=f"{y(begin) + 4:.1f}", class_="strong"),
        el("text", f"{end:.3f}", x=f"{x(last):.1f}", y=f"{y(end) - 10:.1f}", text_anchor="end",
           class_="strong"),
    )  # fmt: skip


def _spots(train: list, heldout: list, x: Scale) -> list[Markup]:
    """Invisible columns that show their values when the pointer is over them."""
    base = train or heldout
    every = math.ceil(len(base) / MAX_SPOTS)
    spots = []
    width = (WIDTH - LEFT - RIGHT) / max(1, len(base[::every]))
    for step, value in base[::every]:
        texts = [f"step {step:,.0f}"] + ([f"train {value:.3f}"] if train else [])
        if heldout:
            nearest = min((abs(at - step), value) for at, value in heldout)
            texts.append(f"held-out {nearest[1]:.3f}")
        at, left = x(step), x(step) > WIDTH * 0.8
        shown = el(
            "g",
            el("line", x1=f"{at:.1f}", x2=f"{at:.1f}", y1=TOP, y2=HEIGHT - BOTTOM),
            el("text", " · ".join(texts), x=f"{at - 8 if left else at + 8:.1f}", y=TOP + 8,
               text_anchor="end" if left else "start"),
        )  # fmt: skip
        area = el("rect", x=f"{at - width / 2:.1f}", y=TOP, width=f"{width:.2f}",
                  height=HEIGHT - TOP - BOTTOM)  # fmt: skip
        spots.append(el("g", area, shown, class_="spot"))
    return spots


# -- the classifier --------------------------------------------------------------------------------


def reliability(bins: list[dict]) -> Markup:
    """Score against the share that has the label; on the line, a score is a probability."""
    size, edge = 250, 34
    inner = size - 2 * edge
    most = max(entry["documents"] for entry in bins)

    def dot(entry: dict) -> Markup:
        tip = (
            f"score {entry['mean_score']:.2f}: {entry['target_share']:.0%} of"
            f" {number(entry['documents'])} documents"
        )
        return el(
            "circle", el("title", tip), cx=f"{edge + inner * entry['mean_score']:.1f}",
            cy=f"{size - edge - inner * entry['target_share']:.1f}",
            r=f"{3 + 7 * math.sqrt(entry['documents'] / most):.1f}", class_="bubble",
        )  # fmt: skip

    return el(
        "svg",
        el("rect", x=edge, y=edge, width=inner, height=inner, fill="none", class_="grid"),
        el("line", x1=edge, y1=size - edge, x2=size - edge, y2=edge, class_="ideal"),
        [dot(entry) for entry in bins],
        [el("text", f"{t:g}", x=edge + inner * t, y=size - edge + 16, text_anchor="middle")
         for t in (0, 0.5, 1)],
        [el("text", f"{t:g}", x=edge - 7, y=size - edge - inner * t + 4, text_anchor="end")
         for t in (0, 0.5, 1)],
        el("text", "score →", x=size - edge, y=size - 4, text_anchor="end"),
        el("text", "share that has the label", x=edge - 22, y=edge - 14),
        viewBox=f"0 0 {size} {size}",
        width=size,
        height=size,
        role="img",
        aria_label="Score against the share that has the label",
    )  # fmt: skip
