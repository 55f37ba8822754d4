"""The learning rate as a pure function of the step."""

import math

from megachar.config.schema import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, peak: float, total_steps: int, step: int) -> float:
    """Rate of `step` (from 0): a linear warm-up to `peak`, then constant, or down to its `final_fraction`.

    The length of an update that decays (Krause et al. 2016) is shape `exponential`.
    """
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.shape == "constant":
        return peak
    if schedule.step_factor is not None:
        return peak * max(schedule.final_fraction, schedule.step_factor ** (step - schedule.warmup_steps))
    done = (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps - 1)
    remaining = 0.5 * (1.0 + math.cos(math.pi * done)) if schedule.shape == "cosine" else 1.0 - done
    return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * remaining)
