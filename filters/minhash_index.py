"""Stage ``minhash_index``: the band hashes of documents, to find near-duplicates of them later."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from kernels.text.band_records import find_sorted, partition_records
from kernels.text.buffers import text_buffers
from kernels.text.minhash import band_signatures

FORMAT = 1
_PART_RECORDS = 1 << 24
_PARAMETERS = ("ngram", "bands", "rows", "seed")
_RECORDS = pa.schema([("hash", pa.uint64()), ("document", pa.uint32())])
_IDS = pa.schema([("id", pa.large_string())])


def check_signature(stage: Any) -> None:
    """Raise ValueError unless ngram, bands, rows and seed of ``stage`` make a signature."""
    for name in ("ngram", "bands", "rows"):
        if getattr(stage, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(stage, name)}")
    if stage.bands * stage.rows > 4096:
        raise ValueError(f"bands x rows must be at most 4096, not {stage.bands * stage.rows}")
    if not 0 <= stage.seed < 2**32:
        raise ValueError(f"seed must lie in 0..2^32 - 1, not {stage.seed}")


@dataclass(frozen=True, kw_only=True)
class MinhashIndex:
    """Save the band hashes and ids of documents as an index that ``minhash_dedup`` takes (``index``).

    For crawls that come one after the other: index what was kept, dedup the next crawl against it.
    168 bytes a document with 14 bands, and its id. A document without words has no records. The
    parameters must be those of the dedup. One process; a killed one goes on with the next file.
    Memory: one input file, then 50 bytes a record of a part of at most 16 M records.
    """

    stage: ClassVar[str] = "minhash_index"
    shape: ClassVar[str] = "fit"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ("numba", "pyarrow", "unicodedata")
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "artifact"
    needs: ClassVar[tuple[str, ...]] = ("id", "text")

    ngram: int = 5
    """Words in a shingle."""
    bands: int = 14
    """Bands of a signature."""
    rows: int = 8
    """Slots in a band."""
    seed: int = 1
    """Seed of the slots' permutations."""

    def __post_init__(self) -> None:
        check_signature(self)

    def fit(
        self,
        out: Path,
        scratch: Path,
        seed: int,
        progress: Callable[[str], None],
        documents: ds.Dataset,
    ) -> dict[str, Any]:
        """Write index.json, ids.arrow and the parts; returns the report."""
        fragments = list(documents.get_fragments())
        sizes = [fragment.count_rows() for fragment in fragments]
        if sum(sizes) >= 2**32:
            raise ValueError(
                f"minhash_index: {sum(sizes)} documents; an index holds fewer than 2^32: make several"
            )
        parts = max(1, math.ceil(sum(sizes) * self.bands / _PART_RECORDS))
        for number, fragment in enumerate(fragments):
            progress(f"signed {number} of {len(fragments)} files")
            self._sign(fragment, scratch / f"signed-{parts}-{number:05d}.arrow", parts)
        signed = [scratch / f"signed-{parts}-{number:05d}.arrow" for number in range(len(fragments))]
        bases = np.concatenate([[0], np.cumsum(sizes)])
        files = []
        for part in range(parts):
            progress(f"sorted {part} of {parts} parts")
            files.append(_write_part(out, part, signed, bases))
        progress("writing ids")
        ids = _write(
            out / "ids.arrow",
            _IDS,
            (b.cast(_IDS) for f in fragments for b in f.to_batches(columns=["id"])),
        )
        facts = {
            "format": FORMAT,
            **{name: getattr(self, name) for name in _PARAMETERS},
            "documents": int(bases[-1]),
            "records": sum(file["records"] for file in files),
            "ids": ids,
            "parts": files,
        }
        (out / "index.json").write_text(json.dumps(facts, indent=1) + "\n")
        return {key: facts[key] for key in ("documents", "records")} | {"parts": parts}

    def _sign(self, fragment: ds.Fragment, path: Path, parts: int) -> None:
        if path.exists():
            return
        table = fragment.to_table(columns=["text"])
        hashes, num_shingles = band_signatures(
            *text_buffers(table["text"]), self.bands, self.rows, self.ngram, self.seed
        )
        keys, rows, starts = partition_records(hashes, num_shingles > 0, parts)
        partial = path.with_suffix(".partial")
        _write(
            partial,
            _RECORDS,
            (
                pa.record_batch([keys[a:b], rows[a:b]], schema=_RECORDS)
                for a, b in zip(starts, starts[1:], strict=False)
            ),
        )
        os.replace(partial, path)


def _write(path: Path, schema: pa.Schema, batches: Any) -> dict[str, Any]:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    with open(path, "rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_part(out: Path, part: int, signed: list[Path], bases: np.ndarray) -> dict[str, Any]:
    """Records of one part, by hash; equal hashes in the order of their documents."""
    keys, rows = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    for path, base in zip(signed, bases, strict=False):
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(part)
        keys.append(batch["hash"].to_numpy())
        rows.append(batch["document"].to_numpy() + np.uint32(base))
    hashes, documents = np.concatenate(keys), np.concatenate(rows)
    order = np.argsort(hashes, kind="stable")
    batch = pa.record_batch([hashes[order], documents[order]], schema=_RECORDS)
    facts = _write(out / f"part-{part:05d}.arrow", _RECORDS, [batch])
    return {**facts, "records": len(hashes)}


@dataclass(frozen=True)
class IndexReader:
    """A saved index. ``place``: the folder of index.json. Raises ValueError for one that is damaged."""

    place: str
    facts: dict[str, Any] = field(repr=False)

    @staticmethod
    def open(path: str) -> IndexReader:
        """The index at a path or URI: its files, the dataset that holds them, or RUN/<node>."""
        place = path.rstrip("/") if "://" in path else os.path.abspath(path)
        for folder in (place, *_artifact_folders(place)):
            facts = _read_json(f"{folder}/index.json")
            if facts is not None:
                break
        else:
            raise ValueError(
                f"no MinHash index at {path}: give RUN/<node>, or the dataset, of a minhash_index node"
            )
        if facts.get("format") != FORMAT:
            raise ValueError(
                f"{folder}/index.json has format {facts.get('format')}, this CorpusMill reads {FORMAT}"
            )
        return IndexReader(folder, facts)

    def fitting(self, stage: Any) -> Self:
        """Itself, if made with ngram, bands, rows, seed of ``stage``; else ValueError, both named."""
        mine, theirs = (
            {n: read(n) for n in _PARAMETERS} for read in (self.facts.get, stage.__getattribute__)
        )
        if mine != theirs:
            raise ValueError(
                f"the index {self.place} was made with {_as_text(mine)}, the dedup has {_as_text(theirs)}:"
                " use the same, or make the index again"
            )
        return self

    @property
    def documents(self) -> int:
        return self.facts["documents"]

    @property
    def fingerprint(self) -> str:
        """What it holds, not where."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()

    def find(self, hashes: np.ndarray, part: int, parts: int) -> np.ndarray:
        """The first old document with each hash, int64 [n], or -1. The hashes are of one of ``parts``."""
        found = np.full(len(hashes), -1, np.int64)
        count = len(self.facts["parts"])
        first, last = part * count // parts, min(count - 1, ((part + 1) * count - 1) // parts)
        own = ((hashes >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)
        for k in range(first, last + 1):
            here = np.flatnonzero(own == k)
            if len(here):
                records = self._load(self.facts["parts"][k])
                low, high = (number * 2**64 // count for number in (k, k + 1))
                at = find_sorted(records["hash"].to_numpy(), low, high, hashes[here])
                documents = records["document"].to_numpy().astype(np.int64)
                found[here[at >= 0]] = documents[at[at >= 0]]
        return found

    def ids(self, documents: np.ndarray) -> pa.Array:
        """Ids of old documents, string [n]."""
        ids = self._load(self.facts["ids"])["id"].combine_chunks()
        return ids.take(pa.array(documents)).cast(pa.string())

    def _load(self, file: dict[str, Any]) -> pa.Table:
        fs, root = pafs.FileSystem.from_uri(self.place)
        path = f"{root}/{file['file']}"
        try:
            if isinstance(fs, pafs.LocalFileSystem):
                buffer = pa.memory_map(path).read_buffer()
            else:
                with fs.open_input_file(path) as source:
                    buffer = source.read_buffer()
        except FileNotFoundError:
            raise ValueError(f"{path} is gone, a part of the index {self.place}: make it again") from None
        if hashlib.sha256(buffer).hexdigest() != file["sha256"]:
            raise ValueError(
                f"{path} is damaged: its bytes are not those that index.json names; make it again"
            )
        return pa.ipc.open_file(buffer).read_all()


def _artifact_folders(place: str) -> list[str]:
    """Folders of the artifact that a dataset holds, or a run's node."""
    run, _, node = place.rpartition("/")
    links, facts = _read_json(f"{run}/links.json"), _read_json(f"{run}/run.json")
    if links and facts and node in links:
        place = f"{facts['store'].rstrip('/')}/{links[node]['dataset']}"
    manifest = _read_json(f"{place}/manifest.json")
    shards = [shard["file"] for shard in manifest.get("shards", [])] if manifest else []
    return [f"{place}/{file.rpartition('/')[0]}" for file in shards if file.endswith("/index.json")]


def _read_json(uri: str) -> dict[str, Any] | None:
    fs, path = pafs.FileSystem.from_uri(uri)
    try:
        with fs.open_input_stream(path) as stream:
            return json.loads(stream.read())
    except FileNotFoundError:
        return None
    except (ValueError, NotADirectoryError) as error:
        raise ValueError(f"{uri} is not readable JSON ({error}): make the index again") from error


def _as_text(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())
