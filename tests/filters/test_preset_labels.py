"""The technical preset on pages made here, and the labels that it is measured on."""

import csv
import pkgutil
import pydoc
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from filters.decide import Decide
from filters.text_statistics import TextStatistics
from pipelines.extract.html import extract_page

LABELS = Path(__file__).parents[2] / "benchmarks" / "curation" / "preset_labels.csv"
MODULES = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))


def verdict(html: str) -> str | None:
    """The rule by which the technical preset drops a page; None if it stays."""
    text = extract_page(html.encode(), "https://docs.example.org/page.html", "resiliparse").text
    table = pa.table({"text": pa.array([text], pa.large_string())})
    table = TextStatistics().annotate(table)
    return Decide(presets=("technical",)).annotate(table)["drop_rule"][0].as_py()


def links(names: list[str], separator: str) -> str:
    items = separator.join(f'<a href="{name}.html">{name}</a> (in {name}.html)' for name in names)
    return f"<title>Index</title><main><h1>Index</h1><p>{items}</p></main>"


def chapters(names: list[str]) -> str:
    items = "".join(f"<p>{name}, its uses</p>" for name in names)
    return f"<title>Contents</title><main><h1>Contents</h1>{items}</main>"


def members(names: list[str]) -> str:
    rows = "".join(f"<p>{name}() defined in org::example::Widget inline</p>" for name in names)
    return f"<title>Members</title><main><h1>All members of org::example::Widget</h1>{rows}</main>"


@pytest.mark.parametrize("module", ["argparse", "glob", "shlex", "textwrap"])
def test_reference_stays(module):
    assert verdict(f"<main><pre>{pydoc.plain(pydoc.render_doc(module))}</pre></main>") is None


def test_a_page_of_prose_and_code_stays():
    page = f"<main><h1>Lookup</h1><p>{' '.join((pydoc.__doc__ or '').split())}</p>"
    page += "<pre>for name in names:\n    print(name, sizes[name], sep='=')\n</pre>"
    page += f"<p>{' '.join((pkgutil.walk_packages.__doc__ or '').split())}</p></main>"
    assert verdict(page) is None


@pytest.mark.parametrize(
    ("page", "rule"),
    [
        (
            "<main><p>This page has moved to <a href='/new.html'>its new place</a>.</p></main>",
            "too_few_words",
        ),
        (links(MODULES, "<br>"), "names_only"),
        (links(MODULES, " "), "names_only"),
        (chapters(MODULES[:27]), "too_few_sentences"),
        (members(MODULES), "names_only"),
    ],
)
def test_indexes_and_stubs_go(page, rule):
    assert verdict(page) == f"technical_{rule}"


def test_labels_are_well_formed():
    with LABELS.open(newline="") as file:
        labels = list(csv.DictReader(file))
    assert list(labels[0]) == ["package", "path", "verdict", "doubtful", "part", "drawn"]
    pages = [(label["package"], label["path"]) for label in labels]
    assert pages == sorted(set(pages)), "a page twice, or out of order"
    assert len(pages) >= 300
    assert all(path.startswith("usr/share/") and path.endswith(".html") for _, path in pages)
    known = {
        "verdict": {"keep", "drop"},
        "doubtful": {"true", "false"},
        "part": {"tuning", "test"},
        "drawn": {"random", "suspect"},
    }
    for column, values in known.items():
        assert {label[column] for label in labels} == values
    parts = {package: part for package, part in {(label["package"], label["part"]) for label in labels}}
    assert len(parts) == len({(label["package"], label["part"]) for label in labels}), "a site in two parts"
    assert min(Counter(parts.values()).values()) >= 6
    assert Counter(label["verdict"] for label in labels)["drop"] >= 100
