import random

import numpy as np
import pyarrow as pa
import pytest
from phases import run_phases

from filters.minhash_dedup import MinhashDedup
from filters.recall import planted_recall
from kernels.text.minhash import reference_shingles

DRAW = random.Random(7)
WORDS = [f"word{n}" for n in range(5000)]


def prose(words=120):
    return " ".join(DRAW.choices(WORDS, k=words))


def edited(text, at=60):
    words = text.split()
    words[at] = "edited"
    return " ".join(words)


def run(stage, shards, seed=0):
    return run_phases(stage, shards, seed)[0]


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
    for name, kind in MinhashDedup().adds.items():
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
    _, recall, expected = planted_recall(MinhashDedup(), jaccard, pairs=1000)
    deviation = np.sqrt(expected * (1 - expected) / 1000)
    assert abs(recall - expected) < 4 * deviation + 0.01


def test_every_run_checks_itself():
    _, report = run_phases(MinhashDedup(), [shard([("a", prose())])])
    rows = report["self_check"]
    assert [round(row["jaccard"], 2) for row in rows] == [0.71, 0.76, 0.79, 0.84, 0.9]
    assert all(abs(row["found"] - row["expected"]) < 0.1 for row in rows)
    # a check that cannot fail would say nothing: with one band most pairs are missed
    worse = run_phases(MinhashDedup(bands=1, rows=112), [shard([("a", prose())])])[1]["self_check"]
    assert worse[0]["found"] < 0.1 < rows[0]["found"]


def test_recall_needs_room():
    with pytest.raises(ValueError, match="16 shingles are too few"):
        planted_recall(MinhashDedup(), 0.3, shingles=16)


def jaccard(left, right, n=5):
    sets = [
        {tuple(text.split()[i : i + n]) for i in range(len(text.split()) - n + 1)} for text in (left, right)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_verified_pairs_are_as_similar_as_asked():
    base = [prose(100) for _ in range(40)]
    rows = [(f"{n}", text) for n, text in enumerate(base)]
    for n, text in enumerate(base):
        words = text.split()
        for at in DRAW.sample(range(100), 1 + n % 6):
            words[at] = "replaced"
        rows.append((f"{n}-near", " ".join(words)))
    shards = [shard(rows[:30]), shard(rows[30:70]), shard(rows[70:])]
    found = {}
    for threshold in (0.0, 0.75):
        out = pa.concat_tables(run(MinhashDedup(min_jaccard=threshold, partitions=3), shards))
        pairs = zip(out["id"].to_pylist(), out["minhash_cluster_id"].to_pylist(), strict=True)
        found[threshold] = {near for near, first in pairs if near != first}
    texts = dict(rows)
    similar = {near for near in texts if "-" in near and jaccard(texts[near], texts[near[:-5]]) >= 0.75}
    assert found[0.75] == found[0.0] & similar
    assert found[0.0] - similar, "nothing that only verifying takes out"


def test_verifying_a_bucket_of_equal_documents_is_linear():
    text = prose(30)
    rows = [(str(i), text) for i in range(20_000)]
    out = run(MinhashDedup(min_jaccard=0.9), [shard(rows)])[0]
    assert out["drop_rule"].null_count == 1


def test_signatures_are_those_of_datasketch():
    from datasketch import MinHash

    texts = [prose(), "one two", ""]
    out = run(MinhashDedup(keep_signatures=True), [shard([(str(i), t) for i, t in enumerate(texts)])])[0]
    for text, signature in zip(texts, out["minhash_signature"].to_pylist(), strict=True):
        theirs = MinHash(112, seed=1, scheme="affine32", hashfunc=lambda shingle: shingle)
        for shingle in reference_shingles(text):
            theirs.update(shingle)
        assert signature == theirs.hashvalues.tolist()
    assert str(out.schema.field("minhash_signature").type) == "fixed_size_list<item: uint32>[112]"


def test_partitions_follow_the_size_of_the_input():
    def parts(rows, **parameters):
        return MinhashDedup(**parameters).sized(rows).partitions

    assert [parts(n) for n in (0, 100, 10**6, 10**7, 10**9)] == [1, 1, 7, 16, 835]
    # a part never holds more than 16 M records
    assert 14 * 10**9 / parts(10**9) < 1 << 24
    assert parts(10**9, partitions=5) == 5


def test_no_input_and_bad_input():
    assert run(MinhashDedup(), []) == []
    assert run(MinhashDedup(), [shard([])])[0].num_rows == 0
    with pytest.raises(ValueError, match="shard 2: no column 'stars'; there are: id, text"):
        stage = MinhashDedup(survivor="best_score", score_column="stars")
        stage.tell(2, shard([("a", "x")]), pa.table({"row": [0], "first": [0]}))
    with pytest.raises(ValueError, match="shard 1: 1 of 2 rows have no id"):
        run(MinhashDedup(), [shard([("a", "x")]), shard([("b", "x"), (None, "y")])])


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
        ({"partitions": 10_000}, "partitions must lie in"),
        ({"min_jaccard": 1.5}, "min_jaccard must lie in"),
        ({"min_jaccard": 0.8, "index": "x"}, "exclude each other"),
        ({"index": "/no/such/index"}, "no MinHash index at /no/such/index: give RUN/<node>"),
    ],
)
def test_parameters_are_checked(parameters, message):
    with pytest.raises(ValueError, match=message):
        MinhashDedup(**parameters)
