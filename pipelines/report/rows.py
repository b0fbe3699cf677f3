"""What became of the rows: the funnel, drops by rule, whether it adds up, what failed."""

from __future__ import annotations

import shlex

from pipelines.report import pictures
from pipelines.report.facts import Facts, Step, Unit, balance, drop_samples, quarantine_samples
from pipelines.report.layout import meter, number, row, share, swatch, table
from pipelines.report.markup import Markup, el, join


def funnel(path: list[Unit], colors: dict[str, str]) -> Markup | None:
    if not path:
        return None
    text = (
        "The way of the rows from the first node to the last. The solid part of a bar goes on to the"
        " next node, each coloured part left by the rule at its side."
    )
    return join(el("p", text, class_="soft"), pictures.funnel(path, colors))


def drops(units: list[Unit], colors: dict[str, str]) -> Markup | None:
    rows = []
    for unit in units:
        samples = drop_samples(unit)
        for step in unit.steps():
            if step.dropped:
                rows += _drop_rows(step, colors, samples)
    if not rows:
        return None
    text = (
        "A row is dropped by the first rule that it fails: the solid bar. Pale: rows that fail the rule"
        " too, but that an earlier rule had dropped already. Open a rule to see some of what it dropped."
    )
    columns = ["rule", "#dropped", "#of rows", "#also fail it", "="]
    return join(el("p", text, class_="soft"), table(columns, rows))


def _drop_rows(step: Step, colors: dict[str, str], samples: dict) -> list[Markup]:
    """A heading for the node, then its rules, the one that dropped most first."""
    total = sum(step.dropped.values())
    out = step.rows_out + total + step.quarantined
    dropped_by, fails = step.dropped, step.would_drop
    rules = sorted(
        {*dropped_by, *fails}, key=lambda rule: (-dropped_by.get(rule, 0), -fails.get(rule, 0), rule)
    )
    widest = max(max(dropped_by.get(rule, 0), fails.get(rule, 0)) for rule in rules)
    head = row(step.node, ("#", number(total)), ("#", share(total, out)), "", "", class_="group")
    rows = [head]
    for rule in rules:
        dropped = dropped_by.get(rule, 0)
        also = max(0, fails.get(rule, 0) - dropped)
        color = colors.get(rule, "var(--rest)")
        bars = [
            (dropped, color, 100, f"dropped: {number(dropped)}"),
            (also, color, 35, f"fail it too: {number(also)}"),
        ]
        rows.append(
            row(
                _rule(rule, color, samples.get((step.node, rule), [])),
                ("#", number(dropped)),
                ("#", share(dropped, out)),
                ("#", number(also) if fails else ""),
                meter(bars, widest, class_="meter plain"),
                class_="inner",
            )
        )
    return rows


def _rule(rule: str, color: str, samples: list[str]) -> Markup:
    name = join(swatch(color), rule)
    if not samples:
        return name
    listed = [el("div", el("code", sample)) for sample in samples]
    return el("details", el("summary", name), listed, class_="samples")


def counts(units: list[Unit], facts: Facts) -> Markup | None:
    rows = []
    for unit in units:
        if unit.kind == "artifact":
            continue
        counted = balance(unit, facts.units)
        if counted.errors:
            verdict = el("span", "✗ ", "; ".join(counted.errors), class_="bad")
        elif unit.manifest.gaps:
            verdict = el("span", f"△ gap accepted: {len(unit.manifest.gaps)} items missing", class_="warn")
        else:
            verdict = el("span", "✓", class_="good", title="manifest, files and input agree")
        out = counted.kept + counted.dropped + counted.quarantined
        grows = out - counted.rows_in
        rows.append(
            row(
                unit.name,
                ("#", "" if counted.available is None else number(counted.available)),
                ("#", number(counted.rows_in)),
                ("#", f"+{number(grows)}" if grows else ""),
                ("#", number(counted.kept)),
                ("#", number(counted.dropped)),
                ("#", number(counted.quarantined)),
                verdict,
            )
        )
    if not rows:
        return None
    text = (
        "Nothing vanishes: rows in (and, where a row can become several, those that came to it) = kept +"
        " dropped + quarantined. Checked against the manifests, the files and the dataset that was read."
    )
    columns = ["node", "#rows of its input", "#rows in", "#grown", "#kept", "#dropped", "#quarantined", ""]
    return join(el("p", text, class_="soft"), table(columns, rows))


def quarantine(unit: Unit, facts: Facts) -> Markup:
    samples = quarantine_samples(unit)
    rows = [
        el(
            "tr",
            el("td", sample.get("left_at") or unit.name, class_="name"),
            el("td", el("code", sample["error"])),
            el("td", el("code", sample.get("url") or sample.get("id") or f"row {sample.get('input_row')}")),
        )
        for sample in samples
    ]
    total = unit.manifest.counts["quarantined"]
    title = el("h3", unit.name, el("span", f"  {len(samples)} of {number(total)} rows", class_="soft small"))
    columns = [name for name in ("id", "url", "error") if samples and name in samples[0]]
    code = (
        "import glob, pyarrow.dataset as d;"
        f" print(*d.dataset(glob.glob({unit.folder.path('data/*.quarantined.*')!r}))"
        f".to_table({columns!r}).to_pylist(), sep='\\n')"
    )
    traced = next((sample["id"] for sample in samples if sample.get("id")), None)
    commands = [f"python -c {shlex.quote(code)}"]
    if traced:
        commands.append(f"corpusmill trace {shlex.quote(str(facts.run))} {shlex.quote(traced)}")
    return join(
        title,
        table(["node", "error", "row"], rows),
        el("details", el("summary", "how to look further"), el("pre", "\n".join(commands))),
    )
