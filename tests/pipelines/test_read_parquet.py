from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_runs import manifests, run, write_dag

from pipelines.read_parquet import ReadParquet


def documents(stage):
    return [table for item in stage.items() for table in stage.read(item, [])]


def test_row_groups_make_items_and_every_row_is_there(tmp_path):
    table = pa.table({"id": [str(n) for n in range(1000)], "text": [f"text {n}" for n in range(1000)]})
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=100)
    pq.write_table(table.slice(0, 0), tmp_path / "a.parquet")
    pq.write_table(table.slice(0, 10), tmp_path / "c.parquet")
    stage = ReadParquet(paths=(str(tmp_path / "*.parquet"),), item_bytes=3500)
    items = stage.items()
    assert len(items) > 3 and [item["first_row"] for item in items if item["name"] == "b.parquet"][1] > 0
    whole = pa.concat_tables(documents(stage))
    assert whole["text"].to_pylist() == [f"text {n}" for n in [*range(1000), *range(10)]]
    # the source's own key names a document: the same row in two files has the same id
    assert len(set(whole["id"].to_pylist())) == 1000
    by_place = pa.concat_tables(documents(ReadParquet(paths=stage.paths, id_column=None, item_bytes=3500)))
    assert len(set(by_place["id"].to_pylist())) == 1010


def test_columns(tmp_path):
    table = pa.table({"key": [7], "body": ["x"], "url": ["http://a"], "title": [3], "stars": [4.5]})
    pq.write_table(table, tmp_path / "a.parquet")
    stage = ReadParquet(
        paths=(str(tmp_path / "a.parquet"),), id_column="key", text_column="body", keep=("stars",),
        source="mine", heldout_fraction=1.0,
    )  # fmt: skip
    (row,) = documents(stage)[0].to_pylist()
    # BLAKE2b-128 of "mine", a zero byte, "7"
    assert row.pop("id") == "070aabed97be8d420a4cabc1af1255d6"
    assert row == {
        "text": "x", "url": "http://a", "title": None, "license": None, "metadata": None,
        "source": "mine", "split": "heldout", "stars": 4.5, "error": None,
    }  # fmt: skip


def test_bad_rows_are_quarantined_and_the_rest_goes_on(local_ray, tmp_path):
    texts = [
        b"fine",
        b"\xff\xfe",
        None,
        "\u00e4".encode(),
        b"cut \xe2\x82",
        "\ud800".encode("utf-8", "surrogatepass"),
    ]
    table = pa.table({"id": ["a", "b", "c", "d", "e", "f"], "text": pa.array(texts, pa.binary())})
    table = pa.concat_tables([table, pa.table({"id": pa.array([None], pa.string()), "text": [b"no id"]})])
    pq.write_table(table, tmp_path / "a.parquet")
    nodes = {"read": {"stage": "read_parquet", "paths": [str(tmp_path / "a.parquet")]}}
    code, engine = run(write_dag(tmp_path, nodes), tmp_path / "run")
    assert code == 0, [job.error for job in engine.jobs.values()]
    manifest = manifests(tmp_path / "run")["read"]
    store = Path(engine.jobs["read"].plan.dataset.root)
    kept = pq.read_table(store / manifest["shards"][0]["file"])
    assert kept["text"].to_pylist() == ["fine", "", "ä"]
    failed = pq.read_table(store / manifest["quarantined"][0]["file"])
    assert failed["error"].to_pylist() == [
        "the text is no UTF-8: invalid start byte at byte 0",
        "the text is no UTF-8: unexpected end of data at byte 4",
        "the text is no UTF-8: invalid continuation byte at byte 0",
        "no id in this row",
    ]


def test_a_file_that_changed_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "text": ["x"]}), tmp_path / "a.parquet")
    stage = ReadParquet(paths=(str(tmp_path / "a.parquet"),))
    (item,) = stage.items()
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["x", "y"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet changed after the run was planned"):
        next(stage.read(item, []))


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="no file matches"):
        ReadParquet(paths=(str(tmp_path / "none"),)).items()
    (tmp_path / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match=r"bad\.parquet is no readable Parquet file"):
        ReadParquet(paths=(str(tmp_path / "bad.parquet"),)).items()
    pq.write_table(pa.table({"id": ["a"], "text": [1]}), tmp_path / "numbers.parquet")
    with pytest.raises(ValueError, match="column 'text' is int64, not string or binary"):
        ReadParquet(paths=(str(tmp_path / "numbers.parquet"),)).items()
    with pytest.raises(ValueError, match="has no column 'body'; there are: id, text"):
        ReadParquet(paths=(str(tmp_path / "numbers.parquet"),), text_column="body").items()
    with pytest.raises(ValueError, match="keep: .'url'. are columns that every document has"):
        ReadParquet(paths=("x",), keep=("url",))
