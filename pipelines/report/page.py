"""The page: its head, its headline figures, what went wrong, and then the sections."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import socket

import psutil

from pipelines.progress import human_bytes
from pipelines.report import nodes, rows, synthesis
from pipelines.report.facts import Facts, Unit, grouped_failures, metrics
from pipelines.report.layout import number, seconds, share
from pipelines.report.markup import Markup, el, join
from pipelines.report.pictures import rule_colors
from pipelines.report.style import CSS

NO_NETWORK = "default-src 'none'; style-src 'unsafe-inline'"


def page(facts: Facts) -> str:
    """The whole report as one HTML document that loads nothing and runs nothing."""
    finished = [unit for unit in facts.units.values() if unit.made]
    path = facts.main_path()
    colors = rule_colors([step for unit in finished for step in unit.steps()])
    curves = {unit.name: lines for unit in finished if (lines := metrics(unit))}
    sections = [
        ("Funnel", rows.funnel(path, colors)),
        ("Drops by rule", rows.drops(finished, colors)),
        ("Throughput", nodes.throughput(facts)),
        ("Recall of dedup", [nodes.recall(unit) for unit in finished if unit.report.get("self_check")]),
        (
            "Decontamination",
            [nodes.contamination(unit) for unit in finished if unit.report.get("benchmarks")],
        ),
        ("Classifier", [nodes.classifier(unit) for unit in finished if nodes.is_classifier(unit)]),
        ("Synthesis", [synthesis.synthesis(unit) for unit in finished if synthesis.is_synthesis(unit)]),
        ("Labels", [synthesis.labels(unit) for unit in finished if synthesis.is_label(unit)]),
        ("Training", [nodes.training(facts.units[name], lines) for name, lines in curves.items()]),
        ("Other fits", nodes.fits(finished, curves)),
        ("Counts", rows.counts(finished, facts)),
        ("Quarantine", [rows.quarantine(unit, facts) for unit in finished if unit.manifest.quarantined]),
        ("Lineage", nodes.lineage(finished)),
        ("Config", _config(facts)),
    ]
    shown = [(title, body) for title, body in sections if body]
    main = el(
        "main",
        _head(facts),
        _tiles(facts, path, curves),
        _problems(facts),
        el("nav", [el("a", title, href=f"#{_anchor(title)}") for title, _ in shown], aria_label="Sections"),
        [el("section", el("h2", title), body, id=_anchor(title)) for title, body in shown],
        _footer(facts),
    )
    return "<!DOCTYPE html>\n" + el(
        "html",
        el(
            "head",
            el("meta", charset="utf-8"),
            el("meta", http_equiv="Content-Security-Policy", content=NO_NETWORK),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("title", f"{facts.name}: {facts.state}"),
            el("style", Markup(CSS)),
        ),
        el("body", main),
        lang="en",
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _head(facts: Facts) -> Markup:
    look = nodes.LOOKS.get(facts.state, "bad")
    items = [f"seed {facts.seed}"]
    if facts.started:
        began = datetime.datetime.fromtimestamp(facts.started, datetime.UTC)
        items.insert(0, f"{began:%Y-%m-%d %H:%M} UTC")
        if facts.updated:
            which = f"start number {facts.starts} " if facts.starts > 1 else ""
            verb = "has taken" if facts.state == "running" else "took"
            items.insert(1, f"{which}{verb} {seconds(facts.updated - facts.started)}")
    items.append(_machine(facts.host))
    return el(
        "header",
        el("div", el("h1", facts.name), el("span", facts.state, class_=f"badge {look}"), class_="head"),
        el("div", [el("span", item) for item in items], class_="facts"),
    )


def _machine(host: str) -> str:
    """The machine of the driver; more than its name only when the report is written there too."""
    if host != socket.gethostname():
        return host
    memory = human_bytes(psutil.virtual_memory().total)
    return f"{host}: {os.cpu_count()} cores, {memory}, {platform.system()} {platform.machine()}"


def _tiles(facts: Facts, path: list[Unit], curves: dict[str, list[dict]]) -> Markup | None:
    tiles = []
    documents = [unit for unit in path if unit.kind == "documents"]
    if path and path[0].kind == "warc":
        tiles.append(("Pages", number(path[0].manifest.counts["kept"]), f"by {path[0].name}"))
    if documents:
        first, last = documents[0].steps()[0], documents[-1].steps()[-1]
        entered = first.rows_out
        tiles.append(("Documents", number(entered), f"from {documents[0].name}"))
        if len(documents) > 1 or len(documents[0].steps()) > 1:
            note = f"{share(last.rows_out, entered)} of the documents"
            tiles.append(("Kept", number(last.rows_out), note))
    main = path[-1] if path else None
    if main and main.tokens:
        others = [unit for unit in facts.units.values() if unit.tokens and unit is not main]
        note = ", ".join(f"{number(unit.tokens)} more in {unit.name}" for unit in others)
        tiles.append(("Tokens", number(main.tokens), note or f"by {main.name}"))
    for name, lines in curves.items():
        heldout = [row["heldout_loss"] for row in lines if "heldout_loss" in row]
        if len(heldout) > 1:
            change = 100 * (heldout[-1] / heldout[0] - 1)
            note = f"{heldout[0]:.2f} → {heldout[-1]:.2f} nats a token, {name}"
            tiles.append(("Held-out loss", f"{change:+.0f}%".replace("-", "−"), note))
    if not tiles:
        return None
    return el(
        "div",
        [
            el("div", el("div", label, class_="label"), el("b", value), el("div", note, class_="note"),
               class_="tile")
            for label, value, note in tiles
        ],
        class_="tiles",
    )  # fmt: skip


def _problems(facts: Facts) -> list[Markup]:
    """Errors, then warnings: what a reader must know before believing the rest."""
    errors, warnings = [], []
    if facts.stopping:
        errors.append(el("li", facts.stopping))
    if facts.state == "interrupted":
        errors.append(el("li", "its driver is gone without a word; run again to go on from there"))
    for unit in facts.units.values():
        if unit.status.get("error") and unit.state != "blocked":
            errors.append(el("li", el("b", unit.name), f" ({unit.state}): {unit.status['error']}"))
        if unit.problem:
            errors.append(el("li", el("b", unit.name), f": {unit.problem}"))
        noted = list(unit.manifest.created.get("warnings", [])) if unit.made else []
        for text in dict.fromkeys([*noted, *unit.status.get("warnings", [])]):
            warnings.append(el("li", el("b", unit.name), f": {text}"))
    blocked = [unit.name for unit in facts.units.values() if unit.state == "blocked"]
    if blocked:
        errors.append(el("li", el("b", ", ".join(blocked)), ": blocked, waiting for the above"))
    failures = [_failure(event, count) for event, count in grouped_failures(facts)[:10]]
    boxes = [_box("What went wrong", errors, "bad")] if errors else []
    if failures:
        boxes.append(_box("Attempts that failed", failures, "bad" if errors else "warn"))
    if warnings:
        boxes.append(_box("Warnings", warnings, "warn"))
    return boxes


def _box(title: str, items: list[Markup], look: str) -> Markup:
    return el("div", el("b", title), el("ul", items), class_=f"box {look}")


def _failure(event: dict, count: int) -> Markup:
    times = "once" if count == 1 else f"{count} times"
    trace = event.get("traceback")
    return el(
        "li",
        el("b", event["node"]),
        f", item {event['item']}, {times}: {event['type']}: {event['message']}",
        el("details", el("summary", "traceback"), el("pre", trace)) if trace else None,
    )


def _config(facts: Facts) -> Markup:
    return join(
        el("p", f"Run {facts.run}, datasets in {facts.store}.", class_="soft"),
        el("details", el("summary", "The config of the last start, with what --set changed"),
           el("pre", facts.config)),
    )  # fmt: skip


def _footer(facts: Facts) -> Markup:
    now = datetime.datetime.now(datetime.UTC)
    again = f"corpusmill report {shlex.quote(str(facts.run))}"
    return el("footer", f"Written {now:%Y-%m-%d %H:%M} UTC; anew by ", el("code", again))
