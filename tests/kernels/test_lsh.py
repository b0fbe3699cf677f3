import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.text import lsh
from kernels.text.lsh import cluster_bands, cluster_equal, forest_edges, merge_forests

RECORDS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), max_size=60)


def reference_clusters(records, num_documents):
    """The smallest document reachable from each, by repeated passes over the records."""
    label = list(range(num_documents))
    changed = True
    while changed:
        changed = False
        for key in {key for key, _ in records}:
            members = [document for k, document in records if k == key]
            low = min(label[member] for member in members)
            for member in members:
                changed |= label[member] != low
                label[member] = low
    return label


def arrays(records):
    keys = np.array([key for key, _ in records], np.uint64)
    return keys, np.array([document for _, document in records], np.int64)


@settings(max_examples=200, deadline=None)
@given(RECORDS)
def test_clusters_equal_reference(records):
    assert cluster_equal(*arrays(records), 31).tolist() == reference_clusters(records, 31)


@settings(max_examples=100, deadline=None)
@given(st.lists(RECORDS, max_size=4), st.randoms())
def test_merging_ignores_order_grouping_and_repetition(parts, random):
    forests = [forest_edges(cluster_equal(*arrays(part), 31)) for part in parts]
    merged = merge_forests(31, forests)
    assert merged.tolist() == reference_clusters(
        [(1000 * i + key, document) for i, part in enumerate(parts) for key, document in part], 31
    )
    shuffled = random.sample(forests, len(forests))
    assert (merge_forests(31, shuffled + shuffled) == merged).all()
    some = forest_edges(merge_forests(31, shuffled[:2]))
    assert (merge_forests(31, [*shuffled[2:], some]) == merged).all()


@pytest.mark.parametrize("num_keys", [1, 3, 200_000])
def test_many_records(num_keys):
    draw = np.random.default_rng(num_keys)
    # a multiple of a mixed number is no mixed number, but as spread as the table needs
    keys = draw.integers(0, 1 << 64, num_keys, np.uint64)[draw.integers(0, num_keys, 300_000)]
    documents = draw.permutation(300_000)
    parent = cluster_equal(keys, documents, 300_000)
    of_key = {}
    for key, document in zip(keys.tolist(), documents.tolist(), strict=True):
        of_key[key] = min(of_key.get(key, document), document)
    expected = np.empty(300_000, np.int64)
    expected[documents] = [of_key[key] for key in keys.tolist()]
    assert (parent == expected).all()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 20).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.integers(0, 9), min_size=n, max_size=n), max_size=4),
            st.lists(st.integers(0, 2), min_size=n, max_size=n),
        )
    )
)
def test_clusters_of_bands_equal_reference(bands_and_counts):
    bands, num_shingles = bands_and_counts
    n = len(num_shingles)
    hashes = np.array(bands, np.uint64).reshape(len(bands), n)
    records = [
        (100 * band + key, document)
        for band, row in enumerate(bands)
        for document, key in enumerate(row)
        if num_shingles[document]
    ]
    parent = cluster_bands(hashes, np.array(num_shingles, np.int64))
    assert parent.tolist() == reference_clusters(records, n)


def test_document_numbers_beyond_32_bits_take_64(monkeypatch):
    assert lsh._document_type(2**32) == np.uint32
    assert lsh._document_type(2**32 + 1) == np.int64
    draw = np.random.default_rng(3)
    hashes = draw.integers(0, 20_000, (3, 50_000)).astype(np.uint64)
    num_shingles = draw.integers(0, 9, 50_000)
    narrow = cluster_bands(hashes, num_shingles)
    monkeypatch.setattr(lsh, "_document_type", lambda num_documents: np.dtype(np.int64))
    assert (cluster_bands(hashes, num_shingles) == narrow).all()


def test_a_million_identical_documents_take_linear_time():
    def seconds(num_documents, num_keys):
        keys = np.arange(num_documents, dtype=np.uint64) % np.uint64(num_keys)
        hashes, num_shingles = np.tile(keys, (2, 1)), np.ones(num_documents, np.int64)
        best = np.inf
        for _ in range(3):
            start = time.process_time()
            parent = cluster_bands(hashes, num_shingles)
            best = min(best, time.process_time() - start)
        assert (parent == np.arange(num_documents) % num_keys).all()
        return best

    seconds(10, 1)
    # against as many distinct documents, and against an eighth: quadratic would be 10^6 and 64
    assert seconds(1_000_000, 1) < 10 * seconds(1_000_000, 1_000_000)
    assert seconds(1_000_000, 1) < 30 * seconds(125_000, 1)


def test_a_long_chain_becomes_one_cluster():
    n = 200_000
    links = np.arange(n - 1)
    keys = np.concatenate([links, links]).astype(np.uint64)
    documents = np.concatenate([links, links + 1])
    order = np.random.default_rng(0).permutation(len(keys))
    assert (cluster_equal(keys[order], documents[order], n) == 0).all()
