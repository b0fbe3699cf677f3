"""What a training run will read: its plan, and any of its sequences by number."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from sigma_model.training.config import TrainConfig, read_config
from sigma_model.training.order import Order, fingerprint, open_train

EXCERPT = 160


def read_order(path: Path, settings: list[str]) -> tuple[TrainConfig, Order]:
    """The order of the run that a training config describes. Raises ValueError that says what is wrong."""
    config = read_config(path, settings)
    return config, Order(config, open_train(config.data))


def show_plan(config: TrainConfig, order: Order, console: Console) -> None:
    """Datasets, and phase by phase what is read of them."""
    length = config.sequence_length
    table = _table("dataset", "shards", "row groups", "tokens", "sequences an epoch", "padding")
    for name, stream in zip(order.sources, order.streams, strict=True):
        dataset, sequences = stream.dataset, stream.sequences_in_epoch(0)
        counts = len(dataset.files), len(dataset.group_tokens), dataset.num_tokens, sequences
        padding = 1 - dataset.num_tokens / (sequences * length)
        table.add_row(name, *(f"{count:,}" for count in counts), f"{padding:.2%}")
    console.print(table)
    datasets = {name: stream.dataset for name, stream in zip(order.sources, order.streams, strict=True)}
    masking = "on" if config.data.document_masking else "off"
    _say(
        console,
        f"\nfingerprint {fingerprint(datasets)[:16]}, sequences of {length}, packing {config.data.packing}, "
        f"document masking {masking}\n",
    )
    table = _table("phase", "steps", "batch", "positions", "dataset", "share", "sequences", "epochs so far")
    for number, phase in enumerate(order.phases):
        taken, epochs = order.taken[number + 1] - order.taken[number], order.epochs(number)
        batches = " → ".join(f"{batch:,}" for _, batch in phase.stages)
        cells = [phase.name, f"{phase.steps:,}", batches, f"{phase.sequences * length:,}"]
        for name in phase.weights:
            count = int(taken[order.sources.index(name)])
            share = f"{count / phase.sequences:.1%}"
            table.add_row(*cells, name, share, f"{count:,}", f"{epochs[name]:.2f}")
            cells = [""] * len(cells)
    total = order.first_sequence[-1]
    table.add_row("all", f"{config.steps:,}", "", f"{total * length:,}", "", "", f"{total:,}", "")
    console.print(table)


def show_sequence(config: TrainConfig, order: Order, number: int, whole: bool, console: Console) -> None:
    """One sequence of the run, counted from 0, with the documents it came from. ``whole``: all text.

    Raises ValueError for a number that the run does not have.
    """
    phase, source, place = order.locate(number)
    stream = order.streams[source]
    epoch, inside = stream.locate(place)
    of_epoch = f"epoch {epoch + 1}, sequence {inside:,} of {stream.sequences_in_epoch(epoch):,}"
    step = order.phases[phase].step_of(number - order.first_sequence[phase])
    before = sum(earlier.steps for earlier in order.phases[:phase])
    _say(
        console,
        f"sequence {number:,}: phase {order.phases[phase].name!r}, step {before + step + 1:,}; "
        f"{order.sources[source]}, {of_epoch}",
    )
    tokenizer = _tokenizer(config, stream.dataset.tokenizer_hash)
    tokens, at = stream.batch(place, 1).input_ids[0], 0
    for doc_id, first, count in stream.documents(place):
        _say(console, f"\n{at:>6}  document {doc_id}, tokens {first:,} to {first + count - 1:,}")
        _say(console, _text(tokens[at : at + count], tokenizer, whole))
        at += count
    if at < len(tokens):
        _say(console, f"\n{at:>6}  padding, {len(tokens) - at:,} positions")


def _say(console: Console, text: str) -> None:
    # as it is: the console would expand tabs
    print(text, file=console.file)


def _text(tokens: np.ndarray, tokenizer: Tokenizer | None, whole: bool) -> str:
    if tokenizer is None:
        text = " ".join(map(str, tokens.tolist() if whole else tokens[:EXCERPT].tolist()))
    else:
        text = tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
    if whole or len(text) <= 2 * EXCERPT:
        return text
    return f"{text[:EXCERPT]} [...] {text[-EXCERPT:]}".replace("\n", "⏎")


def _tokenizer(config: TrainConfig, made_by: str) -> Tokenizer | None:
    if config.tokenizer is None:
        return None
    path = Path(config.tokenizer) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"tokenizer = {config.tokenizer} holds no tokenizer.json; leave it out to see token ids"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != made_by:
        raise ValueError(
            f"{path} has sha256 {found[:12]}, the tokens were made by {made_by[:12]}; give the "
            "tokenizer that made them"
        )
    return Tokenizer.from_file(str(path))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if column in ("dataset", "phase") or not number else "right")
    return table
