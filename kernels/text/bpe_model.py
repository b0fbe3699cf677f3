"""A byte-level BPE tokenizer as arrays: what ``tokenizer.json`` says, checked and put into tables."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from kernels.text.bpe_split import GPT2, PATTERNS, pattern_classes, word_at
from kernels.text.hashing import GOLDEN, MIX_A, MIX_B

NONE = np.uint64((1 << 64) - 1)
_S29, _S32 = np.uint64(29), np.uint64(32)
# the bits of eight bytes that belong to a piece of n
_KEPT = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)


class Model(NamedTuple):
    pattern: int
    # a blank before every text that does not begin with one
    add_blank: bool
    classes: np.ndarray
    # uint32 [256]: the id of each byte
    byte_ids: np.ndarray
    # uint64 [size, 2], open addressing: left id << 32 | right id, rank << 32 | merged id
    merges: np.ndarray
    merge_shift: np.uint64
    # pre-tokens that are taken whole (ignore_merges): bytes, offsets, ids; int32 table by hash
    words: np.ndarray
    word_offsets: np.ndarray
    word_ids: np.ndarray
    word_table: np.ndarray
    # added tokens by first byte, longest first; id -1 stays text
    added: np.ndarray
    added_offsets: np.ndarray
    added_ids: np.ndarray
    added_starts: np.ndarray
    # bool [65536]: can an added token begin with these two bytes
    added_begin: np.ndarray


@njit(nogil=True, cache=True)
def hash_bytes(at, size):
    """Hash of memory; eight bytes past its end must be readable."""
    value = np.uint64(size) * GOLDEN
    while size > 8:
        value = (value ^ word_at(at)) * MIX_A
        value ^= value >> _S32
        at += 8
        size -= 8
    value = (value ^ (word_at(at) & _KEPT[size])) * MIX_B
    return value ^ (value >> _S29)


@njit(nogil=True, cache=True)
def same_bytes(left, right, size):
    while size > 8:
        if word_at(left) != word_at(right):
            return False
        left += 8
        right += 8
        size -= 8
    return (word_at(left) ^ word_at(right)) & _KEPT[size] == 0


@njit(nogil=True, cache=True)
def _fill_merges(left, right, merged, merges, shift):
    # a pair that is listed twice has its last rank, as in tokenizers
    mask = merges.shape[0] - 1
    for rank in range(left.size):
        key = (np.uint64(left[rank]) << _S32) | np.uint64(right[rank])
        slot = np.int64((key * GOLDEN) >> shift)
        while merges[slot, 0] != NONE and merges[slot, 0] != key:
            slot = (slot + 1) & mask
        merges[slot, 0] = key
        merges[slot, 1] = (np.uint64(rank) << _S32) | np.uint64(merged[rank])


@njit(nogil=True, cache=True)
def _fill_words(words, offsets, table):
    mask = table.size - 1
    address = np.int64(words.ctypes.data)
    for word in range(offsets.size - 1):
        size = offsets[word + 1] - offsets[word]
        slot = np.int64(hash_bytes(address + offsets[word], size) >> _S32) & mask
        while table[slot] >= 0:
            slot = (slot + 1) & mask
        table[slot] = word


@njit(nogil=True, cache=True)
def whole_word(at, size, model):
    """The id of a pre-token that is in the vocabulary, or -1; ever -1 without ignore_merges."""
    mask = model.word_table.size - 1
    slot = np.int64(hash_bytes(at, size) >> _S32) & mask
    address = np.int64(model.words.ctypes.data)
    while model.word_table[slot] >= 0:
        word = model.word_table[slot]
        start = model.word_offsets[word]
        if model.word_offsets[word + 1] - start == size and same_bytes(address + start, at, size):
            return np.int64(model.word_ids[word])
        slot = (slot + 1) & mask
    return np.int64(-1)


@njit(nogil=True, cache=True)
def find_merge(merges, shift, left, right):
    """rank << 32 | merged id of two neighbours, or all ones."""
    key = (np.uint64(left) << _S32) | np.uint64(right)
    mask = merges.shape[0] - 1
    slot = np.int64((key * GOLDEN) >> shift)
    while merges[slot, 0] != key:
        if merges[slot, 0] == NONE:
            return NONE
        slot = (slot + 1) & mask
    return merges[slot, 1]


def _no(reason: str) -> ValueError:
    return ValueError(f"not byte-level BPE: {reason}")


def read_model(settings: dict[str, Any], classes: np.ndarray, as_text: bool) -> Model:
    model = settings["model"]
    if model.get("type") != "BPE":
        raise _no(f"the model is {model.get('type')}")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise _no(f"the model has {name} = {model[name]!r}")
    if settings.get("normalizer"):
        raise _no(f"it normalizes texts ({settings['normalizer'].get('type')})")
    pattern, add_blank = _read_split(settings.get("pre_tokenizer"))

    vocabulary: dict[str, int] = model["vocab"]
    if len(set(vocabulary.values())) < len(vocabulary):
        raise _no("two tokens of its vocabulary share an id")
    missing = [byte for byte, char in enumerate(byte_characters()) if char not in vocabulary]
    if missing:
        raise _no(f"its vocabulary has no token for the bytes {missing[:8]}")
    byte_ids = np.array([vocabulary[char] for char in byte_characters()], np.uint32)
    merges, merge_shift = _read_merges(model["merges"], vocabulary)
    words = _read_words(vocabulary if model.get("ignore_merges") else {})
    added = _read_added(settings.get("added_tokens", []), vocabulary, as_text)
    known = pattern_classes(pattern, classes)
    return Model(pattern, add_blank, known, byte_ids, merges, merge_shift, *words, *added)


def _read_split(step: dict[str, Any] | None) -> tuple[int, bool]:
    """(pattern, add_blank) of a pre-tokenizer."""
    step = step or {}
    if step.get("type") == "ByteLevel" and step.get("use_regex", True):
        return GPT2, bool(step["add_prefix_space"])
    match step.get("pretokenizers"):
        case [
            {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": text}},
            {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
        ] if text in PATTERNS:
            return PATTERNS[text], False
    raise _no(f"it cuts texts in a way we do not know: {json.dumps(step)[:300]}")


def byte_characters() -> list[str]:
    """The character that stands for each byte in a vocabulary: itself where it prints in Latin-1,
    else the next free code point from 256 on."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def _read_merges(
    merges: list[str] | list[list[str]], vocabulary: dict[str, int]
) -> tuple[np.ndarray, np.uint64]:
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    try:
        known = [(vocabulary[a], vocabulary[b], vocabulary[a + b]) for a, b in pairs]
    except (KeyError, ValueError) as error:
        raise _no(f"a merge is not of two tokens to a third: {error}") from error
    bits = max(8, (2 * len(known)).bit_length())
    table = np.full((1 << bits, 2), NONE, np.uint64)
    shift = np.uint64(64 - bits)
    left, right, merged = np.array(known, np.uint32).reshape(-1, 3).T.copy()
    _fill_merges(left, right, merged, table, shift)
    return table, shift


def _read_words(
    vocabulary: dict[str, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    byte_of = {char: byte for byte, char in enumerate(byte_characters())}
    ids = {
        bytes(byte_of[char] for char in token): id
        for token, id in vocabulary.items()
        if token and all(char in byte_of for char in token)
    }
    text = np.frombuffer(b"".join(ids) + bytes(8), np.uint8).copy()
    offsets = np.concatenate([[0], np.cumsum([len(word) for word in ids])]).astype(np.int64)
    table = np.full(1 << (2 * len(ids)).bit_length(), -1, np.int32)
    _fill_words(text, offsets, table)
    return text, offsets, np.array(list(ids.values()), np.uint32), table


def _read_added(
    tokens: list[dict[str, Any]], vocabulary: dict[str, int], as_text: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    next_id = len(vocabulary)
    for token in tokens:
        known = vocabulary.get(token["content"], next_id)
        if token["id"] != known:
            raise _no(f"added token {token['content']!r} would get id {known}, not {token['id']}")
        next_id += token["content"] not in vocabulary
    # Tokens are looked for in two rounds, those that are not normalized first. A token that stays
    # text matters where others of its round are found: it may hide one of them.
    rounds = [[token for token in tokens if token["normalized"] == flag] for flag in (False, True)]
    rounds = [r for r in rounds if any(not (as_text and token["special"]) for token in r)]
    if len(rounds) > 1:
        raise _no("it has added tokens both normalized and not")
    found: list[tuple[bytes, int]] = []
    for token in rounds[0] if rounds else []:
        stays = as_text and token["special"]
        if not stays and (token["single_word"] or token["lstrip"] or token["rstrip"]):
            raise _no(f"added token {token['content']!r} looks at what is beside it")
        if token["content"]:
            found.append((token["content"].encode(), -1 if stays else token["id"]))
    found.sort(key=lambda token: (token[0][0], -len(token[0])))
    content = [token for token, _ in found]
    begin = np.zeros((256, 256), bool)
    for text in content:
        begin[text[0], text[1] if len(text) > 1 else slice(None)] = True
    return (
        np.frombuffer(b"".join(content), np.uint8).copy(),
        np.concatenate([[0], np.cumsum([len(token) for token in content])]).astype(np.int64),
        np.array([id for _, id in found], np.int64),
        np.searchsorted([token[0] for token in content], range(257)).astype(np.int64),
        begin.ravel(),
    )
