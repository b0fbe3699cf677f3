"""The helpers of this folder on the path, for these tests and for what they start."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
