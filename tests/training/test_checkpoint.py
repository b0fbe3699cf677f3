"""Checkpoints: whole or none, to Hugging Face and back, and a disk that is full."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy_training import MODEL, REPOSITORY, metrics
from transformers import AutoModelForCausalLM

from sigma_model.training.config import build_config
from sigma_model.training.export import export
from sigma_model.training.loop import train


def test_a_checkpoint_holds_all_a_run_needs(values: dict[str, Any]) -> None:
    train(build_config({**values, "steps": 4}))
    folder = Path(values["output"]) / "checkpoints" / "step_00000004"
    state = json.loads((folder / "state.json").read_text())
    assert state["counters"]["step"] == 4 and state["counters"]["tokens"] > 0
    assert state["loader"]["phases"][0]["sequences"] == 16
    assert state["config"]["steps"] == 4 and state["config"]["model"]["vocab_size"] == 64
    assert state["code"] and state["data_fingerprint"] and state["torch"] == torch.__version__
    (shard,) = folder.glob("*.safetensors")
    names = load_file(shard).keys()
    assert {"model.lm_head.weight", "model.model.embed_tokens.weight"} & names
    assert {"optimizer.model.norm.weight.exp_avg", "optimizer.model.norm.weight.step", "random"} <= names


def test_export_and_back(values: dict[str, Any], tmp_path: Path) -> None:
    train(build_config({**values, "steps": 8, "keep_checkpoints": 9}))
    assert export(Path(values["output"]), tmp_path / "last").name == "step_00000008"
    checkpoints = Path(values["output"]) / "checkpoints"
    export(checkpoints / "step_00000004", tmp_path / "earlier", dtype=torch.bfloat16)
    last, earlier, own = (
        AutoModelForCausalLM.from_pretrained(path, dtype="auto")
        for path in (tmp_path / "last", tmp_path / "earlier", Path(values["output"]) / "model")
    )
    assert last.dtype == torch.float32 and earlier.dtype == torch.bfloat16
    assert last.lm_head.weight is last.model.embed_tokens.weight
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), own.parameters(), strict=True))
    assert not torch.equal(last.lm_head.weight, earlier.lm_head.weight.float())

    change = {"init_from": str(tmp_path / "last"), "output": str(tmp_path / "more"), "steps": 4}
    train(build_config({**values, **change}))
    first, before = metrics(tmp_path / "more")[0], metrics(values["output"])[-1]
    assert first["heldout_loss"] == pytest.approx(before["heldout_loss"], rel=1e-6)


def test_weights_of_another_model_and_no_checkpoint_are_refused(
    values: dict[str, Any], tmp_path: Path
) -> None:
    train(build_config({**values, "steps": 4}))
    other = {**values, "output": str(tmp_path / "other"), "init_from": str(Path(values["output"]) / "model")}
    with pytest.raises(ValueError, match=r"has aug_q_dim = 40, the config's model has 0"):
        train(build_config({**other, "model": {**MODEL, "aug_q_dim": 0}}))
    with pytest.raises(ValueError, match=r"holds no config.json"):
        train(build_config({**other, "init_from": str(tmp_path)}))
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        export(tmp_path / "train", tmp_path / "model")
    shard = next((Path(values["output"]) / "checkpoints" / "step_00000004").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        export(shard.parent, tmp_path / "model")


def _can_mount() -> bool:
    if sys.platform != "linux" or not shutil.which("unshare"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        mount = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        return subprocess.run(mount, capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="mounting needs root and mount namespaces")
def test_a_full_disk_ends_with_code_4_and_whole_checkpoints(values: dict[str, Any], tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**values, "output": str(disk / "run"), "keep_checkpoints": 99}))
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {disk} && "
        f"{sys.executable} -m sigma_model.training {config} --progress json; code=$?; "
        f"cp -r {disk}/run {kept}; exit $code"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr[-2000:]
    assert "no room in" in done.stderr and "run the same command again" in done.stderr
    whole = sorted((kept / "checkpoints").glob("*/_COMPLETE"))
    assert whole and len(whole) < 6
    # with room again it goes on from there
    steps: list[int] = []
    train(build_config({**values, "output": str(kept)}), lambda row: steps.append(row["step"]))
    assert steps[0] == 4 * len(whole) + 1 and steps[-1] == 24
