import subprocess
import sys

import pytest

# in a process of its own: a long test run has freed memory that a new array would lie in
SCRIPT = """
import numpy as np
from pipelines.memory import forget_peak, peak_bytes
forget_peak()
before = peak_bytes()
block = np.ones(50_000_000, np.uint8)
held = peak_bytes()
del block
forget_peak()
print(before, held, peak_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process's peak")
def test_the_peak_is_that_since_it_was_forgotten():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, held, after = map(int, done.stdout.split())
    assert held - before > 45_000_000
    assert after < held - 45_000_000
