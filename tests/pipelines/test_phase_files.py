import json
import os

import pyarrow as pa
import pytest

from pipelines.dataset import Commit
from pipelines.phase_files import parts_of, read_part, table_names, write_tables
from pipelines.storage import Folder


def test_tables_come_back_one_by_one(tmp_path):
    folder = Folder(tmp_path)
    tables = {
        "p1": pa.table({"a": [1, 2, 3]}).replace_schema_metadata({"shard": "4"}),
        "p0": pa.table({"a": [4]}).replace_schema_metadata({"shard": "4"}),
        "empty": pa.table({"a": pa.array([], pa.int64())}).replace_schema_metadata({"shard": "4"}),
        "other": pa.table({"text": ["x", None]}),
        "chunks": pa.concat_tables([pa.table({"text": ["x"]}), pa.table({"text": ["y"]})]),
    }
    commit = Commit(item="sign-00004", key="", files=write_tables(folder, "sign-00004", tables))
    commit = Commit.from_json(json.loads(json.dumps(commit.to_json())))
    assert table_names([commit]) == sorted(tables)
    # a file for each schema, whatever the number of tables
    assert len(os.listdir(tmp_path / "data")) == len(commit.files) == 2
    for name, table in tables.items():
        (part,) = parts_of([commit], name)
        back = read_part(folder, part)
        assert back.equals(table) and back.schema.metadata == table.schema.metadata
    assert len(parts_of([commit, commit])) == 2 * len(tables)


def test_the_same_tables_give_the_same_bytes(tmp_path):
    tables = {"b": pa.table({"a": [1]}), "a": pa.table({"a": [2]})}
    (first,), (second,) = (
        write_tables(Folder(tmp_path), "x", {name: tables[name] for name in order}) for order in ("ab", "ba")
    )
    assert (first.sha256, first.content_hash) == (second.sha256, second.content_hash)


def test_a_damaged_or_missing_file_is_named(tmp_path):
    folder = Folder(tmp_path)
    (file,) = write_tables(folder, "x", {"a": pa.table({"a": [1]})})
    path = tmp_path / file.file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"x\.\w+\.arrow is not a readable Arrow file .* to make it again"):
        read_part(folder, f"{file.file}#0")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is named by a commit but is not there"):
        read_part(folder, f"{file.file}#0")
