"""A folder somewhere: on this machine, on a shared file system, or in an object store.

Everything the engine writes goes through here. Nothing is ever renamed into place, because object
stores cannot: data files get unique names, and a small JSON file that names them is put last.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs


class DiskFull(OSError):
    """No room left where we write. The run stops with exit code 4 and resumes when there is room."""

    def __str__(self) -> str:
        return str(self.strerror)


class Folder:
    """The folder at ``uri``: a path, or any URI pyarrow.fs reads (file:, s3:, gs:, hdfs:)."""

    def __init__(self, uri: str | Path):
        self.uri = str(uri).rstrip("/")
        if "://" in self.uri:
            self.fs, self.root = pafs.FileSystem.from_uri(self.uri)
        else:
            self.fs, self.root = pafs.LocalFileSystem(), os.path.abspath(self.uri)
            self.uri = self.root
        self.is_local = isinstance(self.fs, pafs.LocalFileSystem)

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.uri}/{name}")

    def __str__(self) -> str:
        return self.uri

    def path(self, name: str) -> str:
        """The path of ``name`` as ``self.fs`` wants it."""
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes | None:
        """The bytes of ``name``, or None when it is not there."""
        try:
            with self.fs.open_input_stream(self.path(name), compression=None) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def read_json(self, name: str) -> Any | None:
        """The JSON value in ``name``, or None when it is not there or not whole."""
        data = self.read(name)
        try:
            return None if data is None else json.loads(data)
        except ValueError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Put ``data`` at ``name`` and flush it to the device. On a local disk the file appears whole."""
        try:
            if not self.is_local:
                with self.fs.open_output_stream(self.path(name), compression=None) as stream:
                    stream.write(data)
                return
            partial = self._write_partial(name, data)
            os.replace(partial, self.path(name))
        except OSError as error:
            raise _explain(error, self.path(name)) from error

    @contextmanager
    def writing(self, name: str, data: bytes) -> Iterator[None]:
        """:meth:`write` while the body runs: what it computes costs no time while the device flushes."""
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(self.write, name, data)
            yield
            written.result()

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Put ``data`` at ``name`` unless it exists; whether it was put. The first writer wins."""
        try:
            if not self.is_local:
                if self.exists(name):
                    return False
                self.write(name, data)
                return True
            partial = self._write_partial(name, data)
            try:
                os.link(partial, self.path(name))
                return True
            except FileExistsError:
                return False
            finally:
                os.unlink(partial)
        except OSError as error:
            raise _explain(error, self.path(name)) from error

    def _write_partial(self, name: str, data: bytes) -> str:
        target = self.path(name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        partial = f"{target}.{uuid.uuid4().hex[:8]}.partial"
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if os.path.exists(partial):
                os.unlink(partial)
            raise
        return partial

    def exists(self, name: str) -> bool:
        return self.fs.get_file_info(self.path(name)).type != pafs.FileType.NotFound

    def list(self, name: str = "") -> list[pafs.FileInfo]:
        """What lies directly in the folder ``name``, by name; empty when it does not exist."""
        selector = pafs.FileSelector(self.path(name).rstrip("/"), allow_not_found=True)
        return sorted(self.fs.get_file_info(selector), key=lambda info: info.base_name)

    def delete(self, name: str) -> None:
        info = self.fs.get_file_info(self.path(name))
        if info.type == pafs.FileType.Directory:
            self.fs.delete_dir(self.path(name))
        else:
            self.fs.delete_file(self.path(name))

    def local(self, name: str, cache: Path) -> Path:
        """A local path of the file ``name``: itself, or a copy in ``cache`` for an object store."""
        if self.is_local:
            return Path(self.path(name))
        copy = cache / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = self.read(name)
        if data is None:
            raise FileNotFoundError(f"{self.uri}/{name} is not there")
        copy.write_bytes(data)
        return copy


def matching_files(patterns: Iterable[str]) -> list[str]:
    """Absolute paths of the local files that any pattern matches, sorted; ValueError for one without any."""
    found: set[str] = set()
    for pattern in patterns:
        files = [file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file)]
        if not files:
            raise ValueError(f"paths: no file matches {pattern!r} (from {os.getcwd()})")
        found.update(os.path.abspath(file) for file in files)
    return sorted(found)


def is_full(error: OSError) -> bool:
    """Whether ``error`` says that a disk or a quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _explain(error: OSError, path: str) -> OSError:
    """The same error, told to a person: what, where, what to do."""
    if is_full(error):
        return DiskFull(error.errno, f"no room left to write {path}: free some space and run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionError(error.errno, f"cannot write {path}: the folder is read-only for this user")
    return error
