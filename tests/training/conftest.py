"""Token datasets on disk, made as a tokenize node writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

EOS = 0
VOCAB = 61

WriteDataset = Callable[..., Path]


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """write(name, documents, rows_per_group, groups_per_shard, vocab_size) -> folder.

    ``documents``: token lists without the end token; document i has the id f"{name}-{i}".
    """

    def write(
        name: str,
        documents: Sequence[Sequence[int]],
        *,
        rows_per_group: int = 4,
        groups_per_shard: int = 2,
        vocab_size: int = VOCAB,
    ) -> Path:
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True)
        rows = [[*document, EOS] for document in documents]
        schema = pa.schema([
            ("doc_id", pa.string()), ("tokens", pa.list_(pa.uint32())),
            ("source", pa.string()), ("domain_label", pa.string()),
        ])  # fmt: skip
        shards, per_shard = [], rows_per_group * groups_per_shard
        for number, begin in enumerate(range(0, len(rows), per_shard)):
            path = folder / "data" / f"{number:05d}.parquet"
            part = rows[begin : begin + per_shard]
            counts = []
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for low in range(0, len(part), rows_per_group):
                    group = part[low : low + rows_per_group]
                    first = begin + low
                    ids = [f"{name}-{first + i}" for i in range(len(group))]
                    columns = [ids, group, ["test"] * len(group), [None] * len(group)]
                    writer.write_table(pa.table(columns, schema=schema))
                    counts.append(sum(map(len, group)))
            shards.append({
                "file": f"data/{path.name}", "rows": len(part), "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "content_hash": "",
                "token_counts": counts,
            })  # fmt: skip
        content = json.dumps([name, rows]).encode()
        manifest = {
            "kind": "tokens", "schema_version": 1,
            "fingerprint": hashlib.sha256(content).hexdigest(),
            "tokens": {"vocab_size": vocab_size, "eos_id": EOS, "tokenizer_hash": "abc"},
            "shards": shards,
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return write
