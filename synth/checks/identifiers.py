"""thin"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from synth.checks.base import Batch, Verdicts


@dataclass(frozen=True, kw_only=True)
class Identifiers:
    """No flag, option, path, number, name or URL that the source lacks."""

    check: ClassVar = "identifiers"
    adds: ClassVar[dict[str, str]] = {"synth_invented": "int32"}

    def run(self, batch: Batch) -> Verdicts:
        return batch.each(lambda row: None)
