"""Packing: every token once, few documents cut, a number of sequences that the tokens alone tell."""

from __future__ import annotations

import itertools
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_model.training.packing import Pieces, fill, num_sequences, pack

PACKINGS = ("concat", "best_fit")


def _starts(lengths: list[int]) -> np.ndarray:
    return np.array([0, *itertools.accumulate(lengths)], np.int64)


def _shuffled(count: int) -> np.ndarray:
    return np.random.default_rng(count).permutation(count)


def _cut(pieces: Pieces, starts: np.ndarray, length: int) -> int:
    """Documents in more pieces than their length asks for."""
    lengths = np.diff(starts)
    return int((np.bincount(pieces.document, minlength=len(lengths)) > -(-lengths // length)).sum())


@pytest.mark.parametrize("packing", PACKINGS)
@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 50), max_size=60), length=st.integers(2, 20))
def test_every_token_is_in_one_piece(packing: str, lengths: list[int], length: int) -> None:
    starts = _starts(lengths)
    pieces = pack(starts, _shuffled(len(lengths)), length, packing)
    covered = [np.arange(a, a + n) for a, n in zip(pieces.start, pieces.length, strict=True)]
    assert np.array_equal(np.sort(np.concatenate([[], *covered])), np.arange(starts[-1]))
    # a piece lies in its document, and a sequence holds what it can
    assert (starts[pieces.document] <= pieces.start).all() and (pieces.length > 0).all()
    assert (pieces.start + pieces.length <= starts[pieces.document + 1]).all()
    counts = pieces.num_tokens()
    assert len(counts) == num_sequences(starts[-1], length, packing)
    assert counts.sum() == starts[-1] and counts.max(initial=0) <= length


def test_best_fit_finds_the_perfect_fit() -> None:
    starts = _starts([7, 3, 6, 4, 5, 5, 10, 23])
    pieces = pack(starts, np.arange(8), 10, "best_fit")
    sequences = [sorted(pieces.length[a:b].tolist()) for a, b in itertools.pairwise(pieces.bounds)]
    assert sorted(sequences) == sorted([[10], [10], [10], [3, 7], [4, 6], [5, 5], [3]])


def test_best_fit_cuts_rather_than_waste() -> None:
    # pairs do not fit: whole documents alone would waste two fifths
    starts = _starts([6] * 500)
    pieces = pack(starts, _shuffled(500), 10, "best_fit")
    assert len(pieces.bounds) - 1 == 300
    assert (pieces.num_tokens() == 10).all()


def test_long_documents_alone_leave_the_slack_empty() -> None:
    pieces = pack(_starts([10 * 1000]), np.arange(1), 10, "best_fit")
    assert np.sort(pieces.num_tokens()).tolist() == [0, 0, *[10] * 1000]


def _real_lengths() -> np.ndarray:
    """Lengths of real documents at four bytes a token: the standard library's sources."""
    folder = Path(sysconfig.get_path("stdlib"))
    return np.array([path.stat().st_size // 4 + 1 for path in sorted(folder.glob("[a-su-z]*/*.py"))])


def test_best_fit_wastes_little_of_real_documents() -> None:
    lengths = _real_lengths()
    lengths = np.resize(lengths, 8 * len(lengths))
    assert len(lengths) > 1_000
    starts, order = _starts(lengths.tolist()), _shuffled(len(lengths))
    for length in (512, 2048):
        best, concat = (pack(starts, order, length, packing) for packing in ("best_fit", "concat"))
        wasted = 1 - starts[-1] / (length * (len(best.bounds) - 1))
        assert wasted < 0.01
        assert 10 * _cut(best, starts, length) < _cut(concat, starts, length)
        assert best.num_tokens().min() > 0


@pytest.mark.parametrize("restart", [True, False])
def test_fill_writes_tokens_labels_and_positions(restart: bool) -> None:
    tokens = np.arange(10, 24, dtype=np.uint32)
    starts = _starts([3, 2, 9])
    # sequence 0: the second half of document 2, then document 0; sequence 1: document 1
    pieces = Pieces(*(np.array(values) for values in ([9, 0, 3], [5, 3, 2], [2, 0, 1], [0, 2, 3])))
    ids, labels = np.zeros((3, 9), np.int64), np.zeros((3, 9), np.int64)
    positions = np.zeros((3, 9), np.int32)
    fill(
        tokens, starts, pieces.start, pieces.length, pieces.document, pieces.bounds,
        np.array([0, 0, 1]), np.array([2, -1, 0]), restart, 7, ids, labels, positions,
    )  # fmt: skip
    assert ids[2].tolist() == [19, 20, 21, 22, 23, 10, 11, 12, 7]
    # the next token of the same document; of the sequence without document masking
    assert labels[2].tolist() == [20, 21, 22, 23, -100 if restart else 10, 11, 12, -100, -100]
    assert positions[2].tolist() == ([0, 1, 2, 3, 4, 0, 1, 2, 0] if restart else list(range(9)))
    assert ids[0].tolist() == [13, 14, *[7] * 7]
    assert labels[0].tolist() == [14, *[-100] * 8]
    assert not ids[1].any() and not labels[1].any()


def test_a_cut_document_asks_for_its_next_token() -> None:
    tokens = np.arange(30, dtype=np.uint32)
    starts = _starts([30])
    pieces = pack(starts, np.arange(1), 12, "concat")
    ids, labels = np.empty((3, 12), np.int64), np.empty((3, 12), np.int64)
    positions, rows = np.empty((3, 12), np.int32), np.arange(3)
    fill(
        tokens, starts, pieces.start, pieces.length, pieces.document, pieces.bounds, rows, rows, True, 0, ids,
        labels, positions,
    )  # fmt: skip
    assert labels[0].tolist() == list(range(1, 13)) and labels[1].tolist() == list(range(13, 25))
    assert labels[2].tolist() == [25, 26, 27, 28, 29, *[-100] * 7]
