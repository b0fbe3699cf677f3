"""Ours: the stage text_statistics, and decide with the web preset behind it."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.peers import serve
from filters.decide import Decide
from filters.text_statistics import TextStatistics

BATCH = 1_000


def main() -> None:
    loaded = pa.table({"text": pa.array([], pa.large_string())})

    def load(file: str, start: int, stop: int) -> int:
        nonlocal loaded
        loaded = pq.read_table(file, columns=["text"]).slice(start, stop - start).combine_chunks()
        return pc.sum(pc.binary_length(loaded["text"])).as_py() or 0

    def annotate(batch: pa.Table, families: list[str], verdicts: bool) -> pa.Table:
        result = TextStatistics(families=tuple(families)).annotate(batch)
        return Decide(presets=("web",)).annotate(result) if verdicts else result

    def statistics(families: list[str], verdicts: bool, threads: int) -> str:
        """Of all texts, a thousand rows at a time; the hash of all columns that come out."""
        batches = [loaded.slice(start, BATCH) for start in range(0, loaded.num_rows, BATCH)]
        with ThreadPoolExecutor(threads) as pool:
            tables = list(pool.map(lambda batch: annotate(batch, families, verdicts), batches))
        digest = hashlib.sha256()
        for table in tables:
            for name in table.column_names[1:]:
                if pa.types.is_primitive(table.schema.field(name).type):
                    digest.update(np.ascontiguousarray(table[name].to_numpy()))
        return digest.hexdigest()

    serve(load=load, statistics=statistics)


if __name__ == "__main__":
    main()
