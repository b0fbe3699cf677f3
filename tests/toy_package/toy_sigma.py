"""A tiny Sigma on disk, as training leaves one, and what it says, by our own modeling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_q_heads": 8,
    "num_k_heads": 2,
    "num_v_heads": 4,
    "head_dim": 16,
    "aug_q_dim": 192,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def write_tiny_sigma(folder: Path, **changes: Any) -> Any:
    """A random Sigma in float32 with a tokenizer of bytes in ``folder``; returns the model."""
    from sigma_model import SigmaConfig, SigmaForCausalLM

    torch.manual_seed(0)
    model = SigmaForCausalLM(SigmaConfig(**{**SHAPE, **changes})).float().eval()
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}'
    )
    return model


def judge(
    model: Any, prompt: Sequence[int], tokens: Sequence[int], logprobs: Sequence[float]
) -> tuple[int, int, float]:
    """How the model sees a greedy continuation: tokens that are wrong, tokens that are not its first but
    within 1e-4 of it, and the largest difference of a log-probability (nats)."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    own = logits.log_softmax(-1)
    chosen = own.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    behind = own.max(-1).values - chosen
    off = (chosen - torch.tensor(logprobs)).abs().max()
    wrong = int((behind >= 1e-4).sum())
    return wrong, int((behind > 0).sum()) - wrong, float(off)
