"""Token datasets on disk: folders with manifest.json and Parquet shards, a row a document's tokens.

A row group is the unit that is read, and it is read into flat arrays.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TokenDataset:
    """One or more folders of token shards that share a tokenizer."""

    files: tuple[Path, ...]
    """Shards."""
    group_file: np.ndarray
    """int64 [row groups], the shard each row group is in."""
    group_index: np.ndarray
    """int64 [row groups], its number in the shard."""
    group_tokens: np.ndarray
    """int64 [row groups], its tokens."""
    fingerprint: str
    """Of the contents, never of the paths."""
    vocab_size: int
    eos_id: int
    tokenizer_hash: str

    @property
    def num_tokens(self) -> int:
        """Tokens of all row groups."""
        return int(self.group_tokens.sum())

    def read_tokens(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """A row group's tokens uint32 [n] and its documents' lengths int64 [rows]."""
        where, cure = self._where(group), "tokenize the dataset again"
        column = self._read_column(group, "tokens")
        kind = column.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or kind.value_type not in (
            pa.uint32(), pa.int32(),
        ):  # fmt: skip
            raise ValueError(f"{where}: column tokens is {kind}, not list<uint32>; {cure}")
        if column.null_count:
            raise ValueError(f"{where}: {column.null_count} rows have no tokens; {cure}")
        tokens = column.flatten().to_numpy(zero_copy_only=True).view(np.uint32)
        if len(tokens) != self.group_tokens[group]:
            raise ValueError(
                f"{where} holds {len(tokens)} tokens, its manifest says {self.group_tokens[group]}: the "
                f"shard has changed; restore it or {cure}"
            )
        if len(tokens) and (largest := int(tokens.max())) >= self.vocab_size:
            row = int(np.searchsorted(column.offsets.to_numpy(), tokens.argmax(), side="right")) - 1
            raise ValueError(
                f"{where}, row {row} holds token id {largest}, but the manifest's vocabulary has "
                f"{self.vocab_size}; {cure}"
            )
        return tokens, np.diff(column.offsets.to_numpy()).astype(np.int64)

    def read_doc_ids(self, group: int) -> list[str]:
        """Ids of a row group's documents, in order."""
        return self._read_column(group, "doc_id").to_pylist()

    def _where(self, group: int) -> str:
        return f"{self.files[self.group_file[group]]}, row group {self.group_index[group]}"

    def _read_column(self, group: int, name: str) -> pa.Array:
        path = self.files[self.group_file[group]]
        try:
            with pq.ParquetFile(path) as file:
                if name not in file.schema_arrow.names:
                    raise ValueError(
                        f"{path} has columns {file.schema_arrow.names}, no {name!r}; it is no token "
                        "shard: tokenize the dataset again"
                    )
                chunks = file.read_row_group(int(self.group_index[group]), columns=[name]).column(name).chunks
        except (OSError, IndexError, pa.ArrowException) as error:
            raise ValueError(
                f"{self._where(group)} cannot be read ({error}): the shard has changed or is gone; restore "
                "the file or tokenize the dataset again"
            ) from error
        return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)


def open_datasets(folders: list[str], verify: str = "size") -> TokenDataset:
    """Open folders of token shards as one dataset, after checking them against their manifests.

    ``verify``: "size" compares sizes and row counts, "sha256" also the files' hashes, "none" looks at
    manifests alone. Raises ValueError that names the file and the cure.
    """
    manifests = [(Path(folder), _read_manifest(Path(folder))) for folder in folders]
    facts = {json.dumps(manifest["tokens"], sort_keys=True) for _, manifest in manifests}
    if len(facts) > 1:
        raise ValueError(
            f"datasets {[str(folder) for folder, _ in manifests]} were made by different "
            f"tokenizers: {sorted(facts)}; tokenize them with one"
        )
    shards = [(folder, shard) for folder, manifest in manifests for shard in manifest["shards"]]
    if verify != "none":
        # most of a check is waiting for the disk
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda pair: _check_shard(pair[0], pair[1], verify), shards))
    counts = [shard["token_counts"] for _, shard in shards]
    tokens = manifests[0][1]["tokens"]
    fingerprints = [manifest["fingerprint"] for _, manifest in manifests]
    groups = np.array([len(count) for count in counts], np.int64)
    dataset = TokenDataset(
        files=tuple(folder / shard["file"] for folder, shard in shards),
        group_file=np.repeat(np.arange(len(shards)), groups),
        group_index=np.arange(groups.sum()) - np.repeat(np.cumsum(groups) - groups, groups),
        group_tokens=np.array([count for shard in counts for count in shard], np.int64),
        fingerprint=hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest(),
        vocab_size=tokens["vocab_size"],
        eos_id=tokens["eos_id"],
        tokenizer_hash=tokens["tokenizer_hash"],
    )
    if not dataset.num_tokens:
        raise ValueError(f"datasets {folders} hold no tokens; check what was tokenized")
    return dataset


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no manifest.json: it is no finished dataset; check the "
                         "path, or finish the run that writes it")  # fmt: skip
    manifest = json.loads(path.read_text())
    if manifest.get("kind") != "tokens":
        raise ValueError(f"{path}: kind is {manifest.get('kind')!r}, not 'tokens'; tokenize first")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version {manifest.get('schema_version')} is not the "
            f"{SCHEMA_VERSION} this version reads; update CorpusMill or write the dataset again"
        )
    for key, inner in (("tokens", ("vocab_size", "eos_id", "tokenizer_hash")),
                       ("fingerprint", ()), ("shards", ())):  # fmt: skip
        missing = [name for name in inner if name not in manifest.get(key, {})]
        if key not in manifest or missing:
            raise ValueError(f"{path} lacks {key} {missing or ''}; write the dataset again")
    return manifest


def _check_shard(folder: Path, shard: dict[str, Any], verify: str) -> None:
    path = folder / shard["file"]
    cure = "restore the file or tokenize the dataset again"
    if not path.is_file():
        raise ValueError(f"shard {path} of {folder / 'manifest.json'} is missing; {cure}")
    if path.stat().st_size != shard["bytes"]:
        raise ValueError(
            f"shard {path} has {path.stat().st_size} bytes, its manifest says {shard['bytes']}; {cure}"
        )
    if verify == "sha256":
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard["sha256"]:
            raise ValueError(f"shard {path} has sha256 {found}, its manifest says {shard['sha256']}; {cure}")
    try:
        footer = pq.read_metadata(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"shard {path} is no Parquet file ({error}); {cure}") from error
    if (footer.num_rows, footer.num_row_groups) != (shard["rows"], len(shard["token_counts"])):
        raise ValueError(
            f"shard {path} has {footer.num_rows} rows in {footer.num_row_groups} row groups, its "
            f"manifest says {shard['rows']} in {len(shard['token_counts'])}; {cure}"
        )
