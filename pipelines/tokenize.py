"""Documents to token shards: a row is one document with its end token."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Regex, Tokenizer, pre_tokenizers

from kernels.text.bpe import BytePairEncoder
from kernels.text.bpe_split import LETTER, MARK, NEWLINE, NUMBER, OTHER, SPACE

LOG = logging.getLogger(__name__)
THREADS_VARIABLE = "TOKENIZERS_PARALLELISM"


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer that reads every text as text, also one that spells a special token.

    Two kinds of added tokens need two cures. Special ones are matched in a text before the model
    sees it, unless ``encode_special_tokens`` is on. Others that a tokenizer adds as marks
    (``<think>``) are matched always, so they are made special here; runs of white space stay, as
    they only shorten text. Where the model's own vocabulary holds a special token and can reach
    it from its letters, only looking at the result helps: see ``spells_special``.
    """

    settings: dict[str, Any]
    vocab_size: int
    end_id: int
    is_special: np.ndarray

    def encode(self, texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of each text without an end token: (ids uint32, offsets int64 [n + 1]).

        The texts are UTF-8; a null has no ids. Where ids hold a special token, the text has no
        encoding that the model could tell from the real mark: see ``spells_special``.
        """
        if self._kernel is not None:
            return self._kernel.encode(texts)
        with _one_thread():
            encodings = self.library.encode_batch_fast(
                texts.fill_null("").to_pylist(), add_special_tokens=False
            )
        arrays = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        offsets = np.cumsum([0, *(len(ids) for ids in arrays)])
        return np.concatenate([np.empty(0, np.uint32), *arrays]), offsets

    def spells_special(self, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Which texts of a result of ``encode`` hold a special token, bool [n]."""
        before = np.concatenate([[0], np.cumsum(self.is_special[ids])])
        return before[offsets[1:]] > before[offsets[:-1]]

    @cached_property
    def library(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(json.dumps(self.settings))
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _kernel(self) -> BytePairEncoder | None:
        try:
            return BytePairEncoder(self.settings, library_classes())
        except ValueError as reason:
            LOG.warning("encoding with the tokenizers library, at its own speed: %s", reason)
            return None


@cache
def library_classes() -> np.ndarray:
    """What ``tokenizers`` takes each code point for, in the terms of ``kernels.text.bpe_split``:
    its Unicode tables are newer than Python's. uint8 [0x110000]."""
    # the other planes hold no character but those for private use
    codes = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)]
    classes = np.full(sys.maxunicode + 1, OTHER, np.uint8)
    rest = "".join(map(chr, codes))
    known = ((r"\p{L}+", LETTER), (r"\p{N}+", NUMBER), (r"\p{M}+", MARK), (r"\s+", SPACE))
    for pattern, kind in known:
        split = pre_tokenizers.Split(Regex(pattern), "removed")
        left = "".join(piece for piece, _ in split.pre_tokenize_str(rest))
        classes[np.setdiff1d(_code_points(rest), _code_points(left))] = kind
        rest = left
    classes[[ord("\r"), ord("\n")]] = NEWLINE
    return classes


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def read_encoder(folder: Path) -> TextEncoder:
    """The tokenizer of a Hugging Face folder. Raises ValueError when a file is missing, or when
    the folder does not say which token ends a document."""
    try:
        settings = json.loads((folder / "tokenizer.json").read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no tokenizer.json; for a tokenizer in another form, load it with "
            "transformers.AutoTokenizer and save_pretrained it"
        ) from error
    special = {token["id"] for token in settings.get("added_tokens", []) if token["special"]}
    for token in settings.get("added_tokens", []):
        token["special"] = token["special"] or bool(token["content"].strip())
    tokenizer = Tokenizer.from_str(json.dumps(settings))

    end_token = _end_token(folder)
    end_id = tokenizer.token_to_id(end_token)
    if end_id is None:
        raise ValueError(f"{folder}: the end token {end_token!r} is not in tokenizer.json")
    # The unknown token is an honest answer, though it is special.
    unknown = tokenizer.token_to_id(settings["model"].get("unk_token") or "")
    if settings["model"]["type"] == "Unigram":
        unknown = settings["model"].get("unk_id")
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    is_special = np.zeros(vocab_size, bool)
    is_special[sorted((special | {end_id}) - {unknown})] = True
    return TextEncoder(settings, vocab_size, end_id, is_special)


# An artifact never changes, so a worker keeps the last one loaded from shard to shard.
_cached_encoder = lru_cache(maxsize=1)(read_encoder)


def token_facts(folder: Path) -> dict[str, Any]:
    """What a manifest of token shards says of their tokenizer: ``vocab_size`` (largest id + 1),
    ``eos_id`` and ``tokenizer_hash`` (SHA-256 of tokenizer.json)."""
    encoder = read_encoder(folder)
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    return {"vocab_size": encoder.vocab_size, "eos_id": encoder.end_id, "tokenizer_hash": digest}


@dataclass(frozen=True, kw_only=True)
class Tokenize:
    """Encode each document and append the tokenizer's end token, once.

    Text that spells a special token becomes ordinary tokens; where a tokenizer has none for it, the
    row is an error. Rows of the other split are dropped as ``other_split``, rows that give no token
    as ``empty``. Columns: ``doc_id``, ``tokens`` (list<uint32>), ``source``, ``domain_label``.
    """

    stage: ClassVar = "tokenize"
    shape: ClassVar = "expand"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ("tokenizers",)
    inputs: ClassVar = {"documents": "documents", "tokenizer": "artifact"}
    output: ClassVar = "tokens"
    needs: ClassVar = ("id", "text", "split")

    split: Literal["train", "heldout"] = "train"
    """Which documents to encode: those to train on, or those to measure on."""
    batch_documents: int = 256
    """Documents that are encoded at once; more take more memory and give the same tokens."""

    def __post_init__(self) -> None:
        if self.split not in ("train", "heldout"):
            raise ValueError(f"split must be train or heldout, not {self.split!r}")
        if self.batch_documents < 1:
            raise ValueError(f"batch_documents must be at least 1, not {self.batch_documents}")

    def expand(self, shard: pa.Table, tokenizer: Path) -> pa.Table:
        encoder = _cached_encoder(Path(tokenizer))
        rows = shard.num_rows
        drop_rule = np.full(rows, "other_split", object)
        error = np.full(rows, None, object)
        lengths = np.zeros(rows, np.int64)
        pieces = [np.empty(0, np.uint32)]
        mine = np.flatnonzero(pc.equal(shard["split"], self.split).fill_null(False).to_numpy())
        for first in range(0, len(mine), self.batch_documents):
            batch = mine[first : first + self.batch_documents]
            texts, broken = _without_broken(shard["text"].take(pa.array(batch)))
            ids, offsets = encoder.encode(texts)
            special = encoder.spells_special(ids, offsets)
            size = np.diff(offsets)
            kept = (size > 0) & ~special
            drop_rule[batch] = np.where((size == 0) & ~broken, "empty", None)  # type: ignore[call-overload]
            error[batch[broken]] = "the text is not valid UTF-8"
            error[batch[special]] = "the text spells a special token and cannot be encoded as text"
            lengths[batch] = np.where(kept, size + 1, 0)
            ends = np.cumsum(size[kept])
            pieces.append(np.insert(ids[np.repeat(kept, size)], ends, encoder.end_id))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        values = pa.array(np.concatenate(pieces))
        return pa.table(
            {
                "doc_id": shard["id"].cast(pa.string()),
                "tokens": pa.ListArray.from_arrays(offsets, values, mask=pa.array(lengths == 0)),
                "source": _optional(shard, "source"),
                "domain_label": _optional(shard, "domain_label"),
                "parent_row": pa.array(np.arange(rows, dtype=np.int64)),
                "drop_rule": pa.array(drop_rule, pa.string()),
                "error": pa.array(error, pa.string()),
            }
        )


def _end_token(folder: Path) -> str:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            token = json.loads((folder / name).read_text()).get("eos_token")
            # Older folders hold {"content": "</s>", ...}.
            token = token["content"] if isinstance(token, dict) else token
            if token:
                return token
    raise ValueError(
        f"{folder} does not say which token ends a document (eos_token in tokenizer_config.json); "
        "name it in `end_token` of load_tokenizer"
    )


def _without_broken(texts: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The texts with nulls for those that are not UTF-8, and which those are, bool [n]."""
    try:
        texts.validate(full=True)
        return texts, np.zeros(len(texts), bool)
    except pa.ArrowInvalid:
        broken = np.array([not _is_utf8(text) for text in texts.cast(pa.large_binary())], bool)
        return pc.if_else(pa.array(broken), pa.scalar(None, texts.type), texts), broken


def _is_utf8(text: pa.Scalar) -> bool:
    try:
        (text.as_py() or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _optional(shard: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    known = name in shard.column_names
    return shard[name].cast(pa.string()) if known else pa.nulls(shard.num_rows, pa.string())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Encode on one core unless the user says otherwise: the engine runs one shard a core, and
    the library's threads do not survive a fork."""
    if THREADS_VARIABLE in os.environ:
        yield
        return
    os.environ[THREADS_VARIABLE] = "false"
    try:
        yield
    finally:
        del os.environ[THREADS_VARIABLE]
