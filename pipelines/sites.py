"""Two real sites on loopback for the quickstart and the tests: ``python -m pipelines.sites``.

One is the interpreter's own documentation server (``pydoc``, standard library only), the other
serves the documentation that installed packages carry. Both die with the process that started them.
"""

from __future__ import annotations

import contextlib
import html
import http.server
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pipelines
from synth.child import die_with_parent

# pydoc imports what it shows: these open windows, browsers or other programs, or run tests.
PYDOC_DENY = (
    r"/(antigravity|this|idlelib|turtle\w*|tkinter|__main__|test|lib2to3)(\.[\w.]*)?\.html$",
    r"/(get|open|search)\?",
)
TEXT_SUFFIXES = {".html": "text/html", ".htm": "text/html", ".md": "text/plain"}
TEXT_SUFFIXES |= {".rst": "text/plain", ".txt": "text/plain"}
MIN_BYTES = 1024
_START_SECONDS = 30.0
_PYDOC = (
    "import ctypes, os, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, 9)\n"
    "if os.getppid() != int(sys.argv.pop()): os._exit(1)\n"
    "import pydoc; pydoc.cli()\n"
)


@dataclass(frozen=True)
class Sites:
    """Where the two sites are; each URL ends with "/"."""

    pydoc: str
    packages: str


@contextlib.contextmanager
def serve(pydoc_port: int = 0, packages_port: int = 0) -> Iterator[Sites]:
    """Start both sites, give their URLs when they answer, and stop them at the end.

    Port 0: any free one. A fixed port keeps the seeds, and so the fingerprint of a crawl, the same.
    Raises RuntimeError when a site does not start.
    """
    spare = free_ports(2)
    pydoc_port, packages_port = pydoc_port or spare[0], packages_port or spare[1]
    sites = Sites(f"http://127.0.0.1:{pydoc_port}/", f"http://127.0.0.1:{packages_port}/")
    with tempfile.TemporaryDirectory(prefix="corpusmill-sites-") as scratch:
        children: list[subprocess.Popen[bytes]] = []
        try:
            children.append(_start_pydoc(pydoc_port, scratch))
            children.append(_start_packages(packages_port, scratch))
            for child, url in zip(children, (sites.pydoc, sites.packages), strict=True):
                _wait(child, url)
            yield sites
        finally:
            for child in children:
                child.kill()
                child.communicate()


def documents() -> dict[str, Path]:
    """What the packages' site serves: {path of the URL: file}, in order.

    HTML, Markdown, reStructuredText and plain text of at least 1 kB in the installed packages, and
    each distribution's long description.
    """
    root = Path(sysconfig.get_paths()["purelib"])
    found = {}
    for file in root.rglob("*"):
        kind = file.suffix.lower() in TEXT_SUFFIXES or file.name == "METADATA"
        if kind and file.is_file() and file.stat().st_size >= MIN_BYTES:
            found["/" + file.relative_to(root).as_posix()] = file
    return dict(sorted(found.items()))


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as held:
        # all held at once: one that was let go may be given again
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _start_pydoc(port: int, scratch: str) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    arguments = ["-n", "127.0.0.1", "-p", str(port), str(os.getpid())]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PYDOC, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=scratch,
        env={**environment, "BROWSER": "true", "HOME": scratch},
        start_new_session=True,
    )


def _start_packages(port: int, scratch: str) -> subprocess.Popen[bytes]:
    root = str(Path(pipelines.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pipelines.sites", "packages", str(port), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=scratch,
        env={**os.environ, "PYTHONPATH": root},
        start_new_session=True,
    )


def _wait(child: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(
                (urllib.parse.urlsplit(url).hostname, urllib.parse.urlsplit(url).port), timeout=1
            ),
        ):
            return
        time.sleep(0.05)
    raise RuntimeError(
        f"the site {url} did not start within {_START_SECONDS:.0f} s (exit code {child.poll()}):"
        " is the port taken?"
    )


class _PackagesHandler(http.server.BaseHTTPRequestHandler):
    """robots.txt, an index that links every document, and the documents."""

    files: dict[str, Path]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path == "/robots.txt":
            self._answer(200, "text/plain; charset=utf-8", b"User-agent: *\nDisallow: /private/\n")
        elif path == "/":
            self._answer(200, "text/html; charset=utf-8", self._index().encode())
        elif path in self.files:
            kind = TEXT_SUFFIXES.get(self.files[path].suffix.lower(), "text/plain")
            self._answer(200, kind, self.files[path].read_bytes())
        else:
            self._answer(404, "text/plain; charset=utf-8", b"no such document\n")

    def _index(self) -> str:
        links = "\n".join(
            f'<li><a href="{urllib.parse.quote(path)}">{html.escape(path[1:])}</a></li>'
            for path in self.files
        )
        title = "Documentation of the installed packages"
        return f"<!doctype html><title>{title}</title><h1>{title}</h1>\n<ul>\n{links}\n</ul>\n"

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the crawl says what was asked."""


def _serve_packages(port: int) -> None:
    _PackagesHandler.files = documents()
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), _PackagesHandler) as server:
        server.serve_forever()


def main() -> None:
    if sys.argv[1:2] == ["packages"]:
        die_with_parent(int(sys.argv[3]))
        _serve_packages(int(sys.argv[2]))
        return
    ports = [int(port) for port in sys.argv[1:3]]
    with serve(*ports) as sites, contextlib.suppress(KeyboardInterrupt):
        print(json.dumps({"pydoc": sites.pydoc, "packages": sites.packages}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
