"""The extractor's model: which blocks of a page are its main content. A data file and its evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
from numba import njit
from safetensors.numpy import save_file

from kernels.text.html_features import (
    FEATURE_VERSION,
    FEATURES,
    NUM_FEATURES,
    NUM_STATISTICS,
    WORDS,
    block_features,
    describe,
    element_scores,
    page_totals,
)
from kernels.text.html_names import NUM_WORDS
from kernels.text.html_text import lay_out, room
from kernels.text.html_tokens import Workspace
from kernels.text.html_trees import add_trees, cut, levels

# blocks whose features are in the cache at once, and room that keeps the rows of features from
# falling on the same lines of it
_CHUNK, _SKEW = 256, 16
_KEY = "corpusmill_extractor"
# under this expected F1 a page has no main content
NOTHING = 0.2


class ModelError(ValueError):
    """A model file that this program cannot use."""


@njit(nogil=True, cache=True)
def classify(text, elements, words, blocks, size, tables, trees, keep):
    """Fill bool ``keep`` for the blocks; the F1 of words that is expected of them.

    ``tables``: class words, text words (int8 [NUM_WORDS]); ``trees``: as ``add_trees`` takes them.
    """
    count = len(blocks)
    keep[:count] = False
    if count == 0:
        return 0.0
    statistics = np.empty((count, NUM_STATISTICS), np.int64)
    scores = np.empty((len(elements), 7), np.int32)
    describe(text, blocks, tables[1], statistics)
    element_scores(elements, words, tables[0], scores)
    shared = page_totals(elements, blocks, statistics, scores, size)
    columns = np.empty((NUM_FEATURES, _CHUNK + _SKEW), np.float32)
    alive = np.empty(_CHUNK, np.uint32)
    raw = np.empty(_CHUNK, np.int64)
    block_levels = np.empty(count, np.int64)
    state = np.zeros(6, np.int64)
    for first in range(0, count, _CHUNK):
        last = min(count, first + _CHUNK)
        block_features(elements, blocks, statistics, scores, shared, size, first, last, state, columns)
        add_trees(columns, last - first, trees[0], trees[1], trees[2], trees[3], alive, raw)
        levels(raw, last - first, block_levels[first:last])
    weights = np.maximum(statistics[:, WORDS], 1)
    lowest, expected = cut(block_levels, weights)
    if expected >= NOTHING:
        for b in range(count):
            keep[b] = block_levels[b] >= lowest
    return expected


@dataclass(frozen=True)
class ContentModel:
    """Word tables and trees. ``facts``: what the file says of its training (JSON)."""

    class_words: np.ndarray
    text_words: np.ndarray
    features: np.ndarray
    thresholds: np.ndarray
    masks: np.ndarray
    leaves: np.ndarray
    facts: dict

    _SHAPES = {
        "class_words": ("int8", (NUM_WORDS,)),
        "text_words": ("int8", (NUM_WORDS,)),
        "features": ("int32", (None, None)),
        "thresholds": ("float32", (None, None)),
        "masks": ("uint32", (None, None)),
        "leaves": ("int64", (None, 32)),
    }

    def save(self, path: Path) -> None:
        """Write the file; the same model gives the same bytes."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in self._SHAPES}
        about = {"feature_version": FEATURE_VERSION, "features": list(FEATURES), **self.facts}
        # one entry: the order of several is not fixed
        save_file(arrays, path, {_KEY: json.dumps(about, sort_keys=True)})

    @classmethod
    def load(cls, path: str | Path) -> ContentModel:
        """Read a file that ``save`` wrote. Raises ModelError, also for one of another feature version."""
        try:
            with safetensors.safe_open(path, "numpy") as file:
                about = json.loads((file.metadata() or {})[_KEY])
                arrays = {name: file.get_tensor(name) for name in cls._SHAPES}
        except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"{path} is no model of the extractor: {error}") from error
        if about.get("feature_version") != FEATURE_VERSION or about.get("features") != list(FEATURES):
            found = about.get("feature_version")
            raise ModelError(
                f"{path} is made for feature version {found}, this program has {FEATURE_VERSION}: "
                "take the model that came with it, or train it again (python -m benchmarks.extraction.train)"
            )
        for name, (dtype, shape) in cls._SHAPES.items():
            array = arrays[name]
            fits = array.ndim == len(shape) and all(
                want in (None, is_) for want, is_ in zip(shape, array.shape, strict=True)
            )
            if array.dtype != dtype or not fits:
                raise ModelError(f"{path}: {name} is {array.dtype} {array.shape}, not {dtype} {shape}")
            array.flags.writeable = False
        trees = arrays["features"].shape
        if (
            arrays["thresholds"].shape != trees
            or arrays["masks"].shape != trees
            or len(arrays["leaves"]) != trees[0]
        ):
            raise ModelError(f"{path}: its trees do not fit together")
        if arrays["features"].min(initial=0) < 0 or arrays["features"].max(initial=0) >= NUM_FEATURES:
            raise ModelError(f"{path}: a tree tests a feature that there is not")
        return cls(
            **arrays, facts={k: v for k, v in about.items() if k not in ("feature_version", "features")}
        )

    def choose(self, page: Workspace) -> tuple[np.ndarray, float]:
        """Of a page that was tokenized, which blocks are main content (bool), and the F1 expected of them."""
        keep = np.empty(len(page.blocks), np.bool_)
        trees = (self.features, self.thresholds, self.masks, self.leaves)
        expected = classify(
            page.text,
            page.elements,
            page.words,
            page.blocks,
            len(page.page),
            (self.class_words, self.text_words),
            trees,
            keep,
        )
        return keep, expected


def page_text(page: Workspace, keep: np.ndarray, markdown: bool = False) -> str:
    """The text of a page's blocks that are kept."""
    out = np.empty(room(page.text, page.blocks), np.uint8)
    written = lay_out(page.text, page.elements, page.blocks, keep, markdown, out)
    return out[:written].tobytes().decode("utf-8", "replace")


def warm_html() -> None:
    """Compile the kernels of this file and what they call."""
    page = Workspace()
    page.tokenize(b"<p>text")
    tables = np.zeros(NUM_WORDS, np.int8), np.zeros(NUM_WORDS, np.int8)
    trees = np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), np.zeros((1, 1), np.uint32)
    for array in (*tables, *trees, leaves := np.zeros((1, 32), np.int64)):
        # Numba compiles a kernel anew for writable arrays
        array.flags.writeable = False
    keep, _ = ContentModel(*tables, *trees, leaves, facts={}).choose(page)
    page_text(page, keep)
