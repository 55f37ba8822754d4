"""The joint law L(N, D) = E + A N^-alpha + B D^-beta, and what follows from it for a budget of operations C = 6 N D."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from megachar.scaling.least_squares import Fit, Interval, exponential, fit_power_sum
from megachar.scaling.points import OPERATIONS, Floats, Points

OFFSET, FACTOR_N, FACTOR_D, ALPHA, BETA = range(5)
"""Places in theta: log E, log A, log B, alpha, beta."""


def slope_a(theta: Floats) -> float:
    """Of log N_opt on log C: a = beta / (alpha + beta)."""
    return float(theta[BETA] / (theta[ALPHA] + theta[BETA]))


def log_g(theta: Floats) -> float:
    """Log of G = (alpha A / (beta B))^(1 / (alpha + beta)), in N_opt = G (C / 6)^a; NaN where there is no optimum."""
    if not np.isfinite(theta[[FACTOR_N, FACTOR_D]]).all() or min(theta[ALPHA], theta[BETA]) <= 0:
        return np.nan
    ratio = theta[FACTOR_N] - theta[FACTOR_D] + np.log(theta[ALPHA] / theta[BETA])
    return float(ratio / (theta[ALPHA] + theta[BETA]))


def log_best_n(theta: Floats, compute: float) -> float:
    """Log of the N at which a budget of operations gives the lowest loss."""
    return log_g(theta) + slope_a(theta) * float(np.log(compute / OPERATIONS))


def log_best_d(theta: Floats, compute: float) -> float:
    """Log of the D that goes with it."""
    return float(np.log(compute / OPERATIONS)) - log_best_n(theta, compute)


Quantity = Callable[[Floats], float]
QUANTITIES: Final[dict[str, tuple[Quantity, bool]]] = {
    "alpha": (lambda theta: float(theta[ALPHA]), False),
    "beta": (lambda theta: float(theta[BETA]), False),
    "a": (slope_a, False),
    "E": (lambda theta: float(theta[OFFSET]), True),
    "A": (lambda theta: float(theta[FACTOR_N]), True),
    "B": (lambda theta: float(theta[FACTOR_D]), True),
    "G": (log_g, True),
}
"""Name -> what it is as a function of theta, and whether that gives its logarithm."""


def quantities(theta: Floats) -> dict[str, float]:
    """All of `QUANTITIES` of a law."""
    return {name: exponential(of(theta)) if logarithm else of(theta) for name, (of, logarithm) in QUANTITIES.items()}


@dataclass(frozen=True)
class Budget:
    """How to spend a budget of operations, each with its interval."""

    compute: float
    n: Interval
    d: Interval
    loss: Interval
    """Of the law there, with the noise of a run."""


@dataclass(frozen=True)
class JointLaw:
    """The law, fitted to a table of runs by least squares on log L."""

    points: Points
    """The runs it was fitted to."""
    fit: Fit

    def interval(self, name: str, level: float) -> Interval:
        """Of one of `QUANTITIES`."""
        of, logarithm = QUANTITIES[name]
        return self.fit.interval(of, level, logarithm)

    def predict(self, n: float, d: float, level: float) -> Interval:
        """The loss of a new run, whose own noise is part of the interval."""
        return self.fit.prediction(np.log([n, d]), level)

    def budget(self, compute: float, level: float) -> Budget:
        """The best N and D for so many operations, and the loss there."""
        n = self.fit.interval(partial(log_best_n, compute=compute), level, True)
        d = self.fit.interval(partial(log_best_d, compute=compute), level, True)
        usable = np.isfinite([n.value, d.value]).all() and min(n.value, d.value) > 0
        loss = self.predict(n.value, d.value, level) if usable else Interval(np.nan, np.nan, np.nan)
        return Budget(compute, n, d, loss)


def fit_joint(points: Points, start: JointLaw | None = None) -> JointLaw:
    """Fit the law to all runs of a table, held-out ones as well: hand over `points.fitted`.

    `start` is a law of nearly the same runs, from which the fit takes far less time. DataError as `fit_power_sum`.
    """
    theta = None if start is None else start.fit.theta
    return JointLaw(points, fit_power_sum(("N", "D"), points, theta))
