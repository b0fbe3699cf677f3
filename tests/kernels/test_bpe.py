"""kernels.text.bpe: ids equal to those of the tokenizers library, for any text."""

import functools
import json
import pydoc
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from kernels.text.bpe import BytePairEncoder
from kernels.text.bpe_split import (
    END_BYTE,
    PATTERNS,
    next_piece,
    pattern_classes,
    reference_split,
    unicode_classes,
)
from pipelines.tokenize import library_classes

KINDS = ["gpt2", "gpt2 with blank", "llama3", "train_tokenizer"]
PAGES = [pydoc.plain(pydoc.render_doc(name)) for name in ("os", "socket", "json", "re", "csv")]

# runs of the same class, contractions, every kind of white space, marks, other scripts, and code
# points that are not assigned or were only after Python's Unicode tables were made
SNIPPETS = [
    *"aZ09'_-(\"\\ \t\n\r\v\f\x00\x1c\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\ufeff\u200b",
    *"éßſKµ²½Ⅷ٣๓字語ไทยका\u0301\u200d👩👍🏽\U0001d7d8\u0378\u1c89\ua7cb\U00010d40\U0010ffff\ue000",
    "'s", "'S", "'ſ", "'re", "'RE", "'vE", "'ll", "'d", " '", "don't", "x" * 129, " " * 129,
    "\n" * 130, "-" * 129, "字" * 50, "\r\n", " \n ", "12345", "def", " the", "return", "\u3000\u3000",
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(SNIPPETS), max_size=25).map("".join))


def pre_tokenizer(kind: str) -> pre_tokenizers.PreTokenizer:
    if kind.startswith("gpt2"):
        return pre_tokenizers.ByteLevel(add_prefix_space=kind.endswith("blank"))
    pattern = list(PATTERNS)[1 if kind == "llama3" else 2]
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train(kind: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(kind)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2_000,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*PAGES, "".join(SNIPPETS) * 3], trainer)
    if kind == "llama3":
        parsed = json.loads(tokenizer.to_str())
        # whole words that no merges lead to
        for word in ("zyzzyva", "Ġzyzzyva", "987", "ĠaÃ©Ã©a", "x" * 40):
            parsed["model"]["vocab"].setdefault(word, len(parsed["model"]["vocab"]))
        parsed["model"]["ignore_merges"] = True
        tokenizer = Tokenizer.from_str(json.dumps(parsed))
    tokenizer.encode_special_tokens = True
    return tokenizer


@functools.cache
def pair(kind: str) -> tuple[Tokenizer, BytePairEncoder]:
    tokenizer = train(kind)
    return tokenizer, encoder(tokenizer)


def encoder(tokenizer: Tokenizer, **options: bool) -> BytePairEncoder:
    return BytePairEncoder(json.loads(tokenizer.to_str()), library_classes(), **options)


def assert_same(tokenizer: Tokenizer, ours: BytePairEncoder, texts: list[str]) -> None:
    ids, offsets = ours.encode(pa.array(texts, pa.large_string()))
    assert ids.dtype == np.uint32 and offsets.dtype == np.int64
    expected = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    for text, encoding, start, end in zip(texts, expected, offsets, offsets[1:], strict=False):
        assert ids[start:end].tolist() == encoding.ids, repr(text[:200])
    assert len(ids) == offsets[-1] and len(offsets) == len(texts) + 1


# -- the split -------------------------------------------------------------------------------------


@njit
def ends_of_pieces(data, size, pattern, classes):
    first = np.int64(data.ctypes.data)
    at = first
    ends = []
    while at < first + size:
        at = next_piece(at, pattern, np.int64(classes.ctypes.data))
        ends.append(at - first)
    return ends


@pytest.mark.parametrize("pattern", PATTERNS.values())
@settings(deadline=None, max_examples=150)
@given(text=TEXTS.filter(bool))
def test_split_is_its_pattern(pattern: int, text: str) -> None:
    """The kernel, its reference and the library's own regular expressions."""
    classes = library_classes()
    expected = reference_split(text, pattern, classes)
    data = text.encode()
    padded = np.frombuffer(data + bytes([END_BYTE]) * 16, np.uint8).copy()
    ends = ends_of_pieces(padded, len(data), pattern, pattern_classes(pattern, classes))
    starts = [0, *ends[:-1]]
    assert [data[a:b].decode() for a, b in zip(starts, ends, strict=True)] == expected
    regex = Regex(next(text for text, number in PATTERNS.items() if number == pattern))
    library = pre_tokenizers.Split(regex, "isolated").pre_tokenize_str(text)
    assert [piece for piece, _ in library] == expected


def test_classes_of_the_library_hold_those_of_python() -> None:
    """Code points get letters, marks and numbers over the years; almost none changes its class."""
    python, library = unicode_classes(), library_classes()
    assert ((python != library) & (python != 0)).sum() < 10
    assert (library != 0).sum() >= (python != 0).sum()


# -- ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=80)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@example(texts=["", " ", "  ", "\n", "'", "zyzzyva zyzzyva987 987 aééa", "<|end|>", "x" * 40])
def test_same_ids(kind: str, texts: list[str]) -> None:
    assert_same(*pair(kind), texts)


@pytest.mark.parametrize("kind", KINDS)
def test_same_ids_on_pages_and_every_character(kind: str) -> None:
    assert_same(*pair(kind), PAGES)
    codes = [*range(0xD800), *range(0xE000, 0x1F000, 3), *range(0xE0000, 0xE0200)]
    assert_same(*pair(kind), ["".join(map(chr, codes)), " ".join(map(chr, codes[::7]))])


@pytest.mark.parametrize("kind", KINDS)
def test_long_pieces_in_little_time(kind: str) -> None:
    draw = random.Random(7)
    letters = "".join(draw.choices("etaoin", k=100_000))
    texts = [c * 100_000 for c in ("a", " ", "\n", "=", "7", "字", "\u3000", "'", "\u0301")]
    texts += [letters, letters[:65], letters[:64], letters[:256], letters[:255], "é" + letters[:999]]
    tokenizer, ours = pair(kind)
    ours.encode(pa.array([letters]))
    started = time.process_time()
    ours.encode(pa.array(texts))
    assert time.process_time() - started < 3
    assert_same(tokenizer, ours, texts)


def test_more_words_than_the_cache_holds() -> None:
    draw = random.Random(8)
    sizes = [5] * 180_000 + [90] * 20_000
    text = " ".join("".join(draw.choices("etaoinshrdlu", k=size)) for size in sizes)
    tokenizer, ours = pair("gpt2")
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    # the second time many of them are known, and some have been thrown out
    for _ in range(2):
        assert ours.encode(pa.array([text]))[0].tolist() == expected


def test_every_form_of_column() -> None:
    tokenizer, ours = pair("gpt2")
    texts = ["one", None, "", "two two", "naïve — 字", None, "end"]
    expected = [tokenizer.encode(text or "", add_special_tokens=False).ids for text in texts]
    column = pa.array(texts)
    forms = [
        column, column.cast(pa.large_string()), column.dictionary_encode(),
        pa.chunked_array([column.slice(0, 3), column.slice(3)]),
        pa.array(["before", *texts, "after"]).slice(1, len(texts)),
    ]  # fmt: skip
    for form in forms:
        ids, offsets = ours.encode(form)
        assert [ids[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)] == expected
    for nothing in (column.slice(0, 0), pa.chunked_array([], pa.string()), column.slice(1, 1)):
        ids, offsets = ours.encode(nothing)
        assert len(ids) == 0 and offsets.tolist() == [0] * (len(nothing) + 1)
    with pytest.raises(ValueError, match="string or large_string"):
        ours.encode(pa.array([b"bytes"]))
    broken = pa.StringArray.from_buffers(
        1, pa.array([0, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xe5\xad")
    )
    with pytest.raises(ValueError, match="not valid UTF-8"):
        ours.encode(broken)


def test_threads_share_an_encoder() -> None:
    _, ours = pair("gpt2")
    columns = [pa.array(PAGES[n:] + PAGES[:n]) for n in range(4)]
    expected = [ours.encode(column)[0] for column in columns]
    fresh = encoder(pair("gpt2")[0])
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(fresh.encode, columns * 5))
    for number, (ids, _) in enumerate(results):
        assert np.array_equal(ids, expected[number % 4])


# -- added tokens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_text", [True, False])
@settings(deadline=None, max_examples=30)
@given(
    texts=st.lists(
        st.lists(
            st.sampled_from(
                ["<s>", "<s", ">", " ", "  ", "   ", "\t", "<|end|>", "<|", "a", "b ", "é", "end|>"]
            ),
            max_size=20,
        ).map("".join),
        max_size=4,
    )
)
def test_added_tokens(kind: str, as_text: bool, texts: list[str]) -> None:
    tokenizer = Tokenizer.from_str(pair(kind)[0].to_str())
    plain = ["  ", "   ", "\t", "é", "s> "]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in plain])
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<s>", "<s> <s")])
    tokenizer.encode_special_tokens = as_text
    assert_same(tokenizer, encoder(tokenizer, special_tokens_as_text=as_text), ["<s>  ", *texts])


# -- tokenizers of another kind --------------------------------------------------------------------


def test_reads_older_files_and_files_from_disk(tmp_path: Path) -> None:
    tokenizer, _ = pair("gpt2")
    parsed = json.loads(tokenizer.to_str())
    parsed["model"]["merges"] = [" ".join(pair) for pair in parsed["model"]["merges"]]
    del parsed["pre_tokenizer"]["use_regex"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(parsed))
    ours = BytePairEncoder.from_file(tmp_path / "tokenizer.json", library_classes())
    assert_same(tokenizer, ours, PAGES[:2])


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("model",), {"type": "Unigram", "vocab": []}, "the model is Unigram"),
        (("model", "dropout"), 0.1, "dropout = 0.1"),
        (("model", "end_of_word_suffix"), "</w>", "end_of_word_suffix"),
        (("normalizer",), {"type": "NFC"}, r"normalizes texts \(NFC\)"),
        (("pre_tokenizer",), {"type": "Whitespace"}, "cuts texts in a way .*Whitespace"),
        (("pre_tokenizer",), None, "cuts texts"),
        (("pre_tokenizer", "use_regex"), False, "cuts texts"),
        (("model", "merges"), [["a", "¡nowhere"]], "a merge is not"),
        (("model", "vocab", "Ā"), None, "no token for the bytes"),
        (("model", "vocab", "again"), 7, "share an id"),
        (("added_tokens", 0, "id"), 5, "would get id 0, not 5"),
    ],
)
def test_another_kind_is_refused(where: tuple, value: object, message: str) -> None:
    parsed = json.loads(pair("gpt2")[0].to_str())
    inner = parsed
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    if where == ("model", "vocab", "Ā"):
        del inner["Ā"]
    with pytest.raises(ValueError, match=f"^not byte-level BPE: .*{message}"):
        BytePairEncoder(parsed, library_classes())


@pytest.mark.parametrize("option", ["single_word", "lstrip", "rstrip"])
def test_added_tokens_that_look_around_are_refused(option: str) -> None:
    tokenizer = Tokenizer.from_str(pair("gpt2")[0].to_str())
    tokenizer.add_special_tokens([AddedToken("<mark>", **{option: True})])
    # as text it is no matter what it would take with it
    assert_same_as_text = encoder(tokenizer)
    tokenizer.encode_special_tokens = True
    assert_same(tokenizer, assert_same_as_text, ["a <mark> b"])
    with pytest.raises(ValueError, match="'<mark>' looks at what is beside it"):
        encoder(tokenizer, special_tokens_as_text=False)
