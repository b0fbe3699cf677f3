from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_runs import manifests, run, write_dag

from filters.rebalance import Rebalance
from pipelines.dataset import read_slice, write_table
from pipelines.storage import Folder


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 90)), max_size=12),
    st.integers(1, 20_000),
)
def test_every_row_once_and_in_order(sizes, shard_bytes):
    shards = [{"rows": rows, "bytes": rows * each + 7} for rows, each in sizes]
    planned = Rebalance(shard_bytes=shard_bytes).slices(shards)
    rows = [(shard, row) for item in planned for shard, a, b in item for row in range(a, b)]
    assert rows == [(shard, row) for shard, (count, _) in enumerate(sizes) for row in range(count)]
    assert all(item for item in planned)


def test_shards_come_out_of_one_size():
    mixed = [{"rows": rows, "bytes": rows * 100} for rows in (10, 5000, 0, 1, 80, 12_000, 3)]
    planned = Rebalance(shard_bytes=100_000).slices(mixed)
    rows = [sum(b - a for _, a, b in item) for item in planned]
    assert len(planned) == 17
    assert max(rows) - min(rows) <= 2


def test_through_the_engine(local_ray, tmp_path):
    nodes = {
        "source": {"stage": "toy_source", "shards": 4, "rows": 100},
        "small": {"stage": "rebalance", "input": "source", "shard_bytes": 700},
        "one": {"stage": "rebalance", "input": "small"},
    }
    code, engine = run(write_dag(tmp_path, nodes), tmp_path / "run")
    assert code == 0, [job.error for job in engine.jobs.values()]
    found = manifests(tmp_path / "run")
    store = {name: Path(job.plan.dataset.root) for name, job in engine.jobs.items()}
    tables = {
        name: [pq.read_table(store[name] / shard["file"]) for shard in manifest["shards"]]
        for name, manifest in found.items()
    }
    assert len(tables["one"]) == 1 and len(tables["small"]) > 8
    numbers = {name: [n for t in shards for n in t["number"].to_pylist()] for name, shards in tables.items()}
    assert numbers["source"] == numbers["small"] == numbers["one"] == list(range(400))
    assert found["one"]["counts"]["rows_in"] == found["one"]["counts"]["kept"] == 400


def test_a_slice_reads_the_rows_it_names(tmp_path):
    folder = Folder(tmp_path)
    table = pa.table({"number": range(1000)})
    whole = write_table(folder, "s0", "rows", table)
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=64)
    for file in (whole.file, "groups.parquet"):
        for start, stop in ((0, 1000), (0, 1), (63, 65), (64, 128), (999, 1000), (130, 700)):
            found = read_slice(folder, file, start, stop)
            assert found["number"].to_pylist() == list(range(start, stop))


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="shard_bytes must be at least 1, not 0"):
        Rebalance(shard_bytes=0)
