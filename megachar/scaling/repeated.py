"""Text that is passed more than once: how much less it is worth (Muennighoff et al. 2023).

D characters of which U are distinct count as D' = U + U R (1 - exp(-(D / U - 1) / R)), and parameters beyond the best N
for U characters likewise, with an R of their own. The law holds for these effective amounts.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import t as student

from megachar.scaling.joint import JointLaw, log_g, slope_a
from megachar.scaling.least_squares import Interval
from megachar.scaling.points import Floats, Points, Run
from megachar.scaling.power_sum import log_loss

PUBLISHED_CHARACTERS: Final = 15.39
PUBLISHED_PARAMETERS: Final = 5.31
"""R of characters and of parameters, on C4."""
LEAST_PASSES: Final = 2.0
LEAST_RUNS: Final = 3
LEAST_R, MOST_R = 0.1, 1e4
MOST_EXCESS: Final = 50.0
"""Logarithm of how many times larger than its text deserves a model is counted."""


@dataclass(frozen=True)
class Repetition:
    """What repeated characters are worth, fitted together with the law."""

    theta: Floats
    """(5,): the law's, for effective amounts."""
    characters: Interval
    """R of characters: after as many passes more, 63 % of what repetition can ever add has been had."""
    parameters: float
    """R of parameters, held at the published value: ladders hardly have models that are larger than their text."""


def effective(amount: Floats, unique: Floats, r: float) -> Floats:
    """What amounts (K,) are worth of which so much (K,) is unique."""
    excess = np.maximum(amount / unique - 1, 0)
    return np.minimum(amount, unique) + unique * r * -np.expm1(-excess / r)


def repeated_log_loss(theta: Floats, n: Floats, d: Floats, unique: Floats, r_characters: float = PUBLISHED_CHARACTERS,
                      r_parameters: float = PUBLISHED_PARAMETERS) -> Floats:  # fmt: skip
    """Logarithms (K,) of the loss of N parameters after D characters, of which so many are distinct."""
    distinct = np.minimum(unique, d)
    a = slope_a(theta)
    log_fitting = log_g(theta) + a / (1 - a) * (np.log(distinct) + log_g(theta))  # the N whose best D is distinct
    fitting = np.exp(np.clip(log_fitting, np.log(n) - MOST_EXCESS, np.log(n)))
    worth = np.stack([effective(n, fitting, r_parameters), effective(d, distinct, r_characters)], axis=1)
    return log_loss(theta, np.log(worth))


def fit_repetition(points: Points, law: JointLaw, level: float) -> Repetition | None:
    """Fit the law for effective amounts by least squares on log L, from a law and the published R on.

    Args:
        points: the runs; those that do not say how much of their text is distinct are taken to repeat none.
        law: of these runs, all terms of which are there.
        level: of the interval.

    Returns:
        None where fewer than three runs passed their text twice, or a term of the law is missing.
    """
    repeating = [run for run in points.runs if _passes(run) >= LEAST_PASSES]
    if len(repeating) < LEAST_RUNS or len(points) <= 6 or not law.fit.free.all():
        return None
    n, d, log_losses = points.column("N"), points.column("D"), points.log_losses
    unique = np.array([run.unique or run.D for run in points.runs])

    def differences(values: Floats) -> Floats:
        return repeated_log_loss(values[:5], n, d, unique, float(np.exp(values[5]))) - log_losses

    start = np.append(law.fit.theta, np.log(PUBLISHED_CHARACTERS))
    low, high = np.full(6, -np.inf), np.full(6, np.inf)
    low[3:], high[3:] = [1e-2, 1e-2, np.log(LEAST_R)], [4, 4, np.log(MOST_R)]
    found = least_squares(differences, np.clip(start, low, high), bounds=(low, high), x_scale="jac", jac="3-point")
    degrees = len(points) - 6
    covariance = np.linalg.pinv(found.jac.T @ found.jac) * 2 * found.cost / degrees
    half = float(student.ppf((1 + level) / 2, degrees) * np.sqrt(covariance[5, 5]))
    value = float(found.x[5])
    ends = np.exp(np.clip([value, value - half, value + half], -50, 50))
    return Repetition(found.x[:5], Interval(*map(float, ends)), PUBLISHED_PARAMETERS)


def _passes(run: Run) -> float:
    return 1.0 if run.unique is None else run.D / run.unique
