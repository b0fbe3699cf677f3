"""What the extractor learns: word tables by logistic regression, trees by LightGBM."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from numba import njit

from benchmarks.extraction.labels import label_blocks
from benchmarks.extraction.score import words
from kernels.text.html_features import (
    NEAR,
    NUM_FEATURES,
    NUM_STATISTICS,
    TAG_WORDS,
    WORD_SCALE,
    block_features,
    describe,
    element_scores,
    page_totals,
    text_words,
)
from kernels.text.html_names import NUM_WORDS
from kernels.text.html_tokens import END, INNER, PARENT, START, TAG, WORDS_FROM, WORDS_TO, Workspace
from kernels.text.html_trees import ALL_LEAVES, LEAF_SCALE, NUM_LEAVES

# a word counts when pages of as many sites have it
CLASS_SITES, TEXT_SITES = 3, 5
TREES = {
    "objective": "binary",
    "learning_rate": 0.08,
    "num_leaves": 15,
    "max_depth": 6,
    "min_data_in_leaf": 150,
    "min_sum_hessian_in_leaf": 0.01,
    "feature_fraction": 0.25,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 20.0,
    "max_bin": 63,
    "verbose": -1,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
}


@dataclass
class Page:
    """A labelled page: the tokenizer's columns, and of each block the share that is main content."""

    site: str
    kind: str
    size: int
    text: np.ndarray
    elements: np.ndarray
    words: np.ndarray
    blocks: np.ndarray
    share: np.ndarray
    num_words: np.ndarray
    block_words: list[Counter]
    truth: Counter

    @property
    def is_main(self) -> np.ndarray:
        return (self.share >= 0.5).astype(np.float32)

    @property
    def weights(self) -> np.ndarray:
        """What a block counts in training: what it can do to the page's F1, damped."""
        room = sum(self.truth.values()) + 150.0
        return np.sqrt(np.minimum(self.num_words, 400) / room).astype(np.float32)


def site_of(url: str) -> str:
    """The last two labels of a URL's host."""
    return ".".join(urlsplit(url or "").netloc.lower().split(".")[-2:])


def read_page(workspace: Workspace, url: str, kind: str, html: bytes, truth: str) -> Page:
    workspace.tokenize(html)
    text = workspace.text.tobytes()
    texts = [text[start:end].decode("utf-8", "replace") for start, end in workspace.blocks[:, [START, END]]]
    counts = [Counter(words(block)) for block in texts]
    return Page(
        site=site_of(url),
        kind=kind,
        size=len(html),
        text=workspace.text.copy(),
        elements=workspace.elements.copy(),
        words=workspace.words.copy(),
        blocks=workspace.blocks.copy(),
        share=label_blocks(texts, truth),
        num_words=np.array([sum(count.values()) for count in counts], np.int64),
        block_words=counts,
        truth=Counter(words(truth)),
    )


def fold_of(site: str, folds: int = 5) -> int:
    return zlib.crc32(site.encode()) % folds


def features(page: Page, tables: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """float32 [blocks, NUM_FEATURES] of a page, and the statistics of its blocks."""
    n = len(page.blocks)
    statistics = np.zeros((n, NUM_STATISTICS), np.int64)
    scores = np.zeros((len(page.elements), 7), np.int32)
    out = np.zeros((NUM_FEATURES, max(n, 1)), np.float32)
    describe(page.text, page.blocks, tables[1], statistics)
    element_scores(page.elements, page.words, tables[0], scores)
    shared = page_totals(page.elements, page.blocks, statistics, scores, page.size)
    state = np.zeros(6, np.int64)
    block_features(page.elements, page.blocks, statistics, scores, shared, page.size, 0, n, state, out)
    return out[:, :n].T, statistics


def word_tables(pages: list[Page]) -> tuple[np.ndarray, np.ndarray]:
    """int8 [NUM_WORDS] twice: weights of class words and tags, of the words of texts."""
    return (
        _fit(pages, _class_epoch, _known(pages, _class_seen, CLASS_SITES), rounds=4, rate=0.02),
        _fit(pages, _text_epoch, _known(pages, _text_seen, TEXT_SITES), rounds=5, rate=0.1),
    )


def _known(pages: list[Page], see, sites: int) -> np.ndarray:
    count = np.zeros(NUM_WORDS, np.int32)
    for site in sorted({page.site for page in pages}):
        seen = np.zeros(NUM_WORDS, np.bool_)
        for page in pages:
            if page.site == site:
                see(page.text, page.words, page.blocks, seen)
        count += seen
    return count >= sites


def _fit(pages: list[Page], epoch, known: np.ndarray, rounds: int, rate: float) -> np.ndarray:
    weights, squares = np.zeros(NUM_WORDS, np.float32), np.ones(NUM_WORDS, np.float32)
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for number in rng.permutation(len(pages)):
            page = pages[number]
            epoch(page.text, page.elements, page.words, page.blocks, page.is_main, page.weights, known,
                  weights, squares, np.float32(rate))  # fmt: skip
        weights *= np.float32(0.98)
    return np.clip(np.rint(weights * WORD_SCALE), -127, 127).astype(np.int8)


@njit
def _class_seen(text, words, blocks, seen):
    for word in words:
        seen[word] = True


@njit
def _text_seen(text, words, blocks, seen):
    ids = np.empty(512, np.int64)
    for b in range(len(blocks)):
        for k in range(text_words(text, blocks[b, START], blocks[b, END], ids)):
            seen[ids[k]] = True


@njit
def _class_epoch(text, elements, words, blocks, is_main, importance, known, weights, squares, rate):
    """Adagrad over a page: what a block has are the tags and class words of all that it lies in."""
    ids = np.empty(4096, np.int64)
    for b in range(len(blocks)):
        if importance[b] <= 0:
            continue
        e = blocks[b, INNER]
        n = first = 0
        total = np.float32(0)
        above = 0
        while n < 4000:
            ids[n] = TAG_WORDS + elements[e, TAG]
            n += 1
            for k in range(elements[e, WORDS_FROM], elements[e, WORDS_TO]):
                if known[words[k]]:
                    ids[n] = words[k]
                    n += 1
            if above < 2:
                for k in range(n - 1, first - 1, -1):
                    ids[n] = ids[k] ^ NEAR
                    n += 1
            if e == 0:
                break
            e = elements[e, PARENT]
            above += 1
            first = n
        for k in range(n):
            total += weights[ids[k]]
        slope = np.float32((1 / (1 + np.exp(-total)) - is_main[b]) * importance[b])
        for k in range(n):
            squares[ids[k]] += slope * slope
            weights[ids[k]] -= rate * slope / np.sqrt(squares[ids[k]])


@njit
def _text_epoch(text, elements, words, blocks, is_main, importance, known, weights, squares, rate):
    """Adagrad over a page: what a block has are its words and pairs of words."""
    ids = np.empty(512, np.int64)
    for b in range(len(blocks)):
        n = text_words(text, blocks[b, START], blocks[b, END], ids)
        total = np.float32(0)
        scale = 1 / np.sqrt(np.float32(max(n, 1)))
        for k in range(n):
            if known[ids[k]]:
                total += weights[ids[k]]
        slope = np.float32((1 / (1 + np.exp(-total * scale)) - is_main[b]) * importance[b] * scale)
        for k in range(n):
            if known[ids[k]]:
                squares[ids[k]] += slope * slope
                weights[ids[k]] -= rate * slope / np.sqrt(squares[ids[k]])


def flatten(model: dict) -> dict[str, np.ndarray]:
    """LightGBM's trees (``dump_model()``) as the arrays of kernels.text.html_trees."""
    trees = [tree["tree_structure"] for tree in model["tree_info"]]
    tests = max(_count(tree) for tree in trees)
    shape = len(trees), tests
    features_of = np.zeros(shape, np.int32)
    thresholds = np.full(shape, np.inf, np.float32)
    masks = np.full(shape, ALL_LEAVES, np.uint32)
    leaves = np.zeros((len(trees), NUM_LEAVES), np.int64)
    for t, tree in enumerate(trees):
        rows: list[tuple[int, float, int]] = []
        values: list[float] = []
        _walk(tree, rows, values)
        for k, (feature, threshold, mask) in enumerate(rows):
            features_of[t, k], thresholds[t, k], masks[t, k] = feature, _below(threshold), mask
        leaves[t, : len(values)] = np.rint(np.array(values) * LEAF_SCALE)
    return {"features": features_of, "thresholds": thresholds, "masks": masks, "leaves": leaves}


def _count(node: dict) -> int:
    return 1 + _count(node["left_child"]) + _count(node["right_child"]) if "split_feature" in node else 0


def _walk(node: dict, rows: list[tuple[int, float, int]], values: list[float]) -> None:
    """Leaves from left to right; of each test the leaves that are left where it fails."""
    if "split_feature" not in node:
        values.append(node["leaf_value"])
        return
    assert node["decision_type"] == "<=" and len(values) < NUM_LEAVES
    first = len(values)
    _walk(node["left_child"], rows, values)
    lost = (1 << len(values)) - (1 << first)
    rows.append((node["split_feature"], node["threshold"], int(ALL_LEAVES) & ~lost))
    _walk(node["right_child"], rows, values)


def _below(threshold: float) -> np.float32:
    """The largest float32 that is no more: a float32 is over one where it is over the other."""
    near = np.float32(threshold)
    return np.nextafter(near, np.float32(-np.inf)) if float(near) > threshold else near
