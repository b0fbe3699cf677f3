"""The stage line_dedup against a loop over all lines, and what it promises about order and memory."""

import random

import pyarrow as pa
import pytest

from filters.line_dedup import LineDedup
from kernels.text.lines import reference_normalized, reference_units, reference_without

NOTICE = "This page is part of the manual; see the index for the others."
FOOTER = "Copyright of all who wrote it, and of nobody else at all."


def run(stage, shards, seed=0):
    """All phases, as an engine would call them; tables of the "all" phase in random order."""
    done = [stage.sign(k, table, None) for k, table in enumerate(shards)]
    names = sorted({name for tables in done for name in tables})
    done = [stage.group(name, [t[name] for t in done if name in t]) for name in names]
    tables = [table for named in done for table in named.values()]
    listed = stage.gather(random.Random(seed).sample(tables, len(tables)))
    return [stage.apply(k, table, listed.get(f"{k:05d}"))[""] for k, table in enumerate(shards)]


def shard(texts, kind=None):
    urls = pa.array(["http://a.example/"] * len(texts), pa.string())
    return pa.table({"text": pa.array(texts, kind or pa.large_string()), "url": urls})


def expected(stage, shards):
    """The same in plain Python: (text, removed, removed characters, rule) of each row."""
    ignore = {"ignore_case": stage.ignore_case, "ignore_digits": stage.ignore_digits}
    documents = []
    for text in (text or "" for table in shards for text in table["text"].to_pylist()):
        bounds = reference_units(text, stage.unit)
        units = [(s, e, reference_normalized(text[s:e], **ignore)) for s, e in bounds]
        documents.append((text, units))
    seen = {}
    for number, (_, units) in enumerate(documents):
        for _, _, line in units:
            if len(line) >= stage.min_chars:
                seen.setdefault(line, {})[number] = None
    rows = []
    for number, (text, units) in enumerate(documents):
        stays = [
            len(seen.get(line, ())) <= stage.max_documents or number in list(seen[line])[: stage.keep]
            for *_, line in units
        ]
        left = reference_without(text, [(s, e) for s, e, _ in units], stays)
        too_little = len(left) < stage.min_remaining * len(text) or not any(stays)
        rule = "boilerplate" if too_little and not all(stays) else None
        removed = len(stays) - sum(stays)
        rows.append((text if rule else left, removed, len(text) - len(left), rule))
    return rows


def rows_of(tables):
    names = ("text", "line_dedup_removed", "line_dedup_removed_chars", "drop_rule")
    table = pa.concat_tables(tables).select(names)
    return [tuple(row[name] for name in names) for row in table.to_pylist()]


def test_the_first_documents_keep_what_many_share():
    bodies = [f"Number {n} has something of its own to say." for n in range(4)]
    shards = [
        shard([f"{NOTICE}\n\n{bodies[0]}\n{NOTICE}\n", bodies[1]]),
        shard([]),
        shard([f"  {NOTICE}  \n\n{bodies[2]}\n\n{FOOTER}", f"{bodies[3]}\n{NOTICE}\n{FOOTER}", NOTICE]),
    ]
    first, empty, last = run(LineDedup(max_documents=2), shards)
    # the first holds it twice, which is one document; the footer stands in two only
    assert first["text"].to_pylist() == shards[0]["text"].to_pylist()
    assert first["line_dedup_removed"].to_pylist() == [0, 0]
    assert last["text"].to_pylist() == [
        f"{bodies[2]}\n\n{FOOTER}",
        f"{bodies[3]}\n{FOOTER}",
        NOTICE,
    ]
    assert last["drop_rule"].to_pylist() == [None, None, "boilerplate"]
    assert last["line_dedup_removed"].to_pylist() == [1, 1, 1]
    assert last["line_dedup_removed_chars"].to_pylist() == [
        len(NOTICE) + 6,
        len(NOTICE) + 1,
        len(NOTICE),
    ]
    assert first.schema == empty.schema == last.schema and empty.num_rows == 0
    for name, kind in LineDedup.adds.items():
        assert str(first.schema.field(name).type) == kind
    two = run(LineDedup(max_documents=2, keep=2), shards)
    assert pa.concat_tables(two)["line_dedup_removed"].to_pylist() == [0, 0, 0, 1, 1]
    none = run(LineDedup(max_documents=2, keep=0, min_remaining=0.2), shards)
    assert pa.concat_tables(none)["line_dedup_removed"].to_pylist() == [2, 0, 1, 1, 1]
    assert none[0]["text"][0].as_py() == bodies[0] + "\n"
    for untouched in (LineDedup(max_documents=4), LineDedup(max_documents=1, min_chars=64)):
        assert [t["text"] for t in run(untouched, shards)] == [t["text"] for t in shards]


def test_a_document_left_with_little_is_dropped_with_its_text():
    body = "x" * 30
    texts = [NOTICE, f"{NOTICE}\n{body}", f"{NOTICE}\n", "", " \n", None]
    share = len(body) / len(texts[1])
    out = run(LineDedup(max_documents=1, min_remaining=share), [shard(texts)])[0]
    assert out["drop_rule"].to_pylist() == [None, None, "boilerplate", None, None, None]
    assert out["text"].to_pylist() == [NOTICE, body, f"{NOTICE}\n", "", " \n", None]
    out = run(LineDedup(max_documents=1, min_remaining=share + 0.01), [shard(texts)])[0]
    assert out["drop_rule"].to_pylist() == [None, "boilerplate", "boilerplate", None, None, None]
    assert out["text"].to_pylist() == texts
    out = run(LineDedup(max_documents=1, min_remaining=0), [shard(texts)])[0]
    assert out["drop_rule"].to_pylist() == [None, None, "boilerplate", None, None, None]


@pytest.mark.parametrize("unit", ["line", "paragraph"])
@pytest.mark.parametrize("keep", [0, 1, 2])
def test_equals_a_loop_and_depends_on_nothing_but_the_input(unit, keep):
    draw = random.Random(f"{unit}{keep}")
    lines = [f"{c}{n} line" * draw.randint(1, 3) for n in range(12) for c in "aA"]
    lines += [" ", *[""] * 20, "é語"]

    def text():
        return "\n".join(draw.choice(lines) for _ in range(draw.randrange(20)))

    shards = [shard([text() for _ in range(n)]) for n in (60, 0, 1, 90)]
    options = {"unit": unit, "max_documents": 3 if unit == "line" else 2, "keep": keep, "min_chars": 9,
               "ignore_case": keep == 1, "ignore_digits": unit == "paragraph"}  # fmt: skip
    want = expected(LineDedup(**options), shards)
    assert sum(row[1] for row in want) > 20
    assert {row[3] for row in want} == {None, "boilerplate"}
    for partitions in (1, 2, 7, 999):
        out = run(LineDedup(partitions=partitions, **options), shards, seed=partitions)
        assert rows_of(out) == want
    # other shards, same order of documents
    joined = run(LineDedup(**options), [pa.concat_tables(shards)])
    assert rows_of(joined) == want


def test_the_list_of_what_goes_is_as_long_as_its_lines_not_as_the_documents():
    """One page two thousand times: four records a shard go into the phase that is one item."""
    page = "\n".join(f"line {n} of a page that is everywhere" for n in range(4))
    shards = [shard([page] * 500) for _ in range(4)]
    stage = LineDedup(partitions=3)
    signed = [stage.sign(k, table, None) for k, table in enumerate(shards)]
    assert [sum(t.num_rows for t in tables.values()) for tables in signed] == [4 * 500] * 4
    names = {name for tables in signed for name in tables}
    grouped = [stage.group(n, [t[n] for t in signed if n in t])[n] for n in sorted(names)]
    assert sum(t.num_rows for t in grouped) == 4 * 4
    out = pa.concat_tables(run(stage, shards))
    assert out["drop_rule"].null_count == 1 and out["drop_rule"][0].as_py() is None
    assert set(out["text"].to_pylist()) == {page}


def test_runs_where_nothing_is_long_enough_and_on_its_own_output():
    out = run(LineDedup(), [shard(["a", "b"]), shard([])])
    assert [t["text"].to_pylist() for t in out] == [["a", "b"], []]
    # each phase has work items even so: an engine would lose the rows of one without
    assert LineDedup().sign(0, shard(["a"]), None).keys() == {"p000"}
    stage = LineDedup(max_documents=1)
    once = run(stage, [shard([NOTICE, f"{NOTICE}\n{FOOTER}"], pa.string())])[0]
    assert once["text"].type == pa.string() and once["text"].to_pylist() == [NOTICE, FOOTER]
    twice = run(stage, [once.drop(["drop_rule"])])[0]
    assert twice["text"] == once["text"] and twice.column_names.count("line_dedup_removed") == 1
    assert run(LineDedup(), []) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"unit": "word"}, "unit must be one of line, paragraph, not 'word'"),
        ({"max_documents": 0}, "max_documents must be at least 1, not 0"),
        ({"min_chars": 0}, "min_chars must be at least 1, not 0"),
        ({"keep": 7}, r"keep must lie in 0..max_documents \(6\), not 7"),
        ({"min_remaining": 1.5}, "min_remaining must lie in 0..1, not 1.5"),
        ({"partitions": 0}, "partitions must lie in 1..999, not 0"),
    ],
)
def test_parameters_that_make_no_sense(wrong, says):
    with pytest.raises(ValueError, match=says):
        LineDedup(**wrong)
