"""More than one machine, and other people's clusters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from toy_runs import all_shapes, driver, events, hashes, journal, run, write_dag

ROOT = Path(__file__).parents[2]
# A cluster of two nodes with a core each, of its own process. Says where it is, and on each line it
# reads takes the next step: first one node dies, then all ends.
TWO_NODES = """
import sys
import psutil
from ray.cluster_utils import Cluster
cluster = Cluster()
head = cluster.add_node(num_cpus=1, include_dashboard=False)
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.readline()
raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
workers = [p for p in raylet.children() if "run_item" in " ".join(p.cmdline())]
assert workers
cluster.remove_node(second, allow_graceful=False)
psutil.wait_procs(workers, timeout=30)
print("one left", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


OWN = "a cluster of its own"
PROBE = f"""
import os
from pipelines import cluster
there = os.environ["RAY_ADDRESS"]
cluster.connect(None, 1)
import ray
print({OWN!r} if ray.get_runtime_context().gcs_address != there else "theirs")
cluster.disconnect()
"""


def probe(address: str) -> str:
    """Which cluster a run joins that names none, on a machine where RAY_ADDRESS names this one."""
    env = {**plain_environment(), "RAY_ADDRESS": address}
    command = [sys.executable, "-c", PROBE]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=90).stdout


def plain_environment() -> dict[str, str]:
    """The environment without what our own local Ray put there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def test_a_node_dies(local_ray: int, tmp_path: Path) -> None:
    """The run completes on the node that is left, with the same bytes."""
    lines = tmp_path / "journal"
    nodes, gate = all_shapes(lines), tmp_path / "gate"
    nodes["map"]["gate"] = str(gate)
    config = write_dag(tmp_path, nodes)
    cluster = subprocess.Popen(
        [sys.executable, "-c", TWO_NODES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=plain_environment(),
    )
    try:
        assert cluster.stdin and cluster.stdout
        address = cluster.stdout.readline().strip()
        no_token = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
        with driver(config, tmp_path / "run", "--ray-address", address, env=no_token) as first:
            # each of the two cores has an item
            first.until(lambda: sum(journal(lines)[f"toy {50 * k}"] for k in range(6)) == 2)
            cluster.stdin.write("\n")
            cluster.stdin.flush()
            assert cluster.stdout.readline().strip() == "one left"
            gate.touch()
            assert first.wait(120) == 0, first.output()
        assert OWN in probe(address), "a run without --ray-address took the cluster that was there"
    finally:
        cluster.communicate("\n\n", 30)
    lost = events(tmp_path / "run", "item failed")
    assert lost and all("the worker died" in page["message"] for page in lost), lost
    quick = write_dag(tmp_path / "quick", all_shapes())
    assert run(quick, tmp_path / "quick" / "run")[0] == 0
    assert hashes(tmp_path / "run") == hashes(tmp_path / "quick" / "run")


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    config = write_dag(tmp_path, all_shapes())
    with driver(config, tmp_path / "run", "--ray-address", "127.0.0.1:1") as first:
        assert first.wait(30) == 2
        assert "no Ray cluster answers at 127.0.0.1:1" in " ".join(first.output().split())
