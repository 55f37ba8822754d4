"""Intervals by resampling, as the alternative to Student's t: whole trunks and seeds are drawn, never single runs.

Runs that share a trunk share its luck; drawn one by one, they would count as independent, and intervals would be too
short.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from megachar.base.errors import DataError
from megachar.scaling.joint import QUANTITIES, JointLaw, fit_joint
from megachar.scaling.least_squares import Interval, exponential
from megachar.scaling.points import Points, group_names

LEAST_GROUPS: Final = 5
MOST_UNUSABLE: Final = 0.5


@dataclass(frozen=True)
class Bootstrap:
    """Percentiles of the laws fitted to resampled tables."""

    intervals: Mapping[str, Interval]
    """By the names of `QUANTITIES`; the value is the law's own."""
    groups: int
    """Of runs that share a trunk and a seed."""
    resamples: int
    unusable: int
    """Resampled tables with too few different sizes or lengths for a fit."""


def resample(law: JointLaw, resamples: int, seed: int, level: float) -> Bootstrap:
    """Draw as many groups with replacement as there are, fit again, and take percentiles.

    Args:
        law: fitted to the runs that are drawn from.
        resamples: how often.
        seed: of the draws.
        level: such as 0.9.

    Raises:
        DataError: no run names its trunk or seed, there are too few groups, or most resampled tables are unusable.
    """
    runs = law.points.runs
    if not any(run.trunk or run.seed is not None for run in runs):
        raise DataError("no run names its trunk or its seed, and drawing single runs would make intervals too short; "
                        "add a column trunk or seed, or leave the bootstrap out")  # fmt: skip
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(group_names(runs)):
        groups.setdefault(name, []).append(place)
    if len(groups) < LEAST_GROUPS:
        raise DataError(f"{len(groups)} groups of runs that share a trunk and a seed are too few to be drawn from; "
                        f"train at least {LEAST_GROUPS}, or leave the bootstrap out")  # fmt: skip
    rng = np.random.default_rng(seed)
    members = list(groups.values())
    found: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    unusable = 0
    for _ in range(resamples):
        drawn = [place for group in rng.integers(len(members), size=len(members)) for place in members[group]]
        try:
            fit = fit_joint(Points(tuple(runs[place] for place in drawn)), law).fit
        except DataError:
            unusable += 1
            continue
        for name, (of, _logarithm) in QUANTITIES.items():
            found[name].append(of(fit.theta))
    if unusable > MOST_UNUSABLE * resamples:
        raise DataError(f"{unusable} of {resamples} resampled tables have too few sizes or lengths for a fit; train "
                        "more trunks or seeds, or leave the bootstrap out")  # fmt: skip
    return Bootstrap({name: _percentiles(law, name, values, level) for name, values in found.items()},
                     len(groups), resamples, unusable)  # fmt: skip


def _percentiles(law: JointLaw, name: str, values: list[float], level: float) -> Interval:
    of, logarithm = QUANTITIES[name]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    ends = (of(law.fit.theta), float(low), float(high))
    return Interval(*map(exponential, ends)) if logarithm else Interval(*ends)
