"""The benchmark of prefill on a tiny problem: it checks before it times, and a wrong answer stops it."""

from __future__ import annotations

import torch

from benchmarks.kernels.prefill import problems, sweep
from benchmarks.kernels.providers import PROVIDERS, Provider, ours


def test_tiny_sweep() -> None:
    # FlexAttention takes a minute to compile here
    providers = {name: PROVIDERS[name] for name in PROVIDERS if not name.startswith("flex")}
    rows, red, refused = sweep(problems(tiny=True), providers)
    assert not red
    names = {row.name.split(": ")[1] for row in rows}
    assert {"ours", "flash, K repeated", "flash, K of stride 0", "ours, K heads as V"} <= names
    if not torch.cuda.is_available():
        assert any(who.startswith("cudnn") for who in refused)
    assert all(row.value > 0 and row.unit == "TFLOP/s" for row in rows)


def test_a_wrong_answer_gives_no_figures() -> None:
    def wrong_head(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ours(q, k, v.roll(1, dims=1))

    rows, red, _ = sweep(problems(tiny=True), {"ours": Provider(ours), "wrong": Provider(wrong_head)})
    assert not rows
    assert len(red) == 1 and red[0].startswith("wrong, 2 x 17") and "out is off by" in red[0]
