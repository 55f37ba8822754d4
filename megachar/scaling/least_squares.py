"""Sums of powers fitted by least squares on log L, started by variable projection, with intervals by Student's t."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from scipy.optimize import approx_fprime, least_squares, minimize, nnls
from scipy.stats import t as student

from megachar.base.errors import DataError
from megachar.scaling.points import Bools, Floats, Points
from megachar.scaling.power_sum import jacobian, log_loss, shares, uncentered, uncentering

LEAST_EXPONENT: Final = 0.01
MOST_EXPONENT: Final = 4.0
"""Bounds of exponents; one that lies at a bound is no estimate."""
GRID: Final = {1: 60, 2: 24, 3: 10}
"""Number of terms -> exponents that are tried for each."""
LEAST_SHARE: Final = 1e-3
"""A term that is a smaller part of every run's loss cannot be told from none."""
LEAST_VALUES: Final = 3
MOST_POWER: Final = 300.0
"""Logarithm of the largest power of a centered X that is told from larger ones."""
MOST_LOG: Final = 700.0
"""Of what still has an exponential."""


@dataclass(frozen=True)
class Interval:
    """An estimate, and between what the truth lies with some confidence. NaN where that cannot be said."""

    value: float
    low: float
    high: float

    def holds(self, truth: float) -> bool:
        """Whether a value lies inside."""
        return bool(self.low <= truth <= self.high)


@dataclass(frozen=True)
class Fit:
    """A sum of m powers, fitted to K runs."""

    theta: Floats
    """(2 m + 1,) on logs that are not centered, as in `power_sum`."""
    free: Bools
    """(2 m + 1,): what was fitted. The rest lies at a bound: a term that is not there, an exponent at its limit."""
    covariance: Floats
    """(2 m + 1, 2 m + 1) of theta; zeros for what is not free."""
    residuals: Floats
    """(K,): logarithms of the loss, measured minus fitted."""
    projected: Floats
    """Theta as variable projection found it, by another way."""

    @property
    def degrees(self) -> int:
        """Degrees of freedom: runs minus free parameters."""
        return len(self.residuals) - int(self.free.sum())

    @property
    def deviation(self) -> float:
        """Standard deviation of log L around the law."""
        return float(np.sqrt(self.residuals @ self.residuals / self.degrees))

    @property
    def exponents(self) -> Floats:
        """(m,)."""
        return self.theta[len(self.theta) // 2 + 1 :]

    @property
    def errors(self) -> Floats:
        """Standard errors (2 m + 1,) of theta; 0 for what is not free."""
        return np.sqrt(np.diag(self.covariance))

    def log_loss(self, logs: Floats) -> Floats:
        """What the law predicts (k,) for logs (k, m) of other runs."""
        return log_loss(self.theta, logs)

    def interval(self, of: Callable[[Floats], float], level: float, logarithm: bool = False) -> Interval:
        """Of a function of theta, by the delta method and Student's t.

        Args:
            of: the function; where `logarithm`, it gives the logarithm of what is asked for.
            level: how often intervals hold the truth, such as 0.9.
            logarithm: whether the interval is made for the logarithm, as it is for what cannot be negative.
        """
        with np.errstate(all="ignore"):  # terms that are not there have no exponents, and give NaN
            value, half = float(of(self.theta)), np.nan
            if np.isfinite(value):
                slopes = np.zeros(len(self.theta))
                slopes[self.free] = approx_fprime(self.theta[self.free], lambda free: of(self._with(free)))
                half = float(student.ppf((1 + level) / 2, self.degrees) * np.sqrt(slopes @ self.covariance @ slopes))
        return _made(value, half, logarithm)

    def prediction(self, logs: Floats, level: float) -> Interval:
        """The loss of a new run, with logs (m,): the interval has the law's error and the run's own noise."""
        slopes = np.where(self.free, jacobian(self.theta, logs[None])[0], 0.0)
        variance = slopes @ self.covariance @ slopes + self.deviation**2
        half = float(student.ppf((1 + level) / 2, self.degrees) * np.sqrt(variance))
        return _made(float(self.log_loss(logs[None])[0]), half, True)

    def _with(self, free: Floats) -> Floats:
        theta = self.theta.copy()
        theta[self.free] = free
        return theta


def fit_power_sum(columns: Sequence[str], points: Points, start: Floats | None = None) -> Fit:
    """Fit L = E + sum of A X^-x by least squares on log L; E and all A are at least 0.

    Args:
        columns: the m that are the X.
        points: the K runs.
        start: theta on logs that are not centered, in place of variable projection; it takes far less time.

    Raises:
        DataError: there are no more runs than parameters, or fewer than three values of an X.
    """
    logs, log_losses = points.logs(*columns), points.log_losses
    _check_enough(columns, logs)
    center = logs.mean(axis=0)
    centered = logs - center
    projected = project(centered, log_losses) if start is None else uncentered(start, -center)
    theta, free = _solve(projected, centered, log_losses)
    slopes = jacobian(theta, centered)[:, free]
    residuals = log_losses - log_loss(theta, centered)
    variance = residuals @ residuals / (len(logs) - free.sum())
    covariance = np.zeros((len(theta), len(theta)))
    covariance[np.ix_(free, free)] = np.linalg.pinv(slopes.T @ slopes) * variance
    back = uncentering(center)
    return Fit(uncentered(theta, center), free, back @ covariance @ back.T, residuals, uncentered(projected, center))


def project(logs: Floats, log_losses: Floats) -> Floats:
    """Theta by variable projection (Golub and Pereyra 1973): for given exponents the rest is linear, and non-negative.

    The relative differences of L are minimized over a grid of exponents, and from its best point on by the method of
    Nelder and Mead. There is no local minimum to miss. Inputs are centered logs (K, m) and log L (K,).
    """
    losses = np.exp(log_losses)
    grid = np.geomspace(LEAST_EXPONENT, MOST_EXPONENT, GRID[logs.shape[1]])

    def linear(exponents: Floats) -> tuple[Floats, float]:
        powers = np.exp(np.minimum(-exponents * logs, MOST_POWER))
        design = np.concatenate([np.ones((len(logs), 1)), powers], axis=1) / losses[:, None]
        scale = np.linalg.norm(design, axis=0)
        factors, misfit = nnls(design / scale, np.ones(len(logs)))
        return factors / scale, float(misfit)

    best = min(product(grid, repeat=logs.shape[1]), key=lambda exponents: linear(np.array(exponents))[1])
    refined = minimize(lambda exponents: linear(exponents)[1], np.array(best), method="Nelder-Mead",
                       bounds=[(LEAST_EXPONENT, MOST_EXPONENT)] * logs.shape[1],
                       options={"xatol": 1e-6, "fatol": 1e-12})  # fmt: skip
    with np.errstate(divide="ignore"):
        return np.concatenate([np.log(linear(refined.x)[0]), refined.x])


def _solve(start: Floats, logs: Floats, log_losses: Floats) -> tuple[Floats, Bools]:
    """Theta at the least squares, from a start, on centered logs; and what of it is free."""
    num_terms, theta = logs.shape[1], start
    while True:
        present = np.isfinite(theta[: num_terms + 1])
        free = np.concatenate([present, present[1:]])
        theta = _minimize(theta, free, logs, log_losses)
        vanished = present & (shares(theta, logs).max(axis=0) < LEAST_SHARE)
        if not vanished.any():
            break
        theta[: num_terms + 1][vanished] = -np.inf
    exponents = theta[num_terms + 1 :]
    free[num_terms + 1 :] &= (exponents > LEAST_EXPONENT * 1.01) & (exponents < MOST_EXPONENT * 0.99)
    return theta, free


def _minimize(start: Floats, free: Bools, logs: Floats, log_losses: Floats) -> Floats:
    """Theta at the least squares, where only what is free moves.

    It moves without bounds, which is faster, unless it leaves them.
    """

    def whole(values: Floats) -> Floats:
        theta = start.copy()
        theta[free] = values
        return theta

    def differences(values: Floats) -> Floats:
        return log_loss(whole(values), logs) - log_losses

    def slopes(values: Floats) -> Floats:
        return jacobian(whole(values), logs)[:, free]

    found = least_squares(differences, start[free], slopes, method="lm", xtol=1e-12, ftol=1e-14, max_nfev=300)
    theta = whole(found.x)
    exponents = theta[logs.shape[1] + 1 :]
    if ((exponents < LEAST_EXPONENT) | (exponents > MOST_EXPONENT)).any():
        low, high = np.full(len(start), -np.inf), np.full(len(start), np.inf)
        low[logs.shape[1] + 1 :], high[logs.shape[1] + 1 :] = LEAST_EXPONENT, MOST_EXPONENT
        inside = np.clip(start, low, high)[free]
        found = least_squares(differences, inside, slopes, (low[free], high[free]), xtol=1e-12, ftol=1e-14)
        theta = whole(found.x)
    return theta


def _check_enough(columns: Sequence[str], logs: Floats) -> None:
    num_runs, num_terms = logs.shape
    if num_runs <= 2 * num_terms + 1:
        raise DataError(f"{num_runs} runs cannot fix {2 * num_terms + 1} parameters and their intervals; fit at least "
                        f"{2 * num_terms + 2}")  # fmt: skip
    for name, column in zip(columns, logs.T, strict=True):
        values = len(np.unique(column))
        if values < LEAST_VALUES:
            raise DataError(f"{name} takes only {values} different values among the fitted runs, and its power needs "
                            f"{LEAST_VALUES}; add runs of other sizes or lengths")  # fmt: skip


def exponential(logarithm: float) -> float:
    """e to this power, or the largest one that is a number."""
    return float(np.exp(min(logarithm, MOST_LOG)))


def _made(value: float, half: float, logarithm: bool) -> Interval:
    ends = (value, value - half, value + half)
    return Interval(*(exponential(end) if logarithm else float(end) for end in ends))
