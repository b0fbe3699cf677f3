"""``corpusmill quickstart``: the whole main job on this machine, on pages that no one here wrote."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path

from rich.console import Console

from pipelines.house import check_house
from pipelines.progress import human_bytes, human_seconds

PORTS = (8411, 8412)
SHAPE = "configs/model/sigma_tiny.yaml"


def quickstart(folder: Path, pages: int | None, console: Console) -> int:
    """Start the two sites, run configs/quickstart.yaml in ``folder``, say where things are."""
    from pipelines.launch import launch
    from pipelines.sites import serve

    root = check_house()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    console.print(
        f"Crawls two servers on loopback (Python's own documentation and that of installed packages),"
        f" about 1,200 pages, goes on to a trained model, lets it write through vLLM, and trains again."
        f" Nothing is downloaded. Takes five to eight minutes and 300 MB on two cores;"
        f" {human_bytes(free)} are free. Everything goes to {folder}.",
        soft_wrap=True,
        highlight=False,
    )
    ports = _ports(folder)
    settings = [
        f"store={folder / 'store'}",
        f"nodes.pages.seeds=[http://127.0.0.1:{ports[0]}/, http://127.0.0.1:{ports[1]}/]",
        *(f"nodes.{node}.model={root / SHAPE}" for node in ("model", "second_model")),
    ]
    if pages is not None:
        settings.append(f"nodes.pages.max_pages={pages}")
    started = time.monotonic()
    try:
        with serve(*ports):
            code = launch(root / "configs/quickstart.yaml", folder / "run", settings, console)
    except RuntimeError as error:
        console.print(
            f"{error} The ports are noted in {folder / 'sites.json'}: free them, or delete {folder}."
        )
        return 2
    if code == 0:
        _say_what_next(folder, console, time.monotonic() - started)
    return code


def _ports(folder: Path) -> list[int]:
    """The ports of the sites: kept with the run, so that going on with it finds the same URLs."""
    from pipelines.sites import free_ports

    note = folder / "sites.json"
    if note.exists():
        return json.loads(note.read_text())
    spare = free_ports(len(PORTS))
    ports = [port if _is_free(port) else other for port, other in zip(PORTS, spare, strict=True)]
    note.write_text(json.dumps(ports))
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _say_what_next(folder: Path, console: Console, seconds: float) -> None:
    from pipelines.trace import linked_datasets

    datasets = {dataset.node: dataset for dataset in linked_datasets(folder / "run")}
    report = datasets["model"].manifest.report
    first, last = report["initial_heldout_loss"], report["final_heldout_loss"]
    written, second = datasets["written"].manifest.counts, datasets["second_model"].manifest.report
    run = os.path.relpath(folder / "run")
    console.print(
        f"\nDone in {human_seconds(seconds)}: {datasets['pages'].manifest.counts['kept']:,} pages,"
        f" {datasets['tokens'].manifest.counts['tokens']:,} tokens, held-out loss {first:.2f} ->"
        f" {last:.2f} ({100 * (last / first - 1):+.0f} %). The model wrote {written['kept']:,} documents that"
        f" passed every check; after a second round on them too {second['final_heldout_loss']:.2f}.\n"
        f"  look at the report   {run}/report.html\n"
        f"  ask how it went      corpusmill status {run}\n"
        f"  trace a token        corpusmill trace {run} tokens:0:0\n"
        f"  see the stages       corpusmill stages\n"
        f"  read what was run    {os.path.relpath(check_house() / 'configs/quickstart.yaml')}",
        highlight=False,
        soft_wrap=True,
    )
