"""The report, on real runs: what it says is what the datasets hold, and no page can write in it."""

from __future__ import annotations

import html
import html.parser
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from pipelines.config import load
from pipelines.dataset import read_manifest
from pipelines.engine import Engine
from pipelines.registry import stage
from pipelines.report import write_report
from pipelines.report.facts import balance, read_facts
from pipelines.report.layout import share
from pipelines.report.markup import el, join
from pipelines.report.pictures import nice_ticks
from pipelines.storage import Folder

HOSTILE = "\"'></td></style><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u202e"


@stage
@dataclass(frozen=True, kw_only=True)
class ReportPages:
    """Forty documents with hostile URLs."""

    stage: ClassVar[str] = "report_pages"
    shape: ClassVar[str] = "source"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {}
    output: ClassVar[str] = "documents"

    def items(self) -> list[dict]:
        return [{"first": 0}, {"first": 20}]

    def read(self, args: dict, committed: list[Path]) -> Any:
        numbers = list(range(args["first"], args["first"] + 20))
        if committed:
            return
        yield pa.table(
            {
                "id": [f"{n:032x}" for n in numbers],
                "url": [f"http://example.com/{n}{HOSTILE}" for n in numbers],
                "number": numbers,
            }
        )


@stage
@dataclass(frozen=True, kw_only=True)
class ReportErrors:
    """Puts two rows in quarantine, with a hostile error."""

    stage: ClassVar[str] = "report_errors"
    shape: ClassVar[str] = "map"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"

    def annotate(self, table: pa.Table) -> pa.Table:
        error = [f"bad row {HOSTILE}" if n in (3, 33) else None for n in table["number"].to_pylist()]
        return table.append_column("error", pa.array(error, pa.string()))


@stage
@dataclass(frozen=True, kw_only=True)
class ReportFit:
    """Writes the metrics that a training writes: one of its losses is not finite."""

    stage: ClassVar[str] = "report_fit"
    shape: ClassVar[str] = "fit"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "seeded"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "artifact"

    def fit(self, out: Path, scratch: Path, seed: int, progress: Any, documents: Any) -> dict:
        lines: list[dict] = [{"step": 0, "steps": 50, "heldout_loss": 9.0}, {"step": 7, "note": "x"}]
        for step in range(1, 51):
            loss = float("nan") if step == 9 else 3.0 + 6 / step
            row: dict = {"step": step, "loss": loss}
            lines.append({**row, "heldout_loss": 3.6 + 5 / step} if step % 10 == 0 else row)
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"steps": 50, "tokens_seen": 123456, "parameters": 7890}


RULES = """
      low: {column: number, min: 4}
      high: {column: number, max: 30}
      higher: {column: number, max: 35}
      "<b>odd</b>": {column: number, not_in: [6, 7]}
"""
DAG = f"""
name: hostile
seed: 5
nodes:
  pages: {{stage: report_pages}}
  checked: {{stage: report_errors, input: pages}}
  decided:
    stage: decide
    input: checked
    rules: {RULES}
  model: {{stage: report_fit, input: decided}}
"""


class Page(html.parser.HTMLParser):
    """A report, parsed as a browser would: its tags, attributes and text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.source = path.read_text()
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data

    def section(self, title: str) -> str:
        """The text between a section's title and the next one's."""
        found = re.search(rf"<h2>{title}</h2>(.*?)(</section>)", self.source, re.DOTALL)
        assert found, f"the page has no section {title!r}"
        return found[1]


def start(dag: str, folder: Path, *settings: str, **options: Any) -> int:
    config = folder / "dag.yaml"
    config.write_text(dag)
    store = f"store={folder / 'store'}"
    return Engine(load(config, [store, *settings]), folder / "run", **options).run()


@pytest.fixture(scope="module")
def toys(local_ray: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the toys, one stage of each shape."""
    folder = tmp_path_factory.mktemp("toys")
    dag = (Path(__file__).parent / "toys.yaml").read_text()
    assert start(dag, folder) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def hostile(local_ray: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on pages that attack the report."""
    import ray.cloudpickle

    # the stages of this module travel to the workers with the work item
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    folder = tmp_path_factory.mktemp("hostile")
    assert start(DAG, folder) == 0
    return folder / "run"


def test_counts_are_those_of_the_manifests(toys: Path) -> None:
    page = Page(write_report(toys))
    links = json.loads((toys / "links.json").read_text())
    store = Folder(json.loads((toys / "run.json").read_text())["store"])
    checked = 0
    for name, link in links.items():
        manifest = read_manifest(store / link["dataset"])
        if manifest is None or manifest.kind == "artifact":
            continue
        counts = manifest.counts
        row = next(row for row in page.rows if row[0] == name and row[-1] == "✓")
        wanted = [counts["rows_in"], counts["kept"], sum(counts["dropped"].values())]
        assert [int(row[2]), int(row[4]), int(row[5])] == wanted
        checked += 1
    assert checked == 5
    assert "✗" not in page.text
    # 180 rows came in, 240 went out: the expand node's own arithmetic
    assert next(row for row in page.rows if row[0] == "copies" and row[-1] == "✓")[3] == "+60"


def test_a_count_that_does_not_add_up_gets_a_cross(toys: Path, tmp_path: Path) -> None:
    store = Path(json.loads((toys / "run.json").read_text())["store"])
    run = shutil.copytree(toys, tmp_path / "run")
    shutil.copytree(store, tmp_path / "store")
    (run / "run.json").write_text(json.dumps({"name": "toys", "store": str(tmp_path / "store")}))
    manifest = next((tmp_path / "store").glob("unique-*")) / "manifest.json"
    broken = json.loads(manifest.read_text())
    broken["counts"]["kept"] -= 1
    manifest.write_text(json.dumps(broken))
    facts = read_facts(run)
    errors = balance(facts.units["unique"], facts.units).errors
    assert errors == [
        "180 rows in, but 179 accounted for",
        "the shards hold 18 rows, not 17",
        "the first or the last node of the chain counted otherwise",
    ]
    section = Page(write_report(run)).section("Counts")
    assert section.count("✗") == 1 and "180 rows in, but 179 accounted for" in section


def test_the_main_path_ends_where_the_rows_end(toys: Path) -> None:
    path = [unit.name for unit in read_facts(toys).main_path()]
    assert path == ["numbers", "measured", "copies", "unique", "scored"]
    funnel = Page(write_report(toys)).section("Funnel")
    for text in ("kept: 180 of 200 rows (90.0%)", "seen: 162 of 180 rows (90.0%)"):
        assert text in funnel


def test_text_from_pages_is_never_markup(hostile: Path) -> None:
    page = Page(write_report(hostile))
    assert not {"script", "img", "iframe", "object", "link", "b>"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.source.count("</style>") == 1
    # it is shown all the same, as the text it is
    assert f"bad row {HOSTILE}" in page.text
    assert f"http://example.com/3{HOSTILE}" in page.text
    assert "<b>odd</b>" in page.text


def test_the_page_loads_nothing(toys: Path, hostile: Path) -> None:
    for run in (toys, hostile):
        page = Page(write_report(run))
        assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
        assert "script" not in page.tags
        loads = [(k, v) for k, v in page.attributes if k in ("src", "href", "srcset", "action", "data")]
        assert loads and all(key == "href" and value.startswith("#") for key, value in loads)
        style = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)
        assert style and "url(" not in style[1] and "@import" not in style[1]
        assert len(page.source) < 100_000


def test_drops_say_what_else_would_have_dropped(hostile: Path) -> None:
    page = Page(write_report(hostile))
    # 40 rows, 2 in quarantine: rows 0, 1, 2 are too low; 31 to 39 without 33 too high, 36 to 39 higher
    urls = {n: f"http://example.com/{n}{HOSTILE}" for n in range(40)}
    rows = [row[:4] for row in page.rows]
    assert ["low" + urls[0] + urls[1] + urls[2], "3", "7.9%", "0"] in rows
    assert ["high" + "".join(urls[n] for n in (31, 32, 34, 35, 36)), "8", "21.1%", "0"] in rows
    assert ["higher", "0", "0.0%", "4"] in rows
    assert ["<b>odd</b>" + urls[6] + urls[7], "2", "5.3%", "0"] in rows


def test_loss_curve_and_headline(hostile: Path) -> None:
    page = Page(write_report(hostile))
    training = page.section("Training")
    assert "held-out from 9.000 to 3.700" in training
    assert "−59%" in page.text and "58.9% less" in page.text
    # 50 steps without the one that is not a number
    points = re.search(r'<polyline points="([^"]*)" class="train">', training)
    assert points and len(points[1].split()) == 49
    assert "123,456 tokens seen" in page.text and "nan" not in training


def test_quarantine_shows_rows_and_a_command_that_works(hostile: Path) -> None:
    section = Page(write_report(hostile)).section("Quarantine")
    assert "2 of 2 rows" in section and "checked" in section
    command = html.unescape(re.search(r"<pre>(.*?)</pre>", section, re.DOTALL)[1]).splitlines()[0]
    done = subprocess.run(
        ["bash", "-c", command.replace("python", sys.executable, 1)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bad row") == 2


def test_half_a_run(local_ray: int, tmp_path: Path) -> None:
    dag = (Path(__file__).parent / "toys.yaml").read_text()
    assert start(dag, tmp_path, until="measured") == 0
    page = Page(write_report(tmp_path / "run"))
    states = {row[0]: row[1] for row in page.rows if len(row) == 10}
    assert states["measured"] == "done" and states["scored"] == "not in this run"
    assert "Training" not in page.text


def test_a_failed_run_says_so_on_top(local_ray: int, tmp_path: Path) -> None:
    dag = (Path(__file__).parent / "toys.yaml").read_text()
    assert start(dag, tmp_path, "nodes.measured.raise_for=120") == 3
    page = Page(write_report(tmp_path / "run"))
    top = page.text[: page.text.index("Throughput")]
    assert "failed" in top and "1 of 4 work items failed 3 times" in top
    assert "3 times: ValueError: number 120 is not to be had" in top
    assert "copies, unique, model, scored : blocked" in top


def test_before_the_first_node_and_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"name": "young", "store": str(tmp_path / "store")}))
    assert "young" in Page(write_report(tmp_path)).text


def test_a_dataset_that_is_gone_is_named(toys: Path, tmp_path: Path) -> None:
    run = shutil.copytree(toys, tmp_path / "run")
    (run / "run.json").write_text(json.dumps({"name": "toys", "store": str(tmp_path / "elsewhere")}))
    page = Page(write_report(run))
    assert page.text.count("is gone: run again to make it anew") == 6


def test_an_interrupted_run_is_called_so(toys: Path, tmp_path: Path) -> None:
    run = shutil.copytree(toys, tmp_path / "run")
    status = json.loads((run / "status.json").read_text())
    status |= {"state": "running", "updated": status["updated"] - 3600}
    (run / "status.json").write_text(json.dumps(status))
    with (run / "log.jsonl").open("a") as file:
        file.write('{"at": "2026-01-01T00:00:00", "event": "op')  # a line that the kill tore
    assert "its driver is gone without a word" in Page(write_report(run)).text


def test_a_config_that_no_run_has_used_yet(toys: Path, tmp_path: Path) -> None:
    """A start that is refused leaves its config beside the status of the one before."""
    run = shutil.copytree(toys, tmp_path / "run")
    nodes = "{numbers: {stage: toy_source}, new: {stage: toy_map, input: numbers}}"
    (run / "config.yaml").write_text(f"nodes: {nodes}")
    units = read_facts(run).units
    assert {name: unit.state for name, unit in units.items()} == {"numbers": "done", "new": "not in this run"}
    assert "toys" in Page(write_report(run)).text


def test_markup_escapes_all_but_itself() -> None:
    assert el("i", "<&>", [None, el("b", 1)], class_="x", data_tip='"<') == (
        '<i class="x" data-tip="&quot;&lt;">&lt;&amp;&gt;<b>1</b></i>'
    )
    assert join("a<", ["b"]) == "a&lt;b"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3.7, 9.0), (0, 240), (5, 5), (0, 0), (1e-6, 2e-6)])
def test_ticks_enclose_and_are_few(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 9 and ticks == sorted(set(ticks))
    assert ticks[0] <= low and ticks[-1] >= high


def test_share_does_not_round_something_to_nothing() -> None:
    assert [share(*pair) for pair in ((0, 5), (1, 100_000), (1, 3), (0, 0))] == [
        "0.0%", "<0.1%", "33.3%", "0.0%",
    ]  # fmt: skip
