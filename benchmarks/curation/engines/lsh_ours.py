"""Ours: kernels.text.lsh, the bands of all documents to components in one go."""

from __future__ import annotations

import numpy as np

from benchmarks.peers import serve
from kernels.text.lsh import cluster_bands, merge_forests

_keys = np.empty((0, 0), np.uint64)
_edges: list[np.ndarray] = []


def load(folder: str, bands: int) -> None:
    global _keys
    _keys = np.stack([np.load(f"{folder}/band-{band}.npy") for band in range(bands)])


def components(folder: str) -> None:
    parent = cluster_bands(_keys, np.ones(_keys.shape[1], np.int64))
    np.save(f"{folder}/ours.npy", parent)


def load_edges(folder: str) -> int:
    _edges[:] = [np.load(f"{folder}/edges-{side}.npy") for side in ("left", "right")]
    return len(_edges[0])


def unite(folder: str) -> None:
    np.save(f"{folder}/ours.npy", merge_forests(_keys.shape[1], [(_edges[0], _edges[1])]))


serve(load=load, components=components, load_edges=load_edges, unite=unite)
