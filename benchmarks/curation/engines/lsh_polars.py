"""polars sorts or groups the records of each band to edges; scipy finds their components."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.peers import serve

_keys: list[np.ndarray] = []
_edges: list[np.ndarray] = []
_labels = np.empty(0, np.int32)


def load(folder: str, bands: int) -> None:
    _keys[:] = [np.load(f"{folder}/band-{band}.npy") for band in range(bands)]


def sort() -> int:
    """Edges between neighbours of one key: the fewest there can be."""
    found = []
    for keys in _keys:
        records = pl.DataFrame({"key": keys, "document": np.arange(len(keys))}).sort("key")
        key, document = records["key"].to_numpy(), records["document"].to_numpy()
        same = np.flatnonzero(key[1:] == key[:-1])
        found.append((document[same], document[same + 1]))
    _edges[:] = [np.concatenate(side) for side in zip(*found, strict=True)]
    return len(_edges[0])


def group() -> int:
    """Edges from the first document of each key to the others."""
    found = []
    for keys in _keys:
        records = pl.DataFrame({"key": keys, "document": np.arange(len(keys))})
        groups = records.group_by("key").agg(pl.col("document")).filter(pl.col("document").list.len() > 1)
        pairs = groups.select(pl.col("document").list.first().alias("first"), "document").explode("document")
        pairs = pairs.filter(pl.col("first") != pl.col("document"))
        found.append((pairs["first"].to_numpy(), pairs["document"].to_numpy()))
    _edges[:] = [np.concatenate(side) for side in zip(*found, strict=True)]
    return len(_edges[0])


def unite() -> None:
    global _labels
    n = len(_keys[0])
    graph = coo_array((np.ones(len(_edges[0]), np.int8), (_edges[0], _edges[1])), shape=(n, n))
    _, _labels = connected_components(graph, directed=False)


def save(folder: str) -> None:
    np.save(f"{folder}/scipy.npy", _labels)
    for side, edges in zip(("left", "right"), _edges, strict=True):
        np.save(f"{folder}/edges-{side}.npy", edges.astype(np.int64))


serve(load=load, sort=sort, group=group, unite=unite, save=save)
