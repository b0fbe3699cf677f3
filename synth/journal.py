"""What was answered, on disk before it counts: nothing that was recorded is ever asked again.

A line a completion, with a checksum; a line torn by a crash, and what follows it, is cut off.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import zlib
from pathlib import Path

from synth.engine import Completion


class Journal:
    """Completions by request key, in the file ``path``. One writer at a time; close it at the end."""

    def __init__(self, path: Path):
        self.path = path
        self.done: dict[str, Completion] = {}
        good = self._read()
        self._file = open(path, "ab")  # noqa: SIM115
        self._file.truncate(good)
        self._lines: list[bytes] = []
        self._flushed: asyncio.Future | None = None
        self._writing: asyncio.Task | None = None

    def _read(self) -> int:
        """Take in what is there; the bytes of it that are whole."""
        good = 0
        if not self.path.exists():
            return good
        with open(self.path, "rb") as file:
            for line in file:
                crc, _, body = line.partition(b" ")
                if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(body):
                    break
                page = json.loads(body)
                key = page.pop("key")
                self.done[key] = Completion(**page)
                good += len(line)
        return good

    async def record(self, key: str, completion: Completion) -> None:
        """Returns when it is on the disk. Those that come at once share one flush."""
        body = json.dumps({"key": key, **dataclasses.asdict(completion)}).encode() + b"\n"
        self._lines.append(b"%08x %s" % (zlib.crc32(body), body))
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        flushed = self._flushed
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await flushed
        self.done[key] = completion

    async def _write(self) -> None:
        try:
            while self._flushed is not None:
                lines, self._lines = self._lines, []
                flushed, self._flushed = self._flushed, None
                try:
                    await asyncio.to_thread(self._append, b"".join(lines))
                except OSError as error:
                    flushed.set_exception(error)
                else:
                    flushed.set_result(None)
        finally:
            self._writing = None

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
