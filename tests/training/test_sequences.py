"""A dataset's stream of sequences: every token once an epoch, one order, exact places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sigma_model.training.data import open_datasets
from sigma_model.training.packing import IGNORE
from sigma_model.training.sequences import PackedSequences

LENGTH = 16
GOLDEN_ORDER = [4, 3, 0, 2, 1, 7, 5, 6, 8, 9, 10, 11]
PACKINGS = ("concat", "best_fit")
WriteDataset = Callable[..., Path]


def _documents(count: int, seed: int = 0, longest: int = 40) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, 61, random.integers(0, longest)).tolist() for _ in range(count)]


def _sequences(*folders: Path, **changes: object) -> PackedSequences:
    options = {"sequence_length": LENGTH, "seed": 5, "window_tokens": 150, **changes}
    return PackedSequences(open_datasets([str(folder) for folder in folders]), **options)


def _rebuild(sequences: PackedSequences, epoch: int) -> dict[str, list[int]]:
    """Documents put together again from an epoch's sequences and what ``documents`` says."""
    first = sum(sequences.sequences_in_epoch(e) for e in range(epoch))
    found: dict[str, dict[int, int]] = {}
    for number in range(first, first + sequences.sequences_in_epoch(epoch)):
        tokens = sequences.batch(number, 1).input_ids[0]
        place = 0
        for doc_id, start, length in sequences.documents(number):
            document = found.setdefault(doc_id, {})
            for offset in range(length):
                assert start + offset not in document, "a token came twice"
                document[start + offset] = int(tokens[place + offset])
            place += length
    return {key: [value[i] for i in range(len(value))] for key, value in found.items()}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("epoch", [0, 1])
def test_every_token_is_an_input_once_an_epoch(write_dataset: WriteDataset, epoch: int, packing: str) -> None:
    documents = _documents(37)
    sequences = _sequences(write_dataset("train", documents), packing=packing)
    expected = {f"train-{i}": [*document, 0] for i, document in enumerate(documents)}
    assert _rebuild(sequences, epoch) == expected


@pytest.mark.parametrize("packing", PACKINGS)
def test_labels_and_positions_stay_inside_documents(write_dataset: WriteDataset, packing: str) -> None:
    documents = _documents(23)
    rows = {f"train-{i}": [*document, 0] for i, document in enumerate(documents)}
    sequences = _sequences(write_dataset("train", documents), packing=packing)
    for number in range(sequences.sequences_in_epoch(0)):
        batch = sequences.batch(number, 1)
        place = 0
        for doc_id, start, length in sequences.documents(number):
            here = slice(place, place + length)
            following = rows[doc_id][start + 1 : start + length + 1]
            following += [IGNORE] * (length - len(following))
            assert batch.labels[0, here].tolist() == following
            assert batch.position_ids[0, here].tolist() == list(range(length))
            place += length
        assert (batch.labels[0, place:] == IGNORE).all()
        assert batch.position_ids[0, place:].tolist() == list(range(LENGTH - place))


def test_without_document_masking_it_is_one_stream(write_dataset: WriteDataset) -> None:
    folder = write_dataset("train", _documents(23))
    sequences = _sequences(folder, document_masking=False, window_tokens=10**6)
    count = sequences.sequences_in_epoch(0)
    batch = sequences.batch(0, count)
    # the next token of the sequence, and at its end that of a document that goes on
    assert np.array_equal(batch.labels[:, :-1][batch.labels[:, :-1] != IGNORE],
                          batch.input_ids[:, 1:][batch.labels[:, :-1] != IGNORE])  # fmt: skip
    goes_on = [doc_id for number in range(count) for doc_id, start, _ in sequences.documents(number) if start]
    assert (batch.labels[:, -1] != IGNORE).sum() == len(goes_on) > 0
    assert np.array_equal(batch.position_ids[0], np.arange(LENGTH))


def test_epochs_and_seeds_differ_and_places_of_files_do_not_matter(
    write_dataset: WriteDataset, tmp_path: Path
) -> None:
    folder = write_dataset("train", _documents(37))
    sequences = _sequences(folder)
    size = sequences.sequences_in_epoch(0)
    first = sequences.batch(0, size).input_ids
    second = sequences.batch(size, size).input_ids
    other_seed = _sequences(folder, seed=6).batch(0, size).input_ids
    assert not np.array_equal(first, second) and not np.array_equal(first, other_seed)
    moved = folder.rename(tmp_path / "elsewhere")
    assert np.array_equal(_sequences(moved).batch(0, size).input_ids, first)


def test_the_order_is_frozen(write_dataset: WriteDataset) -> None:
    # golden: a resumed run must meet the same order after any upgrade
    documents = [[i + 1] * 3 for i in range(12)]
    sequences = _sequences(write_dataset("train", documents), window_tokens=20)
    order = [doc_id for n in range(sequences.sequences_in_epoch(0))
             for doc_id, start, _ in sequences.documents(n) if start == 0]  # fmt: skip
    assert sorted(order) == sorted(f"train-{i}" for i in range(12))
    assert [int(doc_id.split("-")[1]) for doc_id in order] == GOLDEN_ORDER


def test_folders_of_a_dataset_are_shuffled_together(write_dataset: WriteDataset) -> None:
    folders = write_dataset("a", _documents(9, 1)), write_dataset("b", _documents(14, 2))
    sequences = _sequences(*folders, window_tokens=10**6)
    kinds = Counter(doc_id[0] for n in range(sequences.sequences_in_epoch(0))
                    for doc_id, start, _ in sequences.documents(n) if start == 0)  # fmt: skip
    assert kinds == {"a": 9, "b": 14}


@pytest.mark.parametrize("packing", PACKINGS)
def test_any_sequence_is_found_alone(write_dataset: WriteDataset, packing: str) -> None:
    folder = write_dataset("train", _documents(37))
    ahead = _sequences(folder, packing=packing, read_ahead=True)
    count = 2 * ahead.sequences_in_epoch(0)
    expected = ahead.batch(0, count)
    # alone, from the end, by a stream that has read nothing before
    for number in (count - 1, count // 2, 3):
        alone = _sequences(folder, packing=packing)
        assert np.array_equal(alone.batch(number, 1).input_ids[0], expected.input_ids[number])
        assert len(alone._windows) == 1
    ahead.close()
