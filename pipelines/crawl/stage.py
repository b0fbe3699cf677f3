"""The stages ``crawl`` (the web -> WARC parts) and ``read_warc`` (WARC files as they are)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import pipelines
from pipelines.crawl.urls import Scope, canonical, host_of
from pipelines.storage import matching_files


@dataclass(frozen=True, kw_only=True)
class Crawl:
    """Fetch pages from seed URLs, politely, breadth first; every answer is kept in WARC parts.

    The committed parts are the whole state. A crawl that was killed reads them and goes on: what
    they hold is never asked again (also errors, redirects and robots.txt), and the set of URLs is
    that of an unbroken crawl: see pipelines/crawl/frontier.py for the order and the limits.
    """

    stage: ClassVar[str] = "crawl"
    shape: ClassVar[str] = "source"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "recorded"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {}
    output: ClassVar[str] = "warc"
    needs: ClassVar[tuple[str, ...]] = ()
    adds: ClassVar[dict[str, str]] = {}

    seeds: tuple[str, ...]
    """URLs to start from; they need not match allow or deny."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that may be asked, as "host" or "host:port"; empty: those of the seeds."""
    max_pages: int = 1000
    """URLs to ask at most, whatever comes back; cut in order of (level, redirect wave, URL)."""
    max_depth: int = 10
    """Links to follow from a seed at most; 0: the seeds alone."""
    allow: tuple[str, ...] = ()
    """Regular expressions; a link is followed if one is found in its URL. Empty: all links."""
    deny: tuple[str, ...] = ()
    """Regular expressions; a link is not followed if one is found in its URL."""
    delay: float = 1.0
    """Seconds between two requests to a host; a larger Crawl-delay in robots.txt wins."""
    concurrency: int = 2
    """Requests in flight to one host."""
    obey_robots: bool = True
    """Keep to robots.txt. Absent (4xx): all allowed; unreadable (5xx, 429, timeout): nothing is."""
    max_crawl_delay: float = 60.0
    """A host that asks for a longer Crawl-delay (seconds) is not crawled."""
    user_agent: str = "CorpusMill"
    """Who asks, with a way to reach you, as "NameBot/1.0 (+https://example.org/bot)"."""
    timeout: float = 30.0
    """Seconds for one request, from connecting to the last byte."""
    retries: int = 1
    """Times a request is repeated after a failed connection, 429 or 5xx."""
    max_body_bytes: int = 16 << 20
    """A longer body, packed or unpacked, is a failure; nothing of it is kept."""
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml", "text/plain")
    """Media types whose bodies are taken; of others the headers alone are kept."""
    part_pages: int = 64
    """A part is closed, and so committed, after this many pages ..."""
    part_bytes: int = 64 << 20
    """... or this many bytes ..."""
    part_seconds: float = 30.0
    """... or this long after it was opened. What is not committed is asked again after a crash."""
    allow_private_addresses: bool = False
    """Let loopback, private and link-local addresses be dialled: your own network, or a test."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("seeds is empty: give at least one URL to start from")
        for name in ("allow", "deny"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    text = f"{name}: {pattern!r} is no regular expression: {error}"
                    raise ValueError(text) from error
        for seed in self.seeds:
            url = canonical(seed)
            if url is None:
                raise ValueError(f"seeds: {seed!r} is not an http:// or https:// URL with a host")
            if host_of(url) not in self.scope().hosts:
                raise ValueError(f"seeds: the host of {seed!r} is missing in allowed_hosts")
        for name in ("max_depth", "delay", "retries", "max_crawl_delay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must not be negative")
        positive = ("max_pages", "concurrency", "timeout", "max_body_bytes", "part_pages")
        for name in (*positive, "part_bytes", "part_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be positive")
        if not self.user_agent.isascii() or not self.user_agent.isprintable():
            raise ValueError("user_agent must be printable ASCII")
        if not self.allow_private_addresses and not re.search(r"@|https?://", self.user_agent):
            raise ValueError(
                f"user_agent {self.user_agent!r} names no way to reach you: add an address, as in"
                ' "NameBot/1.0 (+https://example.org/bot)"'
            )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Crawl:
        """The stage from ``dataclasses.asdict`` after a trip through JSON."""
        fields: dict[str, Any] = {
            name: tuple(field) if isinstance(field, list) else field for name, field in value.items()
        }
        return cls(**fields)

    def canonical_seeds(self) -> list[str]:
        return [url for seed in self.seeds if (url := canonical(seed)) is not None]

    def scope(self) -> Scope:
        hosts = self.allowed_hosts or tuple(host_of(url) for url in self.canonical_seeds())
        return Scope(
            hosts=frozenset(host.lower() for host in hosts),
            allow=tuple(re.compile(pattern) for pattern in self.allow),
            deny=tuple(re.compile(pattern) for pattern in self.deny),
        )

    def items(self) -> list[dict]:
        """One work item: limits and order hold for the crawl as a whole."""
        return [{}]

    def read(self, args: dict, committed: list[Path]) -> Iterator[Path]:
        """Closed parts, each to be committed before the next is asked for.

        ``committed``: all parts of earlier attempts. Raises RuntimeError when no page at all could
        be fetched, or when the crawl's process ended early.
        """
        with tempfile.TemporaryDirectory(prefix="corpusmill-crawl-") as folder:
            job = {
                "crawl": dataclasses.asdict(self),
                "committed": [str(path) for path in committed],
                "folder": folder,
                "parent": os.getpid(),
            }
            child = _start_spider()
            assert child.stdin is not None and child.stdout is not None
            try:
                _send(child.stdin, job)
                complete = False
                for line in child.stdout:
                    message = json.loads(line)
                    if "error" in message:
                        raise RuntimeError(f"the crawl failed: {message['error']}")
                    complete = "end" in message
                    if "part" in message:
                        part = Path(message["part"])
                        yield part
                        part.unlink(missing_ok=True)
                        _send(child.stdin, {"committed": 1})
                if not complete:
                    raise RuntimeError(
                        f"the crawl's process ended early with exit code {child.wait()}:"
                        " run again, it goes on from the last committed part"
                    )
            finally:
                child.kill()
                child.wait()
                child.stdout.close()
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.close()


@dataclass(frozen=True, kw_only=True)
class ReadWarc:
    """Take WARC files as they are (a frozen crawl, Common Crawl), one work item a file."""

    stage: ClassVar[str] = "read_warc"
    shape: ClassVar[str] = "source"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "exact"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {}
    output: ClassVar[str] = "warc"
    needs: ClassVar[tuple[str, ...]] = ()
    adds: ClassVar[dict[str, str]] = {}

    paths: tuple[str, ...]
    """Files or patterns (``crawl/*.warc.gz``, ``**`` for any depth) on this machine."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("paths is empty: name at least one WARC file or pattern")

    def items(self) -> list[dict]:
        """One item a file, in order of name, with the hash of what it held when planned."""
        return [{"path": file, "sha256": _sha256(file)} for file in matching_files(self.paths)]

    def read(self, args: dict, committed: list[Path]) -> Iterator[Path]:
        """The file itself, once; ValueError if it is not what it was when the run was planned."""
        if committed:
            return
        if _sha256(args["path"]) != args["sha256"]:
            raise ValueError(f"{args['path']} changed after the run was planned: plan a new run")
        yield Path(args["path"])


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _start_spider() -> subprocess.Popen[bytes]:
    """Scrapy in a process of its own: a reactor starts only once. Not in our process group, so that
    Ctrl-C does not end a crawl behind the engine's back."""
    root = str(Path(pipelines.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pipelines.crawl.spider"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def _send(child_input: IO[bytes], message: dict) -> None:
    # A child that has already ended needs no answer; its last words are read from its output.
    with contextlib.suppress(BrokenPipeError):
        child_input.write(json.dumps(message).encode() + b"\n")
        child_input.flush()
