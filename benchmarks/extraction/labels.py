"""Which blocks of a page are its main content, from the text that a benchmark says is."""

from __future__ import annotations

from collections import Counter

import numpy as np

from benchmarks.extraction.score import words

_GRAM = 4
# of a run of words that the truth holds, as many are looked at together: it may be there twice
_PIECE = 60
# a block as short as this is found as a line of the truth, near blocks that were found
_SHORT, _NEAR = 6, 3


def label_blocks(blocks: list[str], truth: str) -> np.ndarray:
    """float32 [blocks]: the share of each block's words that the truth holds.

    Words count where four in a row stand in the truth; longer runs take the truth's words first, so
    that a copy of what the truth has once stays out.
    """
    of_block = [words(text) for text in blocks]
    wanted = words(truth)
    n = min(_GRAM, max(1, len(wanted)))
    grams = {tuple(wanted[i : i + n]) for i in range(len(wanted) - n + 1)}
    all_words = [word for some in of_block for word in some]
    starts = np.cumsum([0] + [len(some) for some in of_block])
    found = np.zeros(len(all_words) + 1, bool)
    for i in range(len(all_words) - n + 1):
        if tuple(all_words[i : i + n]) in grams:
            found[i : i + n] = True
    share = _shares(found, starts)
    lines = {tuple(words(line)) for line in truth.split("\n")}
    for b, some in enumerate(of_block):
        near = share[max(0, b - _NEAR) : b + _NEAR + 1]
        if 0 < len(some) <= _SHORT and share[b] < 1 and tuple(some) in lines and near.max() >= 0.5:
            found[starts[b] : starts[b + 1]] = True
    edges = np.flatnonzero(np.diff(np.concatenate(([0], found.astype(np.int8)))))
    left = Counter(wanted)
    kept = np.zeros(len(found), bool)
    for first, last in sorted(zip(edges[::2], edges[1::2], strict=True), key=lambda run: run[0] - run[1]):
        for at in range(first, last, _PIECE):
            end = min(last, at + _PIECE)
            piece = Counter(all_words[at:end])
            if 2 * sum((piece & left).values()) >= end - at:
                kept[at:end] = True
                left -= piece
    return _shares(kept, starts)


def _shares(found: np.ndarray, starts: np.ndarray) -> np.ndarray:
    sums = np.concatenate(([0], np.cumsum(found)))[starts]
    sizes = np.diff(starts)
    return (np.diff(sums) / np.maximum(sizes, 1)).astype(np.float32)
