"""The tokenizer as an artifact: trained on the documents, or taken from a Hugging Face folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.dataset as ds
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from kernels.text.bpe_split import SPLIT_PATTERN
from pipelines.tokenize import token_facts

# The files that make a tokenizer in a Hugging Face folder; all but the first may be missing.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer:
    """Train byte-level BPE on the documents of the train split.

    Any text can be encoded and comes back unchanged. The result is the same for any order of the
    documents and any number of threads. Writes a folder for ``AutoTokenizer.from_pretrained``.
    """

    stage: ClassVar = "train_tokenizer"
    shape: ClassVar = "fit"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ("tokenizers",)
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "artifact"
    needs: ClassVar = ("id", "text", "split")

    vocab_size: int = 32_768
    """Tokens in all: special ones, the 256 bytes, and merges as long as the text gives some."""
    end_token: str = "<|endoftext|>"
    """The token that ends each document."""
    special_tokens: tuple[str, ...] = ()
    """Further special tokens, say those of a chat template; their ids follow the end token's."""
    max_token_length: int = 32
    """Bytes of the longest token: keeps rulers and base64 out of the vocabulary."""
    sample: float = 1.0
    """Part of the documents to train on, chosen by the hash of the id."""

    def __post_init__(self) -> None:
        special = [self.end_token, *self.special_tokens]
        if not all(special) or len(set(special)) < len(special):
            raise ValueError(f"special tokens must be different and not empty: {special}")
        if self.vocab_size < 256 + len(special):
            raise ValueError(
                f"vocab_size {self.vocab_size} has no room for 256 bytes and {len(special)} special tokens"
            )
        if self.max_token_length < 2:
            raise ValueError(f"max_token_length must be at least 2, not {self.max_token_length}")
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample must be above 0 and at most 1, not {self.sample}")

    def fit(
        self,
        out: Path,
        scratch: Path,
        seed: int,
        progress: Callable[[str], None],
        documents: ds.Dataset,
    ) -> dict[str, Any]:
        """Train and write; the report. Raises ValueError when there is no text to train on."""
        seen = {"documents": 0, "bytes": 0}
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[self.end_token, *self.special_tokens],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            max_token_length=self.max_token_length,
            show_progress=False,
        )
        tokenizer.train_from_iterator(self._texts(documents, seen, progress), trainer)
        if not seen["bytes"]:
            raise ValueError(
                "train_tokenizer: no text to train on: the input has no documents with "
                f"split 'train' in a sample of {self.sample}"
            )
        tokenizer.save(str(out / "tokenizer.json"))
        self._write_settings(out)
        return {**token_facts(out), "vocab_size_asked": self.vocab_size, **seen}

    def _texts(
        self, documents: ds.Dataset, seen: dict[str, int], progress: Callable[[str], None]
    ) -> Iterator[list[str]]:
        batches = documents.to_batches(
            columns=["id", "text"], filter=ds.field("split") == "train", batch_size=1024
        )
        for batch in batches:
            rows = zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True)
            texts = [text for id, text in rows if text and self._is_sampled(id)]
            seen["documents"] += len(texts)
            seen["bytes"] += sum(len(text.encode()) for text in texts)
            progress(f"counted words in {seen['documents']} documents")
            yield texts
        progress(f"merging pairs of {seen['bytes'] / 1e6:.1f} MB of text")

    def _is_sampled(self, id: str) -> bool:
        digest = hashlib.blake2b(f"train_tokenizer:{id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") < self.sample * 2**64

    def _write_settings(self, out: Path) -> None:
        special = {"eos_token": self.end_token, "pad_token": self.end_token}
        more: dict[str, Any] = {}
        if self.special_tokens:
            more = {"additional_special_tokens": list(self.special_tokens)}
        settings = {
            # the name that transformers 4 and 5 both know
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **special,
            **more,
        }
        _write_json(out / "tokenizer_config.json", settings)
        _write_json(out / "special_tokens_map.json", {**special, **more})


@dataclass(frozen=True, kw_only=True)
class LoadTokenizer:
    """Take the tokenizer of a Hugging Face folder (it must have ``tokenizer.json``) as it is."""

    stage: ClassVar = "load_tokenizer"
    shape: ClassVar = "fit"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ()
    inputs: ClassVar[dict[str, str]] = {}
    output: ClassVar = "artifact"
    needs: ClassVar = ()

    path: str
    """Folder with tokenizer.json and tokenizer_config.json, as save_pretrained writes it."""
    end_token: str | None = None
    """The token that ends each document; by default the folder's eos_token."""

    def identity(self) -> dict[str, Any]:
        """The files' content: the same tokenizer in another folder is the same artifact."""
        hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in self._files()}
        return {"files": hashes, "end_token": self.end_token}

    def fit(self, out: Path, scratch: Path, seed: int, progress: Callable[[str], None]) -> dict[str, Any]:
        """Copy the files, check that ``tokenize`` can use them; the report. Raises ValueError."""
        for file in self._files():
            shutil.copyfile(file, out / file.name)
        if self.end_token:
            config = out / "tokenizer_config.json"
            settings = json.loads(config.read_text()) if config.exists() else {}
            _write_json(config, {**settings, "eos_token": self.end_token})
        return token_facts(out)

    def _files(self) -> list[Path]:
        folder = Path(self.path)
        if not (folder / "tokenizer.json").is_file():
            raise ValueError(
                f"load_tokenizer: {folder} holds no tokenizer.json; for a tokenizer in another "
                "form, load it with transformers.AutoTokenizer and save_pretrained it"
            )
        return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
