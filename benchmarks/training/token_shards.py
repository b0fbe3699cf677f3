"""Token shards of real text for the benchmarks of training, made once in ``.corpora/``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.curation.tokenize import TRAIN_BYTES, read_texts, train
from kernels.text.bpe import BytePairEncoder
from kernels.text.bpe_split import PATTERNS
from pipelines.dataset import write_table
from pipelines.storage import Folder
from pipelines.tokenize import library_classes

FOLDER = Path(__file__).parents[2] / ".corpora"


def real_shards(text_bytes: int) -> Path:
    """Folder of a token dataset: documentation and sources of this machine, by our byte-level BPE, as a
    tokenize node writes it."""
    folder = FOLDER / f"tokens-{text_bytes}"
    if not (folder / "manifest.json").is_file():
        print(f"tokenizing {text_bytes / 1e6:.0f} MB of text", flush=True)
        tokenizer = train(next(iter(PATTERNS)), read_texts(TRAIN_BYTES))
        encoder = BytePairEncoder(json.loads(tokenizer.to_str()), library_classes())
        ids, offsets = encoder.encode(pa.array(read_texts(text_bytes), pa.large_string()))
        end = tokenizer.get_vocab_size()
        tokens = np.insert(ids, offsets[1:], end).astype(np.uint32)
        write_shards(folder, tokens, offsets + np.arange(len(offsets)), vocab_size=end + 1, eos_id=end)
    return folder


def write_shards(folder: Path, tokens: np.ndarray, offsets: np.ndarray, vocab_size: int, eos_id: int) -> None:
    """A dataset of one shard: document i is tokens[offsets[i] : offsets[i + 1]]."""
    rows = len(offsets) - 1
    table = pa.table({
        "doc_id": [hashlib.blake2b(str(row).encode(), digest_size=16).hexdigest() for row in range(rows)],
        "tokens": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(tokens)),
        "source": ["benchmark"] * rows,
        "domain_label": pa.nulls(rows, pa.string()),
    })  # fmt: skip
    shard = write_table(Folder(folder), "00000", "rows", table)
    manifest = {
        "kind": "tokens", "schema_version": 1, "fingerprint": shard.content_hash,
        "tokens": {"vocab_size": vocab_size, "eos_id": eos_id, "tokenizer_hash": "benchmark"},
        "shards": [shard.to_json()],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
