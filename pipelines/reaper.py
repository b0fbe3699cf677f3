"""Ends what our local Ray leaves behind when its driver dies: ``python reaper.py FAMILY RAY``.

Ray's servers and workers die with the driver, but its agents linger for a minute. This process
watches what descends from the driver, its parent, and waits for the end of its input, which comes
when the driver ends, however it ends. Then it kills those of Ray's processes that it has seen, what
descends from them, and those with our family's name in their environment: one that was just being
started has it, and one that has written another title over its environment was seen before.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
import uuid

import psutil

VARIABLE = "CORPUSMILL_FAMILY"
STARTING_SECONDS = 30  # while Ray starts we look four times a second, later every two
PATIENCE_SECONDS = 10


def watch(ray_folder: str) -> subprocess.Popen:
    """Start a reaper for the Ray, installed in ``ray_folder``, that this process starts from now on."""
    os.environ[VARIABLE] = family = uuid.uuid4().hex
    # -P: the folder of this file holds names of the standard library, as trace
    command = [sys.executable, "-P", __file__, family, ray_folder]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def descendants(processes: set[psutil.Process]) -> set[psutil.Process]:
    """``processes`` that live, and all that descends from them, without this one."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found |= {process, *process.children(recursive=True)}
    # psutil compares start times too: a number that was given away again is another process
    return {p for p in found if p.pid != os.getpid() and p.is_running()}


def bearers(family: str) -> set[psutil.Process]:
    """Every process but this one whose environment says that it belongs to the family."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(VARIABLE) == family:
                found.add(process)
    return found


def is_rays(process: psutil.Process, ray_folder: str) -> bool:
    """Whether it is one of Ray's: a driver may have other children, which are not ours to end."""
    with contextlib.suppress(psutil.Error):
        return any(ray_folder in word or word.startswith("ray::") for word in process.cmdline())
    return False


def main() -> None:
    family, ray_folder = sys.argv[1:]
    driver = psutil.Process(os.getppid())
    started, seen = time.monotonic(), set[psutil.Process]()
    pause = 0.25
    while not select.select([sys.stdin], [], [], pause)[0]:
        # what was seen stays: the driver may die while we look
        seen = {process for process in seen if process.is_running()} | descendants({driver})
        pause = 0.25 if time.monotonic() - started < STARTING_SECONDS else 2.0
    end, empty = time.monotonic() + PATIENCE_SECONDS, 0
    # twice empty: what was just forked shows itself a moment later
    while empty < 2 and time.monotonic() < end:
        left = {p for p in descendants(seen | bearers(family)) - {driver} if is_rays(p, ray_folder)}
        empty = 0 if left else empty + 1
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.2)


if __name__ == "__main__":
    main()
