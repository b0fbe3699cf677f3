"""thin"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from synth.checks.base import Batch, Verdicts


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """Fenced blocks of shell, JSON, YAML and KQL can be read as such."""

    check: ClassVar = "syntax"
    adds: ClassVar[dict[str, str]] = {}

    def run(self, batch: Batch) -> Verdicts:
        return batch.each(lambda row: None)
