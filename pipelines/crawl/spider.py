"""The Scrapy process of a crawl: ``python -m pipelines.crawl.spider``, started by stage.py.

Input, a line of JSON each: first the job, then {"committed": n} when n parts are safe. Output, a
line of JSON each: {"part": path}, then {"end": true} or {"error": text}. It closes a part and goes
on, but never has more than one part waiting: with two uncommitted parts it stops asking for pages.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import traceback
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

import scrapy
from scrapy import signals
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.exceptions import StopDownload
from scrapy.http import Response

from pipelines.crawl.frontier import Frontier
from pipelines.crawl.guard import guard_reactor
from pipelines.crawl.robots import MAX_BYTES, Robots, RobotsAnswer
from pipelines.crawl.stage import Crawl
from pipelines.crawl.urls import Answer, answer_of, host_of, origin_of
from pipelines.warc import PartWriter, read_records
from synth.child import die_with_parent

MAX_ROBOTS_HOPS = 5
MAX_IN_FLIGHT = 256
PROGRESS_SECONDS = 5.0


@dataclass
class Recorded:
    """What the committed parts say: the crawl's whole state."""

    answers: dict[str, Answer] = field(default_factory=dict)
    robots: dict[str, RobotsAnswer] = field(default_factory=dict)
    rows: int = 0

    def read(self, part: Path, crawl: Crawl) -> None:
        """Take in one part. A damaged record answers nothing: its URL is asked again."""
        scope = crawl.scope()
        for record in read_records(part):
            if record.kind == "response":
                self.answers[record.url] = answer_of(record, scope)
                self.rows += 1
            elif record.kind == "metadata":
                robots = RobotsAnswer.read(record)
                if robots is None:
                    self.answers[record.url] = Answer()
                else:
                    self.robots[origin_of(record.url)] = robots


class Parts:
    """Writes records, closes parts, announces them, and says when to wait for a commit."""

    def __init__(self, crawl: Crawl, folder: Path, output: int):
        self._crawl = crawl
        self._folder = folder
        self._output = output
        self._name = f"crawl-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        self._count = 0
        self._waiting = 0
        self._part: PartWriter | None = None
        self._opened = 0.0
        self.room = asyncio.Event()
        self.room.set()

    def open_part(self) -> PartWriter:
        """The part being written, a new one if the last was closed."""
        if self._part is None:
            path = self._folder / f"{self._name}-{self._count:05d}.warc.gz"
            info = {"software": "CorpusMill", "format": "WARC File Format 1.1"}
            info["http-header-user-agent"] = self._crawl.user_agent
            info["robots"] = "obey" if self._crawl.obey_robots else "ignore"
            self._part = PartWriter(path, info)
            self._count += 1
            self._opened = time.monotonic()
        return self._part

    def close_if_due(self) -> None:
        """Close the part that is full, or old enough that more should not be at risk."""
        part = self._part
        if part is not None and (
            part.rows >= self._crawl.part_pages
            or part.size >= self._crawl.part_bytes
            or time.monotonic() - self._opened >= self._crawl.part_seconds
        ):
            self.close()

    def close(self) -> None:
        if self._part is None:
            return
        path, self._part = self._part.close(), None
        self._waiting += 1
        if self._waiting > 1:
            self.room.clear()
        self.say({"part": str(path)})

    def committed(self, count: int) -> None:
        self._waiting -= count
        if self._waiting <= 1:
            self.room.set()

    def say(self, message: dict) -> None:
        os.write(self._output, json.dumps(message).encode() + b"\n")


class CrawlSpider(scrapy.Spider):
    """Drives Scrapy's downloader through the frontier, wave by wave."""

    name = "corpusmill"

    def __init__(self, crawl: Crawl, recorded: Recorded, parts: Parts):
        super().__init__()
        self.crawl = crawl
        self.recorded = recorded
        self.parts = parts
        self.scope = crawl.scope()
        self.robots: dict[str, Robots] = {}
        self.frontier = Frontier(crawl.canonical_seeds(), crawl.max_pages, crawl.max_depth)
        self.fetched = 0
        self.failures: list[str] = []
        self.in_flight = asyncio.Semaphore(MAX_IN_FLIGHT)

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs) -> CrawlSpider:
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.headers_received, signal=signals.headers_received)
        return spider

    async def start(self) -> AsyncIterator[scrapy.Request]:
        """The whole crawl runs here; Scrapy's scheduler has nothing to do."""
        threading.Thread(
            target=_follow_commits, args=(asyncio.get_running_loop(), self.parts), daemon=True
        ).start()
        clock = asyncio.create_task(self._tick())
        try:
            await self._waves()
            if not self.recorded.rows:
                raise RuntimeError(f"no page was fetched: {'; '.join(self.failures[:3])}")
            self.parts.close()
            self.parts.say({"end": True})
        except Exception as error:
            text = str(error) if type(error) is RuntimeError else traceback.format_exc()
            self.parts.say({"error": text})
        finally:
            clock.cancel()
        return
        yield  # Scrapy wants an asynchronous generator

    async def _waves(self) -> None:
        while wave := self.frontier.next_wave():
            await self._read_robots({origin_of(url) for url in wave})
            allowed = [url for url in wave if self._allowed(url)]
            admitted = self.frontier.admit(allowed)
            queues: dict[str, list[str]] = defaultdict(list)
            for url in reversed(admitted):
                if url not in self.recorded.answers:
                    queues[host_of(url)].append(url)
            workers = [queue for queue in queues.values() for _ in range(self.crawl.concurrency)]
            await asyncio.gather(*(self._work(queue) for queue in workers))
            for url in admitted:
                self.frontier.add(self.recorded.answers[url])

    def _allowed(self, url: str) -> bool:
        if not self.crawl.obey_robots or self.robots[origin_of(url)].allows(url):
            return True
        self.failures.append(f"{url}: robots.txt does not allow it, or could not be read")
        return False

    async def _work(self, queue: list[str]) -> None:
        while queue:
            await self.parts.room.wait()
            if queue:
                await self._fetch(queue.pop())

    async def _fetch(self, url: str) -> None:
        try:
            async with self.in_flight:
                response = await self._download(url)
        except Exception as error:
            text = f"{type(error).__name__}: {error}".strip(": ")
            self.failures.append(f"{url}: {text}")
            self.parts.open_part().metadata(url, {"failed": text})
            self.recorded.answers[url] = Answer()
            return
        stopped = "download_stopped" in response.flags
        body = b"" if stopped else response.body
        headers = [
            (_ascii(name), _ascii(value)) for name, values in response.headers.items() for value in values
        ]
        record = self.parts.open_part().response(
            url, response.status, headers, body, "unspecified" if stopped else ""
        )
        self.recorded.answers[url] = answer_of(record, self.scope)
        self.recorded.rows += 1
        self.fetched += 1
        self.parts.close_if_due()

    async def _download(self, url: str, **meta: object) -> Response:
        request = scrapy.Request(url, meta={"download_slot": host_of(url), **meta})
        return await self.crawler.engine.download_async(request)

    def headers_received(self, headers, body_length, request, spider) -> None:
        """Do not take the body of what will not be kept."""
        kind = (headers.get("Content-Type") or b"").split(b";")[0].strip().lower().decode("latin-1")
        if kind and kind not in self.crawl.content_types and "robots" not in request.meta:
            raise StopDownload(fail=False)

    async def _read_robots(self, origins: set[str]) -> None:
        if self.crawl.obey_robots:
            new = sorted(origins - set(self.robots))
            await asyncio.gather(*(self._robots_of(origin) for origin in new))

    async def _robots_of(self, origin: str) -> None:
        answer = self.recorded.robots.get(origin)
        if answer is None:
            url = f"{origin}/robots.txt"
            answer = await self._ask_robots(url)
            self.parts.open_part().metadata(url, answer.record())
        self.robots[origin] = Robots(answer, self.crawl.user_agent, self.crawl.max_crawl_delay)
        if (delay := self.robots[origin].delay) > self.crawl.delay:
            host = host_of(origin)
            downloader = self.crawler.engine.downloader
            downloader.per_slot_settings[host] = {"delay": delay}
            if host in downloader.slots:
                downloader.slots[host].delay = delay

    async def _ask_robots(self, url: str) -> RobotsAnswer:
        try:
            for _ in range(MAX_ROBOTS_HOPS + 1):
                response = await self._download(url, robots=True)
                if not 300 <= response.status < 400:
                    break
                target = response.headers.get("Location") or b""
                url = urljoin(url, target.decode("latin-1"))
                if host_of(url) not in self.scope.hosts:
                    break
        except Exception as error:
            return RobotsAnswer(0, error=f"{type(error).__name__}: {error}")
        text = response.body[:MAX_BYTES].decode("utf-8-sig", errors="replace")
        return RobotsAnswer(response.status, text if response.status < 300 else "")

    async def _tick(self) -> None:
        """Close parts by time, and tell the log how it goes."""
        last, before = time.monotonic(), 0
        while True:
            await asyncio.sleep(min(1.0, self.crawl.part_seconds))
            if self.recorded.rows:
                self.parts.close_if_due()
            if (now := time.monotonic()) - last >= PROGRESS_SECONDS:
                rate = (self.fetched - before) / (now - last)
                print(
                    f"crawl: {self.fetched} pages fetched, {self.frontier.asked} asked in all,"
                    f" depth {self.frontier.depth}, {len(self.failures)} failed or refused,"
                    f" {rate:.1f} pages/s",
                    file=sys.stderr,
                )
                last, before = now, self.fetched


def _ascii(value: bytes) -> str:
    """A header as WARC writers keep it: what is not printable ASCII percent-encoded."""
    return "".join(chr(byte) if 32 <= byte < 127 else f"%{byte:02X}" for byte in value)


def _follow_commits(loop: asyncio.AbstractEventLoop, parts: Parts) -> None:
    """Runs in a thread. The end of our input means that the parent is gone: so are we."""
    for line in sys.stdin:
        loop.call_soon_threadsafe(parts.committed, json.loads(line)["committed"])
    os._exit(1)


def scrapy_settings(crawl: Crawl) -> dict:
    """Nothing but the downloader: the frontier, robots.txt and redirects are ours."""
    return {
        "USER_AGENT": crawl.user_agent,
        "DOWNLOAD_DELAY": crawl.delay,
        "DOWNLOAD_DELAY_JITTER": 0,
        "CONCURRENT_REQUESTS_PER_DOMAIN": crawl.concurrency,
        "DOWNLOAD_TIMEOUT": crawl.timeout,
        "DOWNLOAD_MAXSIZE": crawl.max_body_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "RETRY_TIMES": crawl.retries,
        "RETRY_GIVE_UP_LOG_LEVEL": "INFO",
        "COOKIES_ENABLED": False,
        "REDIRECT_ENABLED": False,
        "METAREFRESH_ENABLED": False,
        "HTTPPROXY_ENABLED": False,
        "ROBOTSTXT_OBEY": False,
        "TELNETCONSOLE_ENABLED": False,
        "LOG_LEVEL": "WARNING",
    }


def main() -> None:
    # Whoever prints must not break the protocol: lines go through a descriptor of our own.
    output = os.dup(1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    die_with_parent(job["parent"])
    crawl = Crawl.from_json(job["crawl"])
    recorded = Recorded()
    for part in job["committed"]:
        recorded.read(Path(part), crawl)
    process = AsyncCrawlerProcess(scrapy_settings(crawl))
    from twisted.internet import reactor  # the reactor is installed by the line above

    if not crawl.allow_private_addresses:
        guard_reactor(reactor)
    parts = Parts(crawl, Path(job["folder"]), output)
    process.crawl(CrawlSpider, crawl=crawl, recorded=recorded, parts=parts)
    process.start(install_signal_handlers=False)


if __name__ == "__main__":
    main()
