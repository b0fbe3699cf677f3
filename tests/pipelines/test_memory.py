import sys

import numpy as np
import pytest

from pipelines.memory import forget_peak, peak_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process's peak")
def test_the_peak_is_that_since_it_was_forgotten():
    forget_peak()
    before = peak_bytes()
    block = np.ones(50_000_000, np.uint8)
    held = peak_bytes()
    assert held - before > 45_000_000
    del block
    forget_peak()
    assert peak_bytes() < held - 45_000_000
