"""Alarms about optima that lie at the edge of what was tried, where a better one may lie outside."""

from collections.abc import Iterator, Sequence

import numpy as np

from megachar.scaling.alarms import Alarm
from megachar.scaling.isoflop import IsoFlop
from megachar.scaling.tuning import Tuning


def edge_alarms(isoflops: Sequence[IsoFlop], tunings: Sequence[Tuning]) -> Iterator[Alarm]:
    """One about the budgets, and one about each setting that was tuned; each where there is any."""
    if isoflops:
        outside = sum(np.isnan(isoflop.minimum) for isoflop in isoflops)
        yield _count("budgets", int(outside), len(isoflops), "budgets of equal compute have their minimum")
    for tuning in tunings:
        at_edge = sum(optimum.at_edge for optimum in tuning.optima)
        yield _count(f"best {tuning.setting}", at_edge, len(tuning.optima),
                     f"sizes and lengths have their best {tuning.setting}")  # fmt: skip


def _count(name: str, at_edge: int, tried: int, what: str) -> Alarm:
    tail = "widen the grid there" if at_edge else "all lie inside"
    return Alarm(name, at_edge, 0, at_edge > 0,
                 f"{at_edge} of {tried} {what} at the edge of what was tried: {tail}.")  # fmt: skip
