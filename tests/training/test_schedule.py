"""The learning rate over the steps."""

from __future__ import annotations

import pytest

from sigma_model.training.config import ScheduleConfig
from sigma_model.training.schedule import learning_rate_factor


def _curve(steps: int, **values: object) -> list[float]:
    schedule = ScheduleConfig(**values)
    return [learning_rate_factor(step, steps, schedule) for step in range(steps)]


def test_wsd_warms_up_stays_and_decays() -> None:
    curve = _curve(10, kind="wsd", warmup_steps=4, decay_fraction=0.4, final_factor=0.2)
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.8, 0.6, 0.4]
    assert curve == pytest.approx(expected)


def test_wsd_by_square_root_falls_faster_at_first() -> None:
    curve = _curve(8, decay_fraction=0.5, decay_shape="sqrt")
    assert curve == pytest.approx([1, 1, 1, 1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5])


def test_cosine() -> None:
    curve = _curve(6, kind="cosine", warmup_steps=2)
    assert curve == pytest.approx([0.5, 1, 1, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2])


@pytest.mark.parametrize("kind", ["wsd", "cosine"])
def test_warm_up_of_all_steps_never_decays(kind: str) -> None:
    curve = _curve(5, kind=kind, warmup_steps=5)
    assert curve == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
