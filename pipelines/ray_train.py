"""The training loop on a Ray cluster: Ray Train starts the ranks, and starts them again when one is lost."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines import cluster
from sigma_model.training.__main__ import PlainProgress
from sigma_model.training.config import read_config

# exit codes that a new start would not cure: config, disk, divergence, stopped by the user
FINAL = (2, 4, 5, 130)
SECONDS_BETWEEN_LOOKS = 0.5


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


def train_on_ray(
    config: Path,
    settings: list[str],
    workers: tuple[int, int],
    address: str | None = None,
    max_failures: int = 20,
) -> tuple[int, str]:
    """Train ``config`` on at least workers[0] and at most workers[1] ranks: (exit code, why it is not 0).

    When a rank is lost, all start again from the last complete checkpoint, on as many as there are
    then. A rank takes a GPU where the cluster has any and the config does not say cpu, and ``threads``
    cores. Shards, output and tokenizer must lie on storage that all nodes see. Raises ValueError for a
    config that is wrong, ConnectionError where no cluster answers, RuntimeError after ``max_failures``
    starts that failed (a node that is preempted does not count).
    """
    training = read_config(config, settings)
    output = Path(training.output).resolve()
    # what a rank ended with for good: a new start reads it and ends
    final = output / "ray" / "final.json"
    final.unlink(missing_ok=True)
    # its second version alone is elastic
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    least, most = workers
    cpus = training.threads or 1
    cluster.connect(address, most * cpus)
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchTrainer

        gpu = training.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        arguments = [str(config.resolve()), *(part for s in settings for part in ("--set", s))]
        trainer = TorchTrainer(
            _rank,
            train_loop_config={"arguments": arguments, "folder": os.getcwd(), "final": str(final)},
            scaling_config=ScalingConfig(
                num_workers=workers if least < most else most,  # type: ignore[arg-type]
                use_gpu=gpu,
                resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(output),
                failure_config=FailureConfig(max_failures=max_failures),
            ),
        )
        with _show_metrics(output / "metrics.jsonl", training.steps):
            try:
                trainer.fit()
            except TrainingFailedError as error:
                raise RuntimeError(
                    f"training failed for good after {max_failures} new starts: {error}"
                ) from None
    finally:
        cluster.disconnect()
    if not final.exists():
        return 0, ""
    ended = json.loads(final.read_text())
    return ended["exit_code"], ended["words"]


def _rank(config: dict[str, Any]) -> None:
    """One rank, through the same door as everywhere. Raises RuntimeError so that Ray starts all again."""
    from sigma_model.training.__main__ import main

    final = Path(config["final"])
    if final.exists():
        return
    os.chdir(config["folder"])
    words = io.StringIO()
    with contextlib.redirect_stderr(words):
        code = main(config["arguments"])
    if code in FINAL:
        final.parent.mkdir(parents=True, exist_ok=True)
        final.write_text(json.dumps({"exit_code": code, "words": words.getvalue()[-4000:]}))
    if code:
        raise RuntimeError(f"training ended with exit code {code}: {words.getvalue()[-4000:]}")


@contextlib.contextmanager
def _show_metrics(path: Path, steps: int) -> Iterator[None]:
    """Print what ranks write to metrics.jsonl: their own output stays on their nodes."""
    ended = threading.Event()
    progress = PlainProgress()

    def follow() -> None:
        place = path.stat().st_size if path.exists() else 0
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            if not path.exists():
                continue
            # a new start cuts off the lines of steps that are done again
            place = min(place, path.stat().st_size)
            with path.open("rb") as lines:
                lines.seek(place)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    place += len(line)
                    # a cut may leave us inside a line
                    with contextlib.suppress(ValueError):
                        row = json.loads(line)
                        if "note" not in row:
                            progress({**row, "steps": steps})

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
