"""The report of a run: one HTML file that loads nothing, runs no script, and opens anywhere."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.report.facts import read_facts
from pipelines.report.page import page


def write_report(run: Path) -> Path:
    """Write RUN/report.html from what the run has left so far; returns its path.

    Raises FileNotFoundError when ``run`` holds no run.
    """
    facts = read_facts(Path(run))
    path = facts.run / "report.html"
    partial = path.with_name(f"report.html.{os.getpid()}")
    partial.write_text(page(facts), encoding="utf-8", errors="replace")
    os.replace(partial, path)
    return path
