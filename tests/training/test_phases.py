"""Phases: budgets to steps, batch-size ramps, mixtures exact in their shares."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sigma_model.training.config import TrainConfig, build_config, frozen_changes, read_config
from sigma_model.training.phases import Mixture, Phase, stages_of

LEAST = {"model": "m.yaml", "output": "o", "sequence_length": 10, "batch_sequences": 4}
GOLDEN_MIXTURE = [0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0]
TWO = {"a": ["x"], "b": ["y"]}


def _config(*phases: dict[str, Any], **data: Any) -> TrainConfig:
    return build_config({**LEAST, "data": {"train": TWO, "phases": list(phases), **data}})


@pytest.mark.parametrize(
    ("ramp", "tokens", "steps", "expected"),
    [
        ([], None, 7, ((7, 4),)),
        ([], 90, None, ((3, 4),)),
        ([(100, 8), (260, 16)], 1000, None, ((3, 4), (2, 8), (5, 16))),
        ([(100, 8)], None, 20, ((3, 4), (17, 8))),
        ([(100, 8)], None, 2, ((2, 4),)),
        ([(100, 8)], 80, None, ((2, 4),)),
    ],
)
def test_budgets_become_whole_steps(
    ramp: list, tokens: float | None, steps: int | None, expected: tuple
) -> None:
    assert stages_of(10, 4, ramp, tokens, steps) == expected


def test_a_step_knows_its_sequences() -> None:
    phase = Phase(name="p", weights={"a": 1}, stages=((3, 4), (2, 8)))
    assert [phase.span(step) for step in range(6)] == [(0, 4), (4, 4), (8, 4), (12, 8), (20, 8), (28, 0)]
    assert (phase.steps, phase.sequences) == (5, 28)
    assert [phase.batches_from(step) for step in (0, 2, 3, 4, 5)] == [[4, 8], [4, 8], [8], [8], []]
    assert [phase.step_of(number) for number in (0, 3, 4, 11, 12, 19, 20, 27)] == [0, 0, 1, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"a": 8, "b": 1, "c": 1}, [8, 1, 1]),
        ({"a": 0.4, "b": 0.3, "c": 0.3}, [4, 3, 3]),
        ({"a": 60, "b": 40.0}, [3, 2]),
        ({"a": 0.125, "b": 0.5}, [1, 4]),
        ({"only": 3}, [1]),
    ],
)
def test_a_mixture_is_exact_and_found_anywhere(weights: dict[str, float], shares: list[int]) -> None:
    mixture = Mixture(weights, "test", 1)
    assert mixture.shares.tolist() == shares
    size, count = sum(shares), 10_000
    sources, numbers = mixture.take(0, count)
    rounds = sources[: count // size * size].reshape(-1, size)
    assert (np.sort(rounds) == np.repeat(np.arange(len(shares)), shares)).all()
    for source in range(len(shares)):
        assert np.array_equal(numbers[sources == source], np.arange((sources == source).sum()))
    for first, length in ((0, 1), (4090, 20), (8191, 1), (5003, 4997), (77, 0)):
        part, places = mixture.take(first, length)
        assert np.array_equal(part, sources[first : first + length])
        assert np.array_equal(places, numbers[first : first + length])
        assert mixture.counts(first).tolist() == np.bincount(sources[:first], minlength=len(shares)).tolist()
    if len(shares) > 1:
        assert not np.array_equal(sources, Mixture(weights, "test", 2).take(0, count)[0])


def test_the_mixture_is_frozen() -> None:
    # golden: a resumed run must meet the same order after any upgrade
    sources, _ = Mixture({"a": 2, "b": 1}, "golden", 7).take(4090, 15)
    assert sources.tolist() == GOLDEN_MIXTURE


def test_weights_without_a_short_round_are_refused() -> None:
    with pytest.raises(ValueError, match="round them"):
        Mixture({"a": 0.123456, "b": 1}, "test")


def test_the_papers_phases_are_a_config() -> None:
    config = build_config({
        **LEAST, "sequence_length": 4096, "batch_sequences": 1024,
        "data": {
            "train": {name: [name] for name in ("general", "math", "code", "general2", "synthetic")},
            "phases": [
                {"name": "general", "weights": {"general": 8, "math": 1, "code": 1}, "tokens": "3.5e12",
                 "ramp": [{"tokens": 1e11, "batch_sequences": 2048},
                          {"tokens": 2e11, "batch_sequences": 4096}]},
                {"name": "quality", "weights": {"general2": 4, "math": 3, "code": 3}, "tokens": 1e12,
                 "batch_sequences": 4096},
                {"name": "rewritten", "weights": {"synthetic": 6, "general2": 4}, "steps": 1000},
            ],
        },
    })  # fmt: skip
    general, quality, rewritten = config.phases()
    assert [batch for _, batch in general.stages] == [1024, 2048, 4096]
    assert 0 <= general.sequences * 4096 - 3.5e12 < 3 * 4096 * 4096
    assert rewritten.stages == ((1000, 1024),)
    assert config.steps == general.steps + quality.steps + 1000


PHASE = {"name": "p", "weights": {"a": 1}, "steps": 3}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"phases": [{**PHASE, "weights": {"a": 1, "bb": 2}}]},
         "'bb', which data.train does not name; did you mean b"),
        ({"phases": []}, "say in data.phases how to mix them"),
        ({"phases": [PHASE, PHASE]}, "two phases are called 'p'"),
        ({"phases": [{**PHASE, "tokens": 1000}]}, "phase 'p': give either tokens or steps"),
        ({"phases": [{"name": "p", "weights": {"a": 1}}]}, "phase 'p': give either tokens or steps"),
        ({"phases": [{**PHASE, "weights": {"a": -1}}]}, "weight -1.0 of 'a' must be 0 or above"),
        ({"phases": [{**PHASE, "weights": {"a": 0}}]}, "no dataset has a weight above 0"),
        ({"phases": [{**PHASE, "stepz": 1}]}, r"unknown key data.phases\[0\].stepz; did you mean"),
        ({"phases": [{**PHASE, "ramp": [{"tokens": 9, "batch_sequences": 2},
                                        {"tokens": 5, "batch_sequences": 4}]}]}, "ramp's tokens must rise"),
        ({"phases": [PHASE], "max_epochs": {"c": 1}}, "data.max_epochs names 'c', which data.train"),
        ({"phases": [PHASE], "max_epochs": {"a": 0}}, "max_epochs of 'a' = 0.0 must be above 0"),
        ({"phases": [PHASE], "train": {"a": []}}, "data.train is empty"),
        ({"phases": [PHASE], "packing": "best"}, "must be one of"),
    ],
)  # fmt: skip
def test_a_wrong_phase_is_named(data: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_config({**LEAST, "data": {"train": TWO, **data}})


def test_steps_beside_phases_must_be_theirs() -> None:
    with pytest.raises(ValueError, match="steps = 9, but data.phases add up to 3; leave steps out"):
        build_config({**LEAST, "data": {"train": TWO, "phases": [PHASE]}, "steps": 9})


def test_what_the_loader_checks_may_change_between_runs() -> None:
    before = asdict(_config(PHASE, {**PHASE, "name": "q"}))
    later = asdict(_config(PHASE, {**PHASE, "name": "q", "steps": 5}, max_epochs={"a": 4}))
    assert frozen_changes(before, later) == []
    packed = asdict(_config(PHASE, {**PHASE, "name": "q"}, packing="best_fit"))
    assert frozen_changes(before, packed) == [("data.packing", "concat", "best_fit")]


def test_the_shipped_phases_are_valid() -> None:
    config = read_config(Path(__file__).parents[2] / "configs" / "train" / "sigma_phases.yaml")
    assert [phase.name for phase in config.phases()] == ["general", "quality", "rewritten", "anneal"]
