"""Run a DAG from the command line: load it, run it, write its report, say what went wrong."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pipelines import cluster
from pipelines.config import ConfigError, Dag, load
from pipelines.dry_run import dry_run as say
from pipelines.engine import CONFIG, DISK, DONE, Engine
from pipelines.lease import RunIsHeld
from pipelines.progress import LiveTable, LogLines
from pipelines.report import write_report


def launch(
    config: Path,
    run: Path | None,
    settings: list[str],
    console: Console,
    *,
    until: str | None = None,
    start: str | None = None,
    accept_gaps: tuple[str, ...] = (),
    ray_address: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
) -> int:
    """Run ``config`` in the folder ``run`` (runs/<its name>); returns the exit code."""
    cluster.prepare(ray_address)
    try:
        dag = load(config, settings)
        if dry_run:
            return _dry_run(dag, console, until)
        folder = run or Path("runs") / dag.name
        engine = Engine(
            dag,
            folder,
            until=until,
            start=start,
            accept_gaps=accept_gaps,
            ray_address=ray_address,
            workers=workers,
            show=LiveTable(console) if console.is_terminal else LogLines(console),
        )
        try:
            code = engine.run()
        finally:
            engine.show.close()
    except (ConfigError, RunIsHeld, ConnectionError) as error:
        complain(error)
        return CONFIG
    if (folder / "links.json").exists() and code != DISK:
        console.print(f"report: {write_report(folder)}", highlight=False, soft_wrap=True)
    if code == DISK:
        complain(engine.stopping)
    for job in engine.jobs.values() if code else ():
        if job.error:
            complain(f"{job.name}: {job.state}: {job.error}")
    return code


def _dry_run(dag: Dag, console: Console, until: str | None) -> int:
    try:
        say(dag, console, until)
    except (ValueError, FileNotFoundError) as error:
        complain(dag.redact(str(error)))
        return CONFIG
    return DONE


def complain(error: Exception | str) -> None:
    """Say what is wrong on standard error."""
    console = Console(stderr=True)
    console.print(f"corpusmill: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
