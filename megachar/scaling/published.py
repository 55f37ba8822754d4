"""The joint law fitted as Hoffmann et al. (2022) published it, with tolerances at which it does not stop early.

The sum over runs of Huber's loss of the difference of logarithms is minimized by BFGS from many starts. Optimizers'
tolerances are absolute, and this sum is about 1e-3: multiplied by 1 / delta^2 it is about 1e3. Besiroglu et al. (2024)
showed that the published figures come from a mean in place of the sum, which stops after a few steps.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import huber

from megachar.scaling.points import Floats
from megachar.scaling.power_sum import jacobian, log_loss, uncentered

EXPONENTS: Final = (0.0, 2.0)
LOG_OFFSETS: Final = (-1.0, 1.0)
LOG_FACTORS: Final = (0.0, 25.0)
"""Between which starts lie: natural logarithms, of factors on logs that are not centered."""


@dataclass(frozen=True)
class Recipe:
    """How the sum is minimized."""

    delta: float = 1e-3
    """Differences of logarithms above it count linearly, not as their squares."""
    scale: float = 1e6
    """What the sum is multiplied by: 1 / delta^2."""
    tolerance: float = 1e-15
    """Relative change of the parameters in a step at which BFGS stops."""
    gradient: float = 1e-9
    """Largest derivative of the scaled sum at which BFGS stops."""


DEFAULT_RECIPE: Final = Recipe()


@dataclass(frozen=True)
class Published:
    """The best of many starts."""

    theta: Floats
    """(2 m + 1,) on logs that are not centered, as in `power_sum`."""
    objective: float
    """Sum over runs of Huber's loss, not scaled."""
    objectives: tuple[float, ...]
    """Where each start ended, in their order."""

    @property
    def agreement(self) -> float:
        """Share of the starts that ended within 1e-6 (relative) of the best."""
        ends = np.array(self.objectives)
        return float(np.mean(ends <= self.objective * (1 + 1e-6) + 1e-15))


def random_starts(count: int, num_terms: int, seed: int) -> list[Floats]:
    """Starts (2 m + 1,) on logs that are not centered, uniform over the published grid's ranges."""
    rng = np.random.default_rng(seed)
    return [np.concatenate([rng.uniform(*LOG_OFFSETS, 1), rng.uniform(*LOG_FACTORS, num_terms),
                            rng.uniform(*EXPONENTS, num_terms)]) for _ in range(count)]  # fmt: skip


def fit_published(
    logs: Floats, log_losses: Floats, starts: Iterable[Floats], recipe: Recipe = DEFAULT_RECIPE
) -> Published:
    """Minimize from each of the starts, and keep the best.

    Args:
        logs: (K, m) of N and D, or other X.
        log_losses: (K,).
        starts: each (2 m + 1,) on logs that are not centered; at least one.
        recipe: how.
    """
    center = logs.mean(axis=0)
    ends = [_descend(_centered(start, center), logs - center, log_losses, recipe) for start in starts]
    objectives = tuple(float(end.fun) / recipe.scale if np.isfinite(end.fun) else np.inf for end in ends)
    best = ends[int(np.argmin(objectives))]
    return Published(uncentered(best.x, center), min(objectives), objectives)


def sum_and_gradient(theta: Floats, logs: Floats, log_losses: Floats, recipe: Recipe) -> tuple[float, Floats]:
    """The scaled sum over runs of Huber's loss, and its derivatives (2 m + 1,)."""
    differences = log_loss(theta, logs) - log_losses
    slopes = np.clip(differences, -recipe.delta, recipe.delta)
    total = float(huber(recipe.delta, differences).sum())
    return recipe.scale * total, recipe.scale * slopes @ jacobian(theta, logs)


def _descend(start: Floats, logs: Floats, log_losses: Floats, recipe: Recipe) -> Any:
    options = {"gtol": recipe.gradient, "xrtol": recipe.tolerance, "maxiter": 2000}
    given = (logs, log_losses, recipe)
    with np.errstate(all="ignore"):  # line searches try steps that are far too large
        return minimize(sum_and_gradient, start, args=given, jac=True, method="BFGS", options=options)


def _centered(theta: Floats, center: Floats) -> Floats:
    return uncentered(theta, -center)
