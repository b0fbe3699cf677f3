import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.text.lsh import cluster_equal, forest_edges, merge_forests

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


def test_one_huge_cluster_takes_linear_time():
    documents = np.arange(1_000_000)
    keys = np.full(1_000_000, 7, np.uint64)
    cluster_equal(keys[:10], documents[:10], 10)
    start = time.perf_counter()
    assert (cluster_equal(keys, documents[::-1].copy(), 1_000_000) == 0).all()
    # 10^12 steps would take hours; this takes 0.05 s
    assert time.perf_counter() - start < 5


def test_a_long_chain_becomes_one_cluster():
    n = 200_000
    links = np.arange(n - 1)
    keys = np.concatenate([links, links]).astype(np.uint64)
    documents = np.concatenate([links, links + 1])
    order = np.random.default_rng(0).permutation(len(keys))
    assert (cluster_equal(keys[order], documents[order], n) == 0).all()
