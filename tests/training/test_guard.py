"""Bad steps: skipped without moving a weight, and after several the last good checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_training import metrics

from sigma_model.modeling import SigmaForCausalLM
from sigma_model.training.config import GuardConfig, build_config
from sigma_model.training.guard import Guard
from sigma_model.training.loop import train

CPU = torch.device("cpu")
Break = Callable[[set[int], float], None]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Break:
    """spoil(steps, factor): the loss of these steps, counted from 1, is multiplied before backward."""

    def install(steps: set[int], factor: float) -> None:
        whole, calls = SigmaForCausalLM.pretraining_loss, 0

        def loss(self: SigmaForCausalLM, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
            nonlocal calls
            entropy, total = whole(self, *args, **kwargs)
            if torch.is_grad_enabled():
                calls += 1
                if calls in steps:
                    total = total * factor
            return entropy, total

        monkeypatch.setattr(SigmaForCausalLM, "pretraining_loss", loss)

    return install


def _weights(folder: str, step: int) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in (Path(folder) / "checkpoints" / f"step_{step:08d}").glob("*.safetensors"):
        tensors.update(load_file(path))
    return {name: value for name, value in tensors.items() if name.startswith(("model.", "optimizer."))}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys() and one
    return all(torch.equal(one[name], other[name]) for name in one)


def _notes(folder: str) -> list[dict[str, Any]]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "note" in row]


def test_a_gradient_that_is_no_number_moves_nothing(values: dict[str, Any], spoil: Break) -> None:
    values |= {"steps": 8, "checkpoint_interval": 1, "keep_checkpoints": 9}
    spoil({5}, float("nan"))
    report = train(build_config(values))
    rows = metrics(values["output"])
    assert [row["step"] for row in rows if row.get("skipped")] == [5]
    assert rows[5]["grad_norm"] is None and rows[5]["loss"] is not None
    folder = values["output"]
    assert _same(_weights(folder, 4), _weights(folder, 5)), "a skipped step moved weights or moments"
    assert not _same(_weights(folder, 5), _weights(folder, 6))
    assert report["steps"] == 8 and report["rollbacks"] == 0


def test_after_several_bad_steps_the_last_good_checkpoint_is_taken(
    values: dict[str, Any], spoil: Break
) -> None:
    values |= {"steps": 10, "checkpoint_interval": 3, "keep_checkpoints": 9, "guard": {"max_skipped": 2}}
    # the checkpoint of step 6 is of a skipped step: the one of step 3 is sound
    spoil({6, 7}, float("inf"))
    rows: list[dict[str, Any]] = []
    report = train(build_config(values), rows.append)
    assert report["rollbacks"] == 1 and [row["step"] for row in rows] == list(range(11))
    (note,) = _notes(values["output"])
    assert note["step"] == 7 and "step_00000003" in note["note"]
    moved = [step for step in range(1, 11) if not rows[step].get("skipped")]
    assert moved == [1, 2, 3, 4, 5, 8, 9, 10]


def test_a_run_that_stays_bad_ends(values: dict[str, Any], spoil: Break) -> None:
    values |= {"checkpoint_interval": 1, "guard": {"max_skipped": 2, "max_rollbacks": 1}}
    spoil(set(range(4, 99)), float("nan"))
    with pytest.raises(FloatingPointError, match=r"2 steps in a row up to step 7 .* after 1 rollbacks"):
        train(build_config(values))


def test_a_spike_is_skipped(values: dict[str, Any], spoil: Break) -> None:
    guard = {"spike_sigma": 6.0, "window": 8}
    values |= {"steps": 14, "guard": guard, "optimizer": {"learning_rate": 0.001}}
    spoil({12}, 50.0)
    train(build_config(values))
    assert [row["step"] for row in metrics(values["output"]) if row.get("skipped")] == [12]


def test_the_guard_judges_beside_the_steps_that_were_taken() -> None:
    guard = Guard(GuardConfig(spike_sigma=3.0, window=4), CPU)

    def judge(loss: float, norm: float) -> bool:
        return bool(guard.judge(torch.tensor(loss), torch.tensor(norm)))

    # too few to compare with
    assert not judge(100.0, 1.0)
    assert [judge(loss, 1.0) for loss in (2.0, 2.1, 1.9, 2.0)] == [False] * 4
    assert judge(9.0, 1.0) and judge(float("nan"), 1.0) and judge(2.0, float("inf"))
    assert judge(9.0, 1.0), "what was skipped must not count"
    assert not judge(2.05, 1.0)
    # a fall is no spike
    assert not judge(0.1, 1.0)


def test_without_sigma_only_what_is_not_finite_is_skipped() -> None:
    guard = Guard(GuardConfig(window=2), CPU)
    losses = (1.0, 1.0, 1.0, 1e9, float("inf"))
    assert [bool(guard.judge(torch.tensor(x), torch.tensor(1.0))) for x in losses] == [False] * 4 + [True]
