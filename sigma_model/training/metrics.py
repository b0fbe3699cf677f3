"""Where the figures of a run go, and model FLOPs utilisation."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import torch

from sigma_model.training.config import TrainConfig

# dense bf16 TFLOP/s that NVIDIA states; the first name that the device's holds
PEAK_TFLOPS = (
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H200", 989.0),
    ("H800", 989.0),
    ("B200", 2250.0),
    ("A100", 312.0),
    ("L40S", 362.0),
)


def peak_flops(config: TrainConfig, device: torch.device) -> float | None:
    """FLOP/s of one device in the run's dtype, or None where nobody said."""
    if config.peak_tflops is not None:
        return config.peak_tflops * 1e12
    if device.type != "cuda" or config.dtype != "bfloat16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAK_TFLOPS if part in name), None)


class Metrics:
    """metrics.jsonl, one line a step, and the trackers that the config names."""

    def __init__(self, output: Path, config: TrainConfig, step: int) -> None:
        """``step``: where the run goes on; lines of later steps are cut off, those are done again.

        Raises ValueError when a tracker is not installed.
        """
        path = output / "metrics.jsonl"
        _truncate(path, step)
        self._trackers = [_tracker(name, output, config, step) for name in config.trackers]
        self._lines = path.open("a", buffering=1)

    def write(self, row: dict[str, Any]) -> None:
        """``row`` with its step."""
        self._lines.write(json.dumps(row) + "\n")
        values = {
            key: value
            for key, value in _flat(row).items()
            if isinstance(value, int | float) and key != "step" and math.isfinite(value)
        }
        for tracker in self._trackers:
            tracker.log(values, row["step"])

    def close(self) -> None:
        """Flush and close all."""
        self._lines.close()
        for tracker in self._trackers:
            tracker.close()


class _TensorBoard:
    def __init__(self, output: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(output / "tensorboard"), purge_step=step + 1)

    def log(self, values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, output: Path, project: str) -> None:
        import wandb

        name = output.resolve().name
        # the same id goes on with the same curves
        self._run = wandb.init(project=project, dir=str(output), id=name, name=name, resume="allow")

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def _tracker(name: str, output: Path, config: TrainConfig, step: int) -> _TensorBoard | _WeightsAndBiases:
    if importlib.util.find_spec(name) is None:
        raise ValueError(
            f"trackers names {name}, which is not installed: pip install {name}, or leave it out"
        )
    return (
        _TensorBoard(output, step)
        if name == "tensorboard"
        else _WeightsAndBiases(output, config.wandb_project)
    )


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in row.items():
        flat.update(_flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _truncate(metrics: Path, after: int) -> None:
    """Cut off the lines of steps after ``after``, or all where it is 0: each step has one line."""
    if not metrics.exists():
        return
    kept = 0
    with metrics.open("r+b") as file:
        for line in file:
            if not after or not line.endswith(b"\n") or json.loads(line)["step"] > after:
                break
            kept += len(line)
        file.truncate(kept)
