"""Union-find forests over document numbers, merged from pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from filters.survivor import shards_and_rows
from kernels.text.lsh import merge_forests


class Forest:
    """The clusters that pairs of documents make: order, grouping and repetition do not matter.

    ``pairs``: tables of document numbers ``left`` and ``right``. ``more``: numbers that belong to
    it without a pair. ``parent`` int64 [n] is flat: each document's root, the smallest of its
    cluster. Documents are positions in it, one for each row up to the last of a shard that is
    named: 8 bytes a document, which is why they are not sorted and searched.
    """

    def __init__(self, pairs: Sequence[pa.Table], more: Iterable[np.ndarray] = ()):
        numbers = [table[side].to_numpy() for table in pairs for side in ("left", "right")]
        more = list(more)
        shards = 1 + max((int(n.max()) >> 32 for n in (*numbers, *more) if len(n)), default=-1)
        rows = np.zeros(shards, np.int64)
        for each in (*numbers, *more):
            of, row = shards_and_rows(each)
            np.maximum.at(rows, of, row + 1)
        self._bases = np.concatenate([[0], np.cumsum(rows)])
        dense = [self._position(each) for each in numbers]
        self.parent = merge_forests(int(self._bases[-1]), list(zip(dense[::2], dense[1::2], strict=True)))
        self._alone = [self._position(each) for each in more]

    def _position(self, documents: np.ndarray) -> np.ndarray:
        shards, rows = shards_and_rows(documents)
        return self._bases[shards] + rows

    def number(self, positions: np.ndarray) -> np.ndarray:
        """The document numbers, int64 [n], at ``positions`` of ``parent``."""
        shards = np.searchsorted(self._bases, positions, side="right") - 1
        return (shards << 32) + positions - self._bases[shards]

    def members(self) -> np.ndarray:
        """Positions, rising, of the documents in a cluster of two or more, and of ``more``."""
        is_member = self.parent != np.arange(len(self.parent))
        is_member[self.parent[is_member]] = True
        for positions in self._alone:
            is_member[positions] = True
        return np.flatnonzero(is_member)
