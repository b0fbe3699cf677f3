"""The training loader beside its peers: ``python -m benchmarks.training.loader``.

From the same zstd Parquet of real token sequences to packed int64 tensors [16, 4096], on one core: ours
(inputs, labels, positions, bounds of documents, shuffled), torch's DataLoader over pyarrow's ``to_pylist``,
and Hugging Face ``datasets`` with its packing recipe (both: inputs alone, in file order). Rates are
tokens over CPU seconds of the whole process, in turns; of the rounds, the fastest counts. Then what the
two packings waste and cut, and what part of a step a small training on the CPU waits for data.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks import peers
from benchmarks.results import Row, publish, versions_of
from benchmarks.training.token_shards import real_shards
from sigma_model.training.config import build_config
from sigma_model.training.data import TokenDataset, open_datasets
from sigma_model.training.loader import Loader
from sigma_model.training.packing import pack
from sigma_model.training.sequences import BYTES_PER_POSITION, Arrays

TEXT_BYTES = 64_000_000
LENGTH, BATCH = 4096, 16
ROUNDS = 3
PACKINGS = ("concat", "best_fit")
# the peers get fewer tokens: they take a second where we take hundredths
PEER_TOKENS = 2_000_000


class ListsDataset(IterableDataset):
    """Row groups through ``to_pylist``, end to end, cut."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __iter__(self) -> Iterator[torch.Tensor]:
        rest: list[int] = []
        with pq.ParquetFile(self.file) as file:
            for batch in file.iter_batches(batch_size=256, columns=["tokens"]):
                rest += itertools.chain.from_iterable(batch.column(0).to_pylist())
                whole = len(rest) // LENGTH * LENGTH
                for begin in range(0, whole, LENGTH):
                    yield torch.tensor(rest[begin : begin + LENGTH])
                rest = rest[whole:]


def our_loader(folder: Path, packing: str) -> Loader:
    values = {
        "model": "m", "output": "o", "sequence_length": LENGTH, "batch_sequences": BATCH, "steps": 10**6,
        "data": {"train": [str(folder)], "packing": packing},
    }  # fmt: skip
    return Loader(build_config(values))


def of_ours(folder: Path, packing: str) -> float:
    """Tokens a second over three epochs, the first window left out."""
    loader = our_loader(folder, packing)
    next(loader)
    count, end = 0, 3 * loader.num_tokens
    started = time.process_time()
    while count < end:
        count += sum(next(loader).source_tokens.values())
    seconds = time.process_time() - started
    loader.close()
    return count / seconds


def every_token_once(folder: Path, packing: str, dataset: TokenDataset) -> bool:
    """Whether an epoch holds each token as often as the dataset does."""
    loader = our_loader(folder, packing)
    stream, size = loader.order.streams[0], dataset.vocab_size
    seen, true = np.zeros(size, np.int64), np.zeros(size, np.int64)
    sequences = stream.sequences_in_epoch(0)
    for first in range(0, sequences, BATCH):
        numbers = np.arange(first, min(first + BATCH, sequences))
        out = Arrays.over(np.empty(len(numbers) * LENGTH * BYTES_PER_POSITION, np.uint8), LENGTH)
        tokens = stream.fill(numbers, np.arange(len(numbers)), out)
        for row, length in zip(out.input_ids, tokens, strict=True):
            seen += np.bincount(row[:length], minlength=size)
    for group in range(len(dataset.group_tokens)):
        true += np.bincount(dataset.read_tokens(group)[0], minlength=size)
    loader.close()
    return np.array_equal(seen, true)


def of_dataloader(file: Path) -> tuple[float, int, int]:
    """Tokens a second, tokens read and their sum."""
    count = total = 0
    started = time.process_time()
    for batch in DataLoader(ListsDataset(file), batch_size=BATCH):
        count += batch.numel()
        total += int(batch.sum())
        if count >= PEER_TOKENS:
            break
    return count / (time.process_time() - started), count, total


def packings(dataset: TokenDataset) -> list[Row]:
    """What both packings waste, and how many documents that would fit are cut."""
    lengths = np.concatenate([dataset.read_tokens(g)[1] for g in range(len(dataset.group_tokens))])
    starts, order = (
        np.concatenate([[0], np.cumsum(lengths)]),
        np.random.default_rng(0).permutation(len(lengths)),
    )
    rows = []
    for length in (1024, 4096):
        cut = {}
        for packing in PACKINGS:
            pieces = pack(starts, order, length, packing)
            cut[packing] = np.mean(np.bincount(pieces.document)[lengths <= length] > 1)
            wasted = 1 - starts[-1] / (length * (len(pieces.bounds) - 1))
            rows.append(
                Row(f"{packing}, {length} positions: wasted", round(100 * wasted, 3), "% of positions")
            )
        name = f"best_fit, {length} positions: documents cut that would fit"
        peer = f"concat: {100 * cut['concat']:.1f}"
        rows.append(Row(name, round(100 * cut["best_fit"], 3), "% of documents", peer))
    return rows


def data_wait(folder: Path) -> Row:
    """Part of the steps of a small training that was spent waiting for data."""
    with tempfile.TemporaryDirectory() as out:
        config = Path(out) / "train.yaml"
        values = {
            "model": "configs/model/sigma_tiny.yaml", "output": f"{out}/run", "sequence_length": 256,
            "batch_sequences": 4, "steps": 40, "threads": 1, "data": {"train": [str(folder)]},
        }  # fmt: skip
        config.write_text(json.dumps(values))
        command = [sys.executable, "-m", "sigma_model.training", str(config)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in (Path(out) / "run" / "metrics.jsonl").read_text().splitlines()]
    # the first step also waits for the first window
    shares = [row["data_wait"] * row["tokens_per_s"] / (4 * 256) for row in rows if row.get("step", 0) > 1]
    share = round(100 * float(np.mean(shares)), 4)
    return Row("data wait of a step, sigma_tiny on the CPU", share, "% of the step")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    folder = real_shards(TEXT_BYTES)
    dataset = open_datasets([str(folder)])
    file, expected = dataset.files[0], dataset.read_tokens(0)[0]
    red = [f"{packing}: not every token once an epoch" for packing in PACKINGS
           if not every_token_once(folder, packing, dataset)]  # fmt: skip
    rates: dict[str, list[float]] = {}
    with peers.Process("benchmarks.training.datasets_loader", "loader") as process:
        for _ in range(ROUNDS):
            for packing in PACKINGS:
                rates.setdefault(packing, []).append(of_ours(folder, packing))
            rate, count, total = of_dataloader(file)
            rates.setdefault("DataLoader", []).append(rate)
            if total != int(expected[:count].sum()):
                red.append("DataLoader read other tokens")
            answer = process.ask("load", file=str(file), length=LENGTH, batch=BATCH, tokens=PEER_TOKENS)
            rates.setdefault("datasets", []).append(answer.value[0] / answer.cpu)
    best = {name: max(values) / 1e6 for name, values in rates.items()}
    rows = []
    for packing in PACKINGS:
        for peer in ("DataLoader", "datasets"):
            rows.append(Row(f"loader, {packing}", round(best[packing], 1), "M tokens/s of a core",
                            f"{peer}: {best[peer]:.2f}", round(best[packing] / best[peer], 1)))  # fmt: skip
    rows += packings(dataset)
    rows.append(data_wait(folder))
    bytes_per_token = file.stat().st_size / dataset.num_tokens
    publish(
        "training_loader",
        rows,
        red=red,
        versions={**versions_of("torch", "pyarrow", "numba"), **peers.versions("loader")},
        data=f"{dataset.num_tokens:,} tokens of real text, {bytes_per_token:.2f} bytes a token on disk",
    )


if __name__ == "__main__":
    main()
