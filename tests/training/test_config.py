"""Reading a training config: types, overrides, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigma_model.training.config import build_config, read_config

LEAST = {"model": "m.yaml", "data": {"train": ["t"]}, "output": "o"}


EXAMPLES = sorted((Path(__file__).parents[2] / "configs" / "train").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_shipped_examples_are_valid(path: Path) -> None:
    config = read_config(path)
    if path.stem == "sigma_1_5b":
        assert (config.optimizer.learning_rate, config.guard.spike_sigma) == (4e-4, 6.0)


def test_overrides_take_yaml_values(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("model: m.yaml\ndata: {train: [t]}\noutput: o\n")
    changes = ["optimizer.learning_rate=4e-4", "steps=7", "data.heldout=[a, b]", "threads=null"]
    config = read_config(path, changes)
    assert (config.optimizer.learning_rate, config.steps) == (4e-4, 7)
    assert (config.data.heldout, config.threads) == (["a", "b"], None)
    with pytest.raises(ValueError, match="form key=value"):
        read_config(path, ["steps"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, "unknown key stepz; did you mean steps"),
        ({"optimizer": {"lerning_rate": 1}}, "did you mean optimizer.learning_rate"),
        ({"steps": "many"}, "steps = 'many' must be of type int"),
        ({"steps": True}, "steps = True must be of type int"),
        ({"steps": 0}, "steps = 0 must be at least 1"),
        ({"data": {"train": []}}, "data.train is empty"),
        ({"data": {"train": "t"}}, "data.train = 't' must be of type list"),
        ({"schedule": {"kind": "step"}}, r"must be one of \['wsd', 'cosine'\]"),
        ({"batch_sequences": 6, "micro_batch_sequences": 4}, "does not divide batch_sequences"),
        ({"steps": 3, "schedule": {"warmup_steps": 4}}, "schedule.warmup_steps = 4 is above steps"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate = -1"),
        ({"optimizer": 3}, "optimizer must be a mapping"),
        ({"parallel": {"tensor_paralel": 2}}, "did you mean parallel.tensor_parallel"),
        ({"parallel": {"dp_replicate": 0}}, "parallel.dp_replicate = 0 must be at least 1"),
        ({"guard": {"spike_sigma": -1}}, "guard.spike_sigma = -1.0 must be above 0"),
        ({"trackers": ["comet"]}, r"must be one of \['tensorboard', 'wandb'\]"),
    ],
)
def test_a_wrong_value_names_the_key(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_config({**LEAST, **values})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="output is missing"):
        build_config({"model": "m", "data": {"train": ["t"]}})
