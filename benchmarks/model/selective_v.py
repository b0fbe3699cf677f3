"""What does selective V cost a trained Sigma? ``python -m benchmarks.model.selective_v [--steps N]``.

The paper's Sel.V (arXiv 2501.13629, section 2 and appendix B.2) keeps, for each query head, the V rows of
the k highest scores. Its tasks have prompts of about k tokens, where it keeps everything; here a tiny Sigma
is trained on contexts of 1,024 tokens and scored on the second half of them, where a query sees 512 to
1,024 keys. Dense attention against k = 25, 50, 100, the kept weights as they are or divided by their sum,
and, to see whether it matters which rows are kept, against the k most recent ones.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch
from torch import Tensor

from benchmarks.model.tiny import documentation, heldout_loss, train
from benchmarks.results import Row, publish, versions_of
from sigma_model import SigmaConfig
from sigma_model.backends import BACKENDS, TorchBackend, choose_backend

LENGTH = 1024
SHAPE = {
    "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_q_heads": 8,
    "num_k_heads": 1, "num_v_heads": 4, "head_dim": 16, "aug_q_dim": 192, "rope_theta": 10_000.0,
    "max_position_embeddings": LENGTH, "initializer_range": 0.05,
}  # fmt: skip


class SelectiveV(TorchBackend):
    """Attention that reads the V rows of k keys for each query and head; k = 0: of all."""

    name = "selective_v"

    def __init__(self) -> None:
        self.k, self.renormalize, self.recent = 0, False, False
        self.kept_mass: list[float] = []

    def attend_whole(
        self, q_BQSD: Tensor, k_BKTD: Tensor, v_BVTE: Tensor, allowed: Tensor | None, scale: float
    ) -> Tensor:
        """Out [B, Q, S, E], causal; notes the mean mass of the kept weights in the second half."""
        assert allowed is None
        num_q_heads, length = q_BQSD.shape[1:3]
        k_BQTD = k_BKTD.repeat_interleave(num_q_heads // k_BKTD.shape[1], dim=1)
        v_BQTE = v_BVTE.repeat_interleave(num_q_heads // v_BVTE.shape[1], dim=1)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        scores = (q_BQSD @ k_BQTD.mT * scale).masked_fill(~causal, float("-inf"))
        weights = scores.softmax(-1)
        if self.k:
            if self.recent:
                kept = (causal & ~causal.tril(-self.k)).expand_as(weights)
            else:
                top = scores.topk(self.k, dim=-1).indices
                kept = torch.zeros_like(weights, dtype=torch.bool).scatter_(-1, top, True)
            weights = weights * kept
            mass = weights.sum(-1, keepdim=True)
            self.kept_mass.append(mass[:, :, length // 2 :].mean().item())
            if self.renormalize:
                weights = weights / mass
        return weights @ v_BQTE


def main(arguments: list[str] | None = None) -> None:
    """Train with each seed, score each selection, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model.selective_v", description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=2, help=f"sequences of {LENGTH} tokens a step")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=25, help=f"held-out sequences of {LENGTH} tokens")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    corpus = documentation()
    selective = SelectiveV()
    BACKENDS[selective.name] = selective
    red, losses, masses = [], {}, {}
    for seed in range(options.seeds):
        # of its own: the scores below change its backend, and the next seed trains with the model's
        config = SigmaConfig(vocab_size=corpus.vocab_size, **SHAPE)
        model = train(config, corpus, steps=options.steps, length=LENGTH, batch=options.batch, seed=seed)

        def score(model=model) -> float:  # type: ignore[no-untyped-def]
            return heldout_loss(model, corpus, length=LENGTH, sequences=options.sequences, skip=LENGTH // 2)

        sdpa = score()
        model.config._attn_implementation_internal = selective.name
        choose_backend.cache_clear()
        for name, k, renormalize, recent in (
            ("dense", 0, False, False),
            *((f"top {k}", k, False, False) for k in (100, 50, 25)),
            *((f"top {k}, renormalized", k, True, False) for k in (100, 50, 25)),
            *((f"the {k} most recent, renormalized", k, True, True) for k in (100, 50, 25)),
        ):
            selective.k, selective.renormalize, selective.recent = k, renormalize, recent
            selective.kept_mass.clear()
            losses.setdefault(name, []).append(score())
            masses.setdefault(name, []).append(statistics.mean(selective.kept_mass or [1.0]))
            print(f"seed {seed}  {name:36}{losses[name][-1]:.4f}", file=sys.stderr, flush=True)
        dense = losses["dense"][-1]
        if abs(dense - sdpa) > 1e-4:
            red.append(f"dense attention here gives {dense:.5f}, the model's own {sdpa:.5f}")
        if dense >= corpus.unigram_loss():
            red.append(f"seed {seed}: {dense:.3f} is no better than word frequencies")
    rows = []
    for name, values in losses.items():
        differences = [value - dense for value, dense in zip(values, losses["dense"], strict=True)]
        spread = statistics.stdev(differences) if len(values) > 1 else float("nan")
        against = (
            ""
            if name == "dense"
            else f"{statistics.mean(differences):+.4f} +- {spread:.4f} to dense; "
            f"keeps {statistics.mean(masses[name]):.1%} of the weight"
        )
        rows.append(Row(name, statistics.mean(values), "nats a held-out token", against))
    publish(
        "model_selective_v",
        rows,
        red=red,
        versions=versions_of("torch", "transformers", "tokenizers"),
        corpus=f"docstrings of the standard library, {len(corpus.train):,} tokens to train on, "
        f"{len(corpus.heldout):,} held out",
        training=f"{options.steps} steps of {options.batch} x {LENGTH} tokens, {options.seeds} seeds",
        losses=losses,
    )


if __name__ == "__main__":
    main()
