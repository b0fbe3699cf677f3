"""Byte-level BPE against the tokenizers library: ``python -m benchmarks.curation.tokenize``.

Both encode the same real text (the documentation under /usr/share/doc and the sources of installed
packages) on one thread, in turns. Rates are UTF-8 bytes over CPU seconds, so that a busy machine
slows both; of the rounds, the fastest counts. A round of ours begins with an empty cache. Nothing
is printed unless all ids are equal.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import site
import sys
import time
from pathlib import Path

# the library reads them when it is imported
os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pyarrow as pa
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from benchmarks.results import Row, publish, versions_of
from kernels.text.bpe import BytePairEncoder
from kernels.text.bpe_split import PATTERNS
from pipelines.tokenize import library_classes

NAMES = ("GPT-2", "Llama 3", "train_tokenizer")
TEXT_BYTES = 24_000_000
# the library gets every 8th text: it takes seconds a megabyte where we take hundredths
PEER_STEP = 8
TRAIN_BYTES = 4_000_000
VOCAB_SIZE = 32_768
ROUNDS = 3


def read_texts(limit: int) -> list[str]:
    """Texts of files, in an order that is the same on the same machine, up to ``limit`` bytes."""
    files = [path for path in Path("/usr/share/doc").rglob("*") if path.is_file()]
    for folder in site.getsitepackages():
        files += Path(folder).rglob("*.py")
    files.sort()
    random.Random(1).shuffle(files)
    texts: list[str] = []
    for path in files:
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                data = file.read(200_000)
            texts.append(data.decode())
        except (OSError, EOFError, UnicodeDecodeError):
            continue
        limit -= len(data)
        if limit <= 0:
            break
    return texts


def train(pattern: str, texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=32,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def measure(name: str, tokenizer: Tokenizer, texts: list[str]) -> list[Row]:
    settings = json.loads(tokenizer.to_str())
    column = pa.array(texts, pa.large_string())
    some = list(range(0, len(texts), PEER_STEP))
    some_texts = [texts[number] for number in some]
    encoder = BytePairEncoder(settings, library_classes())
    encoder.encode(column.slice(0, 1))
    seconds: dict[str, list[float]] = {"library": [], "cold": [], "warm": []}
    for _ in range(ROUNDS):
        started = time.process_time()
        encodings = tokenizer.encode_batch_fast(some_texts, add_special_tokens=False)
        seconds["library"].append(time.process_time() - started)
        encoder = BytePairEncoder(settings, library_classes())
        for state in ("cold", "warm"):
            started = time.process_time()
            ids, offsets = encoder.encode(column)
            seconds[state].append(time.process_time() - started)
    for number, encoding in zip(some, encodings, strict=True):
        if ids[offsets[number] : offsets[number + 1]].tolist() != encoding.ids:
            sys.exit(f"{name}: ids differ in text {number}: {texts[number][:200]!r}")
    peer = sum(len(text.encode()) for text in some_texts) / min(seconds["library"]) / 1e6
    total = sum(len(text.encode()) for text in texts)
    rows = []
    for state in ("cold", "warm"):
        rate = total / min(seconds[state]) / 1e6
        rows.append(
            Row(
                name=f"{name} pattern, {state} cache",
                value=round(rate, 1),
                unit="MB/s of text, one thread",
                reference=f"tokenizers encode_batch_fast: {peer:.2f} MB/s",
                ratio=round(rate / peer, 1),
            )
        )
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    texts = read_texts(TEXT_BYTES)
    to_train = read_texts(TRAIN_BYTES)
    rows = []
    for name, pattern in zip(NAMES, PATTERNS, strict=True):
        rows += measure(name, train(pattern, to_train), texts)
    publish(
        "curation_tokenize",
        rows,
        red=[],
        versions=versions_of("numba", "tokenizers"),
        text=f"{sum(len(text.encode()) for text in texts) / 1e6:.1f} MB, {len(texts)} files",
    )


if __name__ == "__main__":
    main()
