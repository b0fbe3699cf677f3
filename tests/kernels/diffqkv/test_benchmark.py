"""The benchmark on tiny problems: it checks before it times, and a wrong answer gets no figure."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.kernels import decode, prefill, selective, tolerance
from benchmarks.kernels.decode import over_pages
from benchmarks.kernels.measure import Ceilings
from benchmarks.kernels.report import write
from benchmarks.kernels.sweep import Area, Found, Provider, run
from kernels.diffqkv.decode import decode_attention

ROOT = Path(__file__).parents[3]
ONE = Ceilings(1e12, 1e9)


def found_in(area: Area, seconds: float = 600.0) -> Found:
    found = Found()
    run([area], ONE, seconds, found)
    return found


@pytest.mark.parametrize("module", [prefill, decode, selective])
def test_tiny_area(module: object, tmp_path: Path) -> None:
    area: Area = module.area(tiny=True)  # type: ignore[attr-defined]
    found = found_in(area)
    assert not found.wrong and not found.dropped
    timed = {x.provider for x in found.figures}
    # of what has no CPU backend somebody says so; FlexAttention takes a minute to compile there
    refused = {who.split(",")[0] for who in found.refused}
    assert refused <= {"cudnn", "varlen"}
    assert {name for name in area.providers if name.startswith(("ours", "flash", "top", "V"))} == timed
    assert all(x.milliseconds > 0 and x.p20 <= x.milliseconds <= x.p80 for x in found.figures)
    assert all(0 < x.error < 1e-5 for x in found.figures if x.provider.startswith(("ours", "top")))

    paths = write(tmp_path, "kernels", found, ONE, {"date": "today"})
    with open(paths[0]) as file:
        assert len(list(csv.DictReader(file))) == len(found.figures)
    page = paths[1].read_text()
    assert all(name in page for name in timed)
    circles = ElementTree.parse(paths[2]).findall(".//{*}circle")
    assert len(circles) == sum(x.tflops > 0 for x in found.figures) + len(timed)


def test_a_wrong_answer_gives_no_figure() -> None:
    def wrong_head(q, k_pages, v_pages, *rest, **options):  # type: ignore[no-untyped-def]
        return decode_attention(q, k_pages, v_pages.roll(1, dims=2), *rest, **options)

    area = decode.area(tiny=True)
    providers = {"ours": area.providers["ours"], "wrong": Provider(over_pages(wrong_head), decode.errors)}
    found = found_in(replace(area, providers=providers))
    assert {x.provider for x in found.figures} == {"ours"}
    assert list(found.wrong) == ["wrong, " + area.problems[0].name]
    assert "out is off by" in found.wrong["wrong, " + area.problems[0].name]


def test_without_time_problems_are_dropped_and_named() -> None:
    area = decode.area(tiny=True)
    found = found_in(area, seconds=-1.0)
    assert not found.figures and found.dropped == [f"decode, {area.problems[0].name}"]


def test_every_gpu_problem_is_named_once_and_fits() -> None:
    for module in (prefill, decode, selective):
        problems = module.problems(tiny=False)
        assert len({problem.name for problem in problems}) == len(problems)
    assert all(problem.bytes <= decode.MOST_BYTES for problem in decode.problems(tiny=False))


def test_tolerance() -> None:
    checks = list(tolerance.checks("cpu"))
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]
    ops = {"prefill", "decode", "extend", "top-k", "bounded", "append", "cross-entropy"}
    assert {check.op for check in checks} == ops


def test_tolerance_sees_a_wrong_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(tolerance, "kv_append", lambda *_: None)
    monkeypatch.setattr(tolerance, "_prefill", lambda *_: iter(()))
    monkeypatch.setattr(tolerance, "_over_pages", lambda *_: iter(()))
    monkeypatch.setattr(tolerance, "_same_bits", lambda *_: iter(()))
    assert not tolerance.report("cpu")
    assert "WRONG: append, 4/1/2" in capsys.readouterr().out


def test_needs_torch_and_triton_alone() -> None:
    """Of what else the project depends on nothing is imported."""
    program = """
import sys
import benchmarks.kernels.__main__
others = {"numba", "pyarrow", "transformers", "safetensors", "ray", "vllm", "pydantic", "datatrove", "yaml",
          "pandas", "matplotlib", "plotly", "rich", "typer", "tokenizers", "sigma_model", "pipelines"}
print(sorted(others & set(sys.modules)))
"""
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tolerance_on_a_gpu() -> None:
    """bfloat16, compiled; in a process of its own, since this one has the interpreter."""
    command = [sys.executable, "-m", "benchmarks.kernels", "--only", "tolerance"]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    assert subprocess.run(command, cwd=ROOT, env=environment).returncode == 0
