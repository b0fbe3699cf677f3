"""Attention kernels beside what PyTorch has, on one GPU, in one command; torch and triton are all it needs.

python -m benchmarks.kernels [--minutes 9] [--only decode] [--tiny] [--out FOLDER]
First the kernels against float64 in every dtype (tolerance.py); a wrong one ends it. Then prefill with its
backward, decode and selective V: each provider is checked before it is timed. Writes kernels.csv,
kernels.md and kernels.svg under benchmarks/results/. ``--tiny`` runs one small problem each on a CPU.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import triton

from benchmarks.kernels import decode, prefill, selective, tolerance
from benchmarks.kernels.measure import ceilings
from benchmarks.kernels.report import write
from benchmarks.kernels.sweep import Found, run
from benchmarks.results import FOLDER, command, processor

AREAS = {"decode": decode.area, "prefill": prefill.area, "selective": selective.area}


def main() -> int:
    """0; 1 where a kernel of ours is wrong or fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="one small problem of each area, on the CPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which problems are dropped")
    parser.add_argument("--only", choices=["tolerance", *AREAS], action="append", help="a part alone")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the files go")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here: --tiny runs on the CPU")
    started, device = time.monotonic(), "cpu" if arguments.tiny else "cuda"
    parts = arguments.only or ["tolerance", *AREAS]
    if "tolerance" in parts and not tolerance.report(device):
        print("no figures, because a kernel is wrong", file=sys.stderr)
        return 1
    areas = [make(arguments.tiny) for name, make in AREAS.items() if name in parts]
    if not areas:
        return 0
    best, known, found = ceilings(device), facts(device), Found()
    try:
        run(areas, best, arguments.minutes * 60 - (time.monotonic() - started), found)
    finally:
        # also what stands when somebody or something stops it
        name = "kernels_tiny" if arguments.tiny else "kernels"
        for path in write(arguments.out, name, found, best, known):
            print(path)
    for title, entries in (("wrong", found.wrong), ("refused", found.refused)):
        for who, why in entries.items():
            print(f"{title}: {who}: {why}")
    for problem in found.dropped:
        print(f"dropped, no time left: {problem}")
    return int(any(who.startswith("ours") for who in (*found.wrong, *found.refused)))


def facts(device: str) -> dict[str, str]:
    """What a reader must know: when, how, on what."""
    machine = f"{processor()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, triton {triton.__version__}"
    found = {"date": datetime.date.today().isoformat(), "command": command(), "machine": machine}
    if device == "cuda":
        found["GPU"] = _gpu()
        versions += f", cuDNN {torch.backends.cudnn.version()}"
        found.update(prefill.questions())
    return {**found, "versions": versions}


def _gpu() -> str:
    fields = "name,driver_version,clocks.sm,clocks.max.sm,power.limit"
    asked = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return torch.cuda.get_device_name()
    return ", ".join(
        f"{name} {value.strip()}" for name, value in zip(fields.split(","), said.split(","), strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
