"""The training loop on a Ray cluster: Ray Train starts the ranks, and starts them again when one is lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pipelines import cluster
from sigma_model.training.config import read_config

# what a new start would not cure: config, disk, divergence, stopped by the user
FINAL = (2, 4, 5, 130)


def train_on_ray(
    config: Path,
    settings: list[str],
    workers: tuple[int, int],
    address: str | None = None,
    max_failures: int = 100,
) -> int:
    """Train ``config`` on at least workers[0] and at most workers[1] ranks; returns the exit code.

    When a rank is lost, all start again from the last complete checkpoint, on as many as there are
    then. A rank takes a GPU where the cluster has any and the config does not say cpu, and ``threads``
    cores. Shards, output and tokenizer must lie on storage that all nodes see. Raises ValueError for a
    config that is wrong, ConnectionError where no cluster answers.
    """
    training = read_config(config, settings)
    # its second version alone is elastic
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    arguments = [str(config.resolve())]
    for setting in settings:
        arguments += ["--set", setting]
    least, most = workers
    cpus = training.threads or 1
    cluster.connect(address, most * cpus)
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        gpu = training.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        result = TorchTrainer(
            _rank,
            train_loop_config={"arguments": arguments, "folder": os.getcwd()},
            scaling_config=ScalingConfig(
                num_workers=workers if least < most else most,  # type: ignore[arg-type]
                use_gpu=gpu,
                resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(Path(training.output).resolve()),
                failure_config=FailureConfig(max_failures=max_failures),
            ),
        ).fit()
        return int((result.metrics or {}).get("exit_code", 0))
    finally:
        cluster.disconnect()


def read_workers(text: str) -> tuple[int, int]:
    """(2, 8) of "2-8", (8, 8) of "8". Raises ValueError for anything else."""
    least, _, most = text.partition("-")
    try:
        found = int(least), int(most or least)
    except ValueError:
        found = 0, 0
    if not 1 <= found[0] <= found[1]:
        raise ValueError(f"--workers {text!r} must be a number of ranks, as 8, or a range, as 2-8")
    return found


def _rank(config: dict[str, Any]) -> None:
    """One rank: the same door as everywhere. What a new start would cure is raised."""
    import ray.train

    from sigma_model.training.__main__ import main

    os.chdir(config["folder"])
    code = main(config["arguments"])
    if code and code not in FINAL:
        sys.exit(code)
    if code:
        ray.train.report({"exit_code": code})
