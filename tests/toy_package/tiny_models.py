"""Small writers made on the spot: a tokenizer of the standard library's own docs, random weights."""

from __future__ import annotations

import pydoc
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def doc_of(module: ModuleType) -> str:
    """A module's documentation as plain text."""
    return pydoc.plain(pydoc.render_doc(module))


def write_tokenizer(folder: Path, texts: list[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """A byte-level BPE with a chat template, saved into ``folder``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[0], unk_token=None
    )
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return fast


def write_llama(folder: Path, texts: list[str], **shape: Any) -> Path:
    """A Llama with random weights, as a Hugging Face folder."""
    tokenizer = write_tokenizer(folder, texts)
    torch.manual_seed(0)
    keys = {
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        **shape,
    }
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=0, bos_token_id=0, **keys)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
