"""Do the paper's ablations show in tiny models? ``python -m benchmarks.model.ablation``.

The axes of arXiv 2501.13629, section 3, scaled from 32 query heads to 8: fewer K heads or fewer V heads
(Table 1), half K dim (Table 2), augmented Q against an FFN of the same parameters (Table 4), and Sigma,
which has fewer K heads and augmented Q (Table 13). All rows of one seed read the same tokens in the same
order, so differences are taken seed by seed; their spread is the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch

from benchmarks.model.tiny import documentation, heldout_loss, train
from benchmarks.results import Row, publish, versions_of
from sigma_model import SigmaConfig
from sigma_model.counts import count_parameters, kv_cache_bytes_per_token

COMMON = {
    "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_q_heads": 8,
    "num_k_heads": 4, "num_v_heads": 4, "head_dim": 16, "aug_q_dim": 0, "rope_theta": 10_000.0,
    "max_position_embeddings": 256, "initializer_range": 0.05,
}  # fmt: skip
ROWS = {
    "MHA 8/8": {"num_k_heads": 8, "num_v_heads": 8},
    "MHA, n_v = 4": {"num_k_heads": 8, "num_v_heads": 4},
    "MHA, n_k = 4": {"num_k_heads": 4, "num_v_heads": 8},
    "GQA 4/4": {},
    "GQA, n_v = 1": {"num_v_heads": 1},
    "GQA, n_k = 1": {"num_k_heads": 1},
    "GQA, half K dim": {"k_head_dim": 8},
    "GQA, augmented Q 192": {"aug_q_dim": 192},
    "GQA, FFN + 192": {"intermediate_size": 544},
    "Sigma: n_k = 1, augmented Q 192": {"num_k_heads": 1, "aug_q_dim": 192},
}
# what each row is a change of
BASE = {row: "MHA 8/8" if row.startswith("MHA") else "GQA 4/4" for row in ROWS}


def main(arguments: list[str] | None = None) -> None:
    """Train every row with every seed, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model.ablation", description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8, help="sequences of 256 tokens a step")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=100, help="held-out sequences of 256 tokens")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    corpus = documentation()
    configs = {
        row: SigmaConfig(vocab_size=corpus.vocab_size, **{**COMMON, **change}) for row, change in ROWS.items()
    }
    losses: dict[str, list[float]] = {row: [] for row in ROWS}
    for seed in range(options.seeds):
        for row, config in configs.items():
            model = train(config, corpus, steps=options.steps, length=256, batch=options.batch, seed=seed)
            losses[row].append(heldout_loss(model, corpus, length=256, sequences=options.sequences))
            print(f"seed {seed}  {row:34}{losses[row][-1]:.4f}", file=sys.stderr, flush=True)
    floor = corpus.unigram_loss()
    red = [
        f"{row}: {max(values):.3f} is no better than word frequencies, {floor:.3f}"
        for row, values in losses.items()
        if max(values) >= floor
    ]
    publish(
        "model_ablation",
        [_row(row, losses, configs[row]) for row in ROWS],
        red=red,
        versions=versions_of("torch", "transformers", "tokenizers"),
        corpus=f"docstrings of the standard library, {len(corpus.train):,} tokens to train on, "
        f"{len(corpus.heldout):,} held out, {corpus.bytes_per_token:.2f} bytes a token",
        training=f"{options.steps} steps of {options.batch} x 256 tokens, {options.seeds} seeds",
        losses=losses,
    )


def _row(row: str, losses: dict[str, list[float]], config: SigmaConfig) -> Row:
    base = BASE[row]
    parts = count_parameters(config)
    thousands = (sum(parts.values()) - parts["embedding"]) / 1e3
    reference = (
        f"+- {_spread(losses[row]):.4f}; {thousands:.0f} k parameters without embedding, "
        f"{kv_cache_bytes_per_token(config):,} B of cache a token"
    )
    if row != base:
        differences = [a - b for a, b in zip(losses[row], losses[base], strict=True)]
        mean = statistics.mean(differences)
        reference += f"; {mean:+.4f} +- {_spread(differences):.4f} to {base}"
    return Row(row, statistics.mean(losses[row]), "nats a held-out token", reference)


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
