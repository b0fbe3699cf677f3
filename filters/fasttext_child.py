"""Train one fastText model in a process of its own: ``python -m filters.fasttext_child JSON``.

With one thread fastText sets only a tenth of its matrix and leaves the rest as the allocator gives
it: used memory there makes another model, or NaN. So a training gets a process of its own, where
large blocks come straight from the kernel, which hands out zeros. (glibc; elsewhere a fresh process
has to do.)

JSON is an object with ``parent`` (the process id that must stay alive),
``input``, ``model`` (paths) and ``options`` (of ``fasttext.train_supervised``).
"""

import ctypes
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
M_MMAP_THRESHOLD, M_PERTURB = -3, -6
# Bytes; the matrix must be larger.
FRESH_BLOCK = 1 << 16


def die_with(parent: int) -> None:
    """Ask Linux to kill this process when ``parent``, which started it, ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the request was made.
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which started this training, is gone")


def take_fresh_memory() -> None:
    """Let malloc take each block above FRESH_BLOCK from the kernel, and fill none by itself."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, FRESH_BLOCK)
        libc.mallopt(M_PERTURB, 0)


def main() -> None:
    arguments = json.loads(sys.argv[1])
    die_with(arguments["parent"])
    take_fresh_memory()
    import fasttext

    model = fasttext.train_supervised(input=arguments["input"], thread=1, verbose=0, **arguments["options"])
    model.save_model(arguments["model"])


if __name__ == "__main__":
    main()
