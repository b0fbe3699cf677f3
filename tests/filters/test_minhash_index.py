import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phases import run_phases

from filters import minhash_index
from filters.minhash_dedup import MinhashDedup
from filters.minhash_index import IndexReader, MinhashIndex
from kernels.text.band_records import find_sorted, partition_records

DRAW = random.Random(11)
WORDS = [f"word{n}" for n in range(5000)]


def prose(words=100):
    return " ".join(DRAW.choices(WORDS, k=words))


def near(text, word="edited"):
    words = text.split()
    words[50] = word
    return " ".join(words)


def table(rows):
    ids, texts = zip(*rows, strict=True)
    return pa.table({"id": pa.array(ids), "text": pa.array(texts, pa.large_string())})


def make(folder, shards, **parameters):
    files = []
    for number, shard in enumerate(shards):
        files.append(str(folder / f"{number}.parquet"))
        pq.write_table(shard, files[-1])
    out, scratch = folder / "index", folder / "scratch"
    out.mkdir()
    scratch.mkdir(exist_ok=True)
    report = MinhashIndex(**parameters).fit(out, scratch, 0, lambda text: None, ds.dataset(files))
    return out, report


def test_a_new_crawl_against_an_old_one(tmp_path):
    old = [prose() for _ in range(30)]
    index, report = make(
        tmp_path,
        [
            table([(f"old{n}", text) for n, text in enumerate(old[:20])] + [("empty", "")]),
            table([(f"old{n}", text) for n, text in enumerate(old)][20:]),
        ],
    )
    assert report == {"documents": 31, "records": 30 * 14, "parts": 1}
    fresh, pair = prose(), prose()
    shards = [
        table([("a", near(old[3])), ("b", fresh), ("c", "")]),
        table([("d", near(old[25])), ("e", pair), ("f", near(pair)), ("g", near(old[3], "other"))]),
    ]
    stage = MinhashDedup(index=str(index))
    outs, _ = run_phases(stage, shards)
    out = pa.concat_tables(outs)
    assert out["minhash_cluster_id"].to_pylist() == ["old3", "b", "c", "old25", "e", "e", "old3"]
    rules = dict(zip(out["id"].to_pylist(), out["drop_rule"].to_pylist(), strict=True))
    assert {key: rule for key, rule in rules.items() if rule} == {
        **dict.fromkeys("adg", "indexed_duplicate"),
        "f": "near_duplicate",
    }
    for partitions in (1, 2, 7, 64):
        again, _ = run_phases(MinhashDedup(index=str(index), partitions=partitions), shards)
        assert again == outs


def test_a_member_without_a_match_of_its_own_names_the_clusters(tmp_path):
    chain = [prose(200)]
    for at in range(0, 180, 6):
        words = chain[-1].split()
        words[at] = "changed"
        chain.append(" ".join(words))
    index, _ = make(tmp_path, [table([("old", chain[0])])])
    out = run_phases(MinhashDedup(index=str(index)), [table([(str(n), t) for n, t in enumerate(chain)])])[0][
        0
    ]
    assert set(out["minhash_cluster_id"].to_pylist()) == {"old"}
    assert set(out["drop_rule"].to_pylist()) == {"indexed_duplicate"}
    alone = run_phases(MinhashDedup(index=str(index)), [table([("end", chain[-1])])])[0][0]
    assert alone["drop_rule"].null_count == 1


def test_many_parts_give_the_same(tmp_path, monkeypatch):
    old = [prose(20) for _ in range(400)]
    shards = [table([(f"{k}-{n}", text) for n, text in enumerate(old[k::4])]) for k in range(4)]
    new = [table([(str(n), text) for n, text in enumerate(old[::3] + [prose(20) for _ in range(50)])])]
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    whole, _ = make(tmp_path / "one", shards)
    monkeypatch.setattr(minhash_index, "_PART_RECORDS", 500)
    cut, report = make(tmp_path / "many", shards)
    assert report["parts"] == 12
    for partitions in (1, 5, 40):
        outs = [
            run_phases(MinhashDedup(index=str(i), partitions=partitions), new)[0][0] for i in (whole, cut)
        ]
        assert outs[0] == outs[1]
        assert outs[0]["drop_rule"].null_count == 50


def test_a_killed_fit_goes_on(tmp_path, monkeypatch):
    shards = [table([(f"{k}", prose())]) for k in range(3)]
    signed = []
    sign = MinhashIndex._sign

    def once(self, fragment, path, parts):
        if len(signed) == 2 and "died" not in signed:
            signed.append("died")
            raise KeyboardInterrupt
        if not path.exists():
            signed.append(path.name)
        sign(self, fragment, path, parts)

    monkeypatch.setattr(MinhashIndex, "_sign", once)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, shards)
    (tmp_path / "index").rmdir()
    index, report = make(tmp_path, shards)
    assert report["documents"] == 3
    assert len(signed) == 4, "a file was signed twice"


def test_other_parameters_are_refused(tmp_path):
    index, _ = make(tmp_path, [table([("a", prose())])], bands=20, rows=5)
    with pytest.raises(ValueError) as error:
        MinhashDedup(index=str(index))
    assert "made with ngram 5, bands 20, rows 5, seed 1, the dedup has ngram 5, bands 14, rows 8" in str(
        error.value
    )
    assert MinhashDedup(index=str(index), bands=20, rows=5).identity()["bands"] == 20


def test_a_damaged_index_is_refused(tmp_path):
    text = prose()
    index, _ = make(tmp_path, [table([("a", text)])])
    new = [table([("b", near(text))])]
    stage = MinhashDedup(index=str(index))
    assert run_phases(stage, new)[0][0]["drop_rule"].to_pylist() == ["indexed_duplicate"]
    for name in ("part-00000.arrow", "ids.arrow"):
        data = (index / name).read_bytes()
        (index / name).write_bytes(data[:-30] + b"x" + data[-29:])
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            run_phases(stage, new)
        (index / name).unlink()
        with pytest.raises(ValueError, match=f"{name} is gone"):
            run_phases(stage, new)
        (index / name).write_bytes(data)
    facts = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(ValueError, match="has format 2, this CorpusMill reads 1"):
        MinhashDedup(index=str(index))
    (index / "index.json").write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        MinhashDedup(index=str(index))


def test_the_fingerprint_is_of_what_it_holds(tmp_path):
    rows = [("a", prose()), ("b", prose())]
    places = []
    for name, content in (("x", rows), ("y", rows), ("z", rows[:1])):
        (tmp_path / name).mkdir()
        places.append(make(tmp_path / name, [table(content)])[0])
    prints = [MinhashDedup(index=str(place)).identity() for place in places]
    assert prints[0] == prints[1] != prints[2]
    assert IndexReader.open(str(places[0])).documents == 2


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_find_sorted(index, others):
    sorted_index = np.sort(np.array(index, np.uint64))
    keys = np.array(index + others, np.uint64)
    at = np.searchsorted(sorted_index, keys)
    there = np.isin(keys, sorted_index)
    for low, high in ((0, 2**64), (2**63, 2**63 + 10)):
        assert (find_sorted(sorted_index, low, high, keys) == np.where(there, at, -1)).all()


def test_records_by_range():
    draw = np.random.default_rng(2)
    hashes = draw.integers(0, 2**64, (14, 1000), np.uint64)
    chosen = draw.random(1000) < 0.8
    for parts in (1, 2, 7, 100):
        keys, rows, starts = partition_records(hashes, chosen, parts)
        assert sorted(zip(keys.tolist(), rows.tolist(), strict=True)) == sorted(
            (h, r) for r in np.flatnonzero(chosen).tolist() for h in hashes[:, r].tolist()
        )
        for part in range(parts):
            inside = slice(starts[part], starts[part + 1])
            assert all(key * parts >> 64 == part for key in keys[inside].tolist())
            assert (np.diff(rows[inside].astype(np.int64)) >= 0).all()
