"""Where compiled kernels are kept: by the content of our sources, so that every checkout, every worker
of a node and every session of a cluster share them, and a changed source can never meet an old one.

Numba looks at a kernel's own file only, its path and its time: it would go on using a kernel when a
function that it calls changes in another file, and compile anew for each copy of the sources.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import UserProvidedCacheLocator

_HERE = Path(__file__).parent
_UNUSED_SECONDS = 30 * 24 * 3600


def root() -> Path:
    """The folder of all states of our sources: NUMBA_CACHE_DIR, else one of the user's."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(numba.config.CACHE_DIR or f"{home}/corpusmill") / "kernels"


@cache
def folder() -> Path:
    """The folder of this state of our sources, and of the choice between block and portable kernels."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(_HERE.glob("*.py")):
        digest.update(path.read_bytes())
    from kernels.text.simd import BLOCKS

    digest.update(bytes([BLOCKS]))
    return root() / digest.hexdigest()


class ByContent(UserProvidedCacheLocator):
    """Numba's locator for the kernels of this package; other functions are left to Numba's own."""

    def __init__(self, py_func: Any, py_file: str):
        self._py_file, self._lineno = py_file, py_func.__code__.co_firstlineno
        self._cache_path = str(folder())

    def get_source_stamp(self) -> str:
        return folder().name

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> ByContent | None:
        if Path(py_file).parent != _HERE:
            return None
        locator = cls(py_func, py_file)
        try:
            locator.ensure_cache_path()
        except OSError:
            return None
        return locator


def warm_once() -> None:
    """Compile every kernel unless this machine has them: one process does, the others wait for it."""
    done = folder() / f"warm-{numba.__version__}"
    if done.exists():
        return
    from kernels.text.warm import warm

    try:
        folder().mkdir(parents=True, exist_ok=True)
        with open(folder() / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                warm()
                done.touch()
                _forget_unused()
    except OSError:
        return  # nowhere to keep them: each process compiles what it uses


def _forget_unused() -> None:
    """Remove what states of our sources left that were not warmed for a month."""
    for state in root().iterdir():
        if state != folder() and time.time() - state.stat().st_mtime > _UNUSED_SECONDS:
            shutil.rmtree(state, ignore_errors=True)
