"""How much memory a work item takes: the most that its process held while it ran (Linux)."""

from __future__ import annotations


def forget_peak() -> None:
    """Begin to measure: the kernel forgets the process's peak so far."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # not Linux, or not allowed: the peak is then that of the process's whole life


def peak_bytes() -> int:
    """The most resident bytes since, mapped files among them; 0 where it cannot be told."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0
