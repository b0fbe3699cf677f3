"""What a run looks like while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

COLORS = {
    "done": "green",
    "running": "cyan",
    "waiting": "dim",
    "blocked": "yellow",
    "gap": "red",
    "failed": "red",
}


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def human_seconds(seconds: float) -> str:
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60}:{seconds % 60:02d}"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def node_row(node: dict) -> list[str]:
    """Cells of one node: name, state, items, rows in, kept, kept %, rows/s, MB/s, time or ETA, note."""
    done, total, seconds = node["items_done"], node["items_total"], node["seconds"]
    running = node["state"] == "running"
    rows = node["rows_in"] or node["kept"]
    rate = "" if node["reused"] or not seconds or not rows else f"{rows / seconds:,.0f}"
    speed = "" if node["reused"] or not seconds else f"{node['bytes'] / seconds / 1e6:.1f}"
    share = f"{100 * node['kept'] / node['rows_in']:.1f}" if node["rows_in"] else ""
    clock = human_seconds(seconds) if seconds and not node["reused"] else ""
    if running and done and not node["phase"]:
        clock += f" (ETA {human_seconds(seconds / done * (total - done))})"
    state = "reused" if node["reused"] and node["state"] == "done" else node["state"]
    if running and node["phase"]:
        state = node["phase"]
    note = node["error"] or node["text"] or "; ".join(node["warnings"])
    if node["tokens"]:
        note = f"{node['tokens']:,} tokens {note}"
    if node["retried"] and not node["error"]:
        note = f"{node['retried']} retried {note}"
    return [
        node["node"],
        state,
        f"{done}/{total}" if total else "",
        f"{node['rows_in']:,}" if node["rows_in"] else "",
        f"{node['kept']:,}" if node["kept"] else "",
        share,
        rate,
        speed,
        clock,
        note,
    ]


def render(status: dict) -> Group:
    """The table of a run, from its status.json."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "state", "items"):
        table.add_column(name, no_wrap=True)
    for name in ("rows in", "kept", "kept %", "rows/s", "MB/s", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for node in status["nodes"]:
        table.add_row(*node_row(node), style=COLORS.get(node["state"]))
    took = human_seconds(status["updated"] - status["started"])
    head = Text(f"{status['name']}: {status['state']}, {took}  {status['stopping']}", style="bold")
    return Group(head, table)


class LiveTable:
    """For a terminal: the table, redrawn in place."""

    def __init__(self, console: Console):
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def update(self, status: dict) -> None:
        self._live.start()
        self._live.update(render(status), refresh=True)

    def close(self) -> None:
        """Give the terminal back, whatever happened."""
        self._live.stop()

    def event(self, event: str, facts: dict) -> None:
        """Failures scroll by above the table, so that none is lost when the table moves on."""
        if event in ("item failed", "failed", "gap"):
            self._live.console.print(Text(event_line(event, facts), style="red"))


class LogLines:
    """For a pipe or a log file: a line an event, and a line every ``interval`` seconds."""

    def __init__(self, console: Console, interval: float = 10.0):
        self._console, self._interval, self._last = console, interval, time.monotonic()

    def update(self, status: dict) -> None:
        if status["state"] != "running":
            took = human_seconds(status["updated"] - status["started"])
            self._say(f"run {status['state']} after {took} {status['stopping']}")
            for node in status["nodes"]:
                if node["error"]:
                    self._say(f"  {node['node']}: {node['state']}: {node['error']}")
        elif time.monotonic() - self._last > self._interval:
            self._last = time.monotonic()
            for node in status["nodes"]:
                if node["state"] == "running":
                    name, state, items, _, kept, *_, clock, note = node_row(node)
                    self._say(f"{name}: {state} {items} items, {kept or 0} rows, {clock} {note}".rstrip())

    def event(self, event: str, facts: dict) -> None:
        self._say(event_line(event, facts))

    def close(self) -> None:
        """Nothing to give back."""

    def _say(self, text: str) -> None:
        stamp = time.strftime("%H:%M:%S")
        self._console.print(f"{stamp} {text}", markup=False, highlight=False, soft_wrap=True)


def event_line(event: str, facts: dict[str, Any]) -> str:
    node = facts.get("node", "")
    if event == "done":
        counts = facts["counts"]
        dropped = sum(counts["dropped"].values())
        parts = [f"{counts['kept']:,} rows"] if counts["kept"] else []
        parts += [f"{dropped:,} dropped"] if dropped else []
        parts += [f"{counts['quarantined']:,} quarantined"] if counts["quarantined"] else []
        parts += [f"{counts['tokens']:,} tokens"] if counts["tokens"] else []
        how = "reused" if facts["reused"] else "done"
        return f"{node}: {how}" + (f" ({', '.join(parts)})" if parts else "")
    if event == "item failed":
        return f"{node}, item {facts['item']}: {facts['type']}: {facts['message']}"
    if event == "open":
        return f"{node}: started"
    if event in ("failed", "gap"):
        return f"{node}: {event}: {facts['error']}"
    return f"{event} {facts.get('config', '')}".rstrip()
