"""Laws of one quantity, each with an offset: L(N), L(D), and L(C)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from megachar.base.errors import DataError
from megachar.scaling.least_squares import Fit, Interval, fit_power_sum
from megachar.scaling.points import Points, Run


@dataclass(frozen=True)
class SingleLaw:
    """L = E + A X^-x, fitted to the best runs at each X."""

    column: str
    """What X is: a column of `Points`."""
    points: Points
    """The runs it was fitted to."""
    fit: Fit

    def exponent(self, level: float) -> Interval:
        """The power x."""
        return self.fit.interval(lambda theta: float(theta[2]), level)

    def offset(self, level: float) -> Interval:
        """E, in the unit of the loss."""
        return self.fit.interval(lambda theta: float(theta[0]), level, True)


def frontier(points: Points) -> Points:
    """The runs whose loss no run with as little compute reaches, the cheapest first."""
    best: list[Run] = []
    for run in sorted(points.runs, key=lambda run: (run.compute, run.loss)):
        if not best or run.loss < best[-1].loss:
            best.append(run)
    return Points(tuple(best))


def lowest_of_each(points: Points, column: str) -> Points:
    """The run with the lowest loss at each value of a column, in the column's order."""
    best: dict[float, Run] = {}
    for run in points.runs:
        value = getattr(run, column)
        if value not in best or run.loss < best[value].loss:
            best[value] = run
    return Points(tuple(best[value] for value in sorted(best)))


CHOSEN: Final[dict[str, tuple[str, Callable[[Points], Points]]]] = {
    "L(N)": ("N", lambda points: lowest_of_each(points, "N")),
    "L(D)": ("D", lambda points: lowest_of_each(points, "D")),
    "L(C)": ("compute", frontier),
}
"""Name -> the column, and which runs the law is fitted to."""


def fit_single_laws(points: Points) -> tuple[dict[str, SingleLaw], list[str]]:
    """The laws that have enough runs, and for each other one why it is left out."""
    laws, remarks = dict[str, SingleLaw](), list[str]()
    for name, (column, choose) in CHOSEN.items():
        chosen = choose(points)
        try:
            laws[name] = SingleLaw(column, chosen, fit_power_sum((column,), chosen))
        except DataError as error:
            remarks.append(f"{name} is left out: {error}")
    return laws, remarks
