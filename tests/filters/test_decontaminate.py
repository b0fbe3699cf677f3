"""Decontamination: what is found, what is common, what is reported, what changes the fingerprint."""

import gzip
import json
import pickle
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters import decontaminate
from filters.decontaminate import Decontaminate, read_items

DRAW = random.Random(11)
VOCABULARY = [f"word{n}" for n in range(5000)]


def prose(words=60):
    return " ".join(DRAW.choices(VOCABULARY, k=words))


def shard(texts, prefix="d"):
    ids = [f"{prefix}{n}" for n in range(len(texts))]
    return pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.large_string())})


def phases(stage, shards, seed=0):
    """What each phase returns, as an engine would call them; sign's tables in random order."""
    signed = [stage.sign(k, table, None) for k, table in enumerate(shards)]
    tables = [table for named in signed for table in named.values()]
    common = stage.common(random.Random(seed).sample(tables, len(tables)))
    outs = [stage.apply(k, table, common.get(f"{k:05d}"))[""] for k, table in enumerate(shards)]
    return pa.Table.from_pylist(common["report"]["benchmarks"]), outs


def run(stage, shards):
    return pa.concat_tables(phases(stage, shards)[1])


@pytest.fixture
def evaluation(tmp_path):
    """Writes items as a text file of one item a line; its path."""

    def write(items, name="items.txt"):
        (tmp_path / name).write_text("\n".join(items) + "\n")
        return str(tmp_path / name)

    return write


def test_contaminated_documents_are_dropped_and_explained(evaluation):
    question, quoted, short, unseen = prose(40), prose(60), prose(9), prose(40)
    first = evaluation([unseen, question, "too short an item"], "first.txt")
    second = evaluation([short, quoted], "second.txt")
    stage = Decontaminate(evaluations={"quiz": first, "exam": second})
    holds = question.replace(" ", ", ").upper()
    quote = " ".join(quoted.split()[20:38])
    shards = [
        shard([prose(), f"{prose()}\n\n{holds}! {prose()}", None, ""], "a"),
        shard([], "b"),
        shard([f"{prose()} {short} {prose()} {quoted} {question}", f"{prose()} {quote} {prose()}"], "c"),
        shard([prose()], "d"),
    ]
    assert [phase for phase, _ in stage.phases] == ["sign", "common", "apply"]
    benchmarks, outs = phases(stage, shards)
    out = pa.concat_tables(outs)
    assert out["drop_rule"].to_pylist() == [None, "contaminated", None, None, "contaminated", None, None]
    assert out["contaminated_by"].to_pylist() == [None, "quiz", None, None, "quiz", None, None]
    both = ["quiz:1", "exam:0", "exam:1"]
    assert out["contaminated_items"].to_pylist() == [[], ["quiz:1"], [], [], both, [], []]
    # 28 of the question, 1 of the short item, 48 of the quoted one; a quote of 18 words has 6
    assert out["contaminated_ngrams"].to_pylist() == [0, 28, 0, 0, 28 + 1 + 48, 6, 0]
    excerpts = out["contamination_excerpt"].to_pylist()
    assert excerpts[1] == holds[:200] + "…"
    # of the first item, not the longest passage of all
    assert excerpts[4] == question[:200] + "…"
    assert excerpts[5] == quote
    assert [excerpts[k] for k in (0, 2, 3, 6)] == [None] * 4
    assert benchmarks.to_pydict() == {
        "benchmark": ["quiz", "exam"],
        "items": [3, 2],
        "items_too_short": [1, 0],
        "items_all_common": [0, 0],
    }
    for table in outs:
        assert table.schema == outs[0].schema
    for name, kind in Decontaminate.adds.items():
        assert str(outs[0].schema.field(name).type).replace("element: ", "").replace("item: ", "") == kind
    assert phases(stage, shards, seed=5)[1] == outs
    # a shard less or more changes nothing
    assert run(stage, [pa.concat_tables(shards)]).equals(out.combine_chunks())


def test_thresholds(evaluation):
    item = prose(32)
    path = evaluation([item])
    # 20 n-grams of 13 words; the first k + 12 words hold k of them
    texts = [" ".join(item.split()[: k + 12]) for k in range(21)]

    def dropped(**parameters):
        stage = Decontaminate(evaluations={"quiz": path}, common_documents=None, **parameters)
        out = run(stage, [shard(texts)])
        assert out["contaminated_ngrams"].to_pylist() == list(range(21))
        return [k for k, rule in enumerate(out["drop_rule"].to_pylist()) if rule]

    assert dropped() == list(range(10, 21))
    assert dropped(min_share=0.35) == list(range(7, 21))
    assert dropped(min_share=0.01) == list(range(1, 21))
    assert dropped(min_share=0.01, min_ngrams=4) == list(range(4, 21))
    assert dropped(min_share=1.0) == [20]


def test_common_ngrams_do_not_count(evaluation):
    notice = prose(30)
    item = prose(30)
    path = evaluation([notice, f"{notice} {item}"])
    innocent = [f"{notice} {prose()}" for _ in range(11)]
    leak = f"{prose()} {notice} {item} {prose()}"
    halves = [shard(innocent[:6], "a"), shard([*innocent[6:], leak], "b")]

    benchmarks, outs = phases(Decontaminate(evaluations={"quiz": path}), halves)
    out = pa.concat_tables(outs)
    assert out["drop_rule"].to_pylist() == [None] * 11 + ["contaminated"]
    # the notice is no item any more, and does not count in the other: 60 words less its 18 n-grams
    assert out["contaminated_items"].to_pylist()[-1] == ["quiz:1"]
    assert out["contaminated_ngrams"].to_pylist() == [0] * 11 + [30]
    assert out["contamination_excerpt"].to_pylist()[:11] == [None] * 11
    assert benchmarks["items_all_common"].to_pylist() == [1]

    # twelve documents hold it: at a limit of twelve it is not common
    all_of_them = run(Decontaminate(evaluations={"quiz": path}, common_documents=12), halves)
    assert all_of_them["drop_rule"].null_count == 0
    never = run(Decontaminate(evaluations={"quiz": path}, common_documents=None), halves)
    assert never.equals(all_of_them)
    # often in one document is one document
    stage = Decontaminate(evaluations={"quiz": path})
    assert run(stage, [shard([f"{notice}\n" * 50])])["drop_rule"].to_pylist() == ["contaminated"]


def test_short_items_need_all_their_words(evaluation):
    words = prose(10).split()
    stage = Decontaminate(evaluations={"quiz": evaluation([" ".join(words), " ".join(words[:7])])})
    texts = [f"{prose()} {' '.join(words)} {prose()}", " ".join(words[:9]), " ".join(words[1:])]
    assert run(stage, [shard(texts)])["contaminated_items"].to_pylist() == [["quiz:0"], [], []]
    # with the shorter one let in
    stage = Decontaminate(evaluations=stage.evaluations, min_ngram=7)
    items = run(stage, [shard(texts)])["contaminated_items"].to_pylist()
    assert items == [["quiz:0", "quiz:1"], ["quiz:1"], []]


def test_scripts_without_spaces(evaluation):
    draw = random.Random(3)
    item, other = ("".join(chr(draw.randrange(0x4E00, 0x9000)) for _ in range(40)) for _ in "ab")
    stage = Decontaminate(evaluations={"quiz": evaluation([item])})
    out = run(stage, [shard([f"{other}{item}。{other}", other])])
    assert out["contamination_excerpt"].to_pylist() == [f"{item}。", None]


def test_formats_hold_the_same_items(tmp_path):
    rows = [
        {"question": "which\u2028one", "choices": ["a b", "c"], "answer": None},
        {"question": "q\r2", "choices": [], "answer": "x"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    expected = ["which\u2028one\na b\nc", "q\r2\nx"]
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
        assert read_items(str(tmp_path / name), ("question", "choices", "answer")) == expected
    (tmp_path / "b.txt").write_text("one\u2028item\n\nthree")
    assert read_items(str(tmp_path / "b.txt"), ("text",)) == ["one\u2028item", "", "three"]
    (tmp_path / "c.jsonl").write_text('{"text": "half \\ud800 pair"}\n\n')
    assert read_items((tmp_path / "c.jsonl").as_uri(), ("text",)) == ["half ? pair", ""]


def test_identity_is_content_and_order(tmp_path, evaluation):
    items = [prose(), prose()]
    here = Decontaminate(evaluations={"quiz": evaluation(items), "exam": evaluation(items[:1], "b.txt")})
    lines = "".join(json.dumps({"q": item}) + "\n" for item in items)
    (tmp_path / "elsewhere.jsonl").write_text(lines)
    there = {"quiz": str(tmp_path / "elsewhere.jsonl"), "exam": here.evaluations["exam"]}
    fields = {"quiz": ("q",)}
    assert Decontaminate(evaluations=there, fields=fields).identity() == here.identity()
    assert str(tmp_path) not in json.dumps(here.identity())
    turned = dict(reversed(there.items()))
    assert Decontaminate(evaluations=turned, fields=fields).identity() != here.identity()
    evaluation([*items, prose()])
    assert Decontaminate(evaluations=here.evaluations).identity() != here.identity()


def test_a_file_that_changes_during_a_run_is_refused(evaluation):
    stage = Decontaminate(evaluations={"quiz": evaluation([prose()])})
    evaluation([prose()])
    decontaminate._load_index.cache_clear()
    # as a worker gets it
    sent = pickle.loads(pickle.dumps(stage))
    with pytest.raises(ValueError, match="items.txt changed after the run was planned"):
        sent.sign(0, shard([prose()]), None)


def test_report_per_benchmark(tmp_path, evaluation):
    """The queries of the module's docstring, on files named as the engine names them."""
    duckdb = pytest.importorskip("duckdb")
    items = [prose(20) for _ in range(6)]
    first, second = evaluation(items[:3], "a.txt"), evaluation([*items[3:], "short"], "b.txt")
    stage = Decontaminate(evaluations={"quiz": first, "exam": second})
    texts = [items[0], f"{items[0]} {items[3]}", items[4], prose()]
    benchmarks, (out,) = phases(stage, [shard(texts)])
    (tmp_path / "data").mkdir()
    dropped = out.filter(out["drop_rule"].is_valid())
    pq.write_table(dropped, tmp_path / "data" / "apply-00000.dropped.0a1b2c3d.parquet")
    manifest = {"kind": "documents", "report": {"benchmarks": benchmarks.to_pylist()}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest, indent=1))
    blocks = [part.split("\n\n")[1] for part in decontaminate.__doc__.split("::")[1:]]
    leaked, sought = (duckdb.sql(block.replace("NODE", str(tmp_path))).fetchall() for block in blocks)
    assert leaked == [("exam", 2, 2), ("quiz", 2, 1)]
    assert sorted(sought) == [("exam", 4, 1, 0), ("quiz", 3, 0, 0)]


def test_no_input_and_bad_input(evaluation):
    stage = Decontaminate(evaluations={"quiz": evaluation([prose()])})
    benchmarks, outs = phases(stage, [])
    assert outs == [] and benchmarks.num_rows == 1
    assert run(stage, [shard([])]).num_rows == 0
    with pytest.raises(ValueError, match="decontaminate, shard 3: no column 'text'; there are: id"):
        stage.sign(3, pa.table({"id": ["a"]}), None)
    short = Decontaminate(evaluations={"quiz": evaluation(["one two", "three"], "short.txt")})
    with pytest.raises(ValueError, match="each of the 2 items of 'quiz' .* fewer than min_ngram \\(8\\)"):
        short.sign(0, shard(["x"]), None)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", "x", "must end in .jsonl, .txt"),
        ("a.txt", "", "is empty"),
        ("a.jsonl", '{"text": "x"}\n{oops\n', "a.jsonl line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl line 1 is not an object"),
        ("a.jsonl", '{"question": "x"}\n', "no field 'text'; it has: question. Name one under fields"),
        ("a.jsonl", '{"text": 3}\n', "line 1: field 'text' holds int, not text"),
        ("a.parquet", "PAR0", "a.parquet is not Parquet"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        Decontaminate(evaluations={"quiz": str(tmp_path / name)})


def test_parquet_without_the_column(tmp_path):
    pq.write_table(pa.table({"question": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet has no field 'text'; it has: question"):
        Decontaminate(evaluations={"quiz": str(tmp_path / "a.parquet")})
    with pytest.raises(ValueError, match="nowhere.txt cannot be read"):
        Decontaminate(evaluations={"quiz": str(tmp_path / "nowhere.txt")})


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"evaluations": {}}, "evaluations is empty"),
        ({"evaluations": {"a:b": "x.txt"}}, "'a:b' must be a name without ':'"),
        ({"fields": {"exam": ("q",)}}, "no evaluation 'exam'; there are: quiz"),
        ({"fields": {"quiz": ()}}, "'quiz' has none"),
        ({"min_ngram": 14}, "min_ngram must lie in 1..ngram \\(13\\), not 14"),
        ({"min_share": 0.0}, "min_share must lie above 0"),
        ({"min_ngrams": 0}, "min_ngrams must be at least 1"),
        ({"common_documents": 0}, "common_documents must be at least 1 or null"),
    ],
)
def test_parameters_are_checked(parameters, message, evaluation):
    with pytest.raises(ValueError, match=message):
        Decontaminate(**{"evaluations": {"quiz": evaluation([prose()])}, **parameters})
