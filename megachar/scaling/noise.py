"""The noise between seeds: how far losses of runs lie apart that differ in nothing else."""

from dataclasses import dataclass

import numpy as np

from megachar.scaling.points import Points, Run


@dataclass(frozen=True)
class Noise:
    """The standard deviation of log L between seeds, which is about the relative one of L."""

    deviation: float
    degrees: int | None
    """Degrees of freedom of the estimate; None: it was given, and is taken as exact."""


def seed_noise(points: Points) -> Noise | None:
    """Estimated from runs that differ in their seeds alone; None where there are no two of them."""
    groups: dict[object, list[float]] = {}
    for run in points.runs:
        groups.setdefault(_same_but_seed(run), []).append(float(np.log(run.loss)))
    repeated = [np.array(group) for group in groups.values() if len(group) > 1]
    degrees = sum(len(group) - 1 for group in repeated)
    if degrees == 0:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in repeated)
    return Noise(float(np.sqrt(squares / degrees)), degrees)


def _same_but_seed(run: Run) -> tuple[float | None, ...]:
    return run.N, run.D, run.depth, run.width, run.unique, run.rate, run.batch
