"""Tiny models on the standard library's documentation: tokens, training, held-out loss.

The text is the docstrings of the interpreter's own modules, read from their sources without importing
them: the same on every machine with this Python, and no download.
"""

from __future__ import annotations

import ast
import hashlib
import math
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from kernels.diffqkv.cross_entropy import linear_cross_entropy
from sigma_model import SigmaConfig, SigmaForCausalLM
from sigma_model.training.config import ScheduleConfig
from sigma_model.training.schedule import learning_rate_factor

LEFT_OUT = {"test", "tests", "idlelib", "site-packages", "dist-packages", "lib2to3", "pydoc_data"}
HELD_OUT_PART = 10


@dataclass(frozen=True)
class Corpus:
    """Token ids of whole documents one after the other, each with its end token."""

    train: torch.Tensor
    heldout: torch.Tensor
    vocab_size: int
    bytes_per_token: float

    def unigram_loss(self) -> float:
        """Nats a held-out token under the frequencies of the training tokens: what any model must beat."""
        counts = torch.bincount(self.train, minlength=self.vocab_size).double() + 1
        return -(counts / counts.sum()).log()[self.heldout].mean().item()


def documentation(vocab_size: int = 1024) -> Corpus:
    """The standard library's docstrings under a byte-level BPE trained on the training part."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts: dict[bool, list[str]] = {True: [], False: []}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        text = "" if LEFT_OUT & set(name.parts) else _docstrings(path)
        if len(text) > 1000:
            heldout = hashlib.sha256(str(name).encode()).digest()[0] % HELD_OUT_PART == 0
            parts[heldout].append(text)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(parts[False], trainer)
    end = tokenizer.token_to_id("<end>")

    def encoded(texts: list[str]) -> torch.Tensor:
        rows = [np.array([*row.ids, end]) for row in tokenizer.encode_batch(texts)]
        return torch.from_numpy(np.concatenate(rows))

    train, heldout = encoded(parts[False]), encoded(parts[True])
    num_bytes = sum(len(text.encode()) for text in parts[True])
    return Corpus(train, heldout, vocab_size, num_bytes / len(heldout))


def _docstrings(path: Path) -> str:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(text for text in found if text)


def train(
    config: SigmaConfig,
    corpus: Corpus,
    *,
    steps: int,
    length: int,
    batch: int,
    seed: int,
    learning_rate: float = 4e-3,
) -> SigmaForCausalLM:
    """A model trained on ``steps`` x ``batch`` sequences; ``seed`` decides weights and order.

    Two shapes with one seed read the same tokens in the same order.
    """
    torch.manual_seed(seed)
    model = SigmaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    schedule = ScheduleConfig(warmup_steps=min(20, steps), decay_fraction=0.5)
    optimizer = torch.optim.AdamW(
        model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * learning_rate_factor(step, steps, schedule)
        first = torch.randint(0, len(corpus.train) - length - 1, (batch, 1), generator=generator)
        rows = corpus.train[first + torch.arange(length + 1)]
        (_sum_of_loss(model, rows) / (batch * length)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.eval()


@torch.no_grad()
def heldout_loss(
    model: SigmaForCausalLM, corpus: Corpus, *, length: int, sequences: int, skip: int = 0
) -> float:
    """Mean nats a held-out token, over the same sequences each time, from position ``skip`` on."""
    count = min(sequences, (len(corpus.heldout) - 1) // length)
    total = 0.0
    for row in range(count):
        part = corpus.heldout[row * length : (row + 1) * length + 1][None]
        total += _sum_of_loss(model, part, skip).item()
    loss = total / (count * (length - skip))
    assert math.isfinite(loss)
    return loss


def _sum_of_loss(model: SigmaForCausalLM, rows: torch.Tensor, skip: int = 0) -> torch.Tensor:
    hidden = model.model(rows[:, :-1]).last_hidden_state[:, skip:]
    labels = rows[:, 1 + skip :].flatten()
    return linear_cross_entropy(hidden.flatten(0, 1), model.lm_head.weight, labels)[1]
