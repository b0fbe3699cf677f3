"""What the nodes did: their speed, what they learned, what their datasets are made from."""

from __future__ import annotations

from pipelines.progress import human_bytes
from pipelines.report import pictures
from pipelines.report.facts import Facts, Step, Unit
from pipelines.report.layout import meter, number, rate, row, seconds, table
from pipelines.report.markup import Markup, el, join

LOOKS = {"done": "good", "running": "warn", "waiting": "soft", "not in this run": "soft"}


def throughput(facts: Facts) -> Markup:
    longest = max([_wall(unit) for unit in facts.units.values()] + [0.001])
    rows = []
    for unit in facts.units.values():
        rows.append(_speed_row(unit, facts, longest))
        steps = unit.steps()
        if len(steps) > 1:
            rows += [_step_row(step) for step in steps]
    text = (
        "Seconds on the clock, and seconds of work added up over all workers. MB are those of the files"
        " read (of a source: written), compressed as they lie on disk. Below a chain, its nodes: their"
        " seconds of work, and rows a second of that work. Memory is the most that a process of its held."
    )
    columns = [
        "node",
        "state",
        "#items",
        "#rows in",
        "#clock",
        "#work",
        "#rows/s",
        "#MB/s",
        "#memory",
        "=clock",
    ]
    return join(el("p", text, class_="soft"), table(columns, rows))


def _peak_bytes(unit: Unit) -> int:
    return unit.made.created.get("peak_bytes", 0) if unit.made else 0


def _wall(unit: Unit) -> float:
    return unit.made.created["seconds"] if unit.made else unit.status.get("seconds", 0.0)


def _speed_row(unit: Unit, facts: Facts, longest: float) -> Markup:
    status, manifest, wall = unit.status, unit.made, _wall(unit)
    state = "reused" if status.get("reused") and unit.state == "done" else unit.state
    rows = manifest.counts["rows_in"] if manifest else status.get("rows_in", 0)
    done, total = status.get("items_done", 0), status.get("items_total", 0)
    size = _bytes_through(unit, facts)
    tip = f"{unit.name}: {seconds(wall)}" + (", in an earlier run" if state == "reused" else "")
    return row(
        unit.name,
        join(
            el("span", state, class_=LOOKS.get(unit.state, "bad") if state != "reused" else "soft"),
            el("div", status["text"], class_="soft small") if status.get("text") else None,
        ),
        ("#", f"{number(done)}/{number(total)}" if total else ""),
        ("#", number(rows) if rows else ""),
        ("#", seconds(wall) if wall else ""),
        ("#", seconds(manifest.created["cpu_seconds"]) if manifest else ""),
        ("#", rate(rows / wall) if rows and wall else ""),
        ("#", f"{size / wall / 1e6:.2f}" if size and wall else ""),
        ("#", human_bytes(peak) if (peak := _peak_bytes(unit)) else ""),
        meter([(wall, "var(--kept)", 100, tip)], longest),
    )


def _step_row(step: Step) -> Markup:
    speed = rate(step.rows_in / step.seconds) if step.seconds else ""
    figures = ["", number(step.rows_in), "", seconds(step.seconds), speed, "", ""]
    return row(step.node, "", *[("#", figure) for figure in figures], "", class_="inner")


def _bytes_through(unit: Unit, facts: Facts) -> int:
    sources = [facts.units[name].made for name in unit.inputs if name in facts.units]
    read = sum(source.counts["bytes"] for source in sources if source and source.kind != "artifact")
    if unit.inputs or not unit.made:
        return read
    return unit.made.counts["bytes"]


def is_classifier(unit: Unit) -> bool:
    return unit.stages[-1] == "train_classifier"


def classifier(unit: Unit) -> Markup:
    report = unit.report
    reached = "reached" if report["target_precision_reached"] else "not reached"
    text = (
        f"{unit.name} finds {report['target']!r}: threshold {report['threshold']:.3f} for a precision of"
        f" {report['target_precision']:.0%} ({reached}), measured on"
        f" {number(report['examples']['report'])} documents that it did not see, trained on"
        f" {number(report['examples']['training'])}. Accuracy {report['accuracy']:.1%}; always naming the"
        f" most frequent label would have {report['largest_label_share']:.1%}. The labels are guesses by"
        " rules, so this is agreement with the rules."
    )
    names = list(report["labels"])
    scores = [
        row(
            name,
            *[("#", f"{score[key]:.3f}") for key in ("precision", "recall", "f1")],
            ("#", number(score["documents"])),
            *[("#", number(report["confusion"][name][other])) for other in names],
        )
        for name, score in report["labels"].items()
    ]
    columns = ["label", "#precision", "#recall", "#F1", "#documents", *(f"#given {n}" for n in names)]
    rules = [row(rule, ("#", number(n))) for rule, n in report["documents_by_rule"].items()]
    return join(
        el("p", text, class_="soft"),
        table(columns, scores),
        el(
            "div",
            el("div", el("h3", "Is the score a probability?"), pictures.reliability(report["reliability"])),
            el("div", el("h3", "Documents by rule"), table(["rule", "#documents"], rules), class_="words"),
            class_="pair",
        ),
    )


def training(unit: Unit, lines: list[dict]) -> Markup:
    report = unit.report
    heldout = [row["heldout_loss"] for row in lines if "heldout_loss" in row]
    text = [f"{unit.name}: "]
    if len(heldout) > 1:
        drop = f"{1 - heldout[-1] / heldout[0]:.1%}"
        text += ["held-out loss from ", el("b", f"{heldout[0]:.3f}"), " to ", el("b", f"{heldout[-1]:.3f}"),
                 f" nats a token, {drop} less. "]  # fmt: skip
    known = {"parameters": "", "steps": "", "tokens_seen": "tokens seen", "tokens_per_s": "tokens a second"}
    figures = [(report.get(key), name or key) for key, name in known.items()]
    text.append(", ".join(f"{number(v)} {name}" for v, name in figures if isinstance(v, int | float)))
    key = el(
        "p",
        el("span", el("i", style="color:var(--kept)"), "training"),
        el("span", el("i", style="color:var(--c0)"), "held-out") if heldout else None,
        class_="key small soft",
    )
    curve = el("div", pictures.loss_curve(lines), class_="scroll")
    return join(el("p", text, class_="soft"), curve, key)


def recall(unit: Unit) -> Markup:
    """What a dedup found of the pairs that it planted."""
    checked = unit.report["self_check"]
    text = (
        f"{unit.name} planted pairs of texts of known similarity and looked for them:"
        " the share that shares a band, beside what the parameters promise."
    )
    rows = [
        row(
            f"{check['jaccard']:.3f}",
            ("#", number(check["pairs"])),
            ("#", f"{check['found']:.1%}"),
            ("#", f"{check['expected']:.1%}"),
        )
        for check in checked
    ]
    columns = ["Jaccard similarity", "#pairs planted", "#found", "#expected"]
    return join(el("p", text, class_="soft"), el("div", table(columns, rows), class_="words"))


def contamination(unit: Unit) -> Markup:
    """What a decontamination looked for, benchmark by benchmark."""
    benchmarks = unit.report["benchmarks"]
    keys = ("items", "items_too_short", "items_all_common")
    rows = [row(each["benchmark"], *(("#", number(each[key])) for key in keys)) for each in benchmarks]
    columns = ["benchmark", "#items", "#too short to look for", "#of common phrases only"]
    return join(el("p", unit.name, class_="soft"), el("div", table(columns, rows), class_="words"))


def fits(units: list[Unit], curves: dict[str, list[dict]]) -> list[Markup]:
    """The plain figures that any other fit reports."""
    shown = []
    for unit in units:
        if unit.kind != "artifact" or is_classifier(unit) or unit.name in curves:
            continue
        facts = {k: v for k, v in unit.report.items() if isinstance(v, str | int | float)}
        if facts:
            rows = [row(key, ("#", _figure(value))) for key, value in facts.items()]
            title = el("h3", f"{unit.name} ", el("span", unit.stages[-1], class_="soft small"))
            shown += [title, el("div", table(["figure", "#value"], rows), class_="words")]
    return shown


def _figure(value: str | int | float) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def lineage(units: list[Unit]) -> Markup | None:
    if not units:
        return None
    rows = []
    for unit in units:
        manifest = unit.manifest
        rows.append(
            row(
                unit.name,
                join([el("div", _stage(stage)) for stage in manifest.stages]),
                manifest.determinism,
                ", ".join(manifest.inputs) or "—",
                el("code", manifest.fingerprint[:12]),
                el("code", manifest.content_fingerprint[:12]),
                el("code", unit.folder.uri.rsplit("/", 1)[-1]),
                ("#", human_bytes(manifest.counts["bytes"])),
            )
        )
    text = (
        "Two runs with the same fingerprint share one dataset; the same content fingerprint means the"
        " same rows. Exact: the bytes are a function of inputs, parameters and versions; seeded: exact"
        " when run as declared; recorded: the first answer is the truth."
    )
    columns = ["node", "stages", "class", "inputs", "fingerprint", "content", "dataset", "#size"]
    return join(el("p", text, class_="soft"), table(columns, rows))


def _stage(stage: dict) -> Markup:
    libraries = ", ".join(f"{name} {version}" for name, version in stage["libraries"].items())
    return el("span", f"{stage['stage']} v{stage['version']}", title=libraries or None)
