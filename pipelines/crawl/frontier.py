"""The order of a crawl: breadth first, and the same after any number of interruptions."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.crawl.urls import Answer

# Redirects of redirects followed on one level; a longer chain goes on one level deeper.
MAX_HOPS = 5


class Frontier:
    """Level by level from the seeds; inside a level in waves, inside a wave in order of URL.

    Level d holds the URLs whose shortest path from the seeds is d links. A redirect is not a link:
    its target is on the level of its source, in that level's next wave. ``max_pages`` counts URLs
    asked (whatever came back) in exactly that order, so the set of URLs is a function of the seeds,
    the limits and the answers; it does not depend on timing or on interruptions.
    """

    def __init__(self, seeds: Iterable[str], max_pages: int, max_depth: int):
        self.depth = -1
        self.asked = 0
        self._max_pages = max_pages
        self._max_depth = max_depth
        self._seen: set[str] = set()
        self._links: set[str] = set(seeds)
        self._redirects: set[str] = set()
        self._hops = 0

    def next_wave(self) -> list[str]:
        """New URLs in order, each given once in a crawl; empty when the crawl is complete."""
        if self.asked >= self._max_pages:
            return []
        wave, self._redirects = self._redirects - self._seen, set()
        if wave and self._hops < MAX_HOPS:
            self._hops += 1
        elif self.depth < self._max_depth:
            wave, self._links = (self._links | wave) - self._seen, set()
            self._hops = 0
            self.depth += 1
        else:
            return []
        self._seen |= wave
        return sorted(wave)

    def admit(self, urls: list[str]) -> list[str]:
        """Those of a wave (robots.txt may have taken some out) that ``max_pages`` still lets in."""
        admitted = urls[: self._max_pages - self.asked]
        self.asked += len(admitted)
        return admitted

    def add(self, answer: Answer) -> None:
        """Take in where a URL of the current wave led."""
        self._links.update(answer.links)
        if answer.redirect is not None:
            self._redirects.add(answer.redirect)
