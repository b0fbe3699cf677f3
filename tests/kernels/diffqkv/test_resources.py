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
    ops = ("prefill", "prefill_dq", "prefill_dkdv")
    rows = resources("--architecture", "sm_90", *(word for op in ops for word in ("--op", op)))
    assert {row["op"] for row in rows} == set(ops)
    for row in rows:
        assert row["spills"] == 0 and row["fits"], row
        assert "atomic" not in row["instructions"], row
        assert "cp.async" in row["instructions"], row
        # at 256 dims the accumulators of dK and dV leave room for tiles of 32 keys, too few for wgmma
        wide_gradient = row["op"] == "prefill_dkdv" and row["d_v"] == 256
        assert ("mma" if wide_gradient else "wgmma") in row["instructions"], row


def test_hopper_over_pages() -> None:
    """The same; every K and V tile comes by async copies, as many stages ahead as the configuration says."""
    ops = ("decode", "extend", "topk_decode", "bounded_decode", "kv_append")
    rows = resources("--architecture", "sm_90", *(word for op in ops for word in ("--op", op)))
    assert {row["op"] for row in rows} == set(ops)
    for row in rows:
        assert row["spills"] == 0 and row["fits"], row
        assert "atomic" not in row["instructions"], row
        if row["kernel"] == "attend_split":
            k_and_v_tiles = 5 if row["op"] == "decode" else 2
            # each tile is at least one copy and its commit, for every stage
            assert row["instructions"]["cp.async"] >= 2 * k_and_v_tiles * row["stages"], row
            assert ("mma" if row["op"] == "decode" else "wgmma") in row["instructions"], row
        if row["kernel"] == "score_split":
            assert row["instructions"]["cp.async"] >= 2 * row["stages"], row


def test_every_model_of_ours_is_in_the_table() -> None:
    """Heads and widths of all files in configs/model."""
    yaml = pytest.importorskip("yaml")
    program = """
import json
from benchmarks.kernels.resources import cases
print(json.dumps([case[:2] for case in cases(True)]))
"""
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    compiled = [tuple(map(tuple, shape)) for shape in json.loads(said)]
    for path in (ROOT / "configs" / "model").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        for row in values.get("rows", {"": {}}).values():
            model = {**values, **values.get("common", {}), **row}
            dim = model["head_dim"]
            shape = (
                tuple(model[f"num_{kind}_heads"] for kind in "qkv"),
                (model.get("k_head_dim", dim), model.get("v_head_dim", dim)),
            )
            assert shape in compiled, (path.name, shape)
