"""SigmaConfig: shapes, checks, the shipped configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sigma_model import SigmaConfig, SigmaForCausalLM
from sigma_model.config import read_model_config
from sigma_model.counts import count_parameters, kv_cache_bytes_per_token
from sigma_model.shapes import model_rows

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


@pytest.mark.parametrize(
    ("name", "tied", "untied", "cache"),
    [
        ("sigma_1_5b", 2.021, 2.284, 65 * 1024),
        ("sigma_10b", 9.988, 10.513, 160 * 1024),
        ("std_1_5b", 1.571, 1.834, 104 * 1024),
    ],
)
def test_counts_of_the_paper_shapes(name: str, tied: float, untied: float, cache: int) -> None:
    for tie, billions in ((True, tied), (False, untied)):
        config = read_model_config(CONFIGS / f"{name}.yaml", tie_word_embeddings=tie)
        assert round(sum(count_parameters(config).values()) / 1e9, 3) == billions
        assert kv_cache_bytes_per_token(config) == cache


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": False}, {"aug_q_dim": 0}, {"k_head_dim": 4}, {"v_head_dim": 6},
     {"num_k_heads": 8, "num_v_heads": 1, "k_head_dim": 2, "aug_q_dim": 0}],
)  # fmt: skip
def test_arithmetic_counts_what_the_module_has(changes: dict) -> None:
    shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
             "num_q_heads": 8, "num_k_heads": 2, "num_v_heads": 4, "head_dim": 8,
             "aug_q_dim": 40}  # fmt: skip
    config = SigmaConfig(**{**shape, **changes})
    with torch.device("meta"):
        model = SigmaForCausalLM(config)
    assert sum(count_parameters(config).values()) == sum(p.numel() for p in model.parameters())


def test_every_ablation_row_is_a_shape() -> None:
    path = CONFIGS / "ablations.yaml"
    models = {row: read_model_config(f"{path}:{row}") for row in model_rows(path)}
    assert len(models) == 28
    # the paper: about 1 B; augmented Q alone takes 1.04 B to 1.45 B, as much as a wider FFN does
    outside = {
        row: sum(parts.values()) - parts["embedding"]
        for row, parts in ((row, count_parameters(config)) for row, config in models.items())
    }
    assert round(outside["gqa16"] / 1e9, 2) == 1.04
    assert round(outside["gqa16_augq3072"] / 1e9, 2) == 1.45
    assert outside["gqa16_augq3072"] == outside["gqa16_ffn1d"]
    with pytest.raises(ValueError, match="has no row 'gqa16_nk5'; give a row, as .*:gqa16_nk4"):
        read_model_config(f"{path}:gqa16_nk5")
    with pytest.raises(ValueError, match="give a row, as .*:mha"):
        read_model_config(path)
    with pytest.raises(ValueError, match="is one model, it has no row 'mha'"):
        read_model_config(f"{CONFIGS / 'sigma_tiny.yaml'}:mha")


def test_hugging_faces_name_of_the_query_heads() -> None:
    config = SigmaConfig(num_attention_heads=16, head_dim=64)
    assert config.num_q_heads == config.num_attention_heads == 16
    assert "num_q_heads" in config.to_dict() and "num_attention_heads" not in config.to_dict()
    with pytest.raises(ValueError, match="'num_attention_heads'; did you mean 'num_q_heads'"):
        read_model_config({"num_attention_heads": 16})


def test_the_tiny_shape_has_all_of_diffqkv_and_the_tokenizers_vocabulary() -> None:
    config = read_model_config(CONFIGS / "sigma_tiny.yaml", tokenizer_vocab_size=8001)
    heads = {config.num_q_heads, config.num_k_heads, config.num_v_heads}
    assert len(heads) == 3 and config.aug_q_dim > 0
    assert config.vocab_size == 8064


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_k_heads": 3}, "num_k_heads = 3 does not divide num_q_heads = 32"),
        ({"num_q_heads": 36, "head_dim": 64, "num_k_heads": 4, "num_v_heads": 6},
         "one must divide the other"),
        ({"hidden_size": 2050}, "hidden_size = 2050 is no multiple of num_q_heads"),
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
