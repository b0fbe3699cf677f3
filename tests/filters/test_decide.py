"""Rules as data: decide, and what the technical preset keeps and throws away."""

import inspect
import pkgutil
import pydoc

import pyarrow as pa
import pytest

from filters.decide import Decide
from filters.presets import PRESETS
from filters.text_statistics import TextStatistics


def scored(texts: list[str]) -> pa.Table:
    return TextStatistics().annotate(pa.table({"text": pa.array(texts, pa.large_string())}))


def test_rules_in_order_and_all_that_failed():
    table = pa.table({"n": [1, 5, 9, None], "s": [0.5, 0.1, 0.9, None], "l": ["en", "de", None, "fr"]})
    decide = Decide(
        rules={
            "small": {"column": "n", "min": 2},
            "range": {"column": "s", "min": 0.2, "max": 0.8},
            "english": {"column": "l", "in": ["en"]},
            "not_french": {"column": "l", "not_in": ["fr"]},
        }
    )
    assert decide.columns() == {"n", "s", "l"}
    result = decide.annotate(table)
    # a null fails nothing
    assert result["drop_rule"].to_pylist() == ["small", "range", "range", "english"]
    assert result["failed_rules"].to_pylist() == [
        ["small"],
        ["range", "english"],
        ["range"],
        ["english", "not_french"],
    ]
    assert result.schema.field("drop_rule").type == pa.string()
    assert result.schema.field("failed_rules").type == pa.list_(pa.string())
    assert decide.annotate(result).equals(result)
    assert decide.annotate(table.slice(0, 0)).schema == result.schema
    assert decide.annotate(pa.concat_tables([table, table]))["drop_rule"].null_count == 0


def test_limits_themselves_pass():
    table = pa.table({"n": [2, 3, 4, 5]})
    rules = {"r": {"column": "n", "min": 3, "max": 4}}
    assert Decide(rules=rules).annotate(table)["drop_rule"].to_pylist() == ["r", None, None, "r"]


def test_a_rule_with_an_alternative_is_failed_only_with_it():
    rules = {
        "r": {"column": "n", "min": 3, "or": {"column": "m", "max": 9, "or": {"column": "l", "in": ["a"]}}}
    }
    decide = Decide(rules=rules)
    assert decide.columns() == {"n", "m", "l"}
    table = pa.table(
        {"n": [3, 2, 2, 2, None, 2], "m": [99, 9, 99, 99, 99, None], "l": ["b", "b", "a", "b", "b", "b"]}
    )
    assert decide.annotate(table)["drop_rule"].to_pylist() == [None, None, None, "r", None, None]
    with pytest.raises(ValueError, match="'r' reads column 'm', which no stage before it adds"):
        decide.annotate(table.drop_columns("m"))


def test_presets_are_overridden_extended_and_turned_off_by_name():
    rules = {
        "technical_too_few_words": {"min": 3},
        "technical_word_lists": None,
        "technical_long_words": False,
        "own": {"column": "gopher_words", "max": 4},
    }
    decide = Decide(presets=("technical",), rules=rules)
    zeros = {name: [0.0] * 3 for name in Decide(presets=("technical",)).columns()}
    table = pa.table(
        zeros
        | {
            "gopher_words": [2, 4, 5],
            "gopher_mean_word_length": [5.0, 99.0, 5.0],
            "gopher_alpha_word_ratio": [0.9, 0.9, 0.9],
            "fineweb_newlines_per_word": [0.9, 0.9, 0.9],
            "fineweb_punctuated_line_ratio": [0.5, 0.5, 0.5],
            "c4_kept_sentences": [9, 9, 9],
        }
    )
    result = decide.annotate(table)
    assert result["drop_rule"].to_pylist() == ["technical_too_few_words", None, "own"]
    with pytest.raises(ValueError, match="no 'tecnical'; did you mean 'technical'"):
        Decide(presets=("tecnical",))
    with pytest.raises(ValueError, match="'technical_words' is turned off, but no preset"):
        Decide(presets=("technical",), rules={"technical_words": None})


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"min": 1}, "'r' names no column"),
        ({"column": "n"}, "'r' has no condition; give one of min, max, in, not_in"),
        ({"column": "n", "maximum": 1}, "unknown key 'maximum'"),
        ({"column": "n", "max": "1"}, "max must be a number, not '1'"),
        ({"column": "n", "in": "en"}, "in must be a list, not 'en'"),
        ({"column": "n", "min": 2, "max": 1}, "min 2 above max 1"),
        ({"column": "n", "min": 1, "or": {"min": 2}}, "'r' names no column"),
        ({"column": "n", "min": 1, "or": [2]}, r"'r': or must be a rule, not \[2\]"),
        ({"column": "n", "or": {"column": "m", "min": 2}}, "'r' has no condition"),
        (3, "'r' is 3; write a mapping"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        Decide(rules={"r": rule})


def test_no_rules_missing_columns_and_wrong_types():
    with pytest.raises(ValueError, match="decide has no rules"):
        Decide()
    table = pa.table({"gopher_words": [1], "text": ["a"]})
    with pytest.raises(ValueError, match="'r' reads column 'gopher_word'.*did you mean 'gopher_words'"):
        Decide(rules={"r": {"column": "gopher_word", "min": 1}}).annotate(table)
    with pytest.raises(ValueError, match="'r' does not fit column 'text' of type string"):
        Decide(rules={"r": {"column": "text", "min": 1}}).annotate(table)


def test_presets_read_only_columns_that_the_annotators_add():
    added = set(TextStatistics().adds)
    for name in PRESETS:
        assert Decide(presets=(name,)).columns() <= added


def test_technical_keeps_documentation_that_web_drops():
    modules = "argparse asyncio.tasks csv ctypes email.message glob heapq http.cookiejar json logging"
    modules += " os.path pathlib queue sched selectors shlex socket sqlite3 struct textwrap zlib"
    pages = [pydoc.plain(pydoc.render_doc(name)) for name in modules.split()]
    pages.append(inspect.getsource(pydoc))
    table = scored(pages)
    technical = Decide(presets=("technical",)).annotate(table)
    assert technical["drop_rule"].null_count == len(pages), technical["failed_rules"].to_pylist()
    web = Decide(presets=("web",)).annotate(table)
    assert web["drop_rule"].null_count < len(pages) / 4


def test_technical_drops_what_holds_no_text():
    words = [name for _, name, _ in pkgutil.iter_modules() if len(name) > 3]
    pages = {
        "": "technical_too_few_words",
        "Home | Next | Previous\nSearch\nCopyright": "technical_too_few_words",
        "\n\n".join(words): "technical_word_lists",
        "0x00 17 33 51 99 12 | " * 40: "technical_alpha_words",
        " ".join(word * 9 for word in words): "technical_long_words",
        "Lorem ipsum dolor sit amet, and so on. " + " ".join(words[:60]) + ".": "technical_lorem_ipsum",
        "buy cheap things here now " * 40: "technical_duplicate_5gram",
    }
    result = Decide(presets=("technical",)).annotate(scored(list(pages)))
    for rule, failed in zip(pages.values(), result["failed_rules"].to_pylist(), strict=True):
        assert rule in failed
