"""A run's folder and its process: one run at a time, signals, which code it is."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Hold the folder ``output``, made if need be. Raises ValueError when another run holds it."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"output = {output} is a file; give a folder")
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another training run is writing to {output}; wait for it, or use "
                             "another output folder") from None  # fmt: skip
        yield


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """A callable that tells whether SIGINT or SIGTERM came; a second one acts as usual."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(number, before[number])

    # Python sets signal handlers in the main thread only
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def code_revision() -> str:
    """Our git revision with "+changes" where there are any, or the installed version."""
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        git = ["git", "-C", str(root)]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
            changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, check=True)
            return revision.stdout.strip() + ("+changes" if changes.stdout else "")
    try:
        return importlib.metadata.version("corpusmill")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
