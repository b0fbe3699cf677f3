"""A bare Ray cluster of another program, as ``ray start`` leaves it, is not joined."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from toy_runs import wait_for

PROBE = """
from pipelines import cluster
cluster.connect(None, 1)
import ray
print(ray.get_runtime_context().gcs_address)
cluster.disconnect()
"""


@pytest.mark.proof
def test_ray_start_is_not_joined(tmp_path: Path) -> None:
    """Neither through RAY_ADDRESS nor through the note that ``ray start`` leaves for others."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ray = Path(sys.executable).parent / "ray"
    port = "26379"
    with open(tmp_path / "out", "w") as out:
        head = subprocess.Popen(
            [
                ray,
                "start",
                "--head",
                "--block",
                f"--port={port}",
                "--num-cpus=1",
                "--include-dashboard=false",
            ],
            env={**plain, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=out,
            stderr=out,
        )
    try:
        wait_for(lambda: "Ray runtime started" in (tmp_path / "out").read_text(), 90)
        for extra in ({}, {"RAY_ADDRESS": f"127.0.0.1:{port}"}):
            result = subprocess.run(
                [sys.executable, "-c", PROBE],
                cwd=Path(__file__).parents[2],
                env={**plain, **extra},
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert result.returncode == 0, result.stderr
            assert not result.stdout.strip().endswith(f":{port}")
    finally:
        family = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(30)
        for process in family:
            if process.is_running():
                process.kill()
