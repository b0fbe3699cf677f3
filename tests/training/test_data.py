"""The loader: every token once, one order for all, exact places, clear errors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sigma_model.training.data import IGNORE, Loader, PackedSequences, open_datasets

LENGTH = 16
GOLDEN_ORDER = [4, 3, 0, 2, 1, 7, 5, 6, 8, 9, 10, 11]
WriteDataset = Callable[..., Path]


def _documents(count: int, seed: int = 0, longest: int = 40) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, 61, random.integers(0, longest)).tolist() for _ in range(count)]


def _sequences(*folders: Path, **changes: object) -> PackedSequences:
    options = {"sequence_length": LENGTH, "seed": 5, "window_tokens": 150, **changes}
    return PackedSequences(open_datasets([str(folder) for folder in folders]), **options)


def _rebuild(sequences: PackedSequences, epoch: int) -> dict[str, list[int]]:
    """Documents put together again from an epoch's sequences and what decode_sequence says."""
    first = sum(sequences.sequences_in_epoch(e) for e in range(epoch))
    found: dict[str, dict[int, int]] = {}
    for number in range(first, first + sequences.sequences_in_epoch(epoch)):
        tokens = sequences.batch(number, 1).input_ids[0]
        place = 0
        for doc_id, start, length in sequences.decode_sequence(number):
            document = found.setdefault(doc_id, {})
            for offset in range(length):
                assert start + offset not in document, "a token came twice"
                document[start + offset] = int(tokens[place + offset])
            place += length
    return {key: [value[i] for i in range(len(value))] for key, value in found.items()}


@pytest.mark.parametrize("epoch", [0, 1])
def test_every_token_is_an_input_once_an_epoch(write_dataset: WriteDataset, epoch: int) -> None:
    documents = _documents(37)
    sequences = _sequences(write_dataset("train", documents))
    expected = {f"train-{i}": [*document, 0] for i, document in enumerate(documents)}
    assert _rebuild(sequences, epoch) == expected


def test_labels_positions_and_segments_stay_inside_documents(write_dataset: WriteDataset) -> None:
    documents = _documents(23)
    rows = {f"train-{i}": [*document, 0] for i, document in enumerate(documents)}
    sequences = _sequences(write_dataset("train", documents))
    for number in range(sequences.sequences_in_epoch(0)):
        batch = sequences.batch(number, 1)
        assert batch.segment_ids is not None
        place = 0
        for doc_id, start, length in sequences.decode_sequence(number):
            here = slice(place, place + length)
            following = rows[doc_id][start + 1 : start + length + 1]
            following += [IGNORE] * (length - len(following))
            assert batch.labels[0, here].tolist() == following
            assert batch.position_ids[0, here].tolist() == list(range(length))
            assert len(set(batch.segment_ids[0, here].tolist())) == 1
            place += length
        assert batch.num_tokens == place
        assert (batch.segment_ids[0, place:] == -1).all()
        assert (batch.labels[0, place:] == IGNORE).all()
        pieces = len(sequences.decode_sequence(number))
        assert len(set(batch.segment_ids[0, :place].tolist())) == pieces


def test_without_document_masking_it_is_one_stream(write_dataset: WriteDataset) -> None:
    folder = write_dataset("train", _documents(23))
    sequences = _sequences(folder, document_masking=False, window_tokens=10**6)
    count = sequences.sequences_in_epoch(0)
    batch = sequences.batch(0, count)
    # sequences are shuffled: put the stream together again
    order = np.argsort([sequences._place(number)[2] for number in range(count)])
    assert not np.array_equal(order, np.arange(count))
    inputs, labels = batch.input_ids[order].ravel(), batch.labels[order].ravel()
    last = batch.num_tokens - 1
    assert batch.segment_ids is None
    assert np.array_equal(labels[:last], inputs[1 : last + 1])
    assert (labels[last:] == IGNORE).all()
    assert np.array_equal(batch.position_ids[0], np.arange(LENGTH))


def test_order_does_not_depend_on_batch_size_or_start(write_dataset: WriteDataset) -> None:
    sequences = _sequences(write_dataset("train", _documents(37)))
    count = 2 * sequences.sequences_in_epoch(0) // 6 * 6
    expected = [sequences.batch(n, 1).input_ids[0].tolist() for n in range(count)]
    for size, first in ((1, 0), (3, 0), (2, 4), (6, 6)):
        loader = Loader(sequences, batch_sequences=size, first=first)
        found = [row for _ in range((count - first) // size) for row in loader.next().input_ids.tolist()]
        assert found == expected[first:]
        assert loader.state()["consumed"] == count
        loader.close()


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
             for doc_id, start, _ in sequences.decode_sequence(n) if start == 0]  # fmt: skip
    assert sorted(order) == sorted(f"train-{i}" for i in range(12))
    assert [int(doc_id.split("-")[1]) for doc_id in order] == GOLDEN_ORDER


def test_several_datasets_are_shuffled_together(write_dataset: WriteDataset) -> None:
    folders = write_dataset("a", _documents(9, 1)), write_dataset("b", _documents(14, 2))
    sequences = _sequences(*folders, window_tokens=10**6)
    kinds = Counter(doc_id[0] for n in range(sequences.sequences_in_epoch(0))
                    for doc_id, start, _ in sequences.decode_sequence(n) if start == 0)  # fmt: skip
    assert kinds == {"a": 9, "b": 14}
    with pytest.raises(ValueError, match="different tokenizers"):
        open_datasets([str(folders[0]), str(write_dataset("c", _documents(3), vocab_size=99))])


def _edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _rewrite_shard(folder: Path, tokens: pa.Array, name: str = "tokens") -> None:
    """Another shard content under a manifest that says its size and rows are right."""
    path = folder / "data" / "00000.parquet"
    pq.write_table(pa.table({"doc_id": [str(i) for i in range(len(tokens))], name: tokens}), path)
    shard = json.loads((folder / "manifest.json").read_text())["shards"][0]
    shard.update(rows=len(tokens), bytes=path.stat().st_size, token_counts=[8])
    _edit_manifest(folder, shards=[shard])


def test_damaged_datasets_name_file_and_cure(write_dataset: WriteDataset, tmp_path: Path) -> None:
    def message(folder: Path, verify: str = "size") -> str:
        with pytest.raises(ValueError) as caught:
            open_datasets([str(folder)], verify)
        return str(caught.value)

    assert "has no manifest.json" in message(tmp_path / "nowhere")
    kind = write_dataset("kind", _documents(5))
    _edit_manifest(kind, kind="documents")
    assert "not 'tokens'" in message(kind)
    newer = write_dataset("newer", _documents(5))
    _edit_manifest(newer, schema_version=2)
    assert "schema_version 2" in message(newer)
    missing = write_dataset("missing", _documents(20))
    (missing / "data" / "00001.parquet").unlink()
    assert "00001.parquet" in message(missing) and "is missing" in message(missing)
    longer = write_dataset("longer", _documents(5))
    with (longer / "data" / "00000.parquet").open("ab") as file:
        file.write(b"x")
    assert "bytes, its manifest says" in message(longer)
    flipped = write_dataset("flipped", _documents(5))
    content = bytearray((flipped / "data" / "00000.parquet").read_bytes())
    content[10] ^= 1
    (flipped / "data" / "00000.parquet").write_bytes(content)
    assert open_datasets([str(flipped)]).num_tokens > 0
    assert "sha256" in message(flipped, "sha256")
    empty = write_dataset("empty", [])
    assert "hold no tokens" in message(empty)


@pytest.mark.parametrize(
    ("tokens", "name", "message"),
    [
        (pa.array([[1, 2, 3, 4], [5, 6, 7, 61]], pa.list_(pa.uint32())), "tokens", "token id 61"),
        (pa.array([[1, 2], [3]], pa.list_(pa.uint32())), "tokens", "holds 3 tokens, its manifest"),
        (pa.array([[1] * 8, None], pa.list_(pa.uint32())), "tokens", "1 rows have no tokens"),
        (pa.array(["a", "b"]), "tokens", "not list<uint32>"),
        (pa.array([[1] * 8], pa.list_(pa.uint32())), "ids", "no 'tokens'"),
    ],
)
def test_wrong_shard_contents_are_refused_when_read(
    write_dataset: WriteDataset, tokens: pa.Array, name: str, message: str
) -> None:
    folder = write_dataset("train", _documents(4))
    _rewrite_shard(folder, tokens, name)
    loader = Loader(_sequences(folder), batch_sequences=1)
    with pytest.raises(ValueError, match=message):
        loader.next()
    loader.close()
