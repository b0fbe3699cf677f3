"""The benchmark of decode on a tiny problem: it checks before it times, and a wrong answer stops it."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.kernels.decode import problems, sweep
from benchmarks.kernels.decode_providers import EXACT, SELECTIVE, Call, Problem, over_pages
from kernels.diffqkv.decode import decode_attention

# FlexAttention takes a minute to compile on a CPU
PROVIDERS = {name: prepare for name, prepare in EXACT.items() if not name.startswith("flex")}


def test_tiny_sweep() -> None:
    cases = problems(tiny=True, selective=False)
    rows, red, refused = sweep([*cases, replace(cases[0], skewed=True)], PROVIDERS, "flash, K repeated")
    assert not red
    names = {row.name.split(": ")[1] for row in rows}
    exact = {"ours", "ours, fused pages", "ours, K heads as V", "flash, K repeated", "flash, K of stride 0"}
    assert exact <= names
    assert all(row.value > 0 for row in rows)
    skewed = [who for who in refused if who.endswith("skewed")]
    assert len(skewed) == 3 and not any(who.startswith("ours") for who in skewed)
    if not torch.cuda.is_available():
        assert any(who.startswith("cudnn") for who in refused)


def test_tiny_selective_sweep() -> None:
    providers = {"ours": EXACT["ours"], **SELECTIVE}
    rows, red, refused = sweep(problems(tiny=True, selective=True), providers, "ours")
    assert not red and not refused
    assert len(rows) == 2 * len(providers)


def test_a_wrong_answer_gives_no_figures() -> None:
    def wrong_head(problem: Problem) -> Call:
        def attend(q, k_pages, v_pages, *rest, **options):  # type: ignore[no-untyped-def]
            return decode_attention(q, k_pages, v_pages.roll(1, dims=2), *rest, **options)

        return over_pages(attend)(problem)

    providers = {"ours": EXACT["ours"], "wrong": wrong_head}
    rows, red, _ = sweep(problems(tiny=True, selective=False), providers, "ours")
    assert not rows
    assert len(red) == 1 and red[0].startswith("wrong, 2 x 37") and "off by" in red[0]
