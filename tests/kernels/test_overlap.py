"""N-grams shared with evaluation items: kernels against plain Python."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.text.buffers import text_buffers
from kernels.text.minhash import reference_words
from kernels.text.overlap import (
    build_index,
    find_items,
    find_ngrams,
    reference_matches,
    reference_ngrams,
    word_span,
)

# few words, so that n-grams meet; case, punctuation, scripts without spaces and empty texts
WORDS = st.sampled_from(
    ["a", "b", "A,", "c", "it's", "日", "ก\u200b", "é", "...", "\n", "many_bytes_in_a_word"]
)
CHARACTER = st.characters(exclude_categories=["Cs"]) | st.sampled_from("aB \n'-é日ก\u00ad")
TEXT = st.lists(WORDS, max_size=14).map(" ".join)
SHARE = st.floats(0.05, 1)


def buffers(texts):
    return text_buffers(pa.array(texts, pa.large_string()))


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=4), st.integers(1, 5), st.integers(0, 3))
@example(["a b c", "a b"], ["x a b c", "", "A! (b)"], 3, 1)
@example(["a a a a a"], ["a a a a a a a"], 2, 0)
@example([], ["a"], 1, 0)
def test_matches_are_those_of_the_reference(items, texts, ngram, less):
    min_ngram = max(1, ngram - less)
    index = build_index(*buffers(items), ngram, min_ngram)
    expected = [set(reference_ngrams(item, ngram, min_ngram)) for item in items]
    assert np.diff(index.item_starts).tolist() == [len(ngrams) for ngrams in expected]
    assert len(index.hashes) == len(set().union(*expected))
    found = [set() for _ in texts]
    places = list(zip(*(a.tolist() for a in find_ngrams(*buffers(texts), index)), strict=True))
    assert [place[:2] for place in places] == sorted(place[:2] for place in places)
    for text, word, number in places:
        for item in index.ngram_items[index.ngram_starts[number] : index.ngram_starts[number + 1]]:
            assert number in index.item_ngrams[index.item_starts[item] : index.item_starts[item + 1]]
            found[text].add((word, int(index.words[number]), int(item)))
    assert found == [reference_matches(text, expected) for text in texts]


def test_many_ngrams_of_real_length():
    draw = random.Random(1)
    items = [" ".join(str(draw.randrange(10**6)) for _ in range(50)) for _ in range(500)]
    index = build_index(*buffers(items))
    assert len(index.hashes) == 500 * 38
    around = [" ".join(str(draw.randrange(10**6)) for _ in range(30)) for _ in items]
    texts = [f"{around[k]} {item.upper()}. {around[k]}" for k, item in enumerate(items)]
    text, word, ngram = find_ngrams(*buffers(texts), index)
    assert text.tolist() == np.repeat(np.arange(500), 38).tolist()
    assert word.tolist() == list(range(30, 68)) * 500
    assert index.ngram_items[index.ngram_starts[ngram]].tolist() == text.tolist()
    # nothing is found in what merely looks alike
    assert not len(find_ngrams(*buffers(around), index)[0])


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=5), st.lists(TEXT, max_size=5), SHARE, st.integers(1, 3))
@example(["a b", "a c", "a a"], ["a b a c"], 0.7, 1)
def test_items_by_share_and_number(items, texts, min_share, min_ngrams):
    index = build_index(*buffers(items), 2, 1)
    text, _, ngram = find_ngrams(*buffers(texts), index)
    pairs = np.unique(np.stack([text, ngram]), axis=1)
    sizes = np.diff(index.item_starts)
    ours = find_items(*pairs, index, sizes, min_share, min_ngrams)
    expected = []
    sets = [set(reference_ngrams(item, 2, 1)) for item in items]
    for t, words in enumerate(map(reference_words, texts)):
        grams = {tuple(words[i : i + n]) for n in (1, 2) for i in range(len(words) - n + 1)}
        for number, item in enumerate(sets):
            hit = len(item & grams)
            if hit >= min_ngrams and hit / len(item) >= min_share:
                expected.append((t, number))
    assert list(zip(*(a.tolist() for a in ours), strict=True)) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(CHARACTER), min_size=2))
@example(["«Ünter», 日本 x", "-- two. --"])
def test_span_of_words(texts):
    data, offsets = buffers(texts)
    for number, text in enumerate(texts):
        words = reference_words(text)
        for first, last in {(0, len(words) - 1), (len(words) // 2, len(words) - 1), (0, len(words) // 2)}:
            if words and last < len(words):
                start, end = word_span(data, offsets, number, first, last)
                assert offsets[number] <= start < end <= offsets[number + 1]
                assert reference_words(data[start:end].tobytes().decode()) == words[first : last + 1]


def test_broken_utf8_stays_inside_its_text():
    pieces = [b"\xf0\x9f", b"ok then", b"\xff" * 4, b"a\x80b c", b"\xe6\x97", b"a b c \xf7\xbf\xbf"]
    index = build_index(*buffers(["a b c", "ok then"]), 3, 2)
    column = pa.array(pieces, pa.large_binary())
    data = np.frombuffer(column.buffers()[2], np.uint8)
    offsets = np.cumsum([0, *map(len, pieces)])
    data.flags.writeable = offsets.flags.writeable = False
    assert find_ngrams(data, offsets, index)[0].tolist() == [1, 5]
    for number in range(len(pieces)):
        start, end = word_span(data, offsets, number, 0, 5)
        assert offsets[number] <= start <= end <= offsets[number + 1]


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="min_ngram \\(5\\) must lie in 1..ngram \\(4\\)"):
        build_index(*buffers(["a"]), 4, 5)
