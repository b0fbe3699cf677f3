"""Daft: its expressions normalize and minhash, in its native runner."""

from __future__ import annotations

import daft
import numpy as np
import pyarrow.parquet as pq
from daft.functions import minhash, normalize

from benchmarks.curation.engines.common import NGRAM, SLOTS, some_band_equal
from benchmarks.peers import serve

daft.set_runner_native()
_loaded: list[daft.DataFrame] = []


def _sign(column: str) -> daft.Expression:
    text = normalize(daft.col(column), remove_punct=True, lowercase=True, white_space=True)
    return minhash(text, num_hashes=SLOTS, ngram_size=NGRAM, hash_function="xxhash")


def load(file: str, rows: int | None = None) -> None:
    table = pq.read_table(file, columns=["text"]).slice(0, rows)
    _loaded[:] = [daft.from_arrow(table).collect()]


def memory() -> None:
    _loaded[0].select(_sign("text").alias("slots")).collect()


def parquet(file: str) -> None:
    daft.read_parquet(file).select(_sign("text").alias("slots")).collect()


def pairs(file: str, rows: int) -> int:
    table = daft.from_arrow(pq.read_table(file, columns=["left", "right"]).slice(0, rows))
    slots = table.select(_sign("left").alias("left"), _sign("right").alias("right")).to_arrow()
    sides = (slots[side].combine_chunks().flatten().to_numpy() for side in ("left", "right"))
    return some_band_equal(*(np.reshape(side, (-1, SLOTS)) for side in sides))


serve(load=load, memory=memory, parquet=parquet, pairs=pairs)
