"""Trainings that are killed and go on, on any number of ranks: the same sequences, the same losses."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from toy_training import (
    REPOSITORY,
    apart,
    consumed,
    counting,
    curve,
    metrics,
    run_ranks,
    small_training,
    start_ranks,
    write_tokens,
)

STEPS = 50


def _training(folder: Path) -> dict[str, Any]:
    """Two phases, a change of batch size, and more than two epochs of the first dataset."""
    values = small_training(folder)
    first = values["data"]["train"]
    second = [str(write_tokens(folder / "second", counting(40, 9)))]
    return {
        **values, "steps": STEPS, "eval_interval": 25, "checkpoint_interval": 5, "threads": None,
        "optimizer": {"learning_rate": 0.003}, "micro_batch_sequences": 1,
        "data": {
            **values["data"], "train": {"first": first, "second": second},
            "phases": [
                {"name": "one", "weights": {"first": 1}, "steps": 20, "batch_sequences": 4},
                {"name": "two", "weights": {"first": 3, "second": 1}, "steps": 30, "batch_sequences": 8},
            ],
        },
    }  # fmt: skip


def _expected() -> dict[int, list[int]]:
    spans = [(4 * s, 4 * s + 4) for s in range(20)] + [(80 + 8 * s, 88 + 8 * s) for s in range(30)]
    return {step: list(range(*span)) for step, span in enumerate(spans)}


def _reached(output: Path) -> int:
    try:
        return metrics(output)[-1]["step"]
    except (OSError, IndexError, ValueError):
        return 0


def _kill_at(process: subprocess.Popen, output: Path, step: int) -> int:
    """SIGKILL to torchrun and all ranks once ``step`` is done; the step that was reached."""
    while _reached(output) < step:
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.02)
    family = [*psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(family, timeout=30)
    process.communicate()
    return _reached(output)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with runs that nothing broke: "one" of one rank, "two" of two."""
    folder = tmp_path_factory.mktemp("training")
    values = _training(folder)
    for count, name in ((1, "one"), (2, "two")):
        run_ranks(count, [{**values, "output": str(folder / name)}], folder)
        assert consumed(folder / name) == _expected()
    return folder, values


@pytest.mark.proof
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_killed_at_a_random_step_it_goes_on(
    unbroken: tuple[Path, dict[str, Any]], ranks: int, record_property: Any
) -> None:
    folder, values = unbroken
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 10**6))
    draw = random.Random(seed)
    output = folder / f"killed-{ranks}"
    job = {**values, "output": str(output)}
    at = _kill_at(start_ranks(2, [job], folder), output, draw.randint(6, STEPS - 2))
    # a second kill, of the ranks that went on
    again = _kill_at(start_ranks(ranks, [job], folder, 1), output, min(at + draw.randint(1, 8), STEPS - 1))
    run_ranks(ranks, [job], folder, 2)
    found = consumed(output)
    assert found == _expected()
    assert [row["step"] for row in metrics(output)] == list(range(STEPS + 1))
    difference = apart(folder / "two", output)
    if ranks == 2:
        assert curve(output) == curve(folder / "two"), f"seed {seed}"
        weights = [folder / name / "model" / "model.safetensors" for name in ("two", output.name)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    else:
        assert difference < 1e-5, f"seed {seed}"
    kind = "bitwise equal" if ranks == 2 else f"losses apart by {difference:.1e} at most"
    record_property(
        "figure",
        f"2 ranks killed at step {at}, {ranks} at step {again}, finished on {ranks}: every step its "
        f"sequences, {sum(map(len, found.values()))} over 2 phases; {kind} (seed {seed})",
    )


@pytest.mark.proof
def test_ranks_equal_one_process_over_50_steps(
    unbroken: tuple[Path, dict[str, Any]], record_property: Any
) -> None:
    folder, values = unbroken
    kinds = {
        "fsdp 2": (2, {}),
        "hsdp 2 x 1": (2, {"parallel": {"dp_replicate": 2}}),
        "tp 2": (2, {"parallel": {"tensor_parallel": 2}}),
        "hsdp 2 x 2": (4, {"parallel": {"dp_replicate": 2}}),
        "fsdp 2 x tp 2": (4, {"parallel": {"tensor_parallel": 2}}),
    }
    base = {key: value for key, value in values.items() if key != "micro_batch_sequences"}
    run_ranks(1, [{**base, "output": str(folder / "whole")}], folder)
    far = {}
    for count in (2, 4):
        names = [name for name, (ranks, _) in kinds.items() if ranks == count]
        jobs = [{**base, **kinds[name][1], "output": str(folder / name)} for name in names]
        run_ranks(count, jobs, folder)
        far |= {name: apart(folder / "whole", folder / name) for name in names}
    for name, difference in far.items():
        record_property("figure", f"{name}: losses apart by {difference:.1e} relative at most")
    assert max(far.values()) < 1e-6, far


@pytest.mark.proof
def test_a_lost_rank_on_ray_train_costs_no_run(
    unbroken: tuple[Path, dict[str, Any]], record_property: Any
) -> None:
    pytest.importorskip("pandas", reason="Ray Train imports it")
    folder, values = unbroken
    output, config = folder / "ray", folder / "ray.yaml"
    config.write_text(yaml.safe_dump({**values, "output": str(output), "threads": 1}))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "train", str(config), "--workers", "2"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while _reached(output) < 23:
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.05)
    ranks = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RayTrainWorker" in child.name()
    ]
    assert len(ranks) >= 2
    random.choice(ranks).kill()
    words, _ = process.communicate()
    assert process.returncode == 0, words[-4000:]
    assert curve(output) == curve(folder / "two")
    record_property(
        "figure", "2 workers, one killed after step 23: finished by itself, bitwise the unbroken run"
    )


MEASURE_LOSS = """
import sys, torch
from kernels.diffqkv.cross_entropy import linear_cross_entropy
def held(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
tokens, chunk, words = int(sys.argv[1]), int(sys.argv[2]), 128_256
torch.manual_seed(0)
hidden = torch.randn(tokens, 32, requires_grad=True)
weight = torch.randn(words, 32, requires_grad=True)
labels = torch.randint(0, words, (tokens,))
# the libraries' own buffers
linear_cross_entropy(hidden[:8], weight, labels[:8], chunk_tokens=8)[1].backward()
open("/proc/self/clear_refs", "w").write("5")
before = held("VmRSS")
linear_cross_entropy(hidden, weight, labels, chunk_tokens=chunk)[1].backward()
print(held("VmHWM") - before)
"""


@pytest.mark.proof
def test_the_loss_holds_one_chunk_of_logits(record_property: Any) -> None:
    def peak(tokens: int, chunk: int) -> float:
        command = [sys.executable, "-c", MEASURE_LOSS, str(tokens), str(chunk)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        return float(subprocess.check_output(command, cwd=REPOSITORY, env=environment))

    chunk_mib = 128 * 128_256 * 4 / 2**20
    # three tensors of a chunk, and the gradient of the weight with its copy
    bound = 3 * chunk_mib + 2 * 128_256 * 32 * 4 / 2**20 + 16
    few, many, wide = peak(512, 128), peak(2048, 128), peak(2048, 512)
    assert few < bound and many < bound and abs(many - few) < 0.2 * chunk_mib
    assert wide > 2 * many, "the chunk must decide"
    record_property(
        "figure",
        f"vocabulary 128,256, chunk of 128 tokens = {chunk_mib:.0f} MiB of logits: peak {few:.0f} MiB with "
        f"512 tokens, {many:.0f} with 2,048 (all logits: {2048 / 128 * chunk_mib:.0f}); with a chunk of "
        f"512: {wide:.0f}",
    )
