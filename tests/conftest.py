"""What every test may use: the toy stages on the path, and one local Ray for all in-process runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOYS = str(Path(__file__).parent / "toy_package")
# here for this process, in the environment for Ray's workers and for drivers of their own
sys.path.insert(0, TOYS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TOYS, os.environ.get("PYTHONPATH")]))
# the Triton kernels' tests run on the CPU, in its interpreter, which is chosen when they are first imported;
# on a GPU `python -m benchmarks.kernels` checks them
os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "proof: a long campaign, run by `make proof`, not by the gate")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[int]:
    """A local Ray with two cores, shared by the session; yields the number of cores."""
    from pipelines import cluster

    yield cluster.connect(None, 2)
    cluster.disconnect()
