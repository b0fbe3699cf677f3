"""The whole model: causality, document isolation, formats, generation, Auto classes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache

from sigma_model import SigmaConfig, SigmaForCausalLM, SigmaModel
from sigma_model.modeling import rope_angles, rotate

REPOSITORY = Path(__file__).parents[2]


def _config(**changes: object) -> SigmaConfig:
    shape = {
        "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_q_heads": 8, "num_k_heads": 2, "num_v_heads": 4, "head_dim": 8,
        "v_head_dim": 6, "aug_q_dim": 40, "rope_theta": 1000.0, "max_position_embeddings": 64,
        "initializer_range": 0.3, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    return SigmaConfig(**{**shape, **changes})


def _model(**changes: object) -> SigmaForCausalLM:
    torch.manual_seed(0)
    return SigmaForCausalLM(_config(**changes)).double().eval()


def _tokens(*shape: int) -> torch.Tensor:
    return torch.randint(1, 97, shape, generator=torch.Generator().manual_seed(1))


def _logits(model: SigmaForCausalLM, tokens: torch.Tensor, **more: object) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens, **more).logits


def test_module_names_are_the_contract() -> None:
    names = [name for name in _model(k_head_dim=4).state_dict() if "layers.1" in name]
    projections = ("q_proj", "q_gate_proj", "q_up_proj", "q_down_proj", "k_proj", "k_up_proj",
                   "v_proj", "o_proj")  # fmt: skip
    expected = [f"model.layers.1.self_attn.{name}.weight" for name in projections]
    expected += [f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    expected += ["model.layers.1.input_layernorm.weight"]
    expected += ["model.layers.1.post_attention_layernorm.weight"]
    assert names == expected


@pytest.mark.parametrize("changes", [{}, {"aug_q_dim": 0}, {"k_head_dim": 4}])
def test_the_fused_path_equals_the_naive_one(changes: dict) -> None:
    fused, naive = _model(**changes), _model(**changes)
    naive.set_attn_implementation("eager")
    assert naive.config._attn_implementation == "reference"
    tokens = _tokens(2, 13)
    torch.testing.assert_close(_logits(fused, tokens), _logits(naive, tokens), rtol=1e-10, atol=1e-10)


def test_augmented_q_is_the_gated_mlp_on_the_projected_q() -> None:
    attention = _model().model.layers[0].self_attn
    x = torch.randn(1, 3, 32, dtype=torch.float64)
    q = x @ attention.q_proj.weight.T
    gated = F.silu(q @ attention.q_gate_proj.weight.T) * (q @ attention.q_up_proj.weight.T)
    expected = (gated @ attention.q_down_proj.weight.T).view(1, 3, 8, 8)
    torch.testing.assert_close(attention.project_q(x), expected)


def test_narrow_k_gives_the_scores_of_k_mapped_up() -> None:
    attention = _model(k_head_dim=4).model.layers[0].self_attn
    x = torch.randn(1, 5, 32, dtype=torch.float64)
    q = attention.q_proj(x)
    q = attention.q_down_proj(F.silu(attention.q_gate_proj(q)) * attention.q_up_proj(q))
    k = attention.k_proj(x).view(1, 5, 2, 4)
    wide = torch.einsum("btkd,ked->btke", k, attention.k_up_proj.weight.view(2, 8, 4))
    expected = torch.einsum("bsqe,btqe->bqst", q.view(1, 5, 8, 8), wide.repeat_interleave(4, 2))
    folded = torch.einsum("bsqd,btqd->bqst", attention.project_q(x), k.repeat_interleave(4, 2))
    torch.testing.assert_close(folded, expected)


def test_rope_scores_depend_on_the_distance_only() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    scores = []
    for shift in (0, 17):
        positions = torch.tensor([[3 + shift]]), torch.tensor([[9 + shift]])
        turned = [rotate(x, rope_angles(p, 8, 100.0)) for x, p in zip((q, k), positions, strict=True)]
        scores.append((turned[0] * turned[1]).sum())
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-5)


def test_later_tokens_move_no_earlier_logits() -> None:
    model, tokens = _model(), _tokens(1, 12)
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 97
    before, after = _logits(model, tokens), _logits(model, changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_packed_documents_do_not_see_each_other() -> None:
    model = _model()
    documents = [_tokens(1, 5), _tokens(1, 9)[:, 2:], _tokens(1, 4)]
    packed = torch.cat(documents, dim=1)
    lengths = torch.tensor([document.shape[1] for document in documents])
    segments = torch.repeat_interleave(torch.arange(3), lengths)[None]
    positions = torch.cat([torch.arange(n) for n in lengths.tolist()])[None]
    together = _logits(model, packed, segment_ids=segments, position_ids=positions)
    alone = torch.cat([_logits(model, document) for document in documents], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    packed[0, 6] = (packed[0, 6] + 1) % 97
    moved = _logits(model, packed, segment_ids=segments, position_ids=positions) != together
    assert moved.any(dim=-1)[0].nonzero().flatten().tolist() == list(range(6, 12))


def test_left_padding_moves_no_logits() -> None:
    model, tokens = _model(), _tokens(1, 6)
    padded = F.pad(tokens, (3, 0))
    mask = F.pad(torch.ones_like(tokens), (3, 0))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ours = _logits(model, padded, attention_mask=mask, position_ids=positions)[:, 3:]
    torch.testing.assert_close(ours, _logits(model, tokens), rtol=1e-10, atol=1e-10)


def test_loss_is_the_shifted_cross_entropy() -> None:
    model, tokens = _model(), _tokens(2, 8)
    out = model(tokens, labels=tokens)
    expected = F.cross_entropy(out.logits[:, :-1].float().reshape(-1, 97), tokens[:, 1:].reshape(-1))
    torch.testing.assert_close(out.loss, expected)


def test_a_checkpoint_with_hugging_faces_name_of_the_query_heads(tmp_path: Path) -> None:
    model = _model(num_q_heads=4).float()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"num_q_heads"', '"num_attention_heads"'))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.num_q_heads == 4
    assert torch.equal(_logits(model, _tokens(2, 9)), _logits(loaded, _tokens(2, 9)))


@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load_bitwise(tied: bool, tmp_path: Path) -> None:
    model = _model(tie_word_embeddings=tied).float()
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(config, SigmaConfig) and isinstance(loaded, SigmaForCausalLM)
    assert (tmp_path / "model.safetensors").is_file()
    assert (config.num_k_heads, config.num_v_heads, config.v_head_dim) == (2, 4, 6)
    tied_now = loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    assert tied_now == tied
    assert torch.equal(_logits(model, _tokens(2, 9)), _logits(loaded, _tokens(2, 9)))
    assert isinstance(AutoModel.from_pretrained(tmp_path), SigmaModel)


def test_wrong_calls_say_what_to_do() -> None:
    model, tokens = _model(), _tokens(1, 4)
    with pytest.raises(ValueError, match="attention_mask has shape"):
        model(tokens, attention_mask=torch.ones(1, 1, 4, 4))
    cache = model(tokens, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="leave out the cache"):
        model(tokens, past_key_values=cache, segment_ids=torch.zeros_like(tokens))
    with pytest.raises(ValueError, match="one for each of the 4 positions in the cache and the 4 of"):
        model(tokens, past_key_values=cache, attention_mask=torch.ones(1, 4))
    with pytest.raises(ValueError, match="is a DynamicCache; .* PagedCache or ContiguousCache"):
        model(tokens, past_key_values=DynamicCache())


def _python(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY, timeout=120)


def test_importing_sigma_model_imports_neither_torch_nor_transformers() -> None:
    _python("import sys, sigma_model; assert not {'torch', 'transformers'} & set(sys.modules)")


def test_auto_classes_know_sigma_whichever_is_imported_first(tmp_path: Path) -> None:
    _config().save_pretrained(tmp_path)
    # AutoConfig's module is there before sigma_model, AutoModel's comes after it
    _python(f"""
from transformers import AutoConfig
import sigma_model
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained({str(tmp_path)!r}))
assert type(model).__name__ == "SigmaForCausalLM", model
""")
