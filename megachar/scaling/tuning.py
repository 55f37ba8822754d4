"""The best learning rate and batch against compute: a power law through the optima of runs that differ in it alone."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student

from megachar.scaling.least_squares import Interval
from megachar.scaling.points import Points, Run

Setting = Literal["rate", "batch"]
SETTINGS: Final[tuple[Setting, ...]] = ("rate", "batch")
LEAST_VALUES: Final = 3


@dataclass(frozen=True)
class Optimum:
    """The best value of a setting at one size and length."""

    compute: float
    value: float
    """At the minimum of the parabola of loss over log value through the best run and its neighbors."""
    at_edge: bool
    """Whether the best run has the lowest or highest value that was tried, so that a better one may lie outside."""


@dataclass(frozen=True)
class Tuning:
    """Optima of a setting, and its power law in compute: value = factor C^exponent."""

    setting: Setting
    optima: tuple[Optimum, ...]
    """The cheapest first."""
    exponent: Interval | None
    """None where fewer than two optima lie inside their grids; without ends where there are two."""
    factor: float | None

    def at(self, compute: float) -> float | None:
        """The best value for so many operations; None where there is no law."""
        return None if self.exponent is None or self.factor is None else self.factor * compute**self.exponent.value


def find_tuning(points: Points, setting: Setting, level: float) -> Tuning | None:
    """From groups of runs that differ in the setting alone; None where no group has three values of it."""
    groups: dict[object, list[Run]] = {}
    for run in points.runs:
        if getattr(run, setting) is not None:
            other = run.batch if setting == "rate" else run.rate
            groups.setdefault((run.N, run.D, run.depth, run.width, run.seed, other), []).append(run)
    optima = [_optimum(group, setting) for group in groups.values()
              if len({getattr(run, setting) for run in group}) >= LEAST_VALUES]  # fmt: skip
    if not optima:
        return None
    optima.sort(key=lambda optimum: optimum.compute)
    inside = [optimum for optimum in optima if not optimum.at_edge]
    if len({optimum.compute for optimum in inside}) < 2:
        return Tuning(setting, tuple(optima), None, None)
    line = linregress(np.log([optimum.compute for optimum in inside]), np.log([optimum.value for optimum in inside]))
    degrees = len(inside) - 2
    half = float(student.ppf((1 + level) / 2, degrees) * line.stderr) if degrees else np.nan
    slope = float(line.slope)
    return Tuning(setting, tuple(optima), Interval(slope, slope - half, slope + half), float(np.exp(line.intercept)))


def _optimum(runs: list[Run], setting: Setting) -> Optimum:
    """Of runs with three values of the setting or more; of equal values the lowest loss counts."""
    best: dict[float, Run] = {}
    for run in sorted(runs, key=lambda run: run.loss):
        best.setdefault(getattr(run, setting), run)
    values = sorted(best)
    place = min(range(len(values)), key=lambda place: best[values[place]].loss)
    compute = best[values[place]].compute
    if place in (0, len(values) - 1):
        return Optimum(compute, values[place], True)
    around = values[place - 1 : place + 2]
    logs = np.log(np.array(around) / values[place])
    curve, slope, _ = np.polyfit(logs, [best[value].loss for value in around], 2)
    shift = float(np.clip(-slope / (2 * curve), logs[0], logs[-1])) if curve > 0 else 0.0
    return Optimum(compute, float(values[place] * np.exp(shift)), False)
