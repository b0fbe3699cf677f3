"""One driver a run; a driver that is asked to stop leaves a run that goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from toy_runs import (
    alive,
    all_shapes,
    assert_committed_once,
    commits,
    driver,
    journal,
    run,
    wait_for,
    write_dag,
)

from pipelines.lease import Lease, RunIsHeld


def test_second_driver_is_refused_and_ctrl_c_finishes_what_is_in_flight(
    local_ray: int, tmp_path: Path
) -> None:
    lines, gate = tmp_path / "journal", tmp_path / "gate"
    nodes = all_shapes(lines)
    nodes["map"]["gate"] = str(gate)
    config = write_dag(tmp_path, nodes)
    with driver(config, tmp_path / "run") as first:
        first.until(lambda: journal(lines)["toy 0"] > 0)
        with driver(config, tmp_path / "run") as second:
            assert second.wait() == 2
            said = " ".join(second.output().split("corpusmill: ")[1].split())
        assert f"is being run by process {first.process.pid} on {socket.gethostname()}" in said
        first.interrupt(signal.SIGINT)
        time.sleep(1)
        assert first.process.poll() is None, "it did not wait for what was in flight"
        gate.touch()
        assert first.wait(40) == 130
    before = commits(tmp_path / "store")
    finished = {Path(path).stem for path in before if path.startswith("map-")}
    # two items to a core are in flight, of six
    assert finished == {"s00000", "s00001", "s00002", "s00003"}
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["code"]) == ("stopped", 130)
    assert run(config, tmp_path / "run")[0] == 0
    assert_committed_once(before, tmp_path / "store", journal(lines))
    assert max(journal(lines).values()) == 1, "something in flight was thrown away"


def test_sigterm_stops_a_long_fit_and_it_goes_on(local_ray: int, tmp_path: Path) -> None:
    lines = tmp_path / "journal"
    config = write_dag(tmp_path, all_shapes(lines, slow="fit", seconds=0.5))
    with driver(config, tmp_path / "run") as first:
        first.until(lambda: journal(lines)["fit 2"] > 0)
        first.interrupt(signal.SIGTERM)
        assert first.wait(20) == 130
    assert journal(lines)["fit 7"] == 0
    assert run(config, tmp_path / "run")[0] == 0
    assert max(journal(lines).values()) == 1, "a step of the fit was done twice"


def test_twice_stops_at_once(tmp_path: Path) -> None:
    lines = tmp_path / "journal"
    nodes = all_shapes(lines)
    nodes["map"]["gate"] = str(tmp_path / "never")
    config = write_dag(tmp_path, nodes)
    with driver(config, tmp_path / "run") as first:
        first.until(lambda: journal(lines)["toy 0"] > 0)
        family = first.family()
        first.interrupt(signal.SIGINT)
        time.sleep(0.5)
        first.interrupt(signal.SIGINT)
        started = time.monotonic()
        assert first.wait(20) == 130
        assert time.monotonic() - started < 15
    wait_for(lambda: not alive(family), 10, lambda: f"left behind: {alive(family)}")


def test_lease_of_a_living_process_on_another_host(tmp_path: Path) -> None:
    """Where locks do not reach, the heartbeat decides."""
    page = {"host": "elsewhere", "pid": 7, "since": "noon", "heartbeat": time.time()}
    (tmp_path / "lease").write_text(json.dumps(page))
    with pytest.raises(RunIsHeld, match="process 7 on elsewhere since noon"):
        Lease(tmp_path)
    (tmp_path / "lease").write_text(json.dumps({**page, "heartbeat": time.time() - 1000}))
    lease = Lease(tmp_path)
    assert json.loads((tmp_path / "lease").read_text())["pid"] == os.getpid()
    lease.release()


def test_lease_that_a_full_disk_tore(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text('{"host": "els')
    Lease(tmp_path).release()
