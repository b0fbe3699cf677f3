"""The quickstart's two sites."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.sites import PYDOC_DENY, documents, serve

ROOT = Path(__file__).parents[2]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode("utf-8", "replace")


def answers(url: str) -> bool:
    try:
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=1).close()
    except OSError:
        return False
    return True


def test_both_sites_have_pages_and_stop():
    with serve() as sites:
        assert "Index of Modules" in get(sites.pydoc)
        index = get(sites.packages)
        assert get(sites.packages + "robots.txt").startswith("User-agent: *")
        path = next(path for path in documents() if path.endswith(".dist-info/METADATA"))
        assert f'href="{path}"' in index
        assert get(sites.packages.rstrip("/") + path).startswith("Metadata-Version:")
    assert not answers(sites.pydoc) and not answers(sites.packages)


def test_both_sites_die_with_their_parent():
    parent = subprocess.Popen(
        [sys.executable, "-m", "pipelines.sites"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    sites = json.loads(parent.stdout.readline())
    assert answers(sites["pydoc"]) and answers(sites["packages"])
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while answers(sites["pydoc"]) or answers(sites["packages"]):
        assert time.monotonic() < deadline, "a site outlived its parent"
        time.sleep(0.1)


def test_modules_that_open_windows_are_denied():
    import re

    def denied(path: str) -> bool:
        return any(re.search(pattern, "http://127.0.0.1:1" + path) for pattern in PYDOC_DENY)

    for path in ("/antigravity.html", "/tkinter.ttk.html", "/turtledemo.html", "/test.html"):
        assert denied(path)
    for path in ("/json.html", "/unittest.html", "/thisisfine.html", "/topic?key=CLASSES"):
        assert not denied(path)
