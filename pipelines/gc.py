"""Files in a store that nobody needs: what killed workers left behind, and what the phases of a
finished shuffle wrote for each other."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.fs as pafs
from rich.console import Console

from pipelines import phase_files
from pipelines.dataset import read_commits
from pipelines.progress import human_bytes
from pipelines.storage import Folder

# A file younger than this may still get its commit.
YOUNG_SECONDS = 3600


def garbage(dataset: Folder, younger: float = YOUNG_SECONDS) -> list[pafs.FileInfo]:
    """Files under data/ and commits/ of one dataset that nobody needs and that are not young."""
    finished = dataset.exists("manifest.json")
    named = {
        file.file
        for commit in read_commits(dataset).values()
        for file in commit.files
        if not (finished and file.role == phase_files.ROLE)
    }
    found = []
    for folder in ("data", "commits", "scratch"):
        selector = pafs.FileSelector(dataset.path(folder), recursive=True, allow_not_found=True)
        for info in sorted(dataset.fs.get_file_info(selector), key=lambda info: info.path):
            if info.type != pafs.FileType.File:
                continue
            name = info.path[len(dataset.root.rstrip("/")) + 1 :]
            useful = {
                "data": name in named,
                "commits": name.endswith(".json"),
                "scratch": not finished,
            }[folder]
            if not useful and time.time() - info.mtime.timestamp() >= younger:
                found.append(info)
    return found


def collect(store: Path, delete: bool, console: Console) -> int:
    """List, or delete, the garbage of every dataset in ``store``. Returns the exit code."""
    if not store.is_dir():
        console.print(f"{store} is not a folder: give the store of a run (see its run.json)")
        return 2
    root = Folder(store)
    count = size = 0
    for info in root.list():
        dataset = root / info.base_name
        if info.type != pafs.FileType.Directory or not dataset.exists("plan.json"):
            continue
        for file in garbage(dataset):
            console.print(f"{human_bytes(file.size):>9}  {file.path}", highlight=False, soft_wrap=True)
            count, size = count + 1, size + file.size
            if delete:
                dataset.fs.delete_file(file.path)
    verb = "deleted" if delete else "found (--delete removes them)"
    console.print(f"{count} files, {human_bytes(size)} {verb}")
    return 0
