"""IsoFLOP parabolas: the loss of runs of one budget over log N, and the N at the minimum (Hoffmann et al. 2022).

They put the optimum aside wherever alpha and beta differ: by 4 % of the intercept on Chinchilla's surface for a grid of
16 x to each side, and by more off center. So they are a picture beside the joint law, and none of its figures rests on
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from megachar.scaling.points import Floats, Points, Run

SAME_BUDGET: Final = 1.1
"""Runs count as of one budget up to this ratio of their compute."""
LEAST_SIZES: Final = 4


@dataclass(frozen=True)
class IsoFlop:
    """The runs of one budget, and their parabola."""

    points: Points
    compute: float
    """Operations: the geometric mean of the runs'."""
    parabola: Floats
    """(3,): coefficients of log N, the highest power first."""

    @property
    def minimum(self) -> float:
        """N at the lowest loss; NaN where it lies at the edge of the runs or outside, where none was measured."""
        curve, slope, _ = self.parabola
        place = -slope / (2 * curve) if curve > 0 else np.nan
        logs = self.points.logs("N")[:, 0]
        return float(np.exp(place)) if logs.min() < place < logs.max() else np.nan


def find_isoflops(points: Points) -> list[IsoFlop]:
    """The budgets at which there are at least four sizes, the smallest first."""
    groups: list[list[Run]] = []
    for run in sorted(points.runs, key=lambda run: run.compute):
        if groups and run.compute <= SAME_BUDGET * groups[-1][0].compute:
            groups[-1].append(run)
        else:
            groups.append([run])
    return [_fit(group) for group in groups if len({run.N for run in group}) >= LEAST_SIZES]


def _fit(runs: Sequence[Run]) -> IsoFlop:
    points = Points(tuple(runs))
    logs = points.logs("N")[:, 0]
    compute = float(np.exp(np.log(points.column("compute")).mean()))
    return IsoFlop(points, compute, np.polyfit(logs, points.column("loss"), 2))
