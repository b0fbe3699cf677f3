"""From the documents of a window to sequences: which piece of which document goes where, and the copying.

A piece is a run of one document's tokens. Both ways of packing give a number of sequences that depends on
the number of tokens alone (``num_sequences``), so that sequence n is found without reading those before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

IGNORE = -100
# best_fit may leave one sequence in so many unfilled; it cuts documents before it takes more
SLACK = 500


@dataclass(frozen=True)
class Pieces:
    """The pieces of a window, sequence after sequence."""

    start: np.ndarray
    """int64 [pieces], first token in the window's tokens."""
    length: np.ndarray
    """int64 [pieces]."""
    document: np.ndarray
    """int64 [pieces], row of the window."""
    bounds: np.ndarray
    """int64 [sequences + 1], first piece of each sequence."""

    def num_tokens(self) -> np.ndarray:
        """Tokens of each sequence, int64 [sequences]."""
        before = np.concatenate([[0], np.cumsum(self.length)])
        return np.diff(before[self.bounds])


def num_sequences(num_tokens: np.ndarray, length: int, packing: str) -> np.ndarray:
    """Sequences of ``length`` positions that windows of so many tokens make."""
    full = -(-num_tokens // length)
    return full + full // SLACK if packing == "best_fit" else full


def pack(starts: np.ndarray, order: np.ndarray, length: int, packing: str) -> Pieces:
    """Cut documents, of which row i holds tokens starts[i] .. starts[i + 1], into sequences.

    ``order`` int64 [documents]: the shuffled order of the rows. ``packing``: "concat", end to end, or
    "best_fit": pieces of a whole sequence first, the rest longest first into the fullest sequence that has
    room for it (best-fit decreasing; Ding et al., arXiv 2404.10830); what fits nowhere is cut.
    """
    count = int(num_sequences(starts[-1], length, packing))
    if packing == "concat":
        return Pieces(*_concat(starts, order, length, count))
    start, size, rank, bin_ = _best_fit(starts, order, length, count)
    by_bin = np.lexsort((start, rank, bin_))
    bounds = np.searchsorted(bin_[by_bin], np.arange(count + 1))
    return Pieces(start[by_bin], size[by_bin], order[rank[by_bin]], bounds)


@njit(nogil=True, cache=True)
def _concat(starts, order, length, count):
    most = len(order) + count
    start, size = np.empty(most, np.int64), np.empty(most, np.int64)
    document, bounds = np.empty(most, np.int64), np.zeros(count + 1, np.int64)
    pieces, sequence, room = 0, 0, length
    for row in order:
        at, end = starts[row], starts[row + 1]
        while at < end:
            if room == 0:
                sequence += 1
                bounds[sequence] = pieces
                room = length
            taken = min(room, end - at)
            start[pieces], size[pieces], document[pieces] = at, taken, row
            pieces += 1
            at += taken
            room -= taken
    bounds[count] = pieces
    return start[:pieces], size[:pieces], document[:pieces], bounds


@njit(nogil=True, cache=True)
def _best_fit(starts, order, length, count):
    most = len(order) + 2 * count
    start, size = np.empty(most, np.int64), np.empty(most, np.int64)
    rank, bin_ = np.empty(most, np.int64), np.empty(most, np.int64)
    pieces, bins = 0, 0
    # whole sequences first; how many rests there are of each length
    begins = np.zeros(length + 2, np.int64)
    for r in range(len(order)):
        at, end = starts[order[r]], starts[order[r] + 1]
        while end - at >= length:
            start[pieces], size[pieces], rank[pieces], bin_[pieces] = at, length, r, bins
            pieces += 1
            bins += 1
            at += length
        begins[length - (end - at) + 1] += 1
    for i in range(length + 1):
        begins[i + 1] += begins[i]
    longest_first = np.empty(len(order), np.int64)
    for r in range(len(order)):
        rest = (starts[order[r] + 1] - starts[order[r]]) % length
        longest_first[begins[length - rest]] = r
        begins[length - rest] += 1

    # open sequences as linked lists by their room, and a tree of how many there are of each room
    leaves = 1
    while leaves < length + 1:
        leaves *= 2
    tree = np.zeros(2 * leaves, np.int64)
    head, after = np.full(length + 1, -1, np.int64), np.empty(count, np.int64)
    room = np.full(count, length, np.int64)
    for b in range(count - 1, bins - 1, -1):
        _put(tree, leaves, head, after, length, b)
    first_rest = pieces
    waiting = np.empty(len(order), np.int64)
    num_waiting = 0
    for i in range(len(longest_first)):
        r = longest_first[i]
        rest = (starts[order[r] + 1] - starts[order[r]]) % length
        if rest == 0:
            continue
        fit = _least_room(tree, leaves, rest)
        if fit < 0:
            waiting[num_waiting] = r
            num_waiting += 1
            continue
        b = _take(tree, leaves, head, after, fit)
        start[pieces], size[pieces] = starts[order[r] + 1] - rest, rest
        rank[pieces], bin_[pieces] = r, b
        pieces += 1
        room[b] = fit - rest
        _put(tree, leaves, head, after, fit - rest, b)
    # a sequence of padding alone trains nothing: it gets a short document of a fuller one
    last = pieces - 1
    for b in range(bins, count):
        while room[b] == length and num_waiting == 0 and last >= first_rest:
            old = bin_[last]
            if room[old] + size[last] < length:
                bin_[last] = b
                room[old] += size[last]
                room[b] -= size[last]
            last -= 1
    for w in range(num_waiting):
        r = waiting[w]
        end = starts[order[r] + 1]
        at = end - (end - starts[order[r]]) % length
        while at < end:
            fit = _most_room(tree, leaves)
            taken = min(fit, end - at)
            b = _take(tree, leaves, head, after, fit)
            start[pieces], size[pieces], rank[pieces], bin_[pieces] = at, taken, r, b
            pieces += 1
            at += taken
            _put(tree, leaves, head, after, fit - taken, b)
    return start[:pieces], size[:pieces], rank[:pieces], bin_[:pieces]


@njit(nogil=True, cache=True)
def _put(tree, leaves, head, after, room, b):
    after[b] = head[room]
    head[room] = b
    node = leaves + room
    while node:
        tree[node] += 1
        node //= 2


@njit(nogil=True, cache=True)
def _take(tree, leaves, head, after, room):
    b = head[room]
    head[room] = after[b]
    node = leaves + room
    while node:
        tree[node] -= 1
        node //= 2
    return b


@njit(nogil=True, cache=True)
def _least_room(tree, leaves, room):
    """The least room >= ``room`` that a sequence has, or -1."""
    node = leaves + room
    if tree[node]:
        return room
    while node > 1:
        if node % 2 == 0 and tree[node + 1]:
            node += 1
            while node < leaves:
                node = 2 * node if tree[2 * node] else 2 * node + 1
            return node - leaves
        node //= 2
    return -1


@njit(nogil=True, cache=True)
def _most_room(tree, leaves):
    node = 1
    while node < leaves:
        node = 2 * node + 1 if tree[2 * node + 1] else 2 * node
    return node - leaves


@njit(nogil=True, cache=True)
def fill(
    tokens, starts, start, length, document, bounds, sequences, rows, restart, pad, input_ids, labels,
    position_ids,
):  # fmt: skip
    """Write ``sequences`` of a window into ``rows`` of a batch, padding too.

    tokens uint32 [n], starts int64 [documents + 1]; start, length, document, bounds of ``Pieces``;
    sequences, rows int64 [k], a row of -1 to skip; input_ids, labels int64 [b, S], position_ids int32 [b, S].
    ``restart``: positions restart with each document, and none asks for the first token of the next.
    """
    width = input_ids.shape[1]
    for i in range(len(sequences)):
        if rows[i] < 0:
            continue
        ids, targets, positions = input_ids[rows[i]], labels[rows[i]], position_ids[rows[i]]
        first, end = bounds[sequences[i]], bounds[sequences[i] + 1]
        at = 0
        for p in range(first, end):
            source, count = start[p], length[p]
            for j in range(count):
                ids[at + j] = tokens[source + j]
            for j in range(count - 1):
                targets[at + j] = tokens[source + j + 1]
            begin = 0 if restart else at
            for j in range(count):
                positions[at + j] = begin + j
            at += count
            if source + count < starts[document[p] + 1]:
                targets[at - 1] = tokens[source + count]
            elif not restart and p + 1 < end:
                targets[at - 1] = tokens[start[p + 1]]
            else:
                targets[at - 1] = IGNORE
        ids[at:] = pad
        targets[at:] = IGNORE
        begin = 0 if restart else at
        for j in range(width - at):
            positions[at + j] = begin + j
