"""The Gopher, repetition, C4 and FineWeb columns with the web preset, against datatrove's rules."""

import importlib
import inspect
import random
import re

import numpy as np
import pyarrow as pa
import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.gopher_repetition_filter import (
    find_all_duplicate,
    find_duplicates,
    find_top_duplicate,
    get_n_grams,
)

from filters import presets
from filters.columns import with_columns
from filters.decide import Decide
from filters.language import Language
from filters.text_statistics import COLUMNS, TextStatistics
from kernels.text.reference import _ends_sentence
from kernels.text.statistics import text_statistics

MODULES = [
    "argparse", "ast", "asyncio.events", "base64", "calendar", "cmd", "collections",
    "configparser", "contextlib", "csv", "datetime", "decimal", "difflib", "email.message",
    "fractions", "heapq", "http.client", "inspect", "json", "logging", "mailbox", "optparse",
    "os", "pathlib", "pickle", "random", "shutil", "smtplib", "socket", "statistics", "string",
    "subprocess", "tarfile", "tempfile", "textwrap", "threading", "typing", "unittest.mock",
    "urllib.request", "uuid", "xml.dom.minidom", "zipfile",
]  # fmt: skip


def corpus() -> list[str]:
    """260 texts: documentation strings and sources of the standard library, and mixtures of their
    lines in which something is overdone, so that every rule has something to find."""
    docs, lines = [], []
    for name in MODULES:
        module = importlib.import_module(name)
        docs += [inspect.getdoc(module) or name, inspect.getsource(module)[:6000]]
        lines += [line.strip() for line in docs[-1].splitlines() if len(line.split()) > 5]
    rng = random.Random(7)
    vice = [
        lambda t: t,
        lambda t: t.replace(".", "...") + "…",
        lambda t: "\n".join("- " + line for line in t.splitlines()),
        lambda t: t + "\n" + t,
        lambda t: t + "\n\n" + t + "\n\n" + t,
        lambda t: f"one\n\ntwo\n\nthree\n\n{t}\n\n{t}",
        lambda t: "one\ntwo\nthree\n" + (t.replace("\n", " ") + "\n") * 2,
        lambda t: t.replace(" ", "\n"),
        lambda t: t.replace(" the ", " # "),
        lambda t: " ".join(word[:2] for word in t.split()),
        lambda t: "\n".join(f"{line}..." for line in t.splitlines()),
        lambda t: t + " 1 2 3 4 ? 5" * 40,
        lambda t: t + " supercalifragilistic" * 90,
        lambda t: t + "\n" + "one two three four five six seven eight nine ten eleven " * 4,
        lambda t: t.replace(" ", "") * 3,
        lambda t: "\r\n".join(t.splitlines()) + "\nLorem ipsum dolor sit.\n",
        lambda t: "A sentence of the usual kind, to be read. " * 2 + t + " {x} and so on.",
    ]
    while len(docs) < 260:
        ends = [rng.choice(["", ".", ".", "!", '"', " [1]."]) for _ in range(rng.choice((4, 12, 30)))]
        # without what C4 and the brackets of code would always find
        text = "\n".join(rng.choice(lines).translate({ord(c): None for c in "{}="}) + e for e in ends)
        docs.append(vice[len(docs) % len(vice)](text))
    return docs


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return corpus()


@pytest.fixture(scope="module")
def table(texts) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string())})


@pytest.fixture
def white_space_words(monkeypatch):
    """datatrove on the words and sentences that are ours; its rules stay as they are."""
    for name in ("gopher_quality_filter", "gopher_repetition_filter", "fineweb_quality_filter"):
        path = f"datatrove.pipeline.filters.{name}.split_into_words"
        monkeypatch.setattr(path, lambda text, language: text.split())
    monkeypatch.setattr(
        "datatrove.pipeline.filters.c4_filters.split_into_sentences",
        lambda line, language: [""] * max(1, sum(map(_ends_sentence, line.split()))),
    )


def test_statistics_equal_datatrove_functions(texts, table):
    count = text_statistics(table["text"], ("repetition",))
    count = {name.removeprefix("repetition."): counts for name, counts in count.items()}
    for row, text in enumerate(texts):
        words = text.split()
        for n in (2, 3, 4):
            ngrams = get_n_grams(words, n)
            top = find_top_duplicate(ngrams) if ngrams else 0
            assert count[f"top_{n}gram_chars"][row] == top
        for n in range(5, 11):
            assert count[f"duplicate_{n}gram_chars"][row] == find_all_duplicate(words, n)
        for piece, pieces in (
            ("line", re.split("\n+", text)),
            ("paragraph", re.split("\n{2,}", text.strip())),
        ):
            found = count[f"duplicate_{piece}s"][row], count[f"duplicate_{piece}_chars"][row]
            assert found == find_duplicates(pieces)


REASONS = {
    "gopher": (
        GopherQualityFilter, presets.GOPHER_QUALITY,
        "gopher_short_doc gopher_long_doc gopher_below_avg_threshold gopher_above_avg_threshold"
        " gopher_too_many_hashes gopher_too_many_ellipsis gopher_too_many_bullets"
        " gopher_too_many_end_ellipsis gopher_below_alpha_threshold gopher_enough_stop_words",
    ),
    "repetition": (
        GopherRepetitionFilter, presets.GOPHER_REPETITION,
        "dup_para_frac dup_para_char_frac dup_line_frac dup_line_char_frac top_2_gram top_3_gram"
        " top_4_gram duplicated_5_n_grams duplicated_6_n_grams duplicated_7_n_grams"
        " duplicated_8_n_grams duplicated_9_n_grams duplicated_10_n_grams",
    ),
    "fineweb": (
        FineWebQualityFilter, presets.FINEWEB,
        "line_punct_ratio short_line_ratio char_dup_ratio list_ratio",
    ),
}  # fmt: skip
# what no text of a few thousand characters can show, or an earlier rule always finds first
UNSEEN = {
    "gopher_long_doc", "top_3_gram", "top_4_gram", "duplicated_6_n_grams", "duplicated_7_n_grams",
    "duplicated_8_n_grams", "duplicated_9_n_grams", "duplicated_10_n_grams",
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_first_failed_rule_is_datatroves_reason(name, texts, table, white_space_words):
    oracle, rules, reasons = REASONS[name]
    rule_of = dict(zip(reasons.split(), rules, strict=True))
    expected = []
    for text in texts:
        verdict = oracle().filter(Document(text=text, id=""))
        expected.append(None if verdict is True else rule_of[verdict[1]])
    got = (
        Decide(rules=rules)
        .annotate(TextStatistics(families=(name,)).annotate(table))["drop_rule"]
        .to_pylist()
    )
    assert got == expected
    assert None in expected
    assert {rule_of[r] for r in reasons.split() if r not in UNSEEN} <= set(expected)


def test_c4_verdict_is_datatroves(texts, table, white_space_words):
    expected = [C4QualityFilter().filter(Document(text=text, id="")) is True for text in texts]
    got = Decide(rules=presets.C4).annotate(TextStatistics(families=("c4",)).annotate(table))
    assert [rule is None for rule in got["drop_rule"].to_pylist()] == expected
    assert 20 < sum(expected) < 240
    seen = {rule for rules in got["failed_rules"].to_pylist() for rule in rules}
    assert seen == set(presets.C4)


def test_columns_are_those_declared_whatever_the_table(table):
    empty = table.slice(0, 0)
    nulls = pa.table({"text": pa.array([None, "", "word", "?!"], pa.string())})
    for stage in (TextStatistics(), TextStatistics(families=("c4", "gopher")), Language()):
        for source in (table, empty, nulls, pa.concat_tables([table, table.slice(3, 5)])):
            result = stage.annotate(source)
            assert result.select(source.column_names).equals(source)
            added = {name: result.schema.field(name).type for name in stage.adds}
            assert added == {n: pa.type_for_alias(t) for n, t in stage.adds.items()}
            assert all(result[name].null_count == 0 for name in stage.adds)
            # once more changes nothing
            assert stage.annotate(result).equals(result)


def test_families_choose_columns_and_change_none(table):
    everything = TextStatistics().annotate(table)
    assert everything.column_names[1:] == [name for columns in COLUMNS.values() for name in columns]
    for family, columns in COLUMNS.items():
        one = TextStatistics(families=(family,)).annotate(table)
        assert one.column_names == ["text", *columns]
        assert one.equals(everything.select(one.column_names))


def test_golden_columns():
    text = "The kernel maps a page of memory.\n- It is the #1 cost...\n- It is the #1 cost...\n"
    table = TextStatistics().annotate(pa.table({"text": [text]}))
    row = {k: round(v, 6) for k, v in table.drop_columns(["text"]).to_pylist()[0].items() if v}
    assert row == {
        "gopher_words": 17,
        "gopher_mean_word_length": round(59 / 17, 6),
        "gopher_hash_ratio": round(2 / 19, 6),
        "gopher_ellipsis_ratio": round(2 / 19, 6),
        "gopher_bullet_line_ratio": round(2 / 3, 6),
        "gopher_ellipsis_line_ratio": round(2 / 3, 6),
        "gopher_alpha_word_ratio": round(15 / 19, 6),
        "gopher_stop_words": 2,
        "repetition_duplicate_line_ratio": 0.25,
        "repetition_duplicate_line_char_ratio": round(22 / 80, 6),
        "repetition_top_2gram_char_ratio": round(8 / 80, 6),
        "repetition_top_3gram_char_ratio": round(14 / 80, 6),
        "repetition_top_4gram_char_ratio": round(22 / 80, 6),
        "repetition_duplicate_5gram_char_ratio": round(10 / 80, 6),
        "repetition_duplicate_6gram_char_ratio": round(17 / 80, 6),
        "c4_lines": 3,
        "c4_removed_line_ratio": round(2 / 3, 6),
        "c4_kept_sentences": 1,
        "fineweb_lines": 3,
        "fineweb_punctuated_line_ratio": 1.0,
        "fineweb_short_line_ratio": round(2 / 3, 6),
        "fineweb_duplicate_line_char_ratio": round(22 / 77, 6),
        "fineweb_newlines_per_word": round(3 / 19, 6),
    }


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="'two words' is not one word"):
        TextStatistics(stop_words=("two words",))
    with pytest.raises(ValueError, match="max_word_length is 0"):
        TextStatistics(max_word_length=0)
    with pytest.raises(ValueError, match="short_line_chars is -1"):
        TextStatistics(short_line_chars=-1)
    with pytest.raises(ValueError, match=r"'gopher_quality'\]; give some of gopher, repetition, c4"):
        TextStatistics(families=("c4", "gopher_quality"))
    german = TextStatistics(stop_words=("und", "der")).annotate(pa.table({"text": ["der und der"]}))
    assert german["gopher_stop_words"].to_pylist() == [2]


def test_language():
    table = pa.table({"text": ["The quick brown fox jumps over the lazy dog. " * 9,
                               "Der schnelle braune Fuchs springt über den faulen Hund. " * 9,
                               None]})  # fmt: skip
    result = Language(first_chars=200).annotate(table)
    assert result["language_label"].to_pylist() == ["en", "de", "unknown"]
    assert result["language_score"].to_pylist()[2] == 0


def test_with_columns_replaces_in_place():
    table = pa.table({"a": [1, 2], "b": [3, 4]})
    result = with_columns(table, {"a": "int32", "c": "string"}, {"a": np.array([5, 6]), "c": ["x", None]})
    assert result.to_pydict() == {"a": [5, 6], "b": [3, 4], "c": ["x", None]}
    assert result.schema.field("a").type == pa.int32()
