"""Stage ``template_monitor``: writers that begin all their documents alike."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from filters import survivor

# enough characters for the words of an opening
_START = 1000


@dataclass(frozen=True, kw_only=True)
class TemplateMonitor:
    """Cut an opening that too many documents of a recipe share down to its share of them.

    An opening is the first ``words`` words of a text, case and punctuation aside. One that more than
    ``most`` of a recipe's documents have, and more than ``least_documents``, keeps about so many, chosen
    by their id; the others are dropped by the rule "template". ``template_share`` is the share of the
    recipe's documents that begin so, null for an opening that is not too common. The report names
    the commonest opening of each recipe. Memory of the phase that joins the shards: about 200 bytes a
    different opening.
    """

    stage: ClassVar[str] = "template_monitor"
    shape: ClassVar[str] = "shuffle"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ("unicodedata",)
    inputs: ClassVar[dict[str, str]] = {"documents": "documents"}
    output: ClassVar[str] = "documents"
    needs: ClassVar[tuple[str, ...]] = ("id", "text")
    adds: ClassVar[dict[str, str]] = {"template_share": "float64"}
    phases: ClassVar[tuple[tuple[str, str], ...]] = (
        ("count", "shard"),
        ("common", "all"),
        ("apply", "shard"),
    )

    words: int = 8
    """Words of an opening; a shorter text is one whole."""
    most: float = 0.02
    """Share of a recipe's documents that one opening may have."""
    least_documents: int = 20
    """An opening of at most so many documents is never too common."""
    by: str = "synth_recipe"
    """The column that tells which recipe a document is of."""

    def __post_init__(self) -> None:
        if self.words < 1 or self.least_documents < 0:
            given = f"{self.words}, {self.least_documents}"
            raise ValueError(f"words must be 1 or more, least_documents 0 or more: {given}")
        if not 0 < self.most <= 1:
            raise ValueError(f"most must lie above 0 and up to 1, not {self.most}")

    def columns(self) -> set[str]:
        """The columns read with these parameters."""
        return {*self.needs, self.by}

    @property
    def reads(self) -> dict[str, list[str]]:
        """The columns that the first phase reads of a shard; the last reads all."""
        return {"count": sorted({"text", self.by})}

    def count(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """How many of the shard's documents have each opening."""
        survivor.check_columns(self.stage, shard, table, ["text", self.by])
        counts = self._keys(table).group_by(["recipe", "opening"]).aggregate([([], "count_all")])
        shards = pa.array([shard] * len(counts), pa.int64())
        return {"counts": counts.append_column("shard", shards)} if len(counts) else {}

    def common(self, tables: list[pa.Table]) -> dict[str, Any]:
        """The openings that are too common, for every shard that has one; the commonest of each recipe."""
        if not tables:
            return {"report": {"recipes": []}}
        counts = pa.concat_tables(tables)
        openings = counts.group_by(["recipe", "opening"]).aggregate([("count_all", "sum")])
        order = [("recipe", "ascending"), ("count_all_sum", "descending"), ("opening", "ascending")]
        openings = openings.sort_by(order).rename_columns(["recipe", "opening", "documents"])
        report, common = [], []
        for recipe in pc.unique(openings["recipe"]).to_pylist():
            part = openings.filter(pc.equal(openings["recipe"], recipe))
            total = pc.sum(part["documents"]).as_py()
            quota = max(self.least_documents, int(self.most * total))
            many = part.filter(pc.greater(part["documents"], quota))
            for name, value in (("total", total), ("quota", quota)):
                many = many.append_column(name, pa.array([value] * len(many), pa.int64()))
            common.append(many)
            report.append(
                {
                    "recipe": recipe,
                    "documents": total,
                    "openings": len(part),
                    "too_common": len(many),
                    "commonest": part["opening"][0].as_py(),
                    "share": part["documents"][0].as_py() / total,
                }
            )
        told = pa.concat_tables(common)
        holders = counts.join(
            told.select(["recipe", "opening"]), ["recipe", "opening"], join_type="left semi"
        )
        shards = sorted(pc.unique(holders["shard"]).to_pylist())
        return {**{f"{shard:05d}": told for shard in shards}, "report": {"recipes": report}}

    def apply(self, shard: int, table: pa.Table, mine: pa.Table | None) -> dict[str, pa.Table]:
        """The shard's rows with ``drop_rule`` "template" and ``template_share``."""
        survivor.check_input(self.stage, shard, table, [*self.needs, self.by])
        told = {} if mine is None else {(row["recipe"], row["opening"]): row for row in mine.to_pylist()}
        shares: list[float | None] = [None] * table.num_rows
        rules: list[str | None] = [None] * table.num_rows
        ids = table["id"].to_pylist()
        keys = self._keys(table).to_pydict() if told else {"recipe": [], "opening": []}
        for at, key in enumerate(zip(keys["recipe"], keys["opening"], strict=True)):
            if row := told.get(key):
                shares[at] = row["documents"] / row["total"]
                rules[at] = "template" if _draw(ids[at]) >= row["quota"] / row["documents"] else None
        columns = {
            "template_share": pa.array(shares, pa.float64()),
            "drop_rule": pa.array(rules, pa.string()),
        }
        return {"": survivor.with_columns(table, columns)}

    def _keys(self, table: pa.Table) -> pa.Table:
        """Recipe and opening of each document, strings [n]."""
        openings = [
            " ".join(re.findall(r"\w+", (text or "")[:_START].lower())[: self.words])
            for text in table["text"].to_pylist()
        ]
        recipes = pc.fill_null(table[self.by].cast(pa.string()), "")
        return pa.table({"recipe": recipes, "opening": pa.array(openings, pa.string())})


def _draw(name: str) -> float:
    """A number in 0..1 that depends on the document's id alone."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64
