"""What a run tells: lines, trackers, MFU, the terminal."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from toy_training import MODEL, metrics, write_tokens

from benchmarks.training.mfu import main as mfu
from sigma_model.config import read_model_config
from sigma_model.counts import count_parameters, training_flops_per_token
from sigma_model.training.__main__ import PlainProgress
from sigma_model.training.config import build_config
from sigma_model.training.loop import train

COUNTS = {"1_5b": 14.74, "10b": 66.37}


@pytest.mark.parametrize("name", COUNTS)
def test_flops_are_those_of_the_convention(name: str) -> None:
    shape = read_model_config(f"configs/model/sigma_{name}.yaml")
    assert training_flops_per_token(shape, 4096) / 1e9 == pytest.approx(COUNTS[name], abs=0.01)
    parts = count_parameters(shape)
    matrices = sum(parts.values()) - parts["norms"]
    assert training_flops_per_token(shape, 0) == 6 * matrices, "tied: the head is the embedding"


def test_held_out_losses_by_dataset_and_mfu(values: dict[str, Any], tmp_path: Path) -> None:
    other = write_tokens(tmp_path / "other", [[7] * 30] * 8)
    data = {**values["data"], "heldout": {"counting": values["data"]["heldout"], "sevens": [str(other)]}}
    report = train(build_config({**values, "steps": 4, "data": data, "peak_tflops": 1e-3}))
    row = metrics(values["output"])[-1]
    assert row["heldout"] == report["heldout"] and set(row["heldout"]) == {"counting", "sevens"}
    assert row["heldout_loss"] == pytest.approx(sum(row["heldout"].values()) / 2)
    assert row["heldout"]["counting"] != row["heldout"]["sevens"]
    shape = read_model_config({**MODEL, "vocab_size": 64})
    assert row["mfu"] == pytest.approx(
        row["tokens_per_s"] * training_flops_per_token(shape, 32) / 1e9, rel=1e-2, abs=1e-4
    )


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is an option")
def test_tensorboard_has_the_curve(values: dict[str, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(build_config({**values, "steps": 6, "trackers": ["tensorboard"]}))
    events = EventAccumulator(str(Path(values["output"]) / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(row["step"], row["loss"]) for row in metrics(values["output"])[1:]]
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected])


def test_a_tracker_that_is_not_installed_is_told(values: dict[str, Any]) -> None:
    for name in ("tensorboard", "wandb"):
        if importlib.util.find_spec(name) is None:
            with pytest.raises(ValueError, match=f"pip install {name}"):
                train(build_config({**values, "trackers": [name]}))


def test_the_terminal_shows_one_live_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    progress = PlainProgress()
    progress({"step": 1, "steps": 2, "loss": 2.5, "tokens_per_s": 1234.0, "mfu": 0.41, "skipped": True})
    progress({"step": 2, "steps": 2, "loss": 2.0, "tokens_per_s": 1000.0, "heldout_loss": 2.25})
    first, second = capsys.readouterr().out.split("\r")
    assert "step 1/2  loss 2.5000  1,234 tokens/s  MFU 41.0%  skipped" in first and "\n" not in first
    assert second.endswith("s left\n") and "held-out 2.2500" in second


def test_the_benchmark_of_mfu_runs(capsys: pytest.CaptureFixture[str]) -> None:
    mfu(["--tiny", "--steps", "3", "--micro", "1", "--accumulate", "2"])
    told = capsys.readouterr().out
    for backend in ("sdpa", "reference"):
        assert f"{backend}: throughput" in told and f"{backend}: MFU, causal" in told


def test_all_blocks_are_one_compiled_graph(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter, fullgraph=True))
    model = {**MODEL, "num_hidden_layers": 3}
    train(
        build_config(
            {**values, "model": model, "steps": 4, "compile": True, "activation_checkpointing": True}
        )
    )
    # one with gradients and one for the held-out loss; documents of other lengths make none
    assert counter.frame_count == 2


def test_muon_learns_too(values: dict[str, Any]) -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    report = train(build_config({**values, "optimizer": {"kind": "muon", "learning_rate": 0.01}}))
    assert report["final_heldout_loss"] < 0.8 * report["initial_heldout_loss"]


def test_bf16_learns_with_float32_weights(values: dict[str, Any]) -> None:
    report = train(build_config({**values, "dtype": "bfloat16", "steps": 12}))
    assert report["final_heldout_loss"] < report["initial_heldout_loss"]
    run = Path(values["output"]) / "checkpoints" / "step_00000012"
    from safetensors.torch import load_file

    (shard,) = run.glob("*.safetensors")
    assert {t.dtype for name, t in load_file(shard).items() if name.startswith("model.")} == {torch.float32}
