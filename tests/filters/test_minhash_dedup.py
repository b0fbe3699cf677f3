import random

import numpy as np
import pyarrow as pa
import pytest

from filters.minhash_dedup import MinhashDedup, planted_recall

DRAW = random.Random(7)
WORDS = [f"word{n}" for n in range(5000)]


def prose(words=120):
    return " ".join(DRAW.choices(WORDS, k=words))


def edited(text, at=60):
    words = text.split()
    words[at] = "edited"
    return " ".join(words)


def run(stage, shards, seed=0):
    """All phases, as an engine would call them; tables of the "all" phase in random order."""
    signed = [stage.sign(k, table, None) for k, table in enumerate(shards)]
    names = sorted({name for tables in signed for name in tables})
    grouped = [stage.group(name, [t[name] for t in signed if name in t]) for name in names]
    tables = [table for named in grouped for table in named.values()]
    clusters = stage.cluster(random.Random(seed).sample(tables, len(tables)))
    assert [phase for phase, _ in stage.phases] == ["sign", "group", "cluster", "apply"]
    return [stage.apply(k, table, clusters.get(f"{k:05d}"))[""] for k, table in enumerate(shards)]


def shard(rows, **columns):
    ids, texts = zip(*rows, strict=True) if rows else ((), ())
    return pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.large_string()), **columns})


def test_near_copies_follow_the_first():
    a, b = prose(), prose()
    shards = [
        shard([("a", a), ("x", prose()), ("b", b)]),
        shard([]),
        shard([("a2", edited(a)), ("b2", b.upper() + "!"), ("a3", a.replace(" ", "\n")), ("y", "")]),
        shard([("z", prose())]),
    ]
    outs = run(MinhashDedup(), shards)
    out = pa.concat_tables(outs)
    assert out["minhash_cluster_id"].to_pylist() == ["a", "x", "b", "a", "b", "a", "y", "z"]
    assert out["minhash_cluster_size"].to_pylist() == [3, 1, 2, 3, 2, 3, 1, 1]
    drop = "near_duplicate"
    assert out["drop_rule"].to_pylist() == [None, None, None, drop, drop, drop, None, None]
    assert all(table.schema == outs[0].schema for table in outs)
    assert outs[1].num_rows == 0
    for name, kind in MinhashDedup.adds.items():
        assert str(outs[0].schema.field(name).type) == kind


def test_survivor_policies():
    a = prose()
    # near copies that differ in length: first, a longer one, the longest twice
    rows = [("1", a), ("2", a + " tail"), ("3", a + " longer tail"), ("4", a + " LONGER tail")]
    columns = {
        "score": pa.array([0.5, None, float("nan"), 0.75], pa.float32()),
        "source": pa.array(["web", "docs", None, "docs"]),
    }
    table = shard(rows, **columns)
    policies = {
        "1": MinhashDedup(),
        "3": MinhashDedup(survivor="longest"),
        "4": MinhashDedup(survivor="best_score", score_column="score"),
        "2": MinhashDedup(survivor="source_priority", source_order=("man", "docs", "web")),
    }
    for survivor, stage in policies.items():
        for shards in ([table], [table.slice(0, 2), table.slice(2)]):
            out = pa.concat_tables(run(stage, shards))
            assert set(out["minhash_cluster_id"].to_pylist()) == {survivor}
            kept = out.filter(out["drop_rule"].is_null())
            assert kept["id"].to_pylist() == [survivor]
    by_name = MinhashDedup(survivor="source_priority", source_order=("man",))
    assert run(by_name, [table])[0]["minhash_cluster_id"][0].as_py() == "1"
    assert policies["4"].columns() == {"id", "text", "score"}


def test_a_survivor_of_heldout_copies_is_held_out():
    a, b = prose(), prose()
    split = pa.array(["train", "train", "heldout", "train", "train"])
    table = shard([("a", a), ("b", b), ("a2", edited(a)), ("b2", b), ("c", prose())], split=split)
    out = run(MinhashDedup(), [table])[0]
    assert out["split"].to_pylist() == ["heldout", "train", "heldout", "train", "train"]
    assert out["drop_rule"].null_count == 3


def test_clusters_join_through_shared_members():
    a = prose(200)
    chain = [a]
    for at in range(10, 190, 6):
        chain.append(edited(chain[-1], at))
    out = run(MinhashDedup(), [shard([(str(n), text) for n, text in enumerate(chain)])])[0]
    assert set(out["minhash_cluster_id"].to_pylist()) == {"0"}
    ends = run(MinhashDedup(), [shard([("0", chain[0]), ("30", chain[-1])])])[0]
    assert ends["drop_rule"].null_count == 2


def test_scripts_without_spaces():
    draw = random.Random(3)
    for low, high in ((0x4E00, 0x9000), (0x3041, 0x3090), (0x0E01, 0x0E2F), (0x1780, 0x17A0)):
        text, other = ("".join(chr(draw.randrange(low, high)) for _ in range(200)) for _ in "ab")
        near = text[:100] + "ab" + text[101:]
        out = run(MinhashDedup(), [shard([("a", text), ("b", near), ("c", other)])])[0]
        assert out["minhash_cluster_id"].to_pylist() == ["a", "a", "c"]


def test_texts_without_words_match_nothing():
    texts = ["", None, "  \n", "...", "!?", "\u200b", "", "one", "one.", "One two"]
    shards = [shard([(f"{k}-{i}", text) for i, text in enumerate(texts[:7])]) for k in range(3)]
    out = pa.concat_tables(run(MinhashDedup(), shards))
    assert out["drop_rule"].null_count == 21
    assert out["minhash_cluster_id"] == out["id"]
    # fewer words than an n-gram: equal where the words are
    out = run(MinhashDedup(), [shard([(str(i), text) for i, text in enumerate(texts[7:])])])[0]
    assert out["minhash_cluster_id"].to_pylist() == ["0", "0", "2"]


def test_twenty_thousand_equal_documents():
    text = prose(30)
    shards = [shard([(f"{k}-{i}", text) for i in range(5000)]) for k in range(4)]
    out = pa.concat_tables(run(MinhashDedup(), shards))
    assert out["drop_rule"].null_count == 1
    assert set(out["minhash_cluster_id"].to_pylist()) == {"0-0"}
    assert set(out["minhash_cluster_size"].to_pylist()) == {20_000}


def test_partitions_and_shard_order_of_tables_do_not_matter():
    base = [prose(80) for _ in range(60)]
    texts = [edited(text, at) for text in base for at in (3, 40, 77)] + [prose() for _ in range(60)]
    DRAW.shuffle(texts)
    table = shard([(str(i), text) for i, text in enumerate(texts)])
    cuts = [0, 50, 50, 51, 200, 240]
    shards = [table.slice(a, b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
    expected = run(MinhashDedup(), shards)
    assert pa.concat_tables(expected)["drop_rule"].null_count < 160
    for partitions in (1, 3, 999):
        assert run(MinhashDedup(partitions=partitions), shards, seed=partitions) == expected
    # the same documents in one shard: the same clusters
    assert run(MinhashDedup(), [table])[0].equals(pa.concat_tables(expected))


def test_kept_documents_are_pairwise_apart():
    base = [prose(80) for _ in range(40)]
    rows = [(str(i), edited(text, at)) for i, text in enumerate(base * 3) for at in (i % 80,)]
    stage = MinhashDedup()
    once = run(stage, [shard(rows)])[0]
    kept = once.filter(once["drop_rule"].is_null()).drop(["drop_rule"])
    again = run(stage, [kept])[0]
    assert again["drop_rule"].null_count == kept.num_rows
    assert set(again["minhash_cluster_size"].to_pylist()) == {1}


@pytest.mark.parametrize("jaccard", [0.7, 0.75, 0.8, 0.85, 0.9])
def test_recall_follows_the_s_curve(jaccard):
    recall, expected = planted_recall(MinhashDedup(), jaccard, pairs=1000)
    deviation = np.sqrt(expected * (1 - expected) / 1000)
    assert abs(recall - expected) < 4 * deviation + 0.01


def test_recall_needs_room():
    with pytest.raises(ValueError, match="20 words are too few"):
        planted_recall(MinhashDedup(), 0.3, words=20)


def test_no_input_and_bad_input():
    assert run(MinhashDedup(), []) == []
    assert run(MinhashDedup(), [shard([])])[0].num_rows == 0
    with pytest.raises(ValueError, match="shard 2: no column 'stars'; there are: id, text"):
        stage = MinhashDedup(survivor="best_score", score_column="stars")
        stage.sign(2, shard([("a", "x")]), None)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"bands": 0}, "bands must be at least 1"),
        ({"ngram": 0}, "ngram must be at least 1"),
        ({"bands": 100, "rows": 100}, "at most 4096"),
        ({"seed": -1}, "seed must lie in"),
        ({"survivor": "newest"}, "survivor must be one of first, longest"),
        ({"survivor": "best_score"}, "'best_score' and score_column need each other"),
        ({"source_order": ("a",)}, "'source_priority' and source_order need each other"),
        ({"partitions": 1000}, "partitions must lie in"),
    ],
)
def test_parameters_are_checked(parameters, message):
    with pytest.raises(ValueError, match=message):
        MinhashDedup(**parameters)
