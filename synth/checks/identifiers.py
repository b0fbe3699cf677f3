"""The check against invention: what a new document names, its source has to name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from synth.checks.base import Batch, Verdicts
from synth.checks.mentions import Mention, Source, mentions

Kind = Literal["flag", "url", "path", "number", "name"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Identifiers:
    """No flag, option, path, URL, number, or name of code that the source lacks.

    A number has to come in the source's unit: 1 minute is not in a source that says 60 seconds.
    """

    check: ClassVar = "identifiers"
    adds: ClassVar[dict[str, str]] = {"synth_mentions": "int32", "synth_invented": "int32"}

    kinds: tuple[Kind, ...] = KINDS
    """What is looked at."""
    most: int = 0
    """So many inventions may pass."""
    allow: tuple[str, ...] = ()
    """Names that need not stand in the source, as written."""

    def run(self, batch: Batch) -> Verdicts:
        sources: dict[int, Source] = {}
        counts, invented = [0] * len(batch.texts), [0] * len(batch.texts)

        def judge(row: int) -> str | None:
            at = int(batch.source_row[row])
            source = sources.get(at) or sources.setdefault(at, Source(batch.source(row)))
            found = {one for one in mentions(batch.texts[row]) if one.kind in self.kinds}
            wrong = [mention for mention in found if self._is_invented(mention, source)]
            counts[row], invented[row] = len(found), len(wrong)
            return _say(wrong) if len(wrong) > self.most else None

        verdicts = batch.each(judge)
        verdicts.measured = {"synth_mentions": counts, "synth_invented": invented}
        return verdicts

    def _is_invented(self, mention: Mention, source: Source) -> bool:
        return mention.text not in self.allow and not source.knows(mention)


def _say(wrong: list[Mention]) -> str:
    kinds = sorted({f"{mention.kind} {mention.text}" for mention in wrong})
    more = f" and {len(kinds) - 5} more" if len(kinds) > 5 else ""
    return "the source has no " + ", ".join(kinds[:5]) + more
