"""Ours: kernels.text.lsh, band by band, then the bands' forests together."""

from __future__ import annotations

import numpy as np

from benchmarks.peers import serve
from kernels.text.lsh import cluster_equal, forest_edges, merge_forests

_keys: list[np.ndarray] = []
_edges: list[np.ndarray] = []


def load(folder: str, bands: int) -> None:
    _keys[:] = [np.load(f"{folder}/band-{band}.npy") for band in range(bands)]


def components(folder: str) -> None:
    n = len(_keys[0])
    documents = np.arange(n)
    parent = merge_forests(n, [forest_edges(cluster_equal(keys, documents, n)) for keys in _keys])
    np.save(f"{folder}/ours.npy", parent)


def load_edges(folder: str) -> int:
    _edges[:] = [np.load(f"{folder}/edges-{side}.npy") for side in ("left", "right")]
    return len(_edges[0])


def unite(folder: str) -> None:
    np.save(f"{folder}/ours.npy", merge_forests(len(_keys[0]), [(_edges[0], _edges[1])]))


serve(load=load, components=components, load_edges=load_edges, unite=unite)
