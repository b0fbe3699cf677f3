"""An OpenAI server as a process of its own, and its family."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

CORPUSMILL = [sys.executable, "-m", "pipelines.cli"]
# on tensors this small a second thread gains nothing, and on a busy machine it waits for its turn
ONE_THREAD = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
VLLM = [sys.executable, "-m", "vllm.entrypoints.cli.main"]


class Server:
    """A running server; its output goes to a file."""

    def __init__(self, command: list[str], url: str, log: Path, **env: str) -> None:
        self.url, self.log = url, log
        # the tests' own Triton setting is not the server's
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", **ONE_THREAD, **env}
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    # an engine starts in half a minute, on a machine that is busy elsewhere in ten
    def wait_until_healthy(self, seconds: float = 900) -> None:
        end = time.monotonic() + seconds
        while not self.healthy():
            assert self.process.poll() is None and time.monotonic() < end, self.output()
            time.sleep(0.3)

    def output(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, how: signal.Signals, seconds: float) -> tuple[int, list[psutil.Process]]:
        """Send a signal; the exit code, and what of the family still lives ``seconds`` later."""
        family = self.family()
        self.process.send_signal(how)
        _, left = psutil.wait_procs(family, timeout=seconds)
        return self.process.wait(60), left


@contextlib.contextmanager
def server(command: list[str], url: str, log: Path, **env: str) -> Iterator[Server]:
    """A healthy server, ended with all its family afterwards."""
    running = Server(command, url, log, **env)
    try:
        running.wait_until_healthy()
        yield running
    finally:
        if running.process.poll() is None:
            _, left = running.end(signal.SIGTERM, 15)
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
