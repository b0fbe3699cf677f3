import hashlib
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.text.buffers import text_buffers
from kernels.text.folding import character_table, room, walk_blocks, walk_bytes
from kernels.text.hashing import content_hashes, reference_content_hash
from kernels.text.minhash import (
    CHUNK,
    EMPTY_SLOT,
    band_hashes,
    band_signatures,
    reference_shingles,
    reference_signature,
    reference_words,
    signatures,
)
from kernels.text.simd import BLOCKS

# code points the word rule treats differently, so that random texts hit every branch
SPECIAL = "aB1 \t\n'_-é日ไກក\u0301Ⱥİß\u00ad\u200b"
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(SPECIAL))


# of any length round the blocks' 64 bytes, mostly ASCII: what walks by blocks
MIXED = st.text(st.sampled_from("abXYZ01  \t\n.,'_-" * 4 + SPECIAL), min_size=0, max_size=300)
BROKEN = st.binary(max_size=200) | st.lists(
    st.sampled_from(
        [b"a", b"B ", b"\x80", b"\xc3", b"\xe6\x97", b"\xf0\x9f", b"\xff", b"\xc0\xa0", b"word" * 20]
    )
).map(b"".join)
needs_blocks = pytest.mark.skipif(not BLOCKS, reason="a CPU without BMI2 and AVX-512 VBMI2")


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


def words_of(walk, text: bytes, stops=()):
    """The words of a text, walked in one go or with rests at ``stops``."""
    data = np.frombuffer(text, np.uint8)
    num_bytes, num_ends = room(len(text) + 8)
    out, ends = np.zeros(num_bytes, np.uint8), np.zeros(num_ends, np.int64)
    at, size, num_words = 0, 0, 0
    for stop in [*sorted(stops), len(text)]:
        at, size, num_words = walk(
            data, at, min(stop, len(text)), len(text), character_table(), out, size, ends, num_words
        )
    return out[:size].tobytes(), ends[:num_words].tolist()


@needs_blocks
@settings(max_examples=500, deadline=None)
@given(MIXED.map(str.encode) | TEXT.map(str.encode) | BROKEN, st.lists(st.integers(0, 300), max_size=3))
@example(b"x" * 64 + b" " + b"y" * 63 + b" z", [64])
@example(b"\x7f\x00a\x7fb" * 30, [])
def test_walks_give_the_same_words(text, stops):
    expected = words_of(walk_bytes, text)
    assert words_of(walk_blocks, text) == expected
    assert words_of(walk_blocks, text, stops) == expected
    assert words_of(walk_bytes, text, stops) == expected


@pytest.mark.parametrize(
    "piece", ["a", "a ", "Word, ", "é", "Ein Satz für sich. ", "日本", "\n", "don't-stop"]
)
def test_every_length_round_a_block(piece):
    for blocks in (1, 2, 5):
        long = piece * (64 * blocks // len(piece.encode()) + 4)
        texts = [long[:n] for n in range(len(long) - 80 // len(piece.encode()), len(long))]
        slots, num_shingles = signatures(*buffers(texts), num_slots=17)
        for text, row, count in zip(texts, slots, num_shingles, strict=True):
            shingles = reference_shingles(text)
            assert count == len(shingles)
            assert row.tolist() == reference_signature(shingles, 17)


@pytest.mark.parametrize("num_slots", [1, 8, 15, 16, 17, 112, 129, 300])
def test_any_number_of_slots(num_slots):
    text = "one two three four five six seven"
    slots, _ = signatures(*buffers([text, "", "one"]), num_slots=num_slots)
    assert slots[0].tolist() == reference_signature(reference_shingles(text), num_slots)
    assert (slots[1] == EMPTY_SLOT).all()
    assert slots[2].tolist() == reference_signature(reference_shingles("one"), num_slots)


@pytest.mark.parametrize("ngram", [1, 2, 5, 300, 10**12])
def test_texts_of_many_chunks(ngram):
    draw = np.random.default_rng(ngram)
    numbers = draw.integers(0, 10 ** draw.integers(1, 18, 4000))
    # one word longer than two chunks, and code points across their edges
    texts = [" ".join(map(str, numbers)), "é" * 2 * CHUNK + " und, ", "日本 " * CHUNK, "." * 3 * CHUNK]
    texts.append(" ".join(texts[:2]))
    slots, num_shingles = signatures(*buffers(texts), num_slots=8, ngram=ngram)
    for text, row, count in zip(texts, slots, num_shingles, strict=True):
        shingles = reference_shingles(text, ngram)
        assert count == len(shingles)
        assert row.tolist() == reference_signature(shingles, 8)


@settings(max_examples=50, deadline=None)
@given(st.lists(MIXED | TEXT, max_size=5), st.integers(1, 5), st.integers(1, 5))
def test_band_signatures_are_the_bands_of_signatures(texts, bands, rows):
    data, offsets = buffers(texts)
    slots, num_shingles = signatures(data, offsets, bands * rows, ngram=2, seed=3)
    hashes, counts = band_signatures(data, offsets, bands, rows, ngram=2, seed=3)
    assert (hashes == band_hashes(slots, bands, rows).T).all()
    assert (counts == num_shingles).all()
    # two ranges of rows into one array
    out, middle = np.zeros_like(hashes), len(texts) // 2
    for low, high in ((0, middle), (middle, len(texts))):
        band_signatures(data, offsets[low : high + 1], bands, rows, 2, 3, out[:, low:high])
    assert (out == hashes).all()
    with pytest.raises(ValueError, match="out is uint64 .*, not uint64"):
        band_signatures(data, offsets, bands + 1, rows, out=out)


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


def test_broken_utf8_in_a_binary_column():
    pieces = [b"good text", None, b"\x80", b"\xbf" * 65, b"cut \xe6\x97", b"\xed\xa0\x80 surrogate", b""]
    column = pa.array(pieces, pa.large_binary())
    data, offsets = text_buffers(column.view(pa.large_string()))
    slots, num_shingles = signatures(data, offsets)
    assert (num_shingles > 0).tolist() == [True, False, False, False, True, True, False]
    assert slots[0].tolist() == reference_signature(reference_shingles("good text"))


BEFORE_A_FORBIDDEN_PAGE = r"""
import ctypes, mmap, sys, numpy as np
from kernels.text.minhash import signatures
data = np.frombuffer(mmap.mmap(-1, 3 * mmap.PAGESIZE), np.uint8)
end = 2 * mmap.PAGESIZE
text = bytes(range(32, 128)) + "é日 \U0001f600".encode() + b"no end\xe6\x97"
data[:end] = np.frombuffer((text * 99)[-end:], np.uint8)
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(data.ctypes.data + end), mmap.PAGESIZE, 0) == 0
for length in [*range(200), end]:
    inside, _ = signatures(data, np.array([end - length, end]))
    alone = np.concatenate([data[end - length : end], np.full(200, ord("x"), np.uint8)])
    assert (inside == signatures(alone, np.array([0, length]))[0]).all()
print("read", data[end] if sys.argv[1:] else "nothing beyond")
"""


@pytest.mark.parametrize("portable", ["0", "1"])
def test_nothing_is_read_beyond_the_last_text(portable):
    run = [sys.executable, "-c", BEFORE_A_FORBIDDEN_PAGE]
    environment = os.environ | {"CORPUSMILL_PORTABLE": portable}
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert done.stdout == "read nothing beyond\n", done.stderr
    assert subprocess.run([*run, "read it"], env=environment, capture_output=True).returncode < 0


BIG = """
import resource, numpy as np
from kernels.text.minhash import signatures
from kernels.text.simd import BLOCKS
small, _ = signatures(np.frombuffer(b"compile first", np.uint8), np.array([0, 13]))
page = b"The quick brown fox, number 12, didn't jump over the lazy dog; it slept. " * 14_000
data = np.frombuffer(page * 64, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
once, _ = signatures(data, np.array([0, 2 * len(page)]))
all_of_it, num_shingles = signatures(data, np.array([0, len(data)]))
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert (once == all_of_it).all() and num_shingles == 14_000 * 64 * 14 - 4
print(BLOCKS, len(data) >> 20, more)
"""


@pytest.mark.parametrize("portable", ["0", "1"])
def test_a_big_document_takes_no_more_memory_than_a_small_one(portable):
    environment = os.environ | {"CORPUSMILL_PORTABLE": portable}
    done = subprocess.run([sys.executable, "-c", BIG], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    blocks, megabytes, more_kb = done.stdout.split()
    assert blocks == str(BLOCKS and portable == "0")
    assert int(megabytes) >= 60
    assert int(more_kb) < 2048


def test_paths_give_the_same_numbers():
    texts = "".join(chr(c) for c in range(0x30000) if not 0xD800 <= c < 0xE000 and c % 3 == 0)
    program = (
        "import sys, hashlib, numpy as np; from kernels.text.minhash import signatures;"
        "data = np.frombuffer(sys.stdin.buffer.read(), np.uint8);"
        "offsets = np.unique(np.r_[0, np.random.default_rng(0).integers(0, len(data), 2000), len(data)]);"
        "slots, count = signatures(data, offsets, ngram=2);"
        "print(hashlib.sha256(slots.tobytes() + count.tobytes()).hexdigest())"
    )
    shuffled = list(texts + " the quick, brown fox. " * 9000)
    np.random.default_rng(1).shuffle(shuffled)
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"CORPUSMILL_PORTABLE": portable},
            input="".join(shuffled).encode(),
            capture_output=True,
            check=True,
        ).stdout
        for portable in "01"
    }
    assert len(answers) == 1


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
