"""Stage ``decontaminate``: documents that hold items of evaluation sets are dropped.

The report per benchmark is two queries over the files of the node (DuckDB; NODE is its folder,
``STORE/<node>-<fingerprint>``). What leaked: documents and items per benchmark ::

    SELECT split_part(item, ':', 1) AS benchmark,
           count(DISTINCT id) AS documents, count(DISTINCT item) AS items
    FROM (SELECT id, unnest(contaminated_items) AS item
          FROM 'NODE/data/apply-*.dropped.*.parquet' WHERE drop_rule = 'contaminated')
    GROUP BY benchmark ORDER BY benchmark

What was looked for: items, those skipped as too short, those whose every n-gram is common ::

    SELECT unnest(report.benchmarks, recursive := true) FROM read_json('NODE/manifest.json')

Excerpts are the column ``contamination_excerpt``; near misses are kept rows with
``contaminated_ngrams`` above 0.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from filters import survivor
from kernels.text.buffers import text_buffers
from kernels.text.overlap import NgramIndex, build_index, find_items, find_ngrams, word_span

EXCERPT_CHARACTERS = 200


class Source(NamedTuple):
    """An evaluation set: where it is, which fields make an item, SHA-256 of its items."""

    name: str
    path: str
    fields: tuple[str, ...]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Decontaminate:
    """Drop documents that hold a large enough share of the n-grams of an evaluation item.

    Words are those of minhash_dedup: case, punctuation and line breaks do not matter. An item of
    fewer than ``ngram`` words is one n-gram, the whole of it; of fewer than ``min_ngram``, it is
    skipped and counted. An n-gram found in more than ``common_documents`` documents is a common
    phrase and counts nowhere (Brown et al. 2020, Language Models are Few-Shot Learners, appendix
    C): so run this after minhash_dedup, lest copies of one page make what it leaks common. The
    report per benchmark: filters/decontaminate.py.

    ``contaminated_by`` is the first evaluation (in the order given) with an item in the document,
    ``contaminated_items`` lists all items as "name:row" (rows from 0), ``contaminated_ngrams``
    counts the distinct n-grams found, and ``contamination_excerpt`` is the document's longest
    passage made of them (those of the first item, if the document is dropped).
    """

    stage: ClassVar[str] = "decontaminate"
    shape: ClassVar[str] = "shuffle"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ("numba", "unicodedata")
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"
    needs: ClassVar[tuple[str, ...]] = ("id", "text")
    adds: ClassVar[dict[str, str]] = {
        "contaminated_by": "string",
        "contaminated_items": "list<string>",
        "contaminated_ngrams": "int32",
        "contamination_excerpt": "string",
    }
    phases: ClassVar[tuple[tuple[str, str], ...]] = (
        ("sign", "shard"),
        ("common", "all"),
        ("apply", "shard"),
    )

    evaluations: dict[str, str]
    """Evaluation sets by name: a path or URI that every worker can read. ``.jsonl`` (an object a
    line), ``.txt`` (an item a line; both also as .gz or .zst) or ``.parquet``."""
    fields: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By evaluation: the fields or columns that make up an item, in order; each a string or a list
    of strings. Where an evaluation is not named: ("text",)."""
    ngram: int = 13
    """Words in an n-gram."""
    min_ngram: int = 8
    """Items of fewer words are skipped: so short a text is found without having leaked."""
    min_share: float = 0.5
    """Share of an item's n-grams, common ones aside, that makes a document contaminated."""
    min_ngrams: int = 1
    """At least so many of an item's n-grams must be found as well. Above 1, an item of one n-gram
    (of ``ngram`` words or fewer) is never found."""
    common_documents: int | None = 10
    """An n-gram found in more documents than this is a common phrase; null: none is."""

    def __post_init__(self) -> None:
        if not self.evaluations:
            raise ValueError("evaluations is empty: give at least one {name: path}")
        for name in self.evaluations:
            if not name or ":" in name:
                raise ValueError(f"evaluations: {name!r} must be a name without ':'")
        for name, fields in self.fields.items():
            if name not in self.evaluations:
                known = ", ".join(self.evaluations)
                raise ValueError(f"fields: there is no evaluation {name!r}; there are: {known}")
            if not fields:
                raise ValueError(f"fields: {name!r} has none: name at least one")
        if not 1 <= self.min_ngram <= self.ngram:
            raise ValueError(f"min_ngram must lie in 1..ngram ({self.ngram}), not {self.min_ngram}")
        if not 0 < self.min_share <= 1:
            raise ValueError(f"min_share must lie above 0 and up to 1, not {self.min_share}")
        if self.min_ngrams < 1:
            raise ValueError(f"min_ngrams must be at least 1, not {self.min_ngrams}")
        if self.common_documents is not None and self.common_documents < 1:
            raise ValueError(f"common_documents must be at least 1 or null, not {self.common_documents}")
        # read now: a missing file or field is an error of the configuration
        assert self.sources

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The evaluations as they were when this was made: workers refuse others."""
        found = []
        for name, path in self.evaluations.items():
            place = path if "://" in path else os.path.abspath(path)
            fields = tuple(self.fields.get(name, ("text",)))
            found.append(Source(name, place, fields, _digest(read_items(place, fields))))
        return tuple(found)

    def identity(self) -> dict[str, Any]:
        """What the fingerprint sees: the items and their order, not the files that hold them."""
        return {
            "evaluations": [[source.name, source.sha256] for source in self.sources],
            "ngram": self.ngram,
            "min_ngram": self.min_ngram,
            "min_share": self.min_share,
            "min_ngrams": self.min_ngrams,
            "common_documents": self.common_documents,
        }

    def _index(self) -> tuple[NgramIndex, np.ndarray]:
        return _load_index(self.sources, self.ngram, self.min_ngram)

    def sign(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """In how many of the shard's documents each n-gram is, for those that are in any."""
        survivor.check_input(self.stage, shard, table, list(self.needs))
        index, _ = self._index()
        text, _, ngram = find_ngrams(*text_buffers(table["text"]), index)
        _, ngram = _distinct(text, ngram, index)
        if not len(ngram):
            return {}
        ngram, documents = np.unique(ngram, return_counts=True)
        shards = np.full(len(ngram), shard)
        return {"counts": pa.table({"shard": shards, "ngram": ngram, "documents": documents})}

    def common(self, tables: list[pa.Table]) -> dict[str, Any]:
        """The common n-grams, for each shard that holds any n-gram; facts on each benchmark."""
        index, evaluation = self._index()
        documents = np.zeros(len(index.hashes), np.int64)
        for table in tables:
            documents[table["ngram"].to_numpy()] += table["documents"].to_numpy()
        limit = np.inf if self.common_documents is None else self.common_documents
        counts = documents <= limit
        common = pa.table({"ngram": np.flatnonzero(~counts)})
        return {
            **{f"{table['shard'][0].as_py():05d}": common for table in tables},
            "report": {"benchmarks": self._benchmarks(index, evaluation, counts).to_pylist()},
        }

    def _benchmarks(self, index: NgramIndex, evaluation: np.ndarray, counts: np.ndarray) -> pa.Table:
        size = np.diff(index.item_starts)
        too_short = size == 0
        all_common = ~too_short & (_sizes(index, counts) == 0)

        def per_benchmark(items: np.ndarray) -> np.ndarray:
            return np.bincount(evaluation[items], minlength=len(self.sources))

        return pa.table(
            {
                "benchmark": [source.name for source in self.sources],
                "items": per_benchmark(np.ones(index.num_items, bool)),
                "items_too_short": per_benchmark(too_short),
                "items_all_common": per_benchmark(all_common),
            }
        )

    def apply(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """The shard's rows with ``drop_rule`` "contaminated" and our columns."""
        n = table.num_rows
        index, evaluation = self._index()
        text, word, ngram = (np.empty(0, np.int64),) * 3
        counts = np.ones(len(index.hashes), bool)
        # a shard in which nothing was found is not read again
        if mine is not None:
            counts[mine["ngram"].to_numpy()] = False
            text, word, ngram = find_ngrams(*text_buffers(table["text"]), index)
            text, word, ngram = (column[counts[ngram]] for column in (text, word, ngram))
        rows, distinct = _distinct(text, ngram, index)
        hit_rows, hit_items = find_items(
            rows, distinct, index, _sizes(index, counts), self.min_share, self.min_ngrams
        )
        dropped, first = np.unique(hit_rows, return_index=True)
        first_item = np.full(n, -1)
        first_item[dropped] = hit_items[first]
        names = pa.array([source.name for source in self.sources], pa.string())
        by = pa.array(evaluation[first_item] if n else [], pa.int64(), mask=first_item < 0)
        excerpts = _excerpts(table, text, word, ngram, first_item, index)
        columns = {
            "contaminated_by": names.take(by),
            "contaminated_items": self._labels(n, hit_rows, hit_items, evaluation),
            "contaminated_ngrams": pa.array(np.bincount(rows, minlength=n).astype(np.int32)),
            "contamination_excerpt": excerpts,
            "drop_rule": survivor.where(pa.array(first_item >= 0), "contaminated"),
        }
        return {"": survivor.with_columns(table, columns)}

    def _labels(self, n: int, rows: np.ndarray, items: np.ndarray, evaluation: np.ndarray) -> pa.Array:
        """For each of n rows the items in it, as "name:row"."""
        begins = np.searchsorted(evaluation, np.arange(len(self.sources)))
        labels = [
            f"{self.sources[of].name}:{item - begins[of]}"
            for item, of in zip(items, evaluation[items], strict=True)
        ]
        ends = np.concatenate([[0], np.bincount(rows, minlength=n).cumsum()]).astype(np.int32)
        return pa.ListArray.from_arrays(ends, pa.array(labels, pa.string()))


def _distinct(texts: np.ndarray, ngrams: np.ndarray, index: NgramIndex) -> tuple[np.ndarray, np.ndarray]:
    """Each (text, n-gram) once, in this order."""
    total = max(len(index.hashes), 1)
    text, ngram = np.divmod(np.unique(texts * total + ngrams), total)
    return text, ngram


def _sizes(index: NgramIndex, counts: np.ndarray) -> np.ndarray:
    """How many n-grams of each item count, int64 [num_items]."""
    before = np.concatenate([[0], counts[index.item_ngrams].cumsum()])
    return np.diff(before[index.item_starts])


def _excerpts(
    table: pa.Table,
    text: np.ndarray,
    word: np.ndarray,
    ngram: np.ndarray,
    first_item: np.ndarray,
    index: NgramIndex,
) -> pa.Array:
    """For each row its longest passage of n-grams found, null where there are none: string [n]."""
    excerpts: list[str | None] = [None] * table.num_rows
    data, offsets = text_buffers(table["text"])
    for row, start, count in zip(*np.unique(text, return_index=True, return_counts=True), strict=True):
        first, ngrams = word[start : start + count], ngram[start : start + count]
        item = first_item[row]
        if item >= 0:
            its = index.item_ngrams[index.item_starts[item] : index.item_starts[item + 1]]
            belongs = np.isin(ngrams, its)
            first, ngrams = first[belongs], ngrams[belongs]
        begin, end = _longest_run(first, first + index.words[ngrams])
        low, high = word_span(data, offsets, int(row), begin, end - 1)
        passage = data[low:high].tobytes().decode(errors="replace").strip()
        is_long = len(passage) > EXCERPT_CHARACTERS
        excerpts[row] = passage[:EXCERPT_CHARACTERS] + "…" if is_long else passage
    return pa.array(excerpts, pa.string())


def _longest_run(begins: np.ndarray, ends: np.ndarray) -> tuple[int, int]:
    """The longest stretch (begin, end) that the intervals cover without a gap; begins rise."""
    reach = np.maximum.accumulate(ends)
    opens = np.flatnonzero(np.concatenate([[True], begins[1:] > reach[:-1]]))
    closes = np.append(opens[1:], len(begins)) - 1
    longest = np.argmax(reach[closes] - begins[opens])
    return int(begins[opens[longest]]), int(reach[closes[longest]])


@lru_cache(maxsize=1)
def _load_index(sources: tuple[Source, ...], ngram: int, min_ngram: int) -> tuple[NgramIndex, np.ndarray]:
    """The n-grams of all evaluations, and which evaluation each item is of, int64 [num_items]."""
    items: list[str] = []
    sizes = []
    for source in sources:
        found = read_items(source.path, source.fields)
        if _digest(found) != source.sha256:
            raise ValueError(f"decontaminate: {source.path} changed after the run was planned: run again")
        items += found
        sizes.append(len(found))
    index = build_index(*text_buffers(pa.array(items, pa.large_string())), ngram, min_ngram)
    evaluation = np.repeat(np.arange(len(sources)), sizes)
    found_any = np.bincount(evaluation, np.diff(index.item_starts))
    for source, size, ngrams in zip(sources, sizes, found_any, strict=True):
        if not ngrams:
            raise ValueError(
                f"decontaminate: each of the {size} items of {source.name!r} ({source.path}) has fewer "
                f"than min_ngram ({min_ngram}) words: lower it, or add fields to the item"
            )
    return index, evaluation


def read_items(path: str, fields: tuple[str, ...]) -> list[str]:
    """The items of an evaluation file, one a row or line; a blank line is an empty item.

    Raises ValueError, naming file, line and field, for what cannot be read as items.
    """
    system, place = pafs.FileSystem.from_uri(path) if "://" in path else (pafs.LocalFileSystem(), path)
    kind = path.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
    if kind not in ("jsonl", "txt", "parquet"):
        raise ValueError(f"evaluations: {path} must end in .jsonl, .txt (these also + .gz, .zst) or .parquet")
    try:
        with system.open_input_stream(place, compression="detect") as file:
            data = file.read()
    except OSError as error:
        raise ValueError(f"evaluations: {path} cannot be read: {error}") from error
    if kind == "txt":
        items = [line.decode(errors="replace") for line in data.splitlines()]
    elif kind == "jsonl":
        items = _json_items(path, data, fields)
    else:
        items = _parquet_items(path, data, fields)
    if not items:
        raise ValueError(f"evaluations: {path} is empty")
    return items


def _json_items(path: str, data: bytes, fields: tuple[str, ...]) -> list[str]:
    items = []
    for number, line in enumerate(data.splitlines(), 1):
        where = f"{path} line {number}"
        try:
            record = json.loads(line) if line.strip() else dict.fromkeys(fields)
        except ValueError as error:
            raise ValueError(f"evaluations: {where} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"evaluations: {where} is not an object")
        items.append(_item(where, record, fields))
    return items


def _parquet_items(path: str, data: bytes, fields: tuple[str, ...]) -> list[str]:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
    except pa.ArrowInvalid as error:
        raise ValueError(f"evaluations: {path} is not Parquet: {error}") from error
    known = [name for name in fields if name in file.schema_arrow.names]
    if len(known) < len(fields):
        # the same complaint as of a line of JSON
        _item(path, dict.fromkeys(file.schema_arrow.names), fields)
    rows = file.read(columns=known).to_pylist()
    return [_item(f"{path} row {number}", row, fields) for number, row in enumerate(rows)]


def _item(where: str, record: dict[str, Any], fields: tuple[str, ...]) -> str:
    """The fields' texts, a line each; a null is no text."""
    texts: list[str] = []
    for name in fields:
        if name not in record:
            there = ", ".join(map(str, record))
            raise ValueError(
                f"evaluations: {where} has no field {name!r}; it has: {there}. Name one under fields"
            )
        value = record[name]
        parts = value if isinstance(value, list) else [] if value is None else [value]
        for part in parts:
            if not isinstance(part, str):
                kind = type(part).__name__
                raise ValueError(f"evaluations: {where}: field {name!r} holds {kind}, not text")
            texts.append(part)
    # JSON can spell half a surrogate pair, which UTF-8 cannot hold
    return "\n".join(texts).encode(errors="replace").decode()


def _digest(items: list[str]) -> str:
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()
