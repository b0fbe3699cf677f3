"""Boosted trees over the features of blocks, and the blocks that are kept.

A tree of up to 32 leaves is evaluated without a branch (QuickScorer, Lucchese et al., SIGIR 2015): each
of its tests that fails takes the leaves to its left away; the first leaf that is left is the block's.
The loops run over blocks, so the compiler makes vectors of them. Leaves are integers in units of
1 / ``LEAF_SCALE``: their sum does not depend on an order.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from kernels.text.simd import trailing_zeros

LEAF_SCALE = 1 << 16
NUM_LEAVES = 32
ALL_LEAVES = np.uint32(0xFFFFFFFF)
# a score's place in _PROBABILITY: 64 steps a unit, from -8 to 8
_STEPS, _REACH = 64, 8
_SHIFT = 10
NUM_LEVELS = 2 * _STEPS * _REACH
_WHOLE = 1 << 16
# probability of main content, in units of 1 / _WHOLE, of each level of a score
PROBABILITY = np.array(
    [round(_WHOLE / (1 + math.exp(_REACH - (level + 0.5) / _STEPS))) for level in range(NUM_LEVELS)], np.int64
)


@njit(nogil=True, cache=True)
def add_trees(columns, count, features, thresholds, masks, leaves, alive, scores):
    """Sum the leaves of all trees into int64 ``scores[:count]``.

    columns     float32 [NUM_FEATURES, >= count]
    features, thresholds, masks   int32, float32, uint32 [trees, tests]: a block with a value over the
                threshold loses the leaves that are not in the mask; unused tests have a threshold of inf
    leaves      int64 [trees, 32]
    alive       uint32 [>= count], scratch
    """
    for b in range(count):
        scores[b] = 0
    for t in range(len(features)):
        for b in range(count):
            alive[b] = ALL_LEAVES
        for k in range(features.shape[1]):
            column, threshold, mask = columns[features[t, k]], thresholds[t, k], masks[t, k]
            for b in range(count):
                alive[b] &= mask if column[b] > threshold else ALL_LEAVES
        values = leaves[t]
        for b in range(count):
            scores[b] += values[trailing_zeros(np.uint64(alive[b]))]


@njit(nogil=True, cache=True)
def levels(scores, count, out):
    """The level of each score: its place in ``PROBABILITY``."""
    for b in range(count):
        level = (scores[b] >> _SHIFT) + _STEPS * _REACH
        out[b] = min(max(level, 0), NUM_LEVELS - 1)


@njit(nogil=True, cache=True)
def cut(block_levels, weights):
    """(the lowest level to keep, the F1 of words that is expected): the cut at which, were each block
    main content with the probability of its level, F1 over all the page's words would be highest."""
    found = np.zeros((NUM_LEVELS, 2), np.int64)
    for b in range(len(block_levels)):
        level = block_levels[b]
        found[level, 0] += weights[b]
        found[level, 1] += weights[b] * PROBABILITY[level]
    total = found[:, 1].sum()
    kept = hits = 0
    best, best_level = 0.0, NUM_LEVELS
    for level in range(NUM_LEVELS - 1, -1, -1):
        if found[level, 0]:
            kept += found[level, 0]
            hits += found[level, 1]
            expected = 2 * hits / (kept * _WHOLE + total)
            if expected > best:
                best, best_level = expected, level
    return best_level, best
