"""What the kernels refuse, by name, and what others answer wrongly instead."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kernels.diffqkv.configs import INTERPRETED, TABLE, architecture, launch_for
from kernels.diffqkv.prefill import prefill_attention
from kernels.diffqkv.shapes import Heads

CU = torch.tensor([0, 4], dtype=torch.int32)


def _tensor(heads: int, dim: int = 16, tokens: int = 4) -> torch.Tensor:
    return torch.zeros(tokens, heads, dim)


REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("num_q_heads must be divisible by num_k_heads: 8 is not a multiple of 3", lambda: Heads(8, 3, 1)),
    ("num_q_heads must be divisible by num_v_heads: 8 is not a multiple of 5", lambda: Heads(8, 2, 5)),
    ("num_k_heads must divide num_v_heads or num_v_heads divide", lambda: Heads(24, 4, 6)),
    ("head counts must be at least 1", lambda: Heads(8, 0, 1)),
    ("k_head_dim must be a multiple of 8 from 16 to 256, not 20", lambda: _call(d=20)),
    ("k_head_dim must be a multiple of 8 from 16 to 256, not 8", lambda: _call(d=8)),
    ("v_head_dim must be a multiple of 8 from 16 to 256, not 264", lambda: _call(e=264)),
    ("q and k must have the same head dim, not 16 and 24", lambda: _call(k=_tensor(2, 24))),
    ("q, k and v must have the same tokens, not 4, 5 and 4", lambda: _call(k=_tensor(2, tokens=5))),
    ("v has 4 units, but 2 K heads and 4 V heads make 2", lambda: _call(v=torch.zeros(4, 4, 1, 16))),
    ("k must have the dtype of q", lambda: _call(k=_tensor(2).half())),
    ("q must be float16, bfloat16 or float32", lambda: _call(q=_tensor(8).double())),
    ("bfloat16", lambda: prefill_attention(*[_tensor(n).bfloat16() for n in (8, 2, 4)], CU)),
    ("the last axis of k must have stride 1, not 4", lambda: _call(k=torch.zeros(2, 16, 4).permute(2, 0, 1))),
    ("k must be on the device of q, cpu, not meta", lambda: _call(k=_tensor(2).to("meta"))),
    ("cu_seqlens must be int32 or int64", lambda: _call(cu=CU.float())),
    ("cu_seqlens must have 1 axes", lambda: _call(cu=CU[None])),
    ("cu_seqlens must have at least two entries", lambda: _call(cu=CU[:1])),
    ("cu_seqlens must rise from 0 to the number of tokens, 4", lambda: _call(cu=CU - 1)),
    ("softmax_scale must be positive", lambda: prefill_attention(*_qkv(), CU, -1.0)),
    ("the 2 query heads that share K and V must lie within 2**31 elements", lambda: _far_apart()),
    ("float32 is taken up to 128", lambda: launch_for("prefill_dq", 256, 256, torch.float32, "sm_90")),
]


def _qkv() -> list[torch.Tensor]:
    return [_tensor(8), _tensor(2), _tensor(4)]


def _far_apart() -> object:
    """Query heads 2**30 elements apart; with no tokens that takes no memory."""
    q = torch.empty(0).as_strided((0, 8, 16), (16, 2**30, 1))
    return _call(q=q, k=_tensor(2, tokens=0), v=_tensor(4, tokens=0), cu=CU * 0)


def _call(
    d: int = 16,
    e: int = 16,
    q: torch.Tensor | None = None,
    k: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    cu: torch.Tensor = CU,
) -> object:
    q = _tensor(8, d) if q is None else q
    k = _tensor(2, d) if k is None else k
    v = _tensor(4, e) if v is None else v
    return prefill_attention(q, k, v, cu)


@pytest.mark.parametrize(("rule", "call"), REFUSED, ids=[rule for rule, _ in REFUSED])
def test_refused_with_the_rule(rule: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert rule in str(error.value)


def test_heads_count_units_and_pairs() -> None:
    sigma, swapped = Heads(32, 4, 16), Heads(32, 16, 4)
    for heads in (sigma, swapped):
        assert (heads.num_units, heads.num_pairs, heads.pairs_per_unit) == (4, 16, 4)
        assert (heads.q_per_pair, heads.q_per_unit) == (2, 8)


def test_every_op_has_a_launch_for_every_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    for (op, width, _), rows in TABLE.items():
        assert set(rows) == {"sm_80", "sm_90", "sm_100"}, (op, width)
        assert op in INTERPRETED
    monkeypatch.setattr("kernels.diffqkv.configs.interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(ValueError, match="no launch configurations for sm_86: the kernels know sm_80"):
        architecture(torch.device("cuda"))
