"""A web site on loopback whose pages a test gives, and which remembers what it was asked."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest


@dataclass
class Answer:
    body: str | bytes = ""
    status: int = 200
    content_type: str | None = "text/html; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0


@dataclass
class Site:
    """``pages``: path -> fields of an Answer, text of a page, or a list of links; else 404."""

    pages: dict[str, dict | str | list[str]]
    wait: float = 0.0
    asked: list[tuple[float, str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return self.root + path

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        self.site.asked.append((time.monotonic(), self.path, str(self.headers)))
        found = self.site.pages.get(self.path, {"body": "nothing here", "status": 404})
        if isinstance(found, list):
            found = "<title>x</title>" + " ".join(f'<a href="{link}">x</a>' for link in found)
        answer = Answer(**found) if isinstance(found, dict) else Answer(found)
        time.sleep(self.site.wait + answer.wait)
        body = answer.body.encode() if isinstance(answer.body, str) else answer.body
        try:
            self.send_response(answer.status)
            if answer.content_type is not None:
                self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """A function that starts a Site and gives it back with its port."""
    servers = []

    def start(pages: dict, wait: float = 0.0) -> Site:
        site = Site(pages, wait)
        handler = type("Handler", (_Handler,), {"site": site})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        site.port = server.server_address[1]
        return site

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
