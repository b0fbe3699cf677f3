"""Every shipped launch configuration, compiled for its GPU without one: registers, memory, instructions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def resources(*options: str) -> list[dict[str, Any]]:
    """Rows of the table; in a process of its own, since this one may have the interpreter."""
    command = [sys.executable, "-m", "benchmarks.kernels.resources", "--json", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_hopper() -> None:
    """No spills, in the shared memory of a block, on the tensor cores, loads under way beside the work."""
    rows = resources("--architecture", "sm_90")
    assert {"prefill", "prefill_dq", "prefill_dkdv"} <= {row["op"] for row in rows}
    for row in rows:
        assert row["spills"] == 0 and row["fits"], row
        assert "atomic" not in row["instructions"], row
        if row["op"].startswith("prefill"):
            assert "cp.async" in row["instructions"], row
            # at 256 dims the accumulators of dK and dV leave room for tiles of 32 keys, too few for wgmma
            wide_gradient = row["op"] == "prefill_dkdv" and row["d_v"] == 256
            assert ("mma" if wide_gradient else "wgmma") in row["instructions"], row


@pytest.mark.proof
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_every_dtype_and_head_count(architecture: str) -> None:
    rows = resources("--architecture", architecture, "--all")
    assert {row["dtype"] for row in rows} == {"bfloat16", "float16", "float32"}
    for row in rows:
        assert row["fits"], row
        if architecture == "sm_90":
            assert row["spills"] == 0, row
