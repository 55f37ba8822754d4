"""Depth and width apart: L = E + c_d width^-x + c_n depth^-y + c_D D^-z.

Depth and width have to be crossed, as Gemstones (2025) did: where they grow together, their exponents trade off.
"""

from dataclasses import dataclass

import numpy as np

from megachar.base.errors import DataError
from megachar.scaling.least_squares import Fit, Interval, fit_power_sum
from megachar.scaling.points import Points


@dataclass(frozen=True)
class ShapeLaw:
    """The law, fitted to the runs whose depth and width are known."""

    points: Points
    fit: Fit

    def exponents(self, level: float) -> dict[str, Interval]:
        """Of width, depth, and D."""
        return {name: self.fit.interval(lambda theta, place=place: float(theta[place]), level)  # type: ignore[misc]
                for place, name in enumerate(("width", "depth", "D"), start=4)}  # fmt: skip

    @property
    def trade_off(self) -> float:
        """The correlation of the estimated exponents of width and depth, -1 to 1; NaN where one is at a bound."""
        width, depth = self.fit.errors[4:6]
        return float(self.fit.covariance[4, 5] / (width * depth)) if width * depth > 0 else np.nan


def fit_shapes(points: Points) -> ShapeLaw | None:
    """The law; None where too few runs, depths, or widths are known."""
    shaped = points.where(lambda run: run.depth is not None and run.width is not None)
    if not shaped.runs:
        return None
    try:
        return ShapeLaw(shaped, fit_power_sum(("width", "depth", "D"), shaped))
    except DataError:
        return None
