"""Ours: kernels.text.lsh, the bands of all documents to components in one go."""

from __future__ import annotations

import numpy as np

from benchmarks.peers import serve
from kernels.text.lsh import cluster_bands, merge_forests

_keys = np.empty((0, 0), np.uint64)
_edges: list[np.ndarray] = []
_parent = np.empty(0, np.int64)


def load(folder: str, bands: int) -> None:
    global _keys
    _keys = np.stack([np.load(f"{folder}/band-{band}.npy") for band in range(bands)])


def warm_up() -> None:
    keys = np.arange(8, dtype=np.uint64).reshape(2, 4)
    cluster_bands(keys, np.ones(4, np.int64))
    merge_forests(4, [(np.array([0]), np.array([1]))])


def components() -> None:
    global _parent
    _parent = cluster_bands(_keys, np.ones(_keys.shape[1], np.int64))


def load_edges(folder: str) -> None:
    _edges[:] = [np.load(f"{folder}/edges-{side}.npy") for side in ("left", "right")]


def unite() -> None:
    global _parent
    _parent = merge_forests(_keys.shape[1], [(_edges[0], _edges[1])])


def save(folder: str) -> None:
    np.save(f"{folder}/ours.npy", _parent)


serve(warm_up=warm_up, load=load, components=components, load_edges=load_edges, unite=unite, save=save)
