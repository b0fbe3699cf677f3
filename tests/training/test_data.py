"""Token datasets on disk: what a manifest promises is checked, and what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sigma_model.training.data import open_datasets

WriteDataset = Callable[..., Path]


def _documents(count: int, seed: int = 0, longest: int = 40) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, 61, random.integers(0, longest)).tolist() for _ in range(count)]


def test_row_groups_are_read_flat(write_dataset: WriteDataset) -> None:
    documents = _documents(11)
    dataset = open_datasets([str(write_dataset("a", documents)), str(write_dataset("b", documents[:5]))])
    found = [dataset.read_tokens(group) for group in range(len(dataset.group_tokens))]
    rows = [[*document, 0] for document in documents + documents[:5]]
    assert np.concatenate([tokens for tokens, _ in found]).tolist() == sum(rows, [])
    assert np.concatenate([lengths for _, lengths in found]).tolist() == [len(row) for row in rows]
    assert all(tokens.dtype == np.uint32 for tokens, _ in found)
    assert dataset.num_tokens == sum(map(len, rows))


def _edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _rewrite_shard(folder: Path, tokens: pa.Array, name: str = "tokens") -> None:
    """Another shard content under a manifest that says its size and rows are right."""
    path = folder / "data" / "00000.parquet"
    pq.write_table(pa.table({"doc_id": [str(i) for i in range(len(tokens))], name: tokens}), path)
    shard = json.loads((folder / "manifest.json").read_text())["shards"][0]
    shard.update(rows=len(tokens), bytes=path.stat().st_size, token_counts=[8])
    _edit_manifest(folder, shards=[shard])


def test_damaged_datasets_name_file_and_cure(write_dataset: WriteDataset, tmp_path: Path) -> None:
    def message(folder: Path, verify: str = "size") -> str:
        with pytest.raises(ValueError) as caught:
            open_datasets([str(folder)], verify)
        return str(caught.value)

    assert "has no manifest.json" in message(tmp_path / "nowhere")
    kind = write_dataset("kind", _documents(5))
    _edit_manifest(kind, kind="documents")
    assert "not 'tokens'" in message(kind)
    newer = write_dataset("newer", _documents(5))
    _edit_manifest(newer, schema_version=2)
    assert "schema_version 2" in message(newer)
    missing = write_dataset("missing", _documents(20))
    (missing / "data" / "00001.parquet").unlink()
    assert "00001.parquet" in message(missing) and "is missing" in message(missing)
    longer = write_dataset("longer", _documents(5))
    with (longer / "data" / "00000.parquet").open("ab") as file:
        file.write(b"x")
    assert "bytes, its manifest says" in message(longer)
    flipped = write_dataset("flipped", _documents(5))
    content = bytearray((flipped / "data" / "00000.parquet").read_bytes())
    content[10] ^= 1
    (flipped / "data" / "00000.parquet").write_bytes(content)
    assert open_datasets([str(flipped)]).num_tokens > 0
    assert "sha256" in message(flipped, "sha256")
    empty = write_dataset("empty", [])
    assert "hold no tokens" in message(empty)
    other = write_dataset("other", _documents(3), vocab_size=99)
    with pytest.raises(ValueError, match="different tokenizers"):
        open_datasets([str(write_dataset("train", _documents(3))), str(other)])
    assert open_datasets([str(missing)], "none").num_tokens > 0


@pytest.mark.parametrize(
    ("tokens", "name", "message"),
    [
        (pa.array([[1, 2, 3, 4], [5, 6, 7, 61]], pa.list_(pa.uint32())), "tokens", "token id 61"),
        (pa.array([[1, 2], [3]], pa.list_(pa.uint32())), "tokens", "holds 3 tokens, its manifest"),
        (pa.array([[1] * 8, None], pa.list_(pa.uint32())), "tokens", "1 rows have no tokens"),
        (pa.array(["a", "b"]), "tokens", "not list<uint32>"),
        (pa.array([[1] * 8], pa.list_(pa.uint32())), "ids", "no 'tokens'"),
    ],
)
def test_wrong_shard_contents_are_refused_when_read(
    write_dataset: WriteDataset, tokens: pa.Array, name: str, message: str
) -> None:
    folder = write_dataset("train", _documents(4))
    _rewrite_shard(folder, tokens, name)
    with pytest.raises(ValueError, match=message) as caught:
        open_datasets([str(folder)]).read_tokens(0)
    assert "00000.parquet" in str(caught.value)


def test_a_shard_that_vanishes_later_is_named(write_dataset: WriteDataset) -> None:
    folder = write_dataset("train", _documents(4))
    dataset = open_datasets([str(folder)])
    path = folder / "data" / "00000.parquet"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match=r"00000.parquet, row group 0 cannot be read .* restore"):
        dataset.read_tokens(0)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"00000.parquet, row group 0 cannot be read .* restore"):
        dataset.read_tokens(0)
