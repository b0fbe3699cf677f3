"""The attention kernels where the gate has no time: every dtype, head count and GPU, and Triton 3.6."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import triton

ROOT = Path(__file__).parents[2]
# as in the Makefile: a CPU build, from the index in use if it has one, else from PyTorch's own
TORCH = os.environ.get("TORCH", "torch==2.13.0")
INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
SUITES = ["tests/kernels/diffqkv", "tests/kernels/test_cross_entropy.py"]
Record = Callable[[str, object], None]
pytestmark = pytest.mark.proof


@pytest.fixture(scope="module")
def with_triton_3_6(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with torch, Triton 3.6 and a test runner, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("triton-3.6")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    if subprocess.run([*pip, f"{TORCH}+cpu"], stderr=subprocess.DEVNULL).returncode:
        subprocess.run([*pip, TORCH, "--index-url", INDEX], check=True)
    subprocess.run([*pip, "triton==3.6.0", "numpy<2.4", "pytest", "hypothesis"], check=True)
    return python


def run(python: str | Path, *arguments: str) -> str:
    """Its output; our sources from this checkout, nothing else on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [python, *arguments],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout


def check_resources(rows: list[dict]) -> str:
    """All fit; on sm_90 none spills but three query heads to a pair, which no model of ours has."""
    assert len(rows) > 40
    assert all(row["fits"] for row in rows), [row for row in rows if not row["fits"]]
    spilled = [row for row in rows if row["spills"]]
    wrong = [row for row in spilled if row["architecture"] == "sm_90" and row["heads"] != "24/4/8"]
    assert not wrong, wrong
    words = [f"{row['op']} {row['heads']} d {row['d_k']}/{row['d_v']} {row['dtype']}: {row['spills']} B"
             for row in spilled]  # fmt: skip
    return f"{len(rows)} kernels, spilled: {', '.join(words) or 'none'}"


def resources(python: str | Path, *options: str) -> list[dict]:
    out = run(python, "-m", "benchmarks.kernels.resources", "--json", *options)
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_every_dtype_and_head_count(architecture: str, record_property: Record) -> None:
    found = check_resources(resources(sys.executable, "--all", "--architecture", architecture))
    record_property("figure", f"Triton {triton.__version__}, {architecture}: {found}")


@pytest.mark.parametrize("options", [["--all", "--architecture", "sm_90"], ["--architecture", "sm_80"],
                                     ["--architecture", "sm_100"]], ids=" ".join)  # fmt: skip
def test_every_configuration_in_triton_3_6(
    with_triton_3_6: Path, options: list[str], record_property: Record
) -> None:
    """Of sm_90 every dtype and head count; of the others what we ship for Sigma's own shapes."""
    found = check_resources(resources(with_triton_3_6, *options))
    record_property("figure", f"Triton 3.6.0, {options[-1]}: {found}")


def test_the_suites_in_triton_3_6(with_triton_3_6: Path, record_property: Record) -> None:
    """Interpreted and compiled, with torch and Triton alone: no transformers, no pyarrow, no Ray."""
    out = run(with_triton_3_6, "-m", "pytest", "-q", "-m", "not proof", *SUITES)
    record_property("figure", f"Triton 3.6.0: {out.splitlines()[-1]}")


def test_the_benchmark_needs_torch_and_triton_alone(
    with_triton_3_6: Path, tmp_path: Path, record_property: Record
) -> None:
    run(with_triton_3_6, "-m", "benchmarks.kernels", "--tiny", "--out", str(tmp_path))
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".md", ".svg"}
    record_property("figure", "python -m benchmarks.kernels --tiny, with torch, Triton and NumPy installed")


def test_compiled_flex_attention_reads_the_wrong_v_heads(record_property: Record) -> None:
    """Why shapes are checked: it takes n_k != n_v without a word and never reads half of the V heads."""
    from torch.nn.attention.flex_attention import flex_attention

    from kernels.diffqkv.prefill import prefill_attention

    q, k = torch.randn(1, 8, 32, 16), torch.randn(1, 2, 32, 16)
    v = torch.arange(4.0)[None, :, None, None].expand(1, 4, 32, 16).contiguous()
    flex = torch.compile(flex_attention)(q, k, v, enable_gqa=True)
    by_k_head = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])
    torch.testing.assert_close(flex[0, :, 0, 0], by_k_head)
    packed = [x[0].transpose(0, 1).contiguous() for x in (q, k, v)]
    ours, _ = prefill_attention(*packed, torch.tensor([0, 32], dtype=torch.int32))
    torch.testing.assert_close(ours[0, :, 0], torch.tensor([0.0, 0, 1, 1, 2, 2, 3, 3]))
    record_property(
        "figure", f"torch {torch.__version__}: V heads read 0 0 0 0 1 1 1 1, right 0 0 1 1 2 2 3 3"
    )
