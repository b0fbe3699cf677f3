"""The attention backend switch: it switches, says what it took, and refuses aloud."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sigma_model import SigmaConfig, SigmaForCausalLM
from sigma_model.attention import sdpa_attention
from sigma_model.backends import BACKENDS, SigmaBackend, backend_name, choose_backend

REPOSITORY = Path(__file__).parents[2]
TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_q_heads": 8, "num_k_heads": 2, "num_v_heads": 4, "head_dim": 24, "k_head_dim": 16,
    "aug_q_dim": 40, "max_position_embeddings": 64, "initializer_range": 0.1, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip


def _model() -> SigmaForCausalLM:
    torch.manual_seed(0)
    return SigmaForCausalLM(SigmaConfig(**TINY)).eval()


def test_the_switch_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = _model().double(), torch.arange(1, 10)[None]
    seen = []
    for backend in BACKENDS.values():
        attend, name = backend.attend, backend.name
        monkeypatch.setattr(
            backend, "attend", lambda *args, a=attend, n=name: seen.append(n) or a(*args), raising=False
        )
    for asked, taken in (("reference", "reference"), ("eager", "reference"), ("sdpa", "sdpa")):
        model.set_attn_implementation(asked)
        seen.clear()
        model(tokens)
        assert seen == [taken] * 2


def test_auto_says_what_it_took_and_why_not_the_others(caplog: pytest.LogCaptureFixture) -> None:
    choose_backend.cache_clear()
    model, tokens = _model().double(), torch.arange(1, 10)[None]
    with caplog.at_level(logging.INFO, logger="sigma_model.backends"):
        model(tokens)
        model(tokens)
    (line,) = caplog.messages
    assert line.startswith(
        "attention on cpu in torch.float64: sdpa; not sigma (its kernels have not been timed"
    )
    assert "not cudnn, else sdpa (cuDNN needs an NVIDIA GPU" in line


def test_auto_on_a_gpu_takes_cudnn_and_says_when_cudnn_does_not_take_a_call(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This torch's cuDNN takes no tensors of a CPU: a call that it refuses."""
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    choose_backend.cache_clear()
    auto = choose_backend("auto", 64, 64, "cuda", torch.bfloat16)
    assert auto.name == "cudnn, else sdpa"
    assert choose_backend("auto", 64, 256, "cuda", torch.bfloat16).name == "sdpa"
    assert choose_backend("auto", 64, 64, "cuda", torch.float32).name == "sdpa"
    q, k, v = torch.randn(1, 8, 5, 16), torch.randn(1, 2, 5, 16), torch.randn(1, 4, 5, 24)
    for _ in range(2):
        out = auto.attend_whole(q, k, v, None, 0.25)
    assert torch.equal(out, sdpa_attention(q, k, v, None, 0.25))
    lines = [line for line in caplog.messages if "cuDNN does not take this attention" in line]
    assert len(lines) == 1 and lines[0].startswith("attention of this call by sdpa")
    with pytest.raises(ValueError, match="cuDNN does not take this attention"):
        BACKENDS["cudnn"].attend_whole(q, k, v, None, 0.25)


def test_a_backend_asked_for_by_name_runs_or_raises() -> None:
    model, tokens = _model().double(), torch.arange(1, 10)[None]
    for name, reason in (("cudnn", "cuDNN needs an NVIDIA GPU"), ("sigma", "must be float16, bfloat16")):
        model.set_attn_implementation(name)
        with pytest.raises(ValueError, match=f"{name!r} cannot run here: {name} \\(.*{reason}.*use 'auto'"):
            model(tokens)
    with pytest.raises(ValueError, match="'flash_attention_2' is none of Sigma's: use 'auto' or one of"):
        model.set_attn_implementation("flash_attention_2")
    with pytest.raises(ValueError, match="none of Sigma's"):
        SigmaForCausalLM._from_config(SigmaConfig(**TINY), attn_implementation="flex_attention")
    with pytest.raises(ValueError, match="k_head_dim must be a multiple of 8"):
        choose_backend("sigma", 12, 16, "cuda", torch.bfloat16)
    cudnn = BACKENDS["cudnn"].refusal
    assert "not torch.float32" in str(cudnn(64, 64, "cuda", torch.float32)) or "no cuDNN" in str(
        cudnn(64, 64, "cuda", torch.float32)
    )
    assert backend_name(None) == "auto"


def test_bounds_of_sequences() -> None:
    def bounds(segments: list | None, mask: list | None) -> list[int]:
        tensors = [None if rows is None else torch.tensor(rows) for rows in (segments, mask)]
        plan = SigmaBackend.plan(2, 4, torch.device("cpu"), tensors[0], tensors[1], None)
        assert plan.cu_seqlens is not None
        return plan.cu_seqlens.tolist()

    assert bounds(None, None) == [0, 4, 8]
    assert bounds([[0, 0, 1, 1], [1, 1, 1, 2]], None) == [0, 2, 4, 7, 8]
    assert bounds(None, [[0, 0, 1, 1], [1, 1, 1, 1]]) == [0, 2, 4, 8]
    assert bounds([[0, 0, 1, 1], [0, 0, 0, 0]], [[1, 1, 1, 0], [1, 1, 1, 1]]) == [0, 2, 3, 4, 8]
    with pytest.raises(ValueError, match="padding between tokens"):
        bounds(None, [[1, 0, 1, 1], [1, 1, 1, 1]])


def test_the_kernels_are_the_reference_in_the_whole_model() -> None:
    """Generation with both caches, packed documents and gradients, in Triton's interpreter."""
    program = f"""
import torch
from sigma_model import SigmaConfig, SigmaForCausalLM
from sigma_model.cache import ContiguousCache, PagedCache
torch.manual_seed(0)
config = SigmaConfig(**{TINY!r})
model = SigmaForCausalLM(config).eval()
ids = torch.tensor([[0, 0, 5, 6, 7], [11, 12, 13, 14, 15]])
prompts = dict(input_ids=ids, attention_mask=torch.tensor([[0, 0, 1, 1, 1], [1] * 5]))
more = dict(max_new_tokens=5, do_sample=False)
model.set_attn_implementation("reference")
known = model.generate(**prompts, use_cache=False, **more)
model.set_attn_implementation("sigma")
PagedCache.append = None  # it is the kernel that writes
for cache in (PagedCache(config, page_size=4), ContiguousCache(config, 2, 10)):
    assert torch.equal(model.generate(**prompts, past_key_values=cache, **more), known)
segments = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 2, 2]])
gradients = []
for name in ("reference", "sigma"):
    model.set_attn_implementation(name)
    model.zero_grad()
    model(ids, segment_ids=segments, labels=ids).loss.backward()
    gradients.append([parameter.grad for parameter in model.parameters()])
for known, ours in zip(*gradients):
    assert (ours - known).norm() <= 1e-5 * known.norm(), ((ours - known).norm(), known.norm())
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY, timeout=300, env=environment)
