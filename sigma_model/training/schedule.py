"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from sigma_model.training.config import ScheduleConfig


def learning_rate_factor(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """Fraction of the peak learning rate at optimizer step ``step`` of 0 .. steps - 1.

    Warm-up rises linearly and reaches 1 at its last step. The decay would reach final_factor at
    step ``steps``, one past the end, so that no step is spent at zero.
    """
    assert 0 <= step < steps
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.kind == "cosine":
        begin = schedule.warmup_steps
    else:
        decay_steps = round(schedule.decay_fraction * steps)
        begin = max(steps - decay_steps, schedule.warmup_steps)
    if step < begin:
        return 1.0
    done = (step - begin) / (steps - begin)
    if schedule.kind == "cosine":
        fall = (1 - math.cos(math.pi * done)) / 2
    else:
        fall = math.sqrt(done) if schedule.decay_shape == "sqrt" else done
    return 1 - (1 - schedule.final_factor) * fall
