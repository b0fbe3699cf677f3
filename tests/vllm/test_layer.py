"""Our attention layer against vLLM's layer API: spec, page views, metadata, op."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")


def contract(*paths: Path) -> dict:
    """What layer_contract.py finds with the vLLM of ``paths``, or the installed one."""
    script = Path(__file__).with_name("layer_contract.py")
    env = {**os.environ, "VLLM_TARGET_DEVICE": "cpu", "TRITON_INTERPRET": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    env["PYTHONPATH"] = os.pathsep.join([*map(str, paths), *filter(None, [env.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_three_implementations_over_vllms_pages() -> None:
    found = contract()
    assert found["rotary"] < 1e-5
    rows = found["rows"]
    assert {row[0] for row in rows} == {"TorchBackend", "TritonBackend", "TritonAttentionDiffKVBackend"}
    assert {row[1] for row in rows} >= {"LBNHC", "LBHNC"}
    for backend, layout, shape, error, page, exact in rows:
        assert error < 2e-6, (backend, layout, shape)
        assert page == exact, (backend, layout, shape)


@pytest.mark.parametrize(
    ("heads", "ranks", "says"),
    [
        ((8, 4, 2), 1, "num_k_heads = 4 is above num_v_heads = 2"),
        ((8, 2, 4), 4, "tensor_parallel_size = 4: it must divide num_k_heads = 2"),
        ((32, 8, 16), 8, "be one of (1, 2, 4); use one of [1, 2, 4]"),
        ((12, 3, 6), 3, "tensor_parallel_size = 3"),
    ],
)
def test_refusals_say_the_rule(heads: tuple[int, int, int], ranks: int, says: str) -> None:
    from sigma_model.config import SigmaConfig
    from sigma_model.vllm_plugin.limits import check_servable

    q, k, v = heads
    config = SigmaConfig(hidden_size=16 * q, num_q_heads=q, num_k_heads=k, num_v_heads=v)
    with pytest.raises(ValueError) as error:
        check_servable(config, ranks)
    assert says in str(error.value)


def test_backends_of_a_gpu_are_chosen_by_vllms_own_option(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    from sigma_model.vllm_plugin import attention

    assert attention.choose_backend(None) is attention.TorchBackend
    monkeypatch.setattr(attention, "current_platform", SimpleNamespace(is_cpu=lambda: False))
    assert attention.choose_backend(None) is attention.TritonBackend
    assert attention.choose_backend(AttentionBackendEnum.CUSTOM) is attention.TritonBackend
    assert attention.choose_backend(AttentionBackendEnum.TRITON_ATTN_DIFFKV) is attention.StockBackend
    with pytest.raises(ValueError, match="FLASH_ATTN does not know heads of K and V apart"):
        attention.choose_backend(AttentionBackendEnum.FLASH_ATTN)
