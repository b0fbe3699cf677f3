"""What a host allows: robots.txt by RFC 9309, and what its absence or failure means."""

from __future__ import annotations

import json
from dataclasses import dataclass

from protego import Protego

from pipelines.warc import Record

# RFC 9309, 2.5: at least 500 KiB must be parsed.
MAX_BYTES = 512 << 10


@dataclass(frozen=True)
class RobotsAnswer:
    """What came back for robots.txt: an HTTP status, or 0 and the error when there was none."""

    status: int
    text: str = ""
    error: str = ""

    def record(self) -> dict:
        """As it is kept in the WARC part, for a resumed crawl and for whoever asks why."""
        return {"robots": self.status, "text": self.text, "error": self.error}

    @classmethod
    def read(cls, record: Record) -> RobotsAnswer | None:
        """The answer in a metadata record of a part; None if the record is about something else."""
        value = json.loads(record.body)
        return cls(value["robots"], value["text"], value["error"]) if "robots" in value else None


class Robots:
    """The rules of one host.

    2xx: what the file says. 4xx (but 429) and a redirect that leads nowhere: all is allowed. 5xx,
    429, a timeout or no connection: nothing is, for we cannot know what the host wants. A host that
    asks for more than ``max_delay`` seconds between requests is not crawled at all.
    """

    def __init__(self, answer: RobotsAnswer, user_agent: str, max_delay: float):
        self._agent = user_agent.partition("/")[0]
        self._rules = Protego.parse(answer.text if 200 <= answer.status < 300 else "")
        self.delay = float(self._rules.crawl_delay(self._agent) or 0)
        failed = answer.status == 0 or answer.status == 429 or answer.status >= 500
        self._closed = failed or self.delay > max_delay

    def allows(self, url: str) -> bool:
        return not self._closed and self._rules.can_fetch(url, self._agent)
