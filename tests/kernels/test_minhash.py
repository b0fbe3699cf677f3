import hashlib

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.text.buffers import text_buffers
from kernels.text.hashing import content_hashes, reference_content_hash
from kernels.text.minhash import (
    EMPTY_SLOT,
    band_hashes,
    reference_shingles,
    reference_signature,
    reference_words,
    signatures,
)

# code points the word rule treats differently, so that random texts hit every branch
SPECIAL = "aB1 \t\n'_-é日ไກក\u0301Ⱥİß\u00ad\u200b"
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(SPECIAL))


def buffers(texts):
    return text_buffers(pa.array(texts, pa.large_string()))


@pytest.mark.parametrize(
    "text, words",
    [
        ("", []),
        (" \t\n\u3000", []),
        ("... --- !?", []),
        ("Don't STOP", ["dont", "stop"]),
        ("x_1 = 0x3F;", ["x1", "0x3f"]),
        ("a\u00a0b\u2028c\x00d", ["a", "b", "c", "d"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("Straße ÅNGSTRÖM ẞ", ["straße", "ångström", "ß"]),
        ("Linux内核 文档。v6", ["linux", "内", "核", "文", "档", "v6"]),
        ("カーネル ก็ ລາວ", ["カ", "ー", "ネ", "ル", "ก", "็", "ລ", "າ", "ວ"]),
        ("리눅스 커널", ["리눅스", "커널"]),
    ],
)
def test_word_rule(text, words):
    assert reference_words(text) == words


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=5), st.integers(1, 7))
@example(["", "a", "a b c d", "a b c d e", "日本語の文書", "Ⱥ" * 9, "x" * 1000], 5)
def test_kernel_equals_reference(texts, ngram):
    slots, num_shingles = signatures(*buffers(texts), num_slots=20, ngram=ngram, seed=3)
    for text, row, count in zip(texts, slots, num_shingles, strict=True):
        shingles = reference_shingles(text, ngram)
        assert count == len(shingles)
        assert row.tolist() == reference_signature(shingles, 20, seed=3)


@settings(max_examples=50, deadline=None)
@given(TEXT, st.integers(0, 2**32 - 1))
@example("one two three four five six", 1)
def test_slots_are_those_of_datasketch(text, seed):
    theirs = MinHash(112, seed=seed, scheme="affine32", hashfunc=int)
    theirs.update_batch(reference_shingles(text))
    ours, _ = signatures(*buffers([text]), num_slots=112, seed=seed)
    assert ours[0].tolist() == theirs.hashvalues.tolist()


def test_numbers_do_not_move():
    texts = ["The quick brown fox jumps over the lazy dog", "内核 Kernel", "one", ""]
    slots, num_shingles = signatures(*buffers(texts))
    assert num_shingles.tolist() == [5, 1, 1, 0]
    assert (slots[3] == EMPTY_SLOT).all()
    bands = band_hashes(slots, 14, 8)
    digests = [hashlib.sha256(a.tobytes()).hexdigest()[:16] for a in (slots, bands)]
    assert digests == ["5f8bf6bc8a41329b", "82143a64fbe3c0f0"]


def test_sliced_and_chunked_columns():
    texts = [f"text number {i} of a column in pieces é" for i in range(40)]
    column = pa.chunked_array([texts[:7], texts[7:]]).slice(3, 30)
    expected, _ = signatures(*buffers(texts[3:33]))
    assert (signatures(*text_buffers(column))[0] == expected).all()


def test_broken_utf8_stays_inside_its_text():
    pieces = [b"\xf0\x9f", b"ok then", b"\xff" * 4, b"a\x80b", b"\xe6\x97", b"\xf7\xbf\xbf\xbf"]
    data = np.frombuffer(b"".join(pieces), np.uint8)
    offsets = np.cumsum([0, *map(len, pieces)])
    together, _ = signatures(data, offsets)
    for i, piece in enumerate(pieces):
        alone, _ = signatures(np.frombuffer(piece, np.uint8), np.array([0, len(piece)]))
        assert (together[i] == alone[0]).all()


def test_bands_share_a_hash_only_where_slots_and_band_are_equal():
    slots = np.zeros((3, 12), np.uint32)
    slots[1, 5] = 1
    slots[2, 11] = 1
    hashes = band_hashes(slots, bands=4, rows=3)
    assert (hashes[0] == hashes[1]).tolist() == [True, False, True, True]
    assert (hashes[0] == hashes[2]).tolist() == [True, True, True, False]
    # four equal bands, four different hashes
    assert len(set(hashes[0].tolist())) == 4
    with pytest.raises(ValueError, match="5 bands of 3 rows do not fit 12 slots"):
        band_hashes(slots, 5, 3)


def test_estimate_is_unbiased():
    draw = np.random.default_rng(5)
    words = draw.integers(0, 1 << 30, (200, 400))
    texts = [" ".join(map(str, row)) for row in words]
    words[:, 100] += 1 << 31
    words[:, 300] += 1 << 31
    slots, _ = signatures(*buffers(texts + [" ".join(map(str, row)) for row in words]))
    estimate = (slots[:200] == slots[200:]).mean()
    # 396 shingles, ten of them broken on either side; 22,400 slots compared
    assert abs(estimate - 386 / 406) < 0.007


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=5))
@example(["", "\0", "\0" * 8, "12345678", "123456789", "é" * 100])
def test_content_hash_equals_reference(texts):
    ours = content_hashes(*buffers(texts))
    assert [tuple(row) for row in ours.tolist()] == [reference_content_hash(text.encode()) for text in texts]


def test_content_hash_tells_near_texts_apart():
    texts = ["\0" * n for n in range(40)]
    texts += ["a" * k + "b" + "a" * (99 - k) for k in range(100)]
    texts += [str(n) for n in range(20_000)]
    hashes = content_hashes(*buffers(texts))
    for half in (hashes[:, 0], hashes[:, 1]):
        assert len(np.unique(half)) == len(texts)
        # each bit is set in half of the hashes: 20,140 draws, 5 standard deviations
        share = (half[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).mean(axis=0)
        assert abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(len(texts))
