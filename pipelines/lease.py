"""One driver a run: a lock that dies with its process, and a page that names the holder."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import socket
import time
from pathlib import Path

STALE_SECONDS = 120


class RunIsHeld(RuntimeError):
    """Another driver is on this run."""


class Lease:
    """Holds RUN/lease. The kernel lets go of the lock when the holder dies, however it dies.

    On a file system shared by several hosts whose locks do not reach that far, the heartbeat decides:
    a holder on another host counts as alive until it has been silent for STALE_SECONDS.
    """

    def __init__(self, run: Path):
        self.path = run / "lease"
        self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT), "r+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = self._read()
            self._file.close()
            raise RunIsHeld(_held(run, holder)) from None
        holder = self._read()
        silent = time.time() - holder.get("heartbeat", 0)
        if holder.get("host", socket.gethostname()) != socket.gethostname() and silent < STALE_SECONDS:
            self._file.close()
            raise RunIsHeld(_held(run, holder))
        self.since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.beat()

    def _read(self) -> dict:
        self._file.seek(0)
        try:
            return json.loads(self._file.read() or "{}")
        except ValueError:
            return {}

    def beat(self) -> None:
        """Say that we are alive; once every few seconds."""
        page = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self.since,
            "heartbeat": time.time(),
        }
        # in place, so that a full disk cannot tear it
        data = json.dumps(page).encode()
        os.pwrite(self._file.fileno(), data, 0)
        os.ftruncate(self._file.fileno(), len(data))

    def release(self) -> None:
        os.ftruncate(self._file.fileno(), 0)
        self._file.close()


def _held(run: Path, holder: dict) -> str:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
    since = f" since {holder['since']}" if "since" in holder else ""
    return (
        f"{run} is being run by {who}{since}: watch it with `corpusmill status {run}`, wait for it, or"
        " stop it with Ctrl-C there"
    )
