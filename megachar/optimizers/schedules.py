"""The learning rate as a pure function of the step. All shapes are in this file. Imports no torch."""

import math
from typing import Literal

from pydantic import Field

from megachar.config.sections.section import MAX_STEPS, Section


class ScheduleConfig(Section):
    """Learning rate over training, as a factor of `optimizer.learning_rate`."""

    shape: Literal["constant", "cosine", "linear", "exponential", "wsd"] = "constant"
    """After the warm-up: constant, half a cosine or a straight line down to `final_fraction`, or `step_factor` of the
    rate before at every step, but not below `final_fraction`. wsd (warm-up, stable, decay): constant, and over the last
    `cooldown_fraction` of training down to `final_fraction` as 1 - sqrt(share of the cooldown that is done). The
    checkpoint before the cooldown stays, since a longer run has the same rates up to there."""
    warmup_steps: int = Field(default=0, ge=0, le=MAX_STEPS)
    """Steps over which the rate rises linearly from 0; 0 is off."""
    final_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the peak rate at the last step (cosine, linear and wsd), or the lowest (exponential)."""
    cooldown_fraction: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of all steps over which the rate falls (wsd only; Haegele et al. 2024)."""
    step_factor: float | None = Field(default=None, gt=0.0, le=1.0)
    """Factor of the rate per step (exponential only, which needs it). Off: null."""


def first_cooldown_step(schedule: ScheduleConfig, total_steps: int) -> int:
    """Under shape wsd, the first step (from 0) of the cooldown: runs of all lengths have the rates before it."""
    return total_steps - max(1, round(schedule.cooldown_fraction * total_steps))


def trunk_end(schedule: ScheduleConfig, total_steps: int) -> int | None:
    """After how many steps a run parts from longer ones, which can go on from its checkpoint; None: it shares none."""
    return first_cooldown_step(schedule, total_steps) if schedule.shape == "wsd" else None


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
    if schedule.shape == "wsd":
        first = first_cooldown_step(schedule, total_steps)
        if step <= first:
            return peak  # exactly, so that runs of all lengths share it
        share = (step - first) / (total_steps - first - 1)
        return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * (1.0 - math.sqrt(share)))
    done = (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps - 1)
    remaining = 0.5 * (1.0 + math.cos(math.pi * done)) if schedule.shape == "cosine" else 1.0 - done
    return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * remaining)
