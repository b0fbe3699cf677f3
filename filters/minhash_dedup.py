"""Stage ``minhash_dedup``: of documents that nearly share their text, one stays.

MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
chapter 3): two documents whose sets of word n-grams have Jaccard similarity J share a band, and so
a cluster, with probability 1 - (1 - J^rows)^bands. Clusters are closed under sharing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import survivor
from kernels.text.buffers import text_buffers
from kernels.text.lsh import cluster_equal, forest_edges, merge_forests
from kernels.text.minhash import band_hashes, signatures

Survivor = Literal["first", "longest", "best_score", "source_priority"]


@dataclass(frozen=True, kw_only=True)
class MinhashDedup:
    """Drop near-duplicates: documents that share a MinHash band, directly or through others.

    Of a cluster one stays, the others are dropped and name it in ``minhash_cluster_id``. Ties go
    to the first by (shard, row). If any member is held out, the one that stays becomes held out:
    no near copy of a held-out page is trained on. Texts without a word match nothing. What a word
    is: kernels/text/minhash.py.
    """

    stage: ClassVar[str] = "minhash_dedup"
    shape: ClassVar[str] = "shuffle"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ("numba", "unicodedata")
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"
    needs: ClassVar[tuple[str, ...]] = ("id", "text")
    adds: ClassVar[dict[str, str]] = {
        "minhash_cluster_id": "string",
        "minhash_cluster_size": "int32",
    }
    phases: ClassVar[tuple[tuple[str, str], ...]] = (
        ("sign", "shard"),
        ("group", "partition"),
        ("cluster", "all"),
        ("apply", "shard"),
    )

    ngram: int = 5
    """Words in a shingle. A text of fewer words is one shingle."""
    bands: int = 14
    """Bands: documents that agree in all rows of one band are near-duplicates. More find more."""
    rows: int = 8
    """Slots in a band. More ask for more similarity."""
    seed: int = 1
    """Seed of the slots' permutations."""
    survivor: Survivor = "first"
    """Who stays of a cluster: the first, the longest in bytes of UTF-8, the best by score_column,
    or the one whose source stands first in source_order."""
    score_column: str | None = None
    """The number that best_score compares, higher is better; a missing one is the worst."""
    source_order: tuple[str, ...] = ()
    """Sources from best to worst, for source_priority; those not named come last."""
    partitions: int = 16
    """Parts the bands are grouped in, each by one work item; does not change the output."""

    def __post_init__(self) -> None:
        for name in ("ngram", "bands", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.bands * self.rows > 4096:
            raise ValueError(f"bands x rows must be at most 4096, not {self.bands * self.rows}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2^32 - 1, not {self.seed}")
        if not 1 <= self.partitions <= 999:
            raise ValueError(f"partitions must lie in 1..999, not {self.partitions}")
        if self.survivor not in get_args(Survivor):
            known = ", ".join(get_args(Survivor))
            raise ValueError(f"survivor must be one of {known}, not {self.survivor!r}")
        for policy, name in (("best_score", "score_column"), ("source_priority", "source_order")):
            if (self.survivor == policy) != bool(getattr(self, name)):
                raise ValueError(f"survivor {policy!r} and {name} need each other")

    def columns(self) -> set[str]:
        """The columns read with these parameters."""
        extra = {"best_score": self.score_column, "source_priority": "source"}.get(self.survivor)
        return {*self.needs, extra} if extra else set(self.needs)

    def sign(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """Band hashes by range of hash ("p000", ...); what choosing a survivor takes ("d000")."""
        survivor.check_input(self.stage, shard, table, sorted(self.columns()))
        numbers = survivor.document_numbers(shard, table.num_rows)
        slots, num_shingles = signatures(
            *text_buffers(table["text"]), self.bands * self.rows, self.ngram, self.seed
        )
        has_words = num_shingles > 0
        hashes = band_hashes(slots, self.bands, self.rows)[has_words].ravel()
        records = pa.table({"hash": hashes, "document": numbers[has_words].repeat(self.bands)})
        about = pa.table(
            {
                "document": numbers,
                "id": table["id"].cast(pa.string()),
                "rank": self._rank(table),
                "heldout": survivor.heldout(table),
            }
        )
        part = survivor.hash_range(hashes, self.partitions)
        return {
            **survivor.by_partition("p", records, part),
            f"d{shard % self.partitions:03d}": about,
        }

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

    def group(self, name: str, tables: list[pa.Table]) -> dict[str, pa.Table]:
        """Clusters among the records of one part, as pairs (left, right) of document numbers."""
        if name.startswith("d"):
            return {name: pa.concat_tables(tables)}
        # each table is of one shard: number its documents after those of the tables before
        base, shard_of, dense = [0], [], []
        for table in tables:
            shards, rows = survivor.shards_and_rows(table["document"].to_numpy())
            shard_of.append(shards[0])
            dense.append(base[-1] + rows)
            base.append(base[-1] + int(rows.max()) + 1)
        hashes = np.concatenate([table["hash"].to_numpy() for table in tables])
        parent = cluster_equal(hashes, np.concatenate(dense), base[-1])

        def numbers(dense: np.ndarray) -> np.ndarray:
            at = np.searchsorted(base, dense, side="right") - 1
            return (np.array(shard_of)[at] << 32) + dense - np.array(base)[at]

        left, right = forest_edges(parent)
        return {name: pa.table({"left": numbers(left), "right": numbers(right)})}

    def cluster(self, tables: list[pa.Table]) -> dict[str, pa.Table]:
        """Clusters over all parts and their survivors: for each shard, its rows in a cluster."""
        about = [table for table in tables if "rank" in table.column_names]
        if not about:
            return {}
        documents = pa.concat_tables(about).sort_by("document")
        numbers = documents["document"].to_numpy()
        forests = [
            tuple(np.searchsorted(numbers, table[side].to_numpy()) for side in ("left", "right"))
            for table in tables
            if "left" in table.column_names
        ]
        parent = merge_forests(len(numbers), forests)
        in_cluster = np.flatnonzero(np.bincount(parent, minlength=len(parent))[parent] > 1)
        members = documents.take(in_cluster).combine_chunks()
        chosen, size, held = survivor.elect(
            cluster=parent[in_cluster],
            documents=numbers[in_cluster],
            rank=members["rank"].to_numpy(),
            is_heldout=members["heldout"].to_numpy(),
        )
        stays = chosen == np.arange(len(chosen))
        columns = {
            "cluster_id": members["id"].take(chosen).combine_chunks(),
            "size": pa.array(size),
            "stays": pa.array(stays),
            "to_heldout": pa.array(held & stays),
        }
        return survivor.by_shard(numbers[in_cluster], columns)

    def apply(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """The shard's rows with ``drop_rule`` "near_duplicate" and our columns."""
        n = table.num_rows
        yes, no = pa.array(np.ones(n, bool)), pa.array(np.zeros(n, bool))
        one = pa.array(np.ones(n, np.int32))
        ids = table["id"].cast(pa.string()).combine_chunks()
        to_heldout = survivor.spread(mine, "to_heldout", n, no)
        stays = survivor.spread(mine, "stays", n, yes)
        table = survivor.with_split(table, to_heldout.to_numpy(zero_copy_only=False))
        columns = {
            "minhash_cluster_id": survivor.spread(mine, "cluster_id", n, ids),
            "minhash_cluster_size": survivor.spread(mine, "size", n, one),
            "drop_rule": survivor.where(pc.invert(stays), "near_duplicate"),
        }
        return {"": survivor.with_columns(table, columns)}


def planted_recall(
    stage: MinhashDedup, jaccard: float, pairs: int = 1000, words: int = 300, seed: int = 0
) -> tuple[float, float]:
    """Self-check: (share of planted pairs that land in one cluster, what the S-curve expects).

    Each pair is a text of random words and a copy with words replaced, far enough apart to break
    ``ngram`` shingles each, as many as bring the pair nearest to ``jaccard``; the expectation is
    1 - (1 - J^rows)^bands at the similarity reached.
    """
    shingles = words - stage.ngram + 1
    # one replaced word takes n shingles from either side: J = (S - x) / (S + x), x = replaced * n
    replaced = round(shingles * (1 - jaccard) / (1 + jaccard) / stage.ngram)
    if replaced * stage.ngram * 2 > shingles:
        raise ValueError(f"{words} words are too few to plant pairs of similarity {jaccard}")
    draw = np.random.default_rng(seed)
    texts = []
    for _ in range(pairs):
        numbers = draw.integers(0, 1 << 40, words)
        texts.append(" ".join(f"w{number:x}" for number in numbers))
        # inside both ends, n words apart, so that no two replaced words share a shingle
        places = np.arange(stage.ngram - 1, shingles, stage.ngram)
        numbers[draw.choice(places, replaced, replace=False)] += 1 << 41
        texts.append(" ".join(f"w{number:x}" for number in numbers))
    table = pa.table({"id": [str(i) for i in range(len(texts))], "text": texts})
    signed = stage.sign(0, table, None)
    grouped = [t for name in signed for t in stage.group(name, [signed[name]]).values()]
    rows = stage.cluster(grouped).get("00000", pa.table({"row": []}))["row"].to_numpy()
    broken = replaced * stage.ngram
    reached = (shingles - broken) / (shingles + broken)
    return len(rows) / (2 * pairs), 1 - (1 - reached**stage.rows) ** stage.bands
