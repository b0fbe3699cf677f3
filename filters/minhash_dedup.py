"""Stage ``minhash_dedup``: of documents that nearly share their text, one stays.

MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
chapter 3): two documents whose sets of word n-grams have Jaccard similarity J share a band, and so
a cluster, with probability 1 - (1 - J^rows)^bands. Clusters are closed under sharing.

The phases, each of ordinary work items:

sign     a shard       text to band hashes, in parts by range of hash
group    a part        documents that share a hash, as a forest; matches with the index
fetch    a shard       (with min_jaccard) the shingles of the candidates
verify   a part        (with min_jaccard) the pairs that are similar enough, as a forest
merge    some parts    their forests, as one
cluster  all           the clusters; the self-check
tell     a shard       id and rank of each member
elect    a part        of each cluster who stays
apply    a shard       the verdict, a local join

Memory of a task, beside its shard and about 430 MB of interpreter and libraries: sign 170 bytes a
document of the shard; group 60 bytes a record, of at most 16 M records with ``partitions: 0``;
merge and cluster 8 bytes a document of the whole input and 100 a document in a cluster, which
makes ``cluster`` the one that grows: 10^9 documents, a fifth of them in clusters, take 28 GB.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import survivor
from filters.forest import Forest
from filters.minhash_index import IndexReader, check_signature
from filters.recall import self_check
from kernels.text.band_records import number_documents, partition_records
from kernels.text.buffers import text_buffers
from kernels.text.lsh import cluster_equal, forest_edges
from kernels.text.minhash import band_signatures, signatures
from kernels.text.shingles import jaccard, shingle_sets

Survivor = Literal["first", "longest", "best_score", "source_priority"]
# records of a part: enough to be worth a work item, few enough for its memory
_FEW_RECORDS, _MANY_RECORDS = 1 << 21, 1 << 24
_CPUS = 16


@dataclass(frozen=True, kw_only=True)
class MinhashDedup:
    """Drop near-duplicates: documents that share a MinHash band, directly or through others.

    Of a cluster one stays, the others are dropped by the rule "near_duplicate" and name it in
    ``minhash_cluster_id``. Ties go to the first by (shard, row). If any member is held out, the
    one that stays becomes held out: no near copy of a held-out page is trained on. Texts without a
    word match nothing. What a word is: kernels/text/folding.py.

    With an ``index`` of documents from earlier runs (stage ``minhash_index``), a cluster of which
    any member shares a band with one of those is dropped whole, by the rule "indexed_duplicate";
    ``minhash_cluster_id`` is then the id of the old document that matched: the member's own
    match, else that of the first member that has one.

    Every run checks itself: pairs of known similarity are planted, and the report shows the share
    of them that was found beside what the formula above promises.
    """

    stage: ClassVar[str] = "minhash_dedup"
    shape: ClassVar[str] = "shuffle"
    version: ClassVar[int] = 2
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ("numba", "unicodedata")
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"
    needs: ClassVar[tuple[str, ...]] = ("id", "text")

    ngram: int = 5
    """Words in a shingle. A text of fewer words is one shingle."""
    bands: int = 14
    """Bands: documents that agree in all rows of one band are near-duplicates. More find more."""
    rows: int = 8
    """Slots in a band. More ask for more similarity."""
    seed: int = 1
    """Seed of the slots' permutations."""
    min_jaccard: float = 0.0
    """Verify: documents that share a band count as near-duplicates only if the Jaccard similarity
    of their sets of shingles (told by 32-bit hashes) is at least this; each is compared with the
    first document of the band. 0 does not verify."""
    index: str | None = None
    """Folder of an index of old documents: RUN/<node>, a dataset of ``minhash_index``, or its files."""
    survivor: Survivor = "first"
    """Who stays of a cluster: the first, the longest in bytes of UTF-8, the best by score_column,
    or the one whose source stands first in source_order."""
    score_column: str | None = None
    """The number that best_score compares, higher is better; a missing one is the worst."""
    source_order: tuple[str, ...] = ()
    """Sources from best to worst, for source_priority; those not named come last."""
    keep_signatures: bool = False
    """Add ``minhash_signature``: the slots, as datasketch's affine32 scheme has them."""
    partitions: int = 0
    """Parts the records are grouped in, each by one work item; 0: by the size of the input. Does
    not change the output."""

    def __post_init__(self) -> None:
        check_signature(self)
        if not 0 <= self.min_jaccard <= 1:
            raise ValueError(f"min_jaccard must lie in 0..1, not {self.min_jaccard}")
        if self.min_jaccard and self.index:
            raise ValueError("min_jaccard and index exclude each other: an index holds no texts to verify by")
        if not 0 <= self.partitions <= 9999:
            raise ValueError(f"partitions must lie in 0..9999, not {self.partitions}")
        if self.survivor not in get_args(Survivor):
            known = ", ".join(get_args(Survivor))
            raise ValueError(f"survivor must be one of {known}, not {self.survivor!r}")
        for policy, name in (("best_score", "score_column"), ("source_priority", "source_order")):
            if (self.survivor == policy) != bool(getattr(self, name)):
                raise ValueError(f"survivor {policy!r} and {name} need each other")
        # read now: a wrong index is an error of the configuration
        assert self.index is None or self._index

    @cached_property
    def _index(self) -> IndexReader:
        assert self.index is not None
        return IndexReader.open(self.index).fitting(self)

    @property
    def phases(self) -> tuple[tuple[str, str], ...]:
        verify = (("fetch", "shard"), ("verify", "partition")) if self.min_jaccard else ()
        return (
            ("sign", "shard"),
            ("group", "partition"),
            *verify,
            ("merge", "partition"),
            ("cluster", "all"),
            ("tell", "shard"),
            ("elect", "partition"),
            ("apply", "shard"),
        )

    @property
    def adds(self) -> dict[str, str]:
        slots = {"minhash_signature": f"fixed_size_list<uint32>[{self.bands * self.rows}]"}
        return {
            "minhash_cluster_id": "string",
            "minhash_cluster_size": "int32",
            **(slots if self.keep_signatures else {}),
        }

    @property
    def reads(self) -> dict[str, list[str]]:
        """The columns that each phase reads of a shard; the last reads all."""
        return {"sign": ["text"], "fetch": ["text"], "tell": sorted({"id", *self._rank_columns(), "split"})}

    def _rank_columns(self) -> set[str]:
        named = {"best_score": self.score_column, "source_priority": "source", "longest": "text"}
        return {name} if (name := named.get(self.survivor)) else set()

    def columns(self) -> set[str]:
        """The columns read with these parameters."""
        return {*self.needs, *self._rank_columns()}

    def identity(self) -> dict[str, Any]:
        """The parameters; of the index what it holds, not where it lies."""
        index = self._index.fingerprint if self.index else None
        return {**dataclasses.asdict(self), "index": index}

    def sized(self, rows: int) -> Self:
        """The stage with as many partitions as an input of so many rows takes."""
        if self.partitions:
            return self
        documents = rows + (self._index.documents if self.index else 0)
        records = documents * self.bands
        parts = max(min(_CPUS, math.ceil(records / _FEW_RECORDS)), math.ceil(records / _MANY_RECORDS))
        return dataclasses.replace(self, partitions=max(1, parts))

    def sign(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """Band hashes of the shard's texts by range of hash: "p00000", ..."""
        survivor.check_columns(self.stage, shard, table, ["text"])
        hashes = np.empty((self.bands, table.num_rows), np.uint64)
        has_words = np.empty(table.num_rows, bool)
        # chunk by chunk: joined they would be copied
        row = 0
        for chunk in table["text"].chunks:
            part = slice(row, row + len(chunk))
            _, num_shingles = band_signatures(
                *text_buffers(chunk), self.bands, self.rows, self.ngram, self.seed, hashes[:, part]
            )
            has_words[part] = num_shingles > 0
            row = part.stop
        keys, rows, starts = partition_records(hashes, has_words, self.partitions)
        of_shard = {"shard": str(shard)}
        return {
            f"p{part:05d}": pa.table({"hash": keys[a:b], "row": rows[a:b]}).replace_schema_metadata(of_shard)
            for part, (a, b) in enumerate(zip(starts, starts[1:], strict=False))
            if a < b
        }

    def group(self, name: str, tables: list[pa.Table]) -> dict[str, pa.Table]:
        """What the records of one part say: pairs (left, right) of document numbers to unite.

        With min_jaccard: the candidates of each shard, by the first document of their band.
        """
        part = int(name[1:])
        hashes = np.concatenate([table["hash"].to_numpy() for table in tables])
        rows = np.concatenate([table["row"].to_numpy() for table in tables])
        starts = np.cumsum([0, *(table.num_rows for table in tables)])
        shards = np.array([int(table.schema.metadata[b"shard"]) for table in tables])

        def number(records: np.ndarray) -> np.ndarray:
            """The document of each record."""
            of = np.searchsorted(starts, records, side="right") - 1
            return (shards[of] << 32) + rows[records]

        if self.min_jaccard:
            return _candidates(hashes, number(np.arange(len(rows))))
        local, first = number_documents(rows, starts)
        child, root = forest_edges(cluster_equal(hashes, local, len(first)))
        edges = {"left": number(first[root]), "right": number(first[child])}
        out = {self._merge_name(part): pa.table(edges)}
        if self.index:
            old = self._index.find(hashes, part, self.partitions)
            found = np.flatnonzero(old >= 0)
            if len(found):
                matches = {"document": number(found), "old": old[found]}
                out[f"x{part:05d}"] = pa.table(matches)
        return out

    def _merge_name(self, part: int) -> str:
        # about as many merges as each of them has parts
        return f"m{part // math.ceil(math.sqrt(self.partitions)):05d}"

    def fetch(self, shard: int, table: pa.Table, mine: pa.Table) -> dict[str, pa.Table]:
        """The shingles of the shard's candidates, once for each first document they go with."""
        pairs = (
            mine.group_by(["row", "first"])
            .aggregate([])
            .sort_by([("row", "ascending"), ("first", "ascending")])
        )
        rows, first = pairs["row"].to_numpy(), pairs["first"].to_numpy()
        chosen, which = np.unique(rows, return_inverse=True)
        values, starts = shingle_sets(*text_buffers(table["text"].take(chosen)), self.ngram)
        sets = pa.LargeListArray.from_arrays(starts, values)
        records = pa.table(
            {"first": first, "document": (shard << 32) + rows, "shingles": sets.take(pa.array(which))}
        )
        return survivor.by_partition("v", records, first % self.partitions)

    def verify(self, name: str, tables: list[pa.Table]) -> dict[str, pa.Table]:
        """The pairs of one part whose shingles are similar enough."""
        records = pa.concat_tables(tables).sort_by([("first", "ascending"), ("document", "ascending")])
        first, documents = records["first"].to_numpy(), records["document"].to_numpy()
        # the first document of a band is the smallest of its candidates: it leads its run
        leads = np.flatnonzero(first == documents)
        lead = leads[np.searchsorted(first[leads], first)]
        sets = records["shingles"].combine_chunks()
        values, starts = sets.values.to_numpy(), sets.offsets.to_numpy()
        similarity = jaccard(values, starts, lead, np.arange(len(first)))
        similar = (similarity >= self.min_jaccard) & (first != documents)
        edges = {"left": first[similar], "right": documents[similar]}
        return {self._merge_name(int(name[1:])): pa.table(edges)}

    def merge(self, name: str, tables: list[pa.Table]) -> dict[str, pa.Table]:
        """The forests of some parts as one; matches with the index pass through."""
        if name.startswith("x"):
            return {name: pa.concat_tables(tables)}
        forest = Forest(tables)
        child, root = forest_edges(forest.parent)
        return {name: pa.table({"left": forest.number(root), "right": forest.number(child)})}

    def cluster(self, tables: list[pa.Table]) -> dict[str, Any]:
        """Clusters over all parts: for each shard its rows in one, and the first of each cluster."""
        matches = [table for table in tables if "old" in table.column_names]
        forest = Forest(
            [table for table in tables if "left" in table.column_names],
            [table["document"].to_numpy() for table in matches],
        )
        members = forest.members()
        columns = {"first": forest.number(forest.parent[members])}
        numbers = forest.number(members)
        if self.index:
            columns["indexed"] = self._indexed(matches, numbers, columns["first"])
        return {**survivor.by_shard(numbers, columns), "report": {"self_check": self_check(self)}}

    def _indexed(self, matches: list[pa.Table], numbers: np.ndarray, first: np.ndarray) -> pa.Array:
        """For each member the id of the old document that it, or else its cluster, matched."""
        old = np.full(len(numbers), np.iinfo(np.int64).max)
        for table in matches:
            at = np.searchsorted(numbers, table["document"].to_numpy())
            np.minimum.at(old, at, table["old"].to_numpy())
        has = old < np.iinfo(np.int64).max
        # members rise, so that the first of a cluster with a match comes first
        clusters, at = np.unique(first[has], return_index=True)
        place = np.searchsorted(clusters, first)
        in_matched = np.zeros(len(numbers), bool)
        inside = place < len(clusters)
        in_matched[inside] = clusters[place[inside]] == first[inside]
        theirs = np.where(has, old, 0)
        fallback = in_matched & ~has
        theirs[fallback] = old[has][at[place[fallback]]]
        ids = self._index.ids(theirs[in_matched])
        where = np.full(len(numbers), -1, np.int64)
        where[in_matched] = np.arange(in_matched.sum())
        return ids.take(pa.array(where, mask=where < 0))

    def tell(self, shard: int, table: pa.Table, mine: pa.Table) -> dict[str, pa.Table]:
        """What electing takes of each member, by cluster."""
        survivor.check_columns(self.stage, shard, table, sorted({"id", *self._rank_columns()}))
        rows = mine["row"].to_numpy()
        table = table.take(rows)
        records = pa.table(
            {
                "first": mine["first"],
                "document": (shard << 32) + rows,
                "id": table["id"].cast(pa.large_string()),
                "rank": self._rank(table),
                "heldout": survivor.heldout(table),
                "indexed": mine["indexed"] if self.index else pa.nulls(len(rows), pa.string()),
            }
        )
        return survivor.by_partition("e", records, mine["first"].to_numpy() % self.partitions)

    def _rank(self, table: pa.Table) -> np.ndarray:
        if self.survivor == "longest":
            return survivor.text_lengths(table).astype(np.float64)
        if self.survivor == "best_score":
            score = pc.fill_null(table[self.score_column].cast(pa.float64()), -np.inf).to_numpy()
            return np.where(np.isnan(score), -np.inf, score)
        if self.survivor == "source_priority":
            order = pa.array(self.source_order, pa.string())
            place = pc.index_in(table["source"].cast(pa.string()), value_set=order)
            return -pc.fill_null(place, len(order)).to_numpy().astype(np.float64)
        return np.zeros(table.num_rows)

    def elect(self, name: str, tables: list[pa.Table]) -> dict[str, pa.Table]:
        """Who stays of the clusters of one part: for each shard, its members."""
        members = pa.concat_tables(tables).combine_chunks()
        documents = members["document"].to_numpy()
        chosen, size, held = survivor.elect(
            cluster=members["first"].to_numpy(),
            documents=documents,
            rank=members["rank"].to_numpy(),
            is_heldout=members["heldout"].to_numpy(),
        )
        indexed = members["indexed"].combine_chunks()
        is_indexed = indexed.is_valid().to_numpy(zero_copy_only=False)
        stays = (chosen == np.arange(len(chosen))) & ~is_indexed
        columns = {
            "cluster_id": pc.coalesce(indexed, members["id"].take(chosen).combine_chunks().cast(pa.string())),
            "size": pa.array(size),
            "stays": pa.array(stays),
            "indexed": pa.array(is_indexed),
            "to_heldout": pa.array(held & stays),
        }
        return survivor.by_shard(documents, columns)

    def apply(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """The shard's rows with ``drop_rule`` and our columns."""
        survivor.check_input(self.stage, shard, table, sorted(self.columns()))
        n = table.num_rows
        yes, no = pa.array(np.ones(n, bool)), pa.array(np.zeros(n, bool))
        one = pa.array(np.ones(n, np.int32))
        ids = table["id"].cast(pa.string()).combine_chunks()
        to_heldout = survivor.spread(mine, "to_heldout", n, no)
        stays = survivor.spread(mine, "stays", n, yes)
        indexed = survivor.spread(mine, "indexed", n, no)
        rule = pc.if_else(indexed, "indexed_duplicate", survivor.where(pc.invert(stays), "near_duplicate"))
        table = survivor.with_split(table, to_heldout.to_numpy(zero_copy_only=False))
        columns = {
            "minhash_cluster_id": survivor.spread(mine, "cluster_id", n, ids),
            "minhash_cluster_size": survivor.spread(mine, "size", n, one),
            "drop_rule": rule,
        }
        if self.keep_signatures:
            slots, _ = signatures(*text_buffers(table["text"]), self.bands * self.rows, self.ngram, self.seed)
            columns["minhash_signature"] = pa.FixedSizeListArray.from_arrays(slots.ravel(), slots.shape[1])
        return {"": survivor.with_columns(table, columns)}


def _candidates(hashes: np.ndarray, documents: np.ndarray) -> dict[str, pa.Table]:
    """For each shard its rows that share a hash, with the first document that has it (itself too)."""
    order = np.argsort(hashes, kind="stable")
    hashes, documents = hashes[order], documents[order]
    starts = np.ones(len(hashes), bool)
    starts[1:] = hashes[1:] != hashes[:-1]
    first = documents[starts][np.cumsum(starts) - 1]
    alone = starts & np.append(starts[1:], True)
    return survivor.by_shard(documents[~alone], {"first": pa.array(first[~alone])})
