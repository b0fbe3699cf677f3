"""The loop: it learns, it goes on after a kill as if nothing had been, it exports."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_training import MODEL, REPOSITORY, counting, curve, metrics
from transformers import AutoModelForCausalLM

from sigma_model.training.config import build_config
from sigma_model.training.loop import Interrupted, train

WriteDataset = Callable[..., Path]


def _run(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return train(build_config({**values, **changes}))


def _notes(folder: str | Path) -> list[str]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [row["note"] for row in map(json.loads, lines) if "note" in row]


def test_it_learns_reports_and_exports(values: dict[str, Any]) -> None:
    rows: list[dict[str, Any]] = []
    report = train(build_config({**values, "steps": 60, "data": values["data"]}), rows.append)
    assert report["final_heldout_loss"] < 0.75 * report["initial_heldout_loss"]
    assert report["heldout_loss_drop"] > 0.25 and report["tokens_seen"] > 0
    lines = metrics(values["output"])
    assert [row["step"] for row in lines] == list(range(61))
    assert [row["step"] for row in lines if "heldout_loss" in row] == [0, 12, 24, 36, 48, 60]
    assert [row["step"] for row in rows] == list(range(61))
    assert {"loss", "lr", "grad_norm", "tokens", "tokens_per_s", "data_wait"} <= set(lines[1])
    folder = Path(values["output"]) / "model"
    assert {"config.json", "model.safetensors", "generation_config.json"} <= {
        path.name for path in folder.iterdir()
    }
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == 64 and model.config.eos_token_id == 0
    kept = sorted(path.name for path in (Path(values["output"]) / "checkpoints").iterdir())
    assert kept == ["step_00000056", "step_00000060"]
    prompt = torch.tensor([[11, 12, 13]])
    answer = model.generate(prompt, max_new_tokens=3, do_sample=False, use_cache=False)
    assert answer[0, 3:].tolist() == [14, 15, 16]


@pytest.mark.parametrize("masking", [True, False])
def test_accumulated_gradients_weigh_tokens_alike(values: dict[str, Any], masking: bool) -> None:
    data = {**values["data"], "document_masking": masking}
    output = values["output"]
    _run(values, data=data, steps=6, z_loss=1e-3)
    _run(values, data=data, steps=6, z_loss=1e-3, micro_batch_sequences=1, output=output + "-micro")
    whole, parts = metrics(output), metrics(output + "-micro")
    for one, other in zip(whole[1:], parts[1:], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def _start(values: dict[str, Any], folder: Path) -> subprocess.Popen[str]:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "sigma_model.training", str(path), "--progress", "json"]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _step_reached(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["step"] >= step:
            return
    raise AssertionError(f"ended before step {step}: {process.communicate()}")


def test_a_killed_run_goes_on_bitwise(values: dict[str, Any], tmp_path: Path) -> None:
    # a checkpoint every step: most moments of the kill lie inside the writing of one
    values["checkpoint_interval"] = 1
    _run(values, output=str(tmp_path / "unbroken"))
    process = _start(values, tmp_path)
    _step_reached(process, random.randint(2, 20))
    with pytest.raises(ValueError, match="another training run is writing"):
        _run(values)
    process.kill()
    process.wait()
    steps: list[int] = []
    train(build_config(values), lambda row: steps.append(row["step"]))
    assert steps[0] > 1, "it began again instead of going on"
    assert curve(values["output"]) == curve(tmp_path / "unbroken")
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("run", "unbroken")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_stopped_run_keeps_its_last_step(values: dict[str, Any], tmp_path: Path) -> None:
    _run(values, output=str(tmp_path / "unbroken"))

    def stop_at_ten(row: dict[str, Any]) -> None:
        if row["step"] == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 10"):
        train(build_config(values), stop_at_ten)
    assert (Path(values["output"]) / "checkpoints" / "step_00000010" / "_COMPLETE").is_file()
    _run(values)
    assert curve(values["output"]) == curve(tmp_path / "unbroken")


def test_damaged_and_unfinished_checkpoints_are_passed_over(values: dict[str, Any], tmp_path: Path) -> None:
    unbroken = tmp_path / "unbroken"
    _run(values, output=str(unbroken), keep_checkpoints=9)
    folder = unbroken / "checkpoints"
    (folder / "step_00000024" / "_COMPLETE").unlink()
    shard = next((folder / "step_00000020").glob("*.safetensors"))
    tensors = bytearray(shard.read_bytes())
    tensors[len(tensors) // 2] ^= 1
    shard.write_bytes(tensors)
    before = curve(unbroken)
    (unbroken / "metrics.jsonl").write_text((unbroken / "metrics.jsonl").read_text() + '{"step": 25, "los')
    first: list[int] = []
    train(build_config({**values, "output": str(unbroken)}), lambda row: first.append(row["step"]))
    assert first[0] == 17
    notes = _notes(unbroken)
    assert len(notes) == 1 and "step_00000020 is damaged" in notes[0]
    assert [row for row in curve(unbroken) if row[1] or row[2]] == before


def test_a_full_disk_costs_no_earlier_checkpoint(values: dict[str, Any]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(row: dict[str, Any]) -> None:
        if row["step"] == 7:
            # the nearest thing to a full disk that needs no mount: no file above 64 KiB
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))

    try:
        with pytest.raises(OSError, match="File too large"):
            train(build_config(values), fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    steps: list[int] = []
    train(build_config(values), lambda row: steps.append(row["step"]))
    assert steps[0] == 5 and steps[-1] == 24


def test_a_finished_run_is_left_as_it_is(values: dict[str, Any]) -> None:
    report = _run(values, steps=4)
    rows: list[dict[str, Any]] = []
    assert train(build_config({**values, "steps": 4}), rows.append) == report
    assert not rows


def test_a_changed_config_is_refused_by_name(values: dict[str, Any]) -> None:
    _run(values, steps=4)
    for change, key in (
        ({"steps": 5}, "steps = 4, the config now says 5"),
        ({"optimizer": {"learning_rate": 0.02}}, "optimizer.learning_rate = 0.01"),
        ({"model": {**MODEL, "aug_q_dim": 0}}, "model.aug_q_dim = 40"),
        ({"data": {**values["data"], "window_tokens": 100}}, "data.window_tokens = 500"),
    ):
        with pytest.raises(ValueError, match=key):
            _run(values, **{"steps": 4, **change})
    _run(values, steps=4, eval_interval=3, checkpoint_interval=2)


def test_other_data_under_the_same_config_is_refused(
    values: dict[str, Any], write_dataset: WriteDataset
) -> None:
    _run(values, steps=4)
    other = {**values["data"], "train": [str(write_dataset("other", counting(60, 7)))]}
    with pytest.raises(ValueError, match="trained on other data"):
        _run(values, steps=4, data=other)


def test_a_diverging_run_stops_and_says_so(values: dict[str, Any]) -> None:
    with pytest.raises(FloatingPointError, match=r"lower optimizer.learning_rate"):
        _run(values, optimizer={"learning_rate": 1e36, "grad_clip": 1e30}, schedule={})


def test_bad_input_is_told_before_training(
    values: dict[str, Any], write_dataset: WriteDataset, tmp_path: Path
) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    with pytest.raises(ValueError, match=r"holds no tokenizer.json"):
        _run(values, tokenizer=str(tokenizer))
    (tokenizer / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="give the tokenizer that made them"):
        _run(values, tokenizer=str(tokenizer))
    with pytest.raises(ValueError, match=r"vocab_size = 40 is below the tokenizer's 61"):
        _run(values, model={**MODEL, "vocab_size": 40})
    with pytest.raises(ValueError, match="max_position_embeddings = 64"):
        _run(values, sequence_length=128)
    with pytest.raises(ValueError, match=r"data.heldout is data.train itself"):
        _run(values, data={"train": values["data"]["train"], "heldout": values["data"]["train"]})
    short = {"train": [str(write_dataset("short", [[1, 2, 3]]))]}
    with pytest.raises(ValueError, match="holds 4 tokens, fewer than one sequence of 32"):
        _run(values, data=short)


def test_the_command_line_tells_a_wrong_key(values: dict[str, Any], tmp_path: Path) -> None:
    process = _start({**values, "stepz": 1}, tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "did you mean steps" in errors
