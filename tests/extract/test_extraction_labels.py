"""The labels that extraction is measured on, and the text that a label stands for."""

import csv
import re
from collections import Counter

import lxml.etree
import pytest

from benchmarks.extraction.gold import gold_text, parse
from benchmarks.extraction.labelled import LABELS, word_f1

PAGE = """<!DOCTYPE html><meta charset="utf-8"><title>No</title><body>
<ul id="menu"><li>Home</ul>
<div id="main"><h1>Title<a class="anchor">#</a></h1><p>One <b>bold</b>word<br>café</p> loose text
 <aside>See <em>also</em> this</aside> tail <script>var no</script><!-- no -->
 <select><option>no</select><table><tr><td>1<td>2</table></div>
<footer>End</footer>""".encode()


@pytest.mark.parametrize(
    ("keep", "drop", "text"),
    [
        ("//h1", "", "Title#"),
        ("//h1 | //footer", "//a[@class='anchor']", "Title\nEnd"),
        ("//div[@id='main']/p", "", "One boldword\ncafé"),
        # what follows a dropped element stays
        ("//div[@id='main']", "//h1 | //p | //table", "loose text\nSee also this\ntail"),
        ("//div[@id='main']", "//h1 | //p | //aside", "loose text\ntail\n1\n2"),
        # of nested choices the inner one holds; of the same node chosen twice, the drop
        ("//h1 | //em", "//aside", "Title#\nalso"),
        ("//h1 | //em", "//em", "Title#"),
        # text that has no element of its own
        ("//div[@id='main']/p/following-sibling::text()[1]", "", "loose text"),
        ("//div[@id='main']", "//h1 | //p | //table | //aside/following-sibling::text() | //aside/text()[1]",
         "loose text\nalso this"),
    ],
)  # fmt: skip
def test_text_of_a_label(keep, drop, text):
    assert gold_text(parse(PAGE), keep, drop) == text


@pytest.mark.parametrize(
    ("keep", "drop", "message"),
    [
        ("//article", "", "//article selects nothing"),
        ("//h1", "//h1/i", "//h1/i selects nothing"),
        ("//h1 | //h2", "", "//h2 selects nothing"),
        ("//h1[", "", "is no XPath"),
        ("//h1/@id", "", "selects nothing"),
        ("//a/@class", "", "something else than elements and text"),
        ("count(//p)", "", "selects nothing"),
    ],
)
def test_a_label_that_does_not_fit_its_page(keep, drop, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gold_text(parse(PAGE), keep, drop)


def test_a_page_nested_deep_has_its_text():
    deep = b"<main>" + b"<div>" * 1500 + b"core" + b"</div>" * 1500 + b"</main>"
    assert gold_text(parse(deep), "//main") == "core"


def test_words_count_as_often_as_they_occur():
    assert word_f1("a a b", "A b b c") == {"precision": 2 / 3, "recall": 2 / 4, "f1": pytest.approx(4 / 7)}
    assert word_f1("", "a")["f1"] == word_f1("b", "a")["f1"] == 0
    assert word_f1("Né, né!", "né NÉ")["f1"] == 1


def test_labels_are_well_formed():
    with LABELS.open(newline="") as file:
        labels = list(csv.DictReader(file))
    assert list(labels[0]) == ["package", "path", "sha256", "site", "type", "words", "keep", "drop"]
    paths = [(label["package"], label["path"]) for label in labels]
    assert paths == sorted(set(paths)), "a page twice, or out of order"
    hashes = [label["sha256"] for label in labels]
    assert len(set(hashes)) == len(labels) and all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes)
    assert len(labels) >= 100
    sites = Counter(label["site"] for label in labels)
    assert len(sites) >= 20 and max(sites.values()) <= 4
    types = {"article", "documentation", "service", "forum", "collection", "listing", "product"}
    assert {label["type"] for label in labels} == types
    for label in labels:
        kind, _, package = label["package"].partition(":")
        pinned = {"deb": r"[a-z0-9.+-]+", "npm": r"[a-z0-9-]+@[\d.]+", "pypi": r"[a-z0-9-]+==[\d.]+"}
        assert re.fullmatch(pinned[kind], package), label["package"]
        assert label["path"].endswith(".html") and int(label["words"]) > 0
        assert_no_text(label["keep"])
        if label["drop"]:
            assert_no_text(label["drop"])


def assert_no_text(paths: str) -> None:
    """Valid XPaths, in which strings are compared with attributes alone: none quotes what a page says."""
    for path in paths.split(" | "):
        lxml.etree.XPath(path)
        without = re.sub(r"@[a-z-]+='[^']*'|(?:contains|starts-with)\(@[a-z-]+,'[^']*'\)", "", path)
        assert "'" not in without and '"' not in without, f"{path} compares something else than attributes"
