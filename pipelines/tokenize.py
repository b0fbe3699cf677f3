"""Documents to token shards: a row is one document with its end token."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

THREADS_VARIABLE = "TOKENIZERS_PARALLELISM"


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer that reads every text as text, also one that spells a special token.

    Two kinds of added tokens need two cures. Special ones are matched in a text before the model
    sees it, unless ``encode_special_tokens`` is on. Others that a tokenizer adds as marks
    (``<think>``) are matched always, so they are made special here; runs of white space stay, as
    they only shorten text. Where the model's own vocabulary holds a special token and can reach
    it from its letters, only looking at the result helps: see ``encode``.
    """

    tokenizer: Tokenizer
    vocab_size: int
    end_id: int
    is_special: np.ndarray

    def encode(self, texts: list[str]) -> list[np.ndarray | None]:
        """Token ids (uint32) of each text without an end token; None where they would hold a
        special token: that text has no encoding that the model could tell from the real mark."""
        with _one_thread():
            encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        arrays = (np.array(encoding.ids, np.uint32) for encoding in encodings)
        return [None if self.is_special[ids].any() else ids for ids in arrays]


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
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()

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
    return TextEncoder(tokenizer, vocab_size, end_id, is_special)


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
        drop_rule: list[str | None] = ["other_split"] * rows
        error: list[str | None] = [None] * rows
        lengths = np.zeros(rows, np.int64)
        pieces = [np.empty(0, np.uint32)]
        end = np.array([encoder.end_id], np.uint32)
        mine = np.flatnonzero(pc.equal(shard["split"], self.split).fill_null(False).to_numpy())
        for first in range(0, len(mine), self.batch_documents):
            batch = mine[first : first + self.batch_documents]
            texts = _strings(shard["text"].take(pa.array(batch)))
            encoded = encoder.encode([text or "" for text in texts])
            for row, text, ids in zip(batch.tolist(), texts, encoded, strict=True):
                drop_rule[row] = None
                if text is None:
                    error[row] = "the text is not valid UTF-8"
                elif ids is None:
                    error[row] = "the text spells a special token and cannot be encoded as text"
                elif len(ids) == 0:
                    drop_rule[row] = "empty"
                else:
                    pieces += [ids, end]
                    lengths[row] = len(ids) + 1
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


def _strings(texts: pa.ChunkedArray) -> list[str | None]:
    """Arrow strings as Python's; a null is "", bytes that are not UTF-8 are None."""
    texts = texts.fill_null("")
    try:
        return texts.to_pylist()
    except UnicodeDecodeError:
        return [_string(text) for text in texts]


def _string(text: pa.Scalar) -> str | None:
    try:
        return text.as_py()
    except UnicodeDecodeError:
        return None


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
