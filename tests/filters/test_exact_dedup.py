import random

import pyarrow as pa
import pytest

from filters.exact_dedup import ExactDedup


def run(stage, shards, seed=0):
    """All phases, as an engine would call them; tables of an "all" phase in random order."""
    shuffled = random.Random(seed)
    done = [stage.sign(k, table, None) for k, table in enumerate(shards)]
    for phase, per in stage.phases[1:-1]:
        if per == "partition":
            names = sorted({name for tables in done for name in tables})
            done = [getattr(stage, phase)(name, [t[name] for t in done if name in t]) for name in names]
        else:
            tables = [table for named in done for table in named.values()]
            done = [getattr(stage, phase)(shuffled.sample(tables, len(tables)))]
    chosen = {name: table for named in done for name, table in named.items()}
    return [stage.apply(k, table, chosen.get(f"{k:05d}"))[""] for k, table in enumerate(shards)]


def shard(rows, split=None):
    ids, texts = zip(*rows, strict=True) if rows else ((), ())
    columns = {"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.large_string())}
    if split is not None:
        columns["split"] = pa.array(split, pa.string())
    return pa.table(columns)


def test_the_first_of_equal_texts_stays():
    shards = [
        shard([("a", "one"), ("b", "two"), ("c", "one")]),
        shard([]),
        shard([("d", "two"), ("e", "Two"), ("f", "one"), ("g", "three")]),
    ]
    first, empty, last = run(ExactDedup(), shards)
    assert first["duplicate_of"].to_pylist() == [None, None, "a"]
    assert first["drop_rule"].to_pylist() == [None, None, "exact_duplicate"]
    assert first["exact_cluster_size"].to_pylist() == [3, 2, 3]
    assert last["duplicate_of"].to_pylist() == ["b", None, "a", None]
    assert last["exact_cluster_size"].to_pylist() == [2, 1, 3, 1]
    assert last["error"].null_count == 4
    assert first.schema == empty.schema == last.schema
    assert empty.num_rows == 0
    for name, kind in ExactDedup.adds.items():
        assert str(first.schema.field(name).type) == kind


def test_repeated_ids_are_errors_and_claim_no_copies():
    shards = [
        shard([("a", "x"), ("a", "y"), ("b", "y")]),
        shard([("a", "z"), ("c", "y"), ("b", "x")]),
    ]
    first, last = run(ExactDedup(), shards)
    assert first["error"].to_pylist() == [
        None,
        "duplicate id 'a': first seen in shard 0 row 0",
        None,
    ]
    assert last["error"].to_pylist() == [
        "duplicate id 'a': first seen in shard 0 row 0",
        None,
        "duplicate id 'b': first seen in shard 0 row 2",
    ]
    # y of row 1 goes to quarantine, so y of row 2 stays and is the one copied
    assert first["duplicate_of"].to_pylist() == [None, None, None]
    assert last["duplicate_of"].to_pylist() == [None, "b", None]
    assert first["exact_cluster_size"].to_pylist() == [1, 1, 2]


def test_a_survivor_of_heldout_copies_is_held_out():
    shards = [
        shard([("a", "x"), ("b", "y"), ("c", "x")], ["train", "train", "train"]),
        shard([("d", "x"), ("e", "z"), ("f", "y")], ["heldout", "heldout", "train"]),
    ]
    first, last = run(ExactDedup(), shards)
    assert first["split"].to_pylist() == ["heldout", "train", "train"]
    assert last["split"].to_pylist() == ["heldout", "heldout", "train"]


def test_missing_and_empty_texts_are_equal():
    out = run(ExactDedup(), [shard([("a", None), ("b", ""), ("c", " ")])])[0]
    assert out["duplicate_of"].to_pylist() == [None, "a", None]


def test_one_text_twenty_thousand_times():
    shards = [shard([(f"{k}-{i}", "same") for i in range(5000)]) for k in range(4)]
    out = pa.concat_tables(run(ExactDedup(), shards))
    assert out["drop_rule"].null_count == 1
    assert set(out["duplicate_of"].to_pylist()) == {None, "0-0"}
    assert set(out["exact_cluster_size"].to_pylist()) == {20_000}


def test_output_depends_on_nothing_but_the_input():
    draw = random.Random(1)
    shards = [
        shard([(str(draw.randrange(400)), draw.choice("abcdefgh") * 3) for _ in range(n)])
        for n in (50, 0, 1, 120)
    ]
    expected = run(ExactDedup(), shards)
    for partitions in (1, 2, 7, 999):
        assert run(ExactDedup(partitions=partitions), shards, seed=partitions) == expected
    # against a loop over the rows
    ids, texts = {}, {}
    for k, (table, out) in enumerate(zip(shards, expected, strict=True)):
        rows = zip(*(table[name].to_pylist() for name in ("id", "text")), strict=True)
        for row, (key, text) in enumerate(rows):
            if key in ids:
                at = "duplicate id {!r}: first seen in shard {} row {}".format(key, *ids[key])
                assert out["error"][row].as_py() == at
                assert out["drop_rule"][row].as_py() is None
                continue
            ids[key] = (k, row)
            assert out["error"][row].as_py() is None
            assert out["duplicate_of"][row].as_py() == texts.get(text)
            texts.setdefault(text, key)


def test_replaces_its_columns_when_run_twice():
    once = run(ExactDedup(), [shard([("a", "x"), ("b", "x")])])[0].drop(["drop_rule", "error"])
    twice = run(ExactDedup(), [once])[0]
    assert twice.drop(["drop_rule", "error"]) == once


def test_no_input_and_bad_input():
    assert run(ExactDedup(), []) == []
    with pytest.raises(ValueError, match="shard 3: no column 'text'; there are: id"):
        ExactDedup().sign(3, shard([]).drop(["text"]), None)
    with pytest.raises(ValueError, match="shard 0: 1 of 2 rows have no id"):
        ExactDedup().sign(0, shard([("a", "x"), (None, "y")]), None)
    with pytest.raises(ValueError, match="partitions must lie in"):
        ExactDedup(partitions=0)
