"""Between a training's checkpoints and Hugging Face folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig

from sigma_model.config import SigmaConfig
from sigma_model.modeling import SigmaForCausalLM
from sigma_model.training.checkpoint import find_checkpoint, read_tensors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def export(source: Path, target: Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write the model of a training's newest checkpoint, or of the one in ``source``, to ``target``.

    safetensors, config.json and generation_config.json, with the tokenizer that the config names;
    weights in ``dtype`` (None: as they were trained, float32). Returns the checkpoint's folder. Raises
    ValueError where there is no complete checkpoint, or it is damaged.
    """
    checkpoint = find_checkpoint(source)
    write_model(checkpoint.path, checkpoint.state["config"], target, dtype)
    return checkpoint.path


def write_model(checkpoint: Path, config: dict, target: Path, dtype: torch.dtype | None = None) -> None:
    """As export, of a checkpoint that is known to be whole; ``config``: the one it holds."""
    shape = SigmaConfig(**config["model"])
    with torch.device("meta"):
        model = SigmaForCausalLM(shape)
    model.to_empty(device="cpu")
    # to_empty parts what was one tensor
    model.tie_weights()
    read_tensors(checkpoint, {f"model.{name}": p.data for name, p in model.named_parameters()})
    if dtype is not None:
        model.to(dtype)  # type: ignore[arg-type]
    ids = {"eos_token_id": shape.eos_token_id, "pad_token_id": shape.pad_token_id}
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(target)
    if config["tokenizer"]:
        for name in TOKENIZER_FILES:
            file = Path(config["tokenizer"]) / name
            if file.is_file():
                shutil.copyfile(file, target / name)


def read_model(folder: str, shape: SigmaConfig) -> SigmaForCausalLM:
    """The model of a Hugging Face folder in float32. Raises ValueError when it is not of ``shape``."""
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ValueError(
            f"init_from = {folder} holds no config.json; give a folder that `corpusmill export` wrote"
        )
    found, asked = (c.to_dict() for c in (SigmaConfig.from_pretrained(path), shape))
    for key in SHAPE_KEYS:
        if found[key] != asked[key]:
            raise ValueError(
                f"init_from = {folder} has {key} = {found[key]}, the config's model has {asked[key]}; "
                "make them agree"
            )
    return SigmaForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True)


SHAPE_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_q_heads", "num_k_heads",
    "num_v_heads", "head_dim", "k_head_dim", "v_head_dim", "aug_q_dim", "rope_theta", "rms_norm_eps",
    "tie_word_embeddings",
)  # fmt: skip
