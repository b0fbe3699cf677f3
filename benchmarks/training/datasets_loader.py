"""Hugging Face ``datasets``, the peer of the loader: Parquet streamed, packed by its recipe. Runs in the
peers' environment."""

from __future__ import annotations

import itertools

import numpy as np

from benchmarks import peers


def load(file: str, length: int, batch: int, tokens: int) -> list[int]:
    """Read at least ``tokens`` tokens as packed batches; how many were read, and their sum."""
    import datasets

    def group(rows: dict) -> dict:
        joined = list(itertools.chain.from_iterable(rows["tokens"]))
        whole = len(joined) // length * length
        return {"input_ids": [joined[i : i + length] for i in range(0, whole, length)]}

    stream = datasets.load_dataset(
        "parquet", data_files=file, split="train", streaming=True, columns=["tokens"]
    )
    packed = stream.map(group, batched=True, remove_columns=["tokens"]).with_format("numpy")
    count = total = 0
    for part in packed.batch(batch):
        ids = np.asarray(part["input_ids"], np.int64)
        count += ids.size
        total += int(ids.sum())
        if count >= tokens:
            break
    return [count, total]


if __name__ == "__main__":
    peers.serve(load=load)
