"""Folders, files, hashes and commits, on good disks and bad ones."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_runs import commits, hashes, journal, run, write_dag

from pipelines.config import ConfigError
from pipelines.dataset import (
    SCHEMA_VERSION,
    Commit,
    content_hash,
    put_commit,
    read_commit,
    read_table,
    write_table,
)
from pipelines.storage import DiskFull, Folder

NODES = {
    "numbers": {"stage": "toy_source"},
    "some": {"stage": "toy_map", "input": "numbers", "drop_modulo": 10},
}


# -- hashes ----------------------------------------------------------------------------------------

VALUES = {
    pa.string(): st.text(max_size=5),
    pa.large_string(): st.text(max_size=5),
    pa.binary(): st.binary(max_size=5),
    pa.int64(): st.integers(-(2**40), 2**40),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.timestamp("us", tz="UTC"): st.integers(0, 2**40),
    pa.list_(pa.string()): st.lists(st.text(max_size=3), max_size=3),
    pa.large_list(pa.uint32()): st.lists(st.integers(0, 2**32 - 1), max_size=3),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 12))
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3))
    columns = {
        f"c{i}": pa.array(draw(st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows)), kind)
        for i, kind in enumerate(kinds)
    }
    return pa.table(columns)


@given(table=tables(), cuts=st.lists(st.integers(0, 12), max_size=3), before=tables())
@settings(max_examples=150, deadline=None)
def test_content_hash_sees_rows_alone(table: pa.Table, cuts: list[int], before: pa.Table) -> None:
    """Chunks, slices, row groups and compression do not enter."""
    wanted = content_hash(table)
    bounds = [0, *sorted(min(cut, table.num_rows) for cut in cuts), table.num_rows]
    pieces = [table.slice(a, b - a) for a, b in zip(bounds, bounds[1:], strict=False)]
    assert content_hash(pa.concat_tables(pieces)) == wanted
    # the same rows as a slice of a longer table, so that no buffer begins where the rows do
    padded = pa.concat_tables([table, table, table]).combine_chunks()
    assert content_hash(padded.slice(table.num_rows, table.num_rows)) == wanted
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=2, compression="snappy")
    assert content_hash(pq.read_table(pa.BufferReader(sink.getvalue()))) == wanted
    if before.schema != table.schema or before.num_rows != table.num_rows:
        assert content_hash(before) != wanted


@given(table=tables(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_content_hash_sees_every_value(table: pa.Table, data: st.DataObject) -> None:
    """Another value, or a null in place of one, is another hash."""
    if table.num_rows == 0:
        return
    row = data.draw(st.integers(0, table.num_rows - 1))
    name = data.draw(st.sampled_from(table.column_names))
    values = table[name].to_pylist()
    new = data.draw(st.none() | VALUES[table[name].type])
    place = table.column_names.index(name)
    changed = pa.array([*values[:row], new, *values[row + 1 :]], table[name].type)
    other = table.set_column(place, name, changed)
    assert (content_hash(other) == content_hash(table)) == other.equals(table)


def test_content_hash_tells_shifted_text_apart() -> None:
    one, two = pa.table({"t": ["ab", "c"]}), pa.table({"t": ["a", "bc"]})
    assert content_hash(one) != content_hash(two)
    renamed = one.rename_columns(["u"])
    assert content_hash(one) != content_hash(renamed)


def test_same_rows_same_file(tmp_path: Path) -> None:
    table = pa.table({"id": [str(i) for i in range(5000)], "n": np.arange(5000)})
    chopped = pa.concat_tables([table.slice(i, 7) for i in range(0, 5000, 7)])
    one = write_table(Folder(tmp_path), "s00000", "rows", table)
    two = write_table(Folder(tmp_path), "s00000", "rows", chopped)
    assert one.file != two.file, "names are unique"
    assert (one.sha256, one.content_hash) == (two.sha256, two.content_hash)
    assert read_table(Folder(tmp_path), one.file).equals(table)


def test_row_groups_of_token_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.dataset.ROW_GROUP_TOKENS", 100)
    tokens = pa.array([list(range(n)) for n in (30, 30, 30, 30, 250, 5, 0)], pa.list_(pa.uint32()))
    file = write_table(Folder(tmp_path), "s00000", "rows", pa.table({"tokens": tokens}))
    assert file.token_counts is not None and sum(file.token_counts) == 375
    meta = pq.read_metadata(tmp_path / file.file)
    assert meta.num_row_groups == len(file.token_counts) > 1
    empty = write_table(Folder(tmp_path), "s00001", "rows", pa.table({"tokens": tokens.slice(0, 0)}))
    assert empty.rows == 0 and sum(empty.token_counts or []) == 0
    assert read_table(Folder(tmp_path), empty.file).num_rows == 0


# -- commits ---------------------------------------------------------------------------------------


def test_first_commit_wins(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    first = Commit(item="s00000", key="k", files=[], kept=1)
    assert put_commit(folder, first) is first
    assert put_commit(folder, Commit(item="s00000", key="k", files=[], kept=2)).kept == 1
    with pytest.raises(RuntimeError, match="belongs to another plan .* delete the dataset folder"):
        put_commit(folder, Commit(item="s00000", key="other", files=[]))


def test_torn_commit_is_no_commit(tmp_path: Path) -> None:
    """Half a record, as a store that dies may leave it: done again and put in its place."""
    folder = Folder(tmp_path)
    folder.write("commits/s00000.json", b'{"item": "s00')
    assert read_commit(folder, "s00000") is None
    put_commit(folder, Commit(item="s00000", key="k", files=[], kept=7))
    found = read_commit(folder, "s00000")
    assert found is not None and found.kept == 7


def test_no_partial_file_is_left(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.put_if_absent("a/b.json", b"1") and not folder.put_if_absent("a/b.json", b"2")
    folder.write("a/b.json", b"3")
    assert folder.read("a/b.json") == b"3" and os.listdir(tmp_path / "a") == ["b.json"]


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    file = write_table(folder, "s00000", "rows", pa.table({"n": [1]}))
    path = tmp_path / file.file
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises((FileNotFoundError, ValueError), match=f"{path.name}.*delete the dataset folder"):
        read_table(folder, file.file)


# -- folders that hold something else --------------------------------------------------------------


def test_run_folder_of_another_run(tmp_path: Path, local_ray: int) -> None:
    config = write_dag(tmp_path, NODES)
    assert run(config, tmp_path / "run")[0] == 0
    with pytest.raises(ConfigError, match="holds the run 'toys', not 'other': give another folder"):
        run(write_dag(tmp_path, NODES, name="other"), tmp_path / "run")


def test_run_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    with pytest.raises(ConfigError, match="thesis holds other files: give an empty or new folder"):
        run(write_dag(tmp_path, NODES), tmp_path / "thesis")
    assert os.listdir(tmp_path / "thesis") == ["chapter1.tex"]


def test_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot write the run or its store"):
        run(write_dag(tmp_path, NODES), tmp_path / "file")


def test_newer_manifest(tmp_path: Path, local_ray: int) -> None:
    config = write_dag(tmp_path, NODES)
    assert run(config, tmp_path / "run")[0] == 0
    manifest = next((tmp_path / "store").glob("numbers-*/manifest.json"))
    page = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**page, "schema_version": SCHEMA_VERSION + 1, "novelty": 1}))
    wanted = f"numbers-.*manifest.json has schema_version {SCHEMA_VERSION + 1}, .*: upgrade CorpusMill"
    with pytest.raises(ConfigError, match=wanted):
        run(config, tmp_path / "run")
    manifest.write_text(json.dumps(page))
    assert run(config, tmp_path / "run")[0] == 0, "the refused run did not let go of its lease"


def test_manifest_missing(tmp_path: Path, local_ray: int) -> None:
    """All commits there and no manifest: it is written again, from them, and no item is done."""
    lines = tmp_path / "journal"
    nodes = {name: {**node, "journal": str(lines)} for name, node in NODES.items()}
    config = write_dag(tmp_path, nodes)
    assert run(config, tmp_path / "run")[0] == 0
    found, before = hashes(tmp_path / "run"), commits(tmp_path / "store")
    for manifest in (tmp_path / "store").glob("*/manifest.json"):
        manifest.unlink()
    assert run(config, tmp_path / "run")[0] == 0
    assert hashes(tmp_path / "run") == found and commits(tmp_path / "store") == before
    assert max(journal(lines).values()) == 1


def test_commit_of_other_inputs(tmp_path: Path, local_ray: int) -> None:
    """A dataset folder changed by hand is refused, and named."""
    config = write_dag(tmp_path, NODES)
    assert run(config, tmp_path / "run")[0] == 0
    dataset = next((tmp_path / "store").glob("some-*"))
    (dataset / "manifest.json").unlink()
    record = dataset / "commits" / "s00001.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "key": "0" * 64}))
    code, engine = run(config, tmp_path / "run")
    assert code == 3 and f"{record} was made from other inputs" in engine.jobs["some"].error


# -- disks that are full or read-only --------------------------------------------------------------


def test_a_worker_that_finds_the_disk_full(tmp_path: Path, local_ray: int) -> None:
    room = tmp_path / "room"
    lines = tmp_path / "journal"
    some = {**NODES["some"], "full_until": str(room), "journal": str(lines)}
    config = write_dag(tmp_path, {**NODES, "some": some})
    code, engine = run(config, tmp_path / "run")
    assert code == 4 and "No space left" in engine.stopping
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "disk full"
    room.touch()
    assert run(config, tmp_path / "run")[0] == 0


def test_errors_of_a_disk_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"no room left to write .*a\.json: free some space and run again"):
        Folder(tmp_path).write("a.json", b"1")
    assert os.listdir(tmp_path) == [], "half a file was left"


def _can_mount() -> bool:
    if sys.platform != "linux" or not shutil.which("unshare"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        mount = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        return subprocess.run(mount, capture_output=True).returncode == 0


can_mount = pytest.mark.skipif(not _can_mount(), reason="mounting needs root and mount namespaces")
DRIVE = """
import os, subprocess, sys
sys.path[:0] = {path!r}
from pathlib import Path
from pipelines import cluster
from pipelines.config import ConfigError
from toy_runs import hashes, run
folder = Path({folder!r})
config = folder / "dag.yaml"
"""


def in_a_mount_namespace(folder: Path, script: str) -> str:
    """Run a script that may mount what it likes; nobody else sees it. Returns what it printed."""
    root = Path(__file__).parents[2]
    head = DRIVE.format(path=[str(root), str(root / "tests" / "toy_package")], folder=str(folder))
    result = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", head + script],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@can_mount
def test_real_full_disk(tmp_path: Path, local_ray: int) -> None:
    """A small disk that really fills, under the store and under the run's own folder: exit code 4,
    and with room made the run goes on to the bytes of a run that never saw a full disk."""
    nodes = {
        "numbers": {"stage": "toy_source", "rows": 1500, "shards": 6},
        "some": {"stage": "toy_map", "input": "numbers"},
    }
    disk = tmp_path / "disk"
    disk.mkdir()
    write_dag(tmp_path, nodes, store=str(disk / "store"))
    script = """
disk = folder / "disk"
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
ballast = disk / "ballast"
ballast.write_bytes(bytes(520 << 10))
cluster.connect(None, 2)
code, engine = run(config, disk / "run")
print("first", code, engine.stopping)
code, engine = run(config, disk / "run")
print("still full", code, engine.stopping)
rest = os.open(disk / "rest", os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(rest, bytes(4096))
except OSError:
    pass
code, engine = run(config, disk / "run")
print("not a byte", code, engine.stopping)
(disk / "rest").unlink()
ballast.unlink()
code, engine = run(config, disk / "run")
print("room", code)
import json
print(json.dumps(hashes(disk / "run")))
cluster.disconnect()
"""
    lines = in_a_mount_namespace(tmp_path, script).splitlines()
    for line, wanted in zip(lines, ("first", "still full", "not a byte"), strict=False):  # fmt: skip
        assert line.startswith(f"{wanted} 4 no room left")
    assert lines[3] == "room 0"
    assert run(write_dag(tmp_path / "whole", nodes), tmp_path / "whole" / "run")[0] == 0
    assert json.loads(lines[4]) == json.loads(json.dumps(hashes(tmp_path / "whole" / "run")))


@can_mount
def test_read_only_folders(tmp_path: Path) -> None:
    write_dag(tmp_path, NODES, store=str(tmp_path / "disk" / "store"))
    (tmp_path / "disk").mkdir()
    script = """
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder / "disk")], check=True)
for place in (folder / "disk" / "run", folder / "run"):
    try:
        run(config, place)
    except ConfigError as error:
        print(error)
"""
    lines = in_a_mount_namespace(tmp_path, script).splitlines()
    assert len(lines) == 2 and all("cannot write the run or its store" in line for line in lines)
    assert str(tmp_path / "disk" / "run") in lines[0] and str(tmp_path / "disk" / "store") in lines[1]
