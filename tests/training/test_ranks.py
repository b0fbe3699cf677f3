"""Several ranks train what one process trains: the same sequences, the same losses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy_training import apart, consumed, metrics, record_sequences, run_ranks, small_training

from sigma_model.training import loop
from sigma_model.training.config import build_config
from sigma_model.training.loop import train
from sigma_model.training.parallel import World, join_world

KINDS = {
    "fsdp": {},
    "hsdp": {"parallel": {"dp_replicate": 2}, "micro_batch_sequences": 1},
    "tp": {"parallel": {"tensor_parallel": 2}, "activation_checkpointing": True},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with the same training by one process ("one") and by two ranks in each way."""
    folder = tmp_path_factory.mktemp("ranks")
    values = {
        **small_training(folder), "steps": 10, "checkpoint_interval": 5, "eval_interval": 5,
        "optimizer": {"learning_rate": 0.003}, "schedule": {}, "keep_checkpoints": 9, "threads": None,
    }  # fmt: skip
    train(build_config({**values, "output": str(folder / "one")}))
    run_ranks(2, [{**values, **kind, "output": str(folder / name)} for name, kind in KINDS.items()], folder)
    return folder, values


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_as_one_process(trained: tuple[Path, dict[str, Any]], kind: str) -> None:
    folder, values = trained
    assert apart(folder / "one", folder / kind) < 1e-6
    per_step = values["batch_sequences"]
    numbers = consumed(folder / kind)
    if kind == "tp":
        # both ranks of the group read all
        numbers = {step: sorted(set(found)) for step, found in numbers.items()}
    assert numbers == {s: list(range(s * per_step, (s + 1) * per_step)) for s in range(10)}
    report = json.loads((folder / kind / "report.json").read_text())
    assert report["ranks"] == 2 and (folder / kind / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["fsdp", "tp"])
def test_one_process_goes_on_with_what_two_ranks_began(
    trained: tuple[Path, dict[str, Any]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, values = trained
    resumed = folder / f"{kind}-resumed"
    shutil.copytree(folder / kind, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step_00000010")
    monkeypatch.setattr(loop, "Loader", loop.Loader)
    monkeypatch.setenv("ATTEMPT", "1")
    record_sequences()
    steps: list[int] = []
    train(build_config({**values, "output": str(resumed)}), lambda row: steps.append(row["step"]))
    assert steps == [6, 7, 8, 9, 10]
    assert apart(folder / "one", resumed) < 1e-6
    again = {step: numbers for step, numbers in consumed(resumed).items() if step >= 5}
    assert again == {s: list(range(4 * s, 4 * s + 4)) for s in range(5, 10)}


def test_a_batch_that_does_not_divide_and_too_few_sequences_are_refused(values: dict[str, Any]) -> None:
    for change, words in (
        ({"batch_sequences": 5}, "does not divide over 4 ranks"),
        ({"micro_batch_sequences": 2}, "does not divide over 4 ranks in micro-batches of 2"),
        ({"batch_sequences": 2}, "a step has 2 sequences, fewer than the 4 ranks"),
    ):
        config = build_config({**values, **change})
        with pytest.raises(ValueError, match=words):
            loop.Loader(config, world_size=4, rank=0)


def test_ranks_that_cannot_be_are_refused(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    config = build_config({**values, "parallel": {"dp_replicate": 2}})
    with pytest.raises(ValueError, match=r"3 ranks are no multiple .* = 2 x 1"), join_world(config):
        pass
    assert os.environ["WORLD_SIZE"] == "3"


def test_heads_that_cannot_be_cut_are_refused(values: dict[str, Any]) -> None:
    config = build_config({**values, "parallel": {"tensor_parallel": 4}})
    with pytest.raises(ValueError, match="does not divide num_k_heads = 2"):
        loop._Run(config, Path(values["output"]), World(device=loop.torch.device("cpu")))
    model = {**values["model"], "k_head_dim": 4}
    config = build_config({**values, "model": model, "parallel": {"tensor_parallel": 2}})
    with pytest.raises(ValueError, match="maps K of width 4 up to 8"):
        loop._Run(config, Path(values["output"]), World(device=loop.torch.device("cpu")))


def test_metrics_are_written_by_one_rank(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = trained
    assert [row["step"] for row in metrics(folder / "fsdp")] == list(range(11))
