"""SigmaConfig: shapes, checks, the shipped configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sigma_model import SigmaConfig, SigmaForCausalLM
from sigma_model.config import read_model_config

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


@pytest.mark.parametrize(
    ("name", "billions"), [("sigma_1_5b", 2.021), ("sigma_10b", 9.988), ("std_1_5b", 1.571)]
)
def test_parameter_counts_of_the_paper_shapes(name: str, billions: float) -> None:
    with torch.device("meta"):
        model = SigmaForCausalLM(read_model_config(CONFIGS / f"{name}.yaml"))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e9, 3) == billions


def test_the_tiny_shape_has_all_of_diffqkv_and_the_tokenizers_vocabulary() -> None:
    config = read_model_config(CONFIGS / "sigma_tiny.yaml", tokenizer_vocab_size=8001)
    heads = {config.num_attention_heads, config.num_k_heads, config.num_v_heads}
    assert len(heads) == 3 and config.aug_q_dim > 0
    assert config.vocab_size == 8064


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_k_heads": 3}, "num_k_heads = 3 does not divide num_attention_heads = 32"),
        ({"num_attention_heads": 36, "head_dim": 64, "num_k_heads": 4, "num_v_heads": 6},
         "one must divide the other"),
        ({"hidden_size": 2050}, "hidden_size = 2050 is no multiple of num_attention_heads"),
        ({"k_head_dim": 128}, "k_head_dim = 128 is above head_dim = 64"),
        ({"k_head_dim": 31}, "k_head_dim = 31 must be even"),
        ({"vocab_size": 0}, "vocab_size = 0 must be an integer of at least 1"),
        ({"aug_q_dim": -1}, "aug_q_dim = -1"),
        ({"rope_theta": 0}, "rope_theta = 0 must be a number above 0"),
        ({"eos_token_id": 128_256}, "eos_token_id = 128256 lies outside the vocabulary"),
    ],
)  # fmt: skip
def test_a_wrong_shape_names_the_field(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SigmaConfig(**values)


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("num_value_heads: 4\n")
    with pytest.raises(ValueError, match="'num_value_heads'; did you mean 'num_v_heads'"):
        read_model_config(path)
    with pytest.raises(ValueError, match="vocab_size: null"):
        read_model_config({"vocab_size": None})
    with pytest.raises(ValueError, match="does not exist"):
        read_model_config(tmp_path / "absent.yaml")
