"""Ends what our local Ray leaves behind when its driver dies: ``python reaper.py PID ...``.

Ray's servers and workers die with the driver, but its agents linger for a minute. This process
waits for the end of its input, which comes when the driver ends, however it ends.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys

import psutil


def watch(processes: list[psutil.Process]) -> subprocess.Popen:
    """Start a reaper for ``processes``; it acts when its input is closed."""
    # -P: the folder of this file holds names of the standard library, as trace
    command = [sys.executable, "-P", __file__, *(str(process.pid) for process in processes)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def main() -> None:
    family = []
    for pid in sys.argv[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            family.append(psutil.Process(int(pid)))
    sys.stdin.buffer.read()
    for process in family:
        # psutil kills nobody else when the id was given to another process since
        with contextlib.suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    main()
